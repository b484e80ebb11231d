"""The report of a soak: Markdown for people, and a plot."""

from __future__ import annotations

import statistics
from collections import Counter
from pathlib import Path

from tests.soak.outcome import FRONT_GROWTH_MB, Outcome, percentile

_KINDS = ("clone", "stream", "transcribe", "health")
_NAMES = {
    "clone": "clone",
    "stream": "clone, streamed",
    "transcribe": "transcribe",
    "health": "health",
}
_COLOURS = {"clone": "tab:blue", "stream": "tab:cyan", "transcribe": "tab:orange"}
_MARKS = {
    "recycled": ("tab:green", ":"),
    "hard limit": ("tab:purple", "--"),
    "worker died": ("tab:red", ":"),
    "template died": ("black", "--"),
}


def write(outcome: Outcome, out: Path) -> None:
    """`out`.md and `out`.png."""
    out.parent.mkdir(parents=True, exist_ok=True)
    plot = out.with_suffix(".png")
    _plot(outcome, plot)
    out.with_suffix(".md").write_text(_markdown(outcome, plot.name))


def _markdown(outcome: Outcome, plot: str) -> str:
    sections = [
        f"# Soak: {outcome.engines} engines",
        outcome.summary + ".",
        f"```\n{outcome.command}\n```",
        _machine(outcome),
        _problems(outcome),
        f"![RSS of each process and latency over time]({plot})",
        "## Requests",
        _requests(outcome),
        _how_verified(outcome),
        "## Chaos",
        _chaos(outcome),
        "## Deaths, recycles, replays",
        _deaths(outcome),
        "## The front, and what is left",
        _front(outcome),
        "## Settings",
        "Defaults, but for: "
        + ", ".join(f"`{name}={value}`" for name, value in sorted(outcome.settings.items())),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _table(head: list[str], rows: list[list[object]]) -> str:
    lines: list[list[object]] = [[*head], ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _machine(outcome: Outcome) -> str:
    machine = outcome.machine
    return (
        f"{machine['cpus']} CPUs ({machine['cpu']}), {machine['memory_gb']} GB, Linux "
        f"{machine['kernel']}, Python {machine['python']}. {outcome.seconds:.0f} s in all, "
        f"of which the first {outcome.calm_seconds:.0f} s undisturbed."
    )


def _problems(outcome: Outcome) -> str:
    lines = [f"- {problem}" for problem in outcome.problems[:50]]
    if len(outcome.problems) > 50:
        lines.append(f"- and {len(outcome.problems) - 50} more")
    for kind, reason in outcome.left_out.items():
        lines.append(f"- not done: {kind}, because {reason}")
    return "\n".join(lines)


def _requests(outcome: Outcome) -> str:
    rows: list[list[object]] = []
    for kind in _KINDS:
        for chaos in (False, True):
            times = [r.seconds for r in outcome.records if r.kind == kind and r.chaos == chaos]
            cells = [percentile(times, part) for part in (0.5, 0.95, 0.99)]
            rows.append(
                [
                    _NAMES[kind],
                    "yes" if chaos else "no",
                    len(times),
                    *("-" if cell is None else f"{cell * 1000:,.0f}" for cell in cells),
                    "-" if not times else f"{max(times) * 1000:,.0f}",
                ]
            )
    head = ["kind", "chaos", "answered right", "p50 ms", "p95 ms", "p99 ms", "longest ms"]
    refused = ", ".join(f"{code} {count}" for code, count in outcome.refusals.items()) or "none"
    return "\n\n".join(
        [
            _table(head, rows),
            f"Failed: {len(outcome.failures)}. Wrong answers: {len(outcome.wrong)}. Refused "
            f"while the disk was full, and sent again after Retry-After: {refused}. Health answers "
            f"with status 503, because no worker of either model was READY: {outcome.not_serving}. "
            "Times are from sending a request to the last byte of its answer, so with chaos they "
            "hold the time until a hang is noticed and the work that is done again.",
        ]
    )


def _how_verified(outcome: Outcome) -> str:
    heard = (
        " The weights are random, so the transcripts are nonsense, the same each time."
        if outcome.word_error_rate is None
        else f" Those transcripts have a word error rate of {outcome.word_error_rate:.2f} against "
        "what is said in the recordings."
    )
    return (
        "Every answer was compared with the one that the undisturbed service gave to the same "
        "request: speech in its number of samples and to the last bit of each sample, "
        "streamed speech with the whole one, transcripts in all their "
        "fields, WAV headers, Content-Length and X-Audio-Duration, health in its shape." + heard
    )


def _chaos(outcome: Outcome) -> str:
    counts = Counter((deed.kind, deed.what) for deed in outcome.deeds)
    rows: list[list[object]] = [[kind, what, n] for (kind, what), n in sorted(counts.items())]
    return _table(["kind", "what", "times"], rows)


def _deaths(outcome: Outcome) -> str:
    deaths: list[list[object]] = [
        [cause, n] for cause, n in sorted(Counter(outcome.deaths).items())
    ]
    recycles: list[list[object]] = [
        [model, reason, n]
        for model, counts in outcome.recycles.items()
        for reason, n in sorted(counts.items())
    ]
    times: list[list[object]] = [
        [f"decision to successor READY: {reason}", *_spread(values)]
        for reason, values in sorted(outcome.handovers().items())
    ]
    times.append(["death of a worker to the next one READY", *_spread(outcome.recoveries())])
    return "\n\n".join(
        [
            _table(["death", "times"], deaths),
            _table(["model", "recycled because of", "times"], recycles),
            f"Replays of requests that lost their worker: {outcome.replays}.",
            _table(["from .. to", "times", "median ms", "p95 ms", "longest ms"], times),
        ]
    )


def _spread(values: list[float]) -> list[object]:
    if not values:
        return [0, "-", "-", "-"]
    p95 = percentile(values, 0.95)
    return [
        len(values),
        *(f"{value:,.0f}" for value in (statistics.median(values), p95, max(values)) if value),
    ]


def _front(outcome: Outcome) -> str:
    before, after = outcome.before, outcome.after
    rows: list[list[object]] = [
        ["front: RSS, MB", f"{before.front_rss / 2**20:.1f}", f"{after.front_rss / 2**20:.1f}"],
        ["front: open files", before.front_fds, after.front_fds],
        ["front: threads", before.front_threads, after.front_threads],
        ["front: asyncio tasks", before.front_tasks, after.front_tasks],
        ["processes", before.processes, after.processes],
        ["open files of all processes", before.fds, after.fds],
        ["files in the spool folder", before.spooled, after.spooled],
    ]
    left = "; ".join(outcome.leftovers) or "nothing"
    return "\n\n".join(
        [
            _table(["at a quiet moment", "before the chaos", "after it"], rows),
            f"The front's RSS may differ by {FRONT_GROWTH_MB} MB, its other counts may not grow. "
            f"Left over after SIGTERM (processes, spooled files, exit code other than 0): {left}.",
        ]
    )


def _plot(outcome: Outcome, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (memory, latency) = pyplot.subplots(
        2, 1, figsize=(13, 9), sharex=True, height_ratios=(3, 2), constrained_layout=True
    )
    shades = {"tts": "tab:blue", "stt": "tab:orange", "": "black"}
    named: set[str] = set()
    for line in outcome.lines:
        label = f"{line.model} {line.role}".strip()
        memory.plot(
            line.times,
            [rss / 2**20 for rss in line.rss],
            color=shades[line.model],
            linestyle="--" if line.role == "template" else "-",
            linewidth=2 if line.role == "front" else 1,
            label=None if label in named else label,
        )
        named.add(label)
    for at, kind in outcome.marks():
        colour, style = _MARKS[kind]
        memory.axvline(
            at,
            color=colour,
            linestyle=style,
            linewidth=0.6,
            alpha=0.6,
            zorder=0,
            label=None if kind in named else kind,
        )
        named.add(kind)
    memory.set_ylabel("RSS, MB (shared pages counted in each)")
    memory.set_ylim(bottom=0)
    memory.legend(loc="upper left", ncols=2, fontsize="small")
    for kind, colour in _COLOURS.items():
        chosen = [record for record in outcome.records if record.kind == kind]
        latency.scatter(
            [record.started + record.seconds for record in chosen],
            [record.seconds for record in chosen],
            s=5,
            color=colour,
            label=_NAMES[kind],
        )
    for number, (start, end) in enumerate(outcome.disk_full):
        latency.axvspan(
            start, end, color="tab:gray", alpha=0.25, label=None if number else "disk full"
        )
    for axis in (memory, latency):
        axis.axvspan(0, outcome.calm_seconds, color="tab:green", alpha=0.07)
    latency.set_yscale("log")
    latency.set_ylabel("latency, s")
    latency.set_xlabel("seconds; green: undisturbed")
    latency.legend(loc="upper left", ncols=4, fontsize="small")
    figure.suptitle(f"Soak, {outcome.engines} engines: {outcome.summary}", fontsize=9)
    figure.savefig(path, dpi=80)
    pyplot.close(figure)
