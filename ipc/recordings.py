"""The table of recording formats that clients may upload. Used in every process.

Workers choose the decoder by it, the front names stored recordings by it, and both take from it the
sentence that tells people which formats they can send. What a recording is, is decided by its first
bytes and never by its file name.
"""

from __future__ import annotations

from dataclasses import dataclass

HEAD_BYTES = 65_536
"""How many of the first bytes `detect` needs at most: most formats are known by the first 16, MP3
and AAC by their first frames, which may come late."""

_FRAMES_IN_A_ROW = 3
_MPEG1_KILOBITS = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_MPEG2_KILOBITS = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_MPEG_RATES = (44_100, 48_000, 32_000)

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
        # The others are the same for more than 4 GB.
        (
            *(((0, name), (8, b"WAVE")) for name in (b"RIFF", b"RF64", b"BW64")),
            ((0, b"riff\x2e\x91\xcf\x11"), (24, b"wave")),  # Wave64
        ),
    ),
    RecordingFormat("FLAC", "flac", "audio/flac", ".flac", (((0, b"fLaC"),),)),
    RecordingFormat("OGG (Vorbis or Opus)", "ogg", "audio/ogg", ".ogg", (((0, b"OggS"),),)),
    MP3,
    AAC,
    RecordingFormat(
        "M4A (MP4, MOV, 3GP)",
        "mov",
        "audio/mp4",
        ".m4a",
        # QuickTime may begin with any box. All but `mdat` are smaller than 16 MB there.
        (
            *(((4, name),) for name in (b"ftyp", b"mdat")),
            *(((0, b"\0"), (4, name)) for name in (b"wide", b"free", b"skip", b"moov", b"pnot")),
        ),
    ),
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
    """The format of the recording that begins with `head`; None when it is not a known one."""
    found = locate(head)
    return None if found is None else found[0]


def locate(head: bytes) -> tuple[RecordingFormat, int] | None:
    """As `detect`, and where in `head` the recording begins.

    ID3 tags may stand in front of any format, and almost always stand in front of MP3. When `head`
    goes past them, the bytes behind decide; otherwise the answer is MP3. The first whole frame of
    MP3 or AAC may have anything in front of it: players skip that, and so do we.
    """
    start = 0
    while (tag := id3_size(head[start : start + 10])) and start + tag < len(head):
        start += tag
    for known in RECORDING_FORMATS:
        for magic in known.magic:
            if all(head.startswith(part, start + offset) for offset, part in magic):
                return known, start
    at = head.find(b"\xff", start)
    while at >= 0:
        known_frames = _frames(head, at)
        if known_frames is not None:
            return known_frames, at
        at = head.find(b"\xff", at + 1)
    if head.startswith(b"ID3", start):
        return MP3, start
    known_frame = _mpeg(head[start : start + 2])
    return None if known_frame is None else (known_frame, start)


def id3_size(head: bytes) -> int:
    """Bytes of the ID3 tag that `head` begins with; 0 without one, or without its whole header."""
    if len(head) < 10 or not head.startswith(b"ID3"):
        return 0
    size = 0
    for byte in head[6:10]:  # seven bits in each
        size = size << 7 | byte & 0x7F
    footer = 10 if head[5] & 0x10 else 0
    return 10 + size + footer


def _mpeg(head: bytes) -> RecordingFormat | None:
    """MP3 or AAC, if `head` begins with an MPEG frame: eleven bits of sync, all 1.

    ADTS has a twelfth sync bit, and the two bits of the layer are 0.
    """
    if len(head) < 2 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    return AAC if head[1] & 0xF6 == 0xF0 else MP3


def _frames(head: bytes, start: int) -> RecordingFormat | None:
    """MP3 or AAC, if several frames in a row begin at `start`, all of the same stream.

    Eleven bits of sync are found anywhere; the next frames exactly where they must be are not.
    """
    stream: bytes | None = None
    at = start
    for count in range(_FRAMES_IN_A_ROW):
        if count >= 2 and at >= len(head):
            break
        size = _frame_size(head[at : at + 6])
        same = _stream(head[at : at + 4])
        if not size or stream not in (None, same):
            return None
        stream = same
        at += size
    return _mpeg(head[start : start + 2])


def _frame_size(header: bytes) -> int:
    """Bytes of the frame of MP3 or AAC with this header; 0 if it is none, or of another layer."""
    known = _mpeg(header)
    if known is None or len(header) < 6:
        return 0
    if known is AAC:
        size = (header[3] & 3) << 11 | header[4] << 3 | header[5] >> 5
        return size if size > 7 and header[2] >> 2 & 15 < 13 else 0
    version, layer = header[1] >> 3 & 3, header[1] >> 1 & 3
    kilobits, rate = header[2] >> 4, header[2] >> 2 & 3
    if layer != 1 or version == 1 or not 0 < kilobits < 15 or rate == 3:
        return 0
    bits = 1_000 * (_MPEG1_KILOBITS if version == 3 else _MPEG2_KILOBITS)[kilobits - 1]
    hertz = _MPEG_RATES[rate] // {3: 1, 2: 2, 0: 4}[version]
    return (144 if version == 3 else 72) * bits // hertz + (header[2] >> 1 & 1)


def _stream(header: bytes) -> bytes:
    """What all frames of a stream have in common: version, layer, sample rate."""
    rate = 0x3C if _mpeg(header) is AAC else 0x0C
    return bytes([header[1] & 0xFE, header[2] & rate]) if len(header) == 4 else b""
