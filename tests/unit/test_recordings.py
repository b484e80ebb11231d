"""What an uploaded recording is, by its first bytes; and that people are told of every format."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ipc.recordings import HEAD_BYTES, READABLE, RECORDING_FORMATS, SUFFIXES, detect
from supervisor.http.routes.voices import SAMPLE
from supervisor.http.shared.transcription import RECORDING
from tests.support.formats import FORMATS, RARE_FORMATS, encode

ROOT = Path(__file__).resolve().parent.parent.parent

MADE = {
    "48 kHz stereo wav": "audio/wav",
    "flac": "audio/flac",
    "ogg": "audio/ogg",
    "opus": "audio/ogg",
    "mp3": "audio/mpeg",
    "m4a": "audio/mp4",
    "webm": "audio/webm",
    "3gp": "audio/mp4",
    "mov": "audio/mp4",
    "amr": "audio/amr",
    "caf": "audio/x-caf",
    "aiff": "audio/aiff",
}
"""What each format that tests can make is."""


def media_type(head: bytes) -> str | None:
    known = detect(head)
    return None if known is None else known.media_type


@pytest.mark.parametrize("name", [*FORMATS, *RARE_FORMATS])
def test_every_format_is_detected_by_its_first_bytes(name: str) -> None:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(8_000, np.float32), 16_000, format="WAV")
    made = encode(file.getvalue(), name)
    assert media_type(made) == media_type(made[:HEAD_BYTES]) == MADE[name]


def test_every_entry_but_aac_is_made_by_those_formats() -> None:
    """Streams of AAC are in the table below."""
    assert {known.media_type for known in RECORDING_FORMATS} == {*MADE.values(), "audio/aac"}


def tag(size: int) -> bytes:
    """An ID3 tag with `size` bytes behind its header."""
    digits = bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\4\0\0" + digits + bytes(size)


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"RF64\xff\xff\xff\xffWAVEds64", "audio/wav"),
        (b"RIFF\0\0\0\0WAVEfmt ", "audio/wav"),
        (b"RIFF\0\0\0\0AVI LIST", None),
        (b"FORM\0\0\0\0AIFCFVER", "audio/aiff"),
        (b"FORM\0\0\0\0ILBM", None),
        (b"ADIF\0\0", "audio/aac"),
        (b"#!AMR-WB\n", "audio/amr"),
        # MPEG frames: what tells AAC from the others is the layer.
        (b"\xff\xf1\x50\x80", "audio/aac"),
        (b"\xff\xf9\x50\x80", "audio/aac"),
        (b"\xff\xfb\x90\x64", "audio/mpeg"),
        (b"\xff\xf3\x90\x64", "audio/mpeg"),
        (b"\xff\xe3\x90\x64", "audio/mpeg"),
        (b"\xff\xd8\xff\xe0", None),
        (b"\xff", None),
        # An ID3 tag: alone, of unknown size, and with something behind it.
        (b"ID3\4\0", "audio/mpeg"),
        (tag(300)[:HEAD_BYTES], "audio/mpeg"),
        (tag(300) + b"\xff\xfb\x90\x64", "audio/mpeg"),
        (tag(300) + b"\xff\xf1\x50\x80", "audio/aac"),
        (tag(0) + b"fLaC\0\0", "audio/flac"),
        (tag(300) + b"hello", None),
        (b"", None),
        (b"hello, I am not a recording", None),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", None),
    ],
)
def test_the_first_bytes_decide(head: bytes, expected: str | None) -> None:
    assert media_type(head) == expected


def test_no_two_formats_share_a_name() -> None:
    for names in zip(*((f.name, f.kind, f.media_type) for f in RECORDING_FORMATS), strict=True):
        assert len(set(names)) == len(RECORDING_FORMATS)
    assert len(set(SUFFIXES.values())) == len(RECORDING_FORMATS)


def test_people_are_told_of_every_format() -> None:
    assert all(known.name in READABLE for known in RECORDING_FORMATS)
    for field in (SAMPLE, RECORDING):
        assert READABLE in field.description
    for page in ("README.md", "docs/api.md"):
        assert READABLE in " ".join((ROOT / page).read_text().split())
