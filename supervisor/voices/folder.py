"""Registered voices on disk: recordings and their metadata. Runs in the front.

The folder contains
- `<id>.json`: the metadata of a voice, with the key of its recording, which is the SHA-256 of the
  bytes. Renaming this file into place creates or changes the voice;
- `recordings/<key>`: the uploaded bytes, stored once for all voices that have this key;
- `.encoded/<format>/<key>.voice`: the encoded voice, made by a worker, which can make it again.

This module only removes files that it, or a worker, has made.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, BinaryIO

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from ipc.fsync import sync_folder
from supervisor.log import logger

VOICE_ID = r"^[A-Za-z0-9_-]{1,64}$"
"""The ids that a voice may have. None of these characters has a meaning in a path."""

VOICE_ID_RULE = "a voice's id is 1 to 64 of the letters a to z and A to Z, digits, - and _"
"""`VOICE_ID` in words."""

CACHED = ".cache"
"""The subfolder with the encoded voices of recordings that are not registered."""

ENCODED = ".encoded"
"""The subfolder in which workers keep the encoded form of registered voices."""

SHARED = ".shared"
"""The subfolder with copies of the files of voices that are shared in a bucket."""

_KEY = r"^[0-9a-f]{64}$"
_RECORDINGS = "recordings"
_VOICE = ".json"
_UNFINISHED = ".unfinished-"
_BLOCK = 1024 * 1024
_TICK_NS = 2 * 10**9
"""No file system counts times in steps that are longer."""

_LARGEST_VOICE = 1024 * 1024
"""In bytes. No voice's file is this large; a larger one does not come from this module."""


def _check_unicode(text: str) -> str:
    text.encode()  # fails for a lone surrogate, which JSON can contain but UTF-8 cannot
    return text


VoiceId = Annotated[str, StringConstraints(pattern=VOICE_ID)]
VoiceName = Annotated[
    str, StringConstraints(min_length=1, max_length=200), AfterValidator(_check_unicode)
]
Consent = Annotated[str, StringConstraints(max_length=2000), AfterValidator(_check_unicode)]


class Voice(BaseModel):
    """A registered voice, as its file holds it."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    id: VoiceId
    name: VoiceName
    key: Annotated[str, StringConstraints(pattern=_KEY)]
    """SHA-256 of the recording, in hex."""
    media_type: str
    """Media type of the recording, detected from its first bytes."""
    size: int = Field(ge=0)
    """Size of the recording in bytes."""
    seconds: float = Field(ge=0, allow_inf_nan=False)
    """How many seconds of the recording are used."""
    parts: tuple[int, ...] = ()
    """The sizes of its recordings, if there are several; they stand one after the other."""
    consent: Consent | None = None
    """The client's statement about the speaker's consent."""
    created: str
    """When the voice was registered or last replaced: UTC, ISO 8601."""
    owner: str | None = None
    """The name of the key that it was registered with; None: it has no owner."""


class VoiceFolder:
    """The voices in the folder at `path`. Its methods block and may raise `OSError`.

    The disk is authoritative; the index is a copy in memory. It is read again whenever the folder
    is locked and after each change, because another front may use the folder at the same time, for
    example while a new instance of the service replaces the old one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.usable: dict[str, Voice] = {}
        """The voices that can be used, by id. A change replaces the whole dictionary."""
        self.written: dict[str, Voice] = {}
        """All voices with a valid file, including those whose recording is missing."""
        self.unreadable: dict[str, bytes | None] = {}
        """Files that are not valid: content by id; None when the file cannot be read at all."""
        self.held: Counter[str] = Counter()
        """Keys whose files must not be removed now."""
        self._recordings = path / _RECORDINGS
        self._reported: set[str] = set()
        self._seen: int | None = None
        """When the folder was changed last, as far as the index knows it (Unix time in ns)."""

    def recording(self, key: str) -> Path:
        """The path of a recording."""
        return self._recordings / key

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder for this process and update the index. Creates the folder if needed."""
        for folder in (self.path, self._recordings, self.path / ENCODED):
            if not folder.is_dir():
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                sync_folder(folder.parent)
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            self.read()
            yield
        finally:
            os.close(descriptor)

    def changed(self) -> bool:
        """Whether the folder may have changed since the index was read."""
        return self._seen is None or self._seen != self.path.stat().st_mtime_ns

    def read(self) -> None:
        """Update the index from the disk."""
        seen = self.path.stat().st_mtime_ns
        # Another change at the same tick of the disk's clock would not be seen.
        self._seen = seen if time.time_ns() - seen > _TICK_NS else None
        written: dict[str, Voice] = {}
        unreadable: dict[str, bytes | None] = {}
        for path in self.path.iterdir():
            id = path.name.removesuffix(_VOICE)
            if path.suffix != _VOICE or not re.fullmatch(VOICE_ID, id):
                continue
            content: bytes | None = None
            try:
                content = _content(path)
                voice = Voice.model_validate_json(content)
                if voice.id != id:
                    raise ValueError(f"the id in it is {voice.id}")
                written[id] = voice
            except (OSError, ValueError) as error:
                unreadable[id] = content
                self._report(path, str(error))
        usable = {id: voice for id, voice in written.items() if self._has_recording(voice)}
        for id in written.keys() - usable.keys():
            self._report(self._file(id), "its recording is missing or has another size")
        self.written, self.unreadable, self.usable = written, unreadable, usable

    def put(self, voice: Voice, recording: BinaryIO) -> None:
        """Store `voice`, replacing any voice with its id. The folder must be locked."""
        replaced = self.written.get(voice.id)
        try:
            if self._has_recording(voice):
                sync_folder(self._recordings)
            else:
                _write(self.recording(voice.key), recording)
            _write(self._file(voice.id), io.BytesIO(voice.model_dump_json(indent=2).encode()))
        finally:
            self.read()
            self.drop(voice.key)
            if replaced is not None:
                self.drop(replaced.key)

    def remove(self, voice: Voice) -> None:
        """Delete `voice`. The folder must be locked."""
        try:
            os.unlink(self._file(voice.id))
            sync_folder(self.path)
        finally:
            self.read()
            self.drop(voice.key)

    def drop(self, key: str) -> None:
        """Remove the files of a recording, unless a voice uses it or it is held.

        The folder must be locked. If a file cannot be removed, `tidy` removes it later: the change
        that made it superfluous has already been made.
        """
        if key in self.held or self._is_named(key):
            return
        try:
            for encoded in self.path.glob(f"{ENCODED}/*/{key}.voice"):
                encoded.unlink(missing_ok=True)
            self.recording(key).unlink(missing_ok=True)
        except OSError as error:
            logger.error("recording_not_removed", key=key, error=str(error))

    def tidy(self) -> None:
        """Remove what a crash has left: unfinished files, and files that no voice uses.

        The folder must be locked.
        """
        for folder in (self.path, self._recordings):
            for path in folder.glob(f"{_UNFINISHED}*"):
                path.unlink()
        found = {path.name for path in self._recordings.iterdir()}
        found |= {path.stem for path in self.path.glob(f"{ENCODED}/*/*.voice")}
        for key in found:
            if re.fullmatch(_KEY, key):
                self.drop(key)

    def _has_recording(self, voice: Voice) -> bool:
        try:
            return self.recording(voice.key).stat().st_size == voice.size
        except FileNotFoundError:
            return False

    def _is_named(self, key: str) -> bool:
        """Whether a voice uses it, or might: a damaged file, or one of another version, counts."""
        return any(voice.key == key for voice in self.written.values()) or any(
            content is None or key.encode() in content for content in self.unreadable.values()
        )

    def _report(self, path: Path, error: str) -> None:
        if path.name not in self._reported:
            self._reported.add(path.name)
            logger.error("voice_unreadable", file=str(path), error=error)

    def _file(self, id: str) -> Path:
        return self.path / f"{id}{_VOICE}"


def cached_bytes(path: Path) -> int:
    """Bytes of the encoded voices in the folder at `path` that are not registered. It blocks."""
    size = 0
    for folder, _, names in os.walk(path / CACHED):
        for name in names:
            with contextlib.suppress(OSError):  # a worker may have dropped it
                size += os.stat(os.path.join(folder, name)).st_size
    return size


def _content(path: Path) -> bytes:
    if not path.is_file():  # reading a pipe might never end
        return b""
    with open(path, "rb") as file:
        return file.read(_LARGEST_VOICE)


def _write(path: Path, source: BinaryIO) -> None:
    """Write all of `source` to `path` and flush it to the disk. On failure `path` is unchanged."""
    descriptor, unfinished = tempfile.mkstemp(prefix=_UNFINISHED, dir=path.parent)
    try:
        try:
            while block := source.read(_BLOCK):
                view = memoryview(block)
                while view:
                    view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(unfinished, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(unfinished)
        raise
    sync_folder(path.parent)
