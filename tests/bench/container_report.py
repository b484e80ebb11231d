"""The report of `tests.bench.container`: Markdown and a plot. Runs in the bench's main process."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.bench.container import Run

_COLOURS = {"tts": "tab:blue", "stt": "tab:orange", "front": "tab:green"}


def write(run: Run, command: str, out: Path) -> str:
    """`out`.md and `out`.png; returns the one line that sums it up."""
    out.parent.mkdir(parents=True, exist_ok=True)
    plot = out.with_suffix(".png")
    _plot(run, plot)
    summary = _summary(run)
    sections = [
        f"# Both full-size models in {run.limit_mb} MB",
        f"{summary}.",
        f"```\n{command}\n```",
        _conditions(run),
        f"![Memory of the container and of each process over time]({plot.name})",
        "## Requests",
        _requests(run),
        "## Memory",
        _memory(run),
        "## Replacements",
        _replacements(run),
    ]
    if run.failures:
        sections += ["## Failures", "\n".join(f"- {failure}" for failure in run.failures[:50])]
    out.with_suffix(".md").write_text("\n\n".join(sections) + "\n")
    return summary


def _summary(run: Run) -> str:
    highest = max(sample.held for sample in run.samples)
    total = sum(run.answers.values()) + len(run.failures)
    return (
        f"{run.minutes:.0f} minutes, {total} requests, {len(run.failures)} failures, "
        f"{run.oom_kills} processes killed by the kernel, at most {highest:.0f} of "
        f"{run.limit_mb} MB held, {sum(_recycles(run).values())} workers replaced"
    )


def _conditions(run: Run) -> str:
    machine = run.machine
    enforced = (
        f"The limit is a control group's ({run.enforced}) that the front and all its children are "
        "in; the kernel enforces it"
        if run.enforced
        else "No control group could be made: the limit is a setting (`VOICE_ENGINE_MEMORY_LIMIT_"
        "MB`), and the kernel enforces nothing"
    )
    memory = run.health_before["memory"]
    children = run.health_before["children"]
    limits = "; ".join(
        f"{child['model']}: {child['baseline_mb']:.0f} MB at READY, soft limit "
        f"{child['soft_limit_mb']:.0f}, hard limit {child['hard_limit_mb']:.0f}"
        for child in children
        if child["role"] == "worker"
    )
    size = "tiny models" if run.quick else "models of the published size with random weights"
    return (
        f"{machine['cpus']} CPUs ({machine['cpu']}), {machine['memory_gb']} GB, Linux "
        f"{machine['kernel']}, Python {machine['python']}; {size}, seed {run.seed}. {enforced}. "
        f'The service found {memory["limit_mb"]:.0f} MB from "{memory["source"]}" and derived '
        f"(RSS, weights included) {limits}. All settings are defaults but for "
        "`VOICE_ENGINE_REQUEST_TIMEOUT=900`, since this is about memory and not about time."
    )


def _requests(run: Run) -> str:
    rows: list[tuple[object, ...]] = []
    for kind, what in (
        ("clone", "clone: 3 to 400 words, reference of 3 to 25 s"),
        ("longest", "clone: 5,000 characters, reference of 3 to 25 s"),
        ("transcribe", "transcribe: 3 to 300 s of sound"),
    ):
        taken = sorted(run.seconds_of.get(kind, []))
        failed = sum(f": {kind}: " in failure for failure in run.failures)
        middle = f"{statistics.median(taken):.1f}" if taken else "-"
        longest = f"{taken[-1]:.1f}" if taken else "-"
        rows.append((what, len(taken), failed, middle, longest))
    return _table(("request", "answered", "failed", "median s", "longest s"), rows) + (
        "\n\nThree clients, each with one request at a time. Lengths are drawn so that short ones "
        "are frequent; every reference and recording is new, in WAV, FLAC, OGG or MP3 at 16 to "
        "44.1 kHz. Each WAV was read whole and its length compared with the text and with its "
        "header; each transcript's length was compared with the recording's."
    )


def _memory(run: Run) -> str:
    charged = max(sample.charged for sample in run.samples)
    held = sorted(sample.held for sample in run.samples)
    rows: list[tuple[object, ...]] = [
        (name, *(f"{value:.0f}" for value in values)) for name, *values in run.processes
    ]
    stat = run.stat
    mapped = stat.get("total_mapped_file", stat.get("file_mapped", 0)) // 2**20
    return "\n\n".join(
        (
            f"- Held (what the kernel cannot drop at will): median {held[len(held) // 2]:.0f} MB, "
            f"highest {held[-1]:.0f} MB, {held[-1] / run.limit_mb:.0%} of the limit\n"
            f"- Charged (with files that are only cached): highest {charged:.0f} MB; an allocation "
            f"met the limit {run.limit_hits} times, and the kernel then dropped cached files\n"
            f"- At the end {mapped} MB of mapped files were charged to the group. Pages of the "
            "libraries that were cached before count against whoever had read them; those of the "
            "weights had been dropped from the cache",
            "At the end:",
            _table(("process", "RSS MB", "USS MB", "PSS MB"), rows),
        )
    )


def _recycles(run: Run) -> dict[str, int]:
    counts: dict[str, int] = {}
    for model, facts in run.health_after.get("models", {}).items():
        for reason, count in facts["recycles"].items():
            counts[f"{model}: {reason}"] = count
    return counts


def _replacements(run: Run) -> str:
    parts = []
    counts = _recycles(run)
    if counts:
        parts.append(_table(("model: reason", "times"), list(counts.items())))
    else:
        parts.append("None was needed.")
    recycled = [event for event in run.events if event["event"] == "recycled"]
    if recycled:
        ready = sorted(event["ready_ms"] for event in recycled)
        given = [event["given_back_mb"] for event in recycled]
        gaps = sum(event["gap"] for event in recycled)
        parts.append(
            f"From the decision to the successor's READY: median {statistics.median(ready):.0f} "
            f"ms, longest {ready[-1]:.0f} ms. Given back: median {statistics.median(given):.0f} "
            f"MB, {sum(given):.0f} MB in all. Old worker first, because two would not have fit: "
            f"{gaps}."
        )
    told = {
        name: sum(event["event"] == name for event in run.events)
        for name in ("memory_pressure", "hard_limit", "worker_died", "request_lost_worker")
    }
    parts.append("Logged: " + ", ".join(f"`{name}` {count}" for name, count in told.items()) + ".")
    return "\n\n".join(parts)


def _table(head: tuple[str, ...], rows: list[tuple[object, ...]]) -> str:
    lines: list[tuple[object, ...]] = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _plot(run: Run, file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(
        2, 1, sharex=True, figsize=(10, 7), layout="constrained"
    )
    at = [sample.at / 60 for sample in run.samples]
    above.axhline(run.limit_mb, color="tab:red", label="limit")
    above.plot(at, [s.charged for s in run.samples], color="0.7", label="charged, cache included")
    above.plot(at, [s.held for s in run.samples], color="tab:blue", label="held")
    above.set_ylabel("container, MB")
    above.set_ylim(bottom=0)
    above.legend(loc="lower right")
    for name in sorted({name for sample in run.samples for name in sample.rss}):
        points = [(s.at / 60, s.rss[name]) for s in run.samples if s.rss.get(name)]
        model = name.split("-")[0]
        below.plot(
            [x for x, _ in points],
            [y for _, y in points],
            color=_COLOURS.get(model, "0.5"),
            linestyle=":" if name.endswith("template") else "-",
        )
    for label, colour, style in (
        ("front", "tab:green", "-"),
        ("speech: template", "tab:blue", ":"),
        ("speech: workers", "tab:blue", "-"),
        ("transcription: template", "tab:orange", ":"),
        ("transcription: workers", "tab:orange", "-"),
    ):
        below.plot([], [], color=colour, linestyle=style, label=label)
    below.set_ylabel("RSS of each process, MB")
    below.set_xlabel("minutes")
    below.set_ylim(bottom=0)
    below.legend(loc="upper left", ncols=2)
    figure.savefig(file, dpi=110)
    pyplot.close(figure)
