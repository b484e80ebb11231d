"""Formulas in TeX, as language models write them: their delimiters and commonest commands.

Used in speech workers.
"""

from __future__ import annotations

import re

from model_procs.speech.normalize.mapped import Mapped

_FORMULA = re.compile(
    r"\$\$(?P<block>[^$]{1,400})\$\$|\$(?! )(?P<line>[^$\n]{1,200}?)(?<! )\$(?![\d\w])"
    r"|\\\((?P<round>.{1,400}?)\\\)|\\\[(?P<square>.{1,400}?)\\\]",
    re.DOTALL,
)
_SURE = re.compile(r"[=^_\\{}]")
"""What a text between two amounts of dollars does not have."""
_FRACTION = re.compile(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}")
_ROOT = re.compile(r"\\sqrt\{([^{}]*)\}")
_COMMANDS = {
    "times": "×", "cdot": "·", "div": "÷", "pm": "±", "leq": "≤", "le": "≤", "geq": "≥", "ge": "≥",
    "neq": "≠", "ne": "≠", "approx": "≈", "infty": "∞", "sum": "∑", "int": "∫", "to": "→",
    "rightarrow": "→", "left": "", "right": "", "text": "", "mathrm": "", "quad": "", "circ": "°",
}  # fmt: skip
_COMMAND = re.compile(r"\\([a-zA-Z]+)[ ]?")


def read_formulas(text: Mapped) -> None:
    """Replace formulas in `text` by what the rules for signs can read."""
    if "$" in text.text or "\\" in text.text:
        text.replace(_FORMULA, _read)


def _read(match: re.Match[str]) -> str | None:
    formula = next(group for group in match.groups() if group is not None)
    if match["line"] is not None and not _SURE.search(formula) and len(formula) > 1:
        return None
    formula = _FRACTION.sub(r" \1 ÷ \2 ", formula)
    formula = _ROOT.sub(r"√\1", formula)
    formula = _COMMAND.sub(lambda name: f" {_COMMANDS.get(name[1], name[1])} ", formula)
    formula = formula.replace("{", "").replace("}", "")
    return f" {formula.replace(' - ', ' − ').strip()} "
