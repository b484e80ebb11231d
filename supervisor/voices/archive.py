"""A registered voice as one file, with which it moves to another machine. Runs in the front.

The file is a tar that any program can unpack: `voice.json` with the facts about the voice, then
`recordings/1`, `recordings/2` and so on, as they were sent. It has nothing of the machine: no
encoded voice, no owner, no time of the export. So the same voice is always the same file.

An archive from a client is not trusted. It is read from its beginning to its end in blocks of 512
bytes, and only what this module writes is accepted: plain files with exactly these names, in this
order, of sizes that are bounded before they are read. Names in it are compared and never used;
links, folders, extended headers and compression, for which tar's readers are attacked, are unknown
here. The recordings are hashed, not decoded.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, BinaryIO, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)

from ipc.errors import ErrorCode, ServiceError
from supervisor.voices.folder import Consent, Voice, VoiceId, VoiceName

MEDIA_TYPE = "application/x-tar"

MAX_RECORDINGS = 25
"""The most recordings of a voice."""

_BLOCK = 512
_READ = 64 * 1024
_MAX_FACTS = 64 * 1024
_PADDING = 20 * _BLOCK
"""At the end tar's writers fill up to so many bytes with zeros."""

_FACTS = "voice.json"
_OCTAL = re.compile(rb" *([0-7]{1,11})[ \0]*")


def _check_time(text: str) -> str:
    time = datetime.fromisoformat(text)
    if time.tzinfo is None or time.year < 1970:
        raise ValueError("it is no time with an offset")
    return text


class RecordingFacts(BaseModel):
    """A recording of the voice in an archive."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int = Field(gt=0)
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class VoiceFacts(BaseModel):
    """`voice.json` in an archive."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["voice-engine voice"] = "voice-engine voice"
    version: Literal[1] = 1
    id: VoiceId
    """Its id where it comes from; an import takes the id from the request."""
    name: VoiceName
    consent: Consent | None = None
    created: Annotated[str, StringConstraints(max_length=64), AfterValidator(_check_time)]
    recordings: tuple[RecordingFacts, ...] = Field(min_length=1, max_length=MAX_RECORDINGS)


@dataclass(frozen=True, slots=True)
class Span:
    """Where a recording is in a file."""

    start: int
    size: int


def head_of(voice: Voice, recording: BinaryIO) -> bytes:
    """The beginning of the archive of `voice`, before its first recording.

    Reads the recordings for their hashes.
    """
    facts = VoiceFacts(
        id=voice.id,
        name=voice.name,
        consent=voice.consent,
        created=voice.created,
        recordings=tuple(
            RecordingFacts(size=size, sha256=_hash(recording, size)) for size in sizes_of(voice)
        ),
    )
    data = facts.model_dump_json(indent=2).encode()
    return _header(_FACTS, len(data)) + data + padding(len(data))


def sizes_of(voice: Voice) -> tuple[int, ...]:
    """The sizes of the recordings of `voice`."""
    return voice.parts or (voice.size,)


def header(number: int, size: int) -> bytes:
    """What stands before a recording, counted from 0."""
    return _header(_name(number), size)


def padding(size: int) -> bytes:
    """What stands behind a file of this size."""
    return bytes(-size % _BLOCK)


END = bytes(2 * _BLOCK)
"""The end of an archive."""


def archive_size(voice: Voice, head: bytes) -> int:
    """The size of the whole archive."""
    files = sum(_BLOCK + size + len(padding(size)) for size in sizes_of(voice))
    return len(head) + files + len(END)


def read_archive(file: BinaryIO, size: int, max_recordings: int) -> tuple[VoiceFacts, list[Span]]:
    """The facts in an archive of `size` bytes, and where its recordings are. It blocks.

    The recordings together have at most `max_recordings` bytes. Raises `ServiceError`, and
    `OSError` if the file cannot be read.
    """
    length = _expect(file, _FACTS)
    if length > _MAX_FACTS:
        raise _broken(f"{_FACTS} has {length} bytes")
    data = _take(file, length)
    _take(file, len(padding(length)))
    try:
        facts = VoiceFacts.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise _broken(f"in {_FACTS} {where or 'the JSON'} is not valid: {first['msg']}") from None
    if sum(each.size for each in facts.recordings) > max_recordings:
        raise ServiceError(
            ErrorCode.payload_too_large,
            f"the recordings of the archive are over the limit of {max_recordings >> 20} MB",
        )
    spans = []
    for number, known in enumerate(facts.recordings):
        if _expect(file, _name(number)) != known.size:
            raise _broken(f"{_name(number)} has another size than {_FACTS} says")
        spans.append(Span(file.tell(), known.size))
        if _hash(file, known.size) != known.sha256:
            raise _broken(f"{_name(number)} has another SHA-256 than {_FACTS} says")
        _take(file, len(padding(known.size)))
    rest = size - file.tell()
    if rest > _PADDING or any(_take(file, rest)):
        raise _broken(f"something comes after {_name(len(spans) - 1)}")
    return facts, spans


def blocks(file: BinaryIO, span: Span) -> Iterator[bytes]:
    """The bytes of a span, piece by piece. It blocks."""
    file.seek(span.start)
    left = span.size
    while left:
        block = file.read(min(_READ, left))
        if not block:
            raise OSError("the file has become shorter")
        left -= len(block)
        yield block


def _name(number: int) -> str:
    return f"recordings/{number + 1}"


def _header(name: str, size: int) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size = size
    entry.mode = 0o600
    return entry.tobuf(tarfile.USTAR_FORMAT)


def _expect(file: BinaryIO, name: str) -> int:
    """Read the header of the file `name`; its size. Raises `ServiceError` for any other header."""
    block = _take(file, _BLOCK)
    if block[257:262] != b"ustar":
        raise _broken(f"there is no {name} where it must be")
    total = _octal(block[148:156])
    if total != sum(block[:148]) + sum(b" " * 8) + sum(block[156:]):
        raise _broken("a header is damaged")
    found = block[345:500].rstrip(b"\0"), block[:100].rstrip(b"\0"), block[156:157]
    if found not in ((b"", name.encode(), b"0"), (b"", name.encode(), b"\0")):
        raise _broken(f"there is something else where {name} must be, a plain file")
    return _octal(block[124:136])


def _octal(field: bytes) -> int:
    match = _OCTAL.fullmatch(field)
    if match is None:
        raise _broken("a header is damaged")
    return int(match[1], 8)


def _take(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise _broken("it ends too early")
    return data


def _hash(file: BinaryIO, size: int) -> str:
    digest = hashlib.sha256()
    while size:
        digest.update(block := _take(file, min(_READ, size)))
        size -= len(block)
    return digest.hexdigest()


def _broken(problem: str) -> ServiceError:
    return ServiceError(
        ErrorCode.invalid_request,
        f"the archive cannot be read: {problem}; send one that GET .../archive gave",
    )
