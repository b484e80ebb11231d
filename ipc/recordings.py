"""The table of recording formats that clients may upload. Used in every process.

Workers choose the decoder by it, the front names stored recordings by it, and both take from it the
sentence that tells people which formats they can send. What a recording is, is decided by its first
bytes and never by its file name.
"""

from __future__ import annotations

from dataclasses import dataclass

HEAD_BYTES = 16
"""How many of the first bytes `detect` needs at most."""

Magic = tuple[tuple[int, bytes], ...]
"""A magic number: offsets, and the bytes that must all be there."""


@dataclass(frozen=True, slots=True)
class RecordingFormat:
    """One format: `name` is for people, `kind` is FFmpeg's name of the container.

    `magic` holds the alternatives; one of them is enough.
    """

    name: str
    kind: str
    media_type: str
    suffix: str
    magic: tuple[Magic, ...]


MP3 = RecordingFormat("MP3", "mp3", "audio/mpeg", ".mp3", ())
"""Has no magic number: it begins with an MPEG frame, see `detect`."""

AAC = RecordingFormat("AAC", "aac", "audio/aac", ".aac", (((0, b"ADIF"),),))
"""Usually a stream of MPEG frames (ADTS), see `detect`. FFmpeg refuses the rare ADIF."""

RECORDING_FORMATS = (
    RecordingFormat(
        "WAV",
        "wav",
        "audio/wav",
        ".wav",
        # RF64 is the same for more than 4 GB.
        (((0, b"RIFF"), (8, b"WAVE")), ((0, b"RF64"), (8, b"WAVE"))),
    ),
    RecordingFormat("FLAC", "flac", "audio/flac", ".flac", (((0, b"fLaC"),),)),
    RecordingFormat("OGG (Vorbis or Opus)", "ogg", "audio/ogg", ".ogg", (((0, b"OggS"),),)),
    MP3,
    AAC,
    RecordingFormat("M4A (MP4, MOV, 3GP)", "mov", "audio/mp4", ".m4a", (((4, b"ftyp"),),)),
    RecordingFormat("WebM", "matroska", "audio/webm", ".webm", (((0, b"\x1a\x45\xdf\xa3"),),)),
    RecordingFormat(
        "AIFF",
        "aiff",
        "audio/aiff",
        ".aiff",
        (((0, b"FORM"), (8, b"AIFF")), ((0, b"FORM"), (8, b"AIFC"))),
    ),
    RecordingFormat("CAF", "caf", "audio/x-caf", ".caf", (((0, b"caff"),),)),
    RecordingFormat("AMR", "amr", "audio/amr", ".amr", (((0, b"#!AMR"),),)),
)

SUFFIXES = {known.media_type: known.suffix for known in RECORDING_FORMATS}
"""The suffix of a recording's file name, by its media type."""


def _listed(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


READABLE = _listed([known.name for known in RECORDING_FORMATS])
"""All formats, for messages and descriptions: "WAV, FLAC, ... or AMR"."""


def detect(head: bytes) -> RecordingFormat | None:
    """The format of the recording that begins with `head`; None when it is not a known one.

    An ID3 tag may stand in front of any format, and almost always stands in front of MP3. When
    `head` goes past the tag, the bytes behind it decide; otherwise the answer is MP3.
    """
    if head.startswith(b"ID3"):
        tag = id3_size(head)
        if not 0 < tag < len(head):
            return MP3
        head = head[tag:]
    for known in RECORDING_FORMATS:
        for magic in known.magic:
            if all(head.startswith(part, offset) for offset, part in magic):
                return known
    return _mpeg(head)


def id3_size(head: bytes) -> int:
    """Bytes of the ID3 tag that `head` begins with; 0 without one, or without its whole header."""
    if len(head) < 10 or not head.startswith(b"ID3"):
        return 0
    size = 0
    for byte in head[6:10]:  # seven bits in each
        size = size << 7 | byte & 0x7F
    return 10 + size


def _mpeg(head: bytes) -> RecordingFormat | None:
    """MP3 or AAC, if `head` begins with an MPEG frame: eleven bits of sync, all 1.

    ADTS has a twelfth sync bit, and the two bits of the layer are 0.
    """
    if len(head) < 2 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    return AAC if head[1] & 0xF6 == 0xF0 else MP3
