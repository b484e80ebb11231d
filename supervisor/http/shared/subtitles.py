"""Transcript segments as subtitles: SubRip and WebVTT. Runs in the front."""

from __future__ import annotations

from collections.abc import Sequence

from ipc.operations import Segment


def srt(segments: Sequence[Segment]) -> str:
    """SubRip: numbered cues, with a comma before the milliseconds."""
    return "".join(
        f"{number}\n{_span(segment, ',')}\n{_line(segment)}\n\n"
        for number, segment in enumerate(segments, 1)
    )


def vtt(segments: Sequence[Segment]) -> str:
    """WebVTT, https://www.w3.org/TR/webvtt1/."""
    cues = (f"{_span(segment, '.')}\n{_escape(_line(segment))}\n\n" for segment in segments)
    return "WEBVTT\n\n" + "".join(cues)


def _span(segment: Segment, point: str) -> str:
    return f"{_clock(segment.start, point)} --> {_clock(segment.end, point)}"


def _clock(seconds: float, point: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{milliseconds // 1000:02}{point}{milliseconds % 1000:03}"


def _line(segment: Segment) -> str:
    """The text on one line: an empty line would end the cue."""
    return " ".join(segment.text.split())


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
