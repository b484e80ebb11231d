"""Named voices as files: the original recordings and what is known of them. Runs in the front.

In the folder lie
- `<id>.json`: a voice, naming its recording by key, the SHA-256 of its bytes. That this file is
  renamed into its place is what makes a voice exist or change;
- `recordings/<key>`: the bytes as they were sent, once for all voices that name them;
- `.encoded/<format>/<key>.voice`: what workers have made of a recording, which they can make again.

Only files that this module, or a worker for it, has made are ever removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, BinaryIO

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from ipc.fsync import sync_folder
from supervisor.log import logger

VOICE_ID = r"^[A-Za-z0-9_-]{1,64}$"
"""What a voice may be called: nothing that means anything in a path."""

VOICE_ID_RULE = "a voice's id is 1 to 64 of the letters a to z and A to Z, digits, - and _"
"""The same for people."""

CACHED = ".cache"
"""The folder, below that of the voices, of encoded voices that have no name."""

ENCODED = ".encoded"
"""The folder, below that of the voices, in which workers keep what they made of recordings."""

_KEY = r"^[0-9a-f]{64}$"
_RECORDINGS = "recordings"
_VOICE = ".json"
_UNFINISHED = ".unfinished-"
_BLOCK = 1024 * 1024
_LARGEST_VOICE = 1024 * 1024
"""More bytes than any voice's file has; what is larger is somebody else's."""


def _check_unicode(text: str) -> str:
    text.encode()  # half a surrogate pair, which JSON can spell, has no bytes
    return text


VoiceId = Annotated[str, StringConstraints(pattern=VOICE_ID)]
VoiceName = Annotated[
    str, StringConstraints(min_length=1, max_length=200), AfterValidator(_check_unicode)
]
Consent = Annotated[str, StringConstraints(max_length=2000), AfterValidator(_check_unicode)]


class Voice(BaseModel):
    """A registered voice, as it is written to its file."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    id: VoiceId
    name: VoiceName
    key: Annotated[str, StringConstraints(pattern=_KEY)]
    """SHA-256 of the recording, in hex."""
    media_type: str
    """Of the recording, by its first bytes."""
    size: int = Field(ge=0)
    """Bytes of the recording."""
    seconds: float = Field(ge=0, allow_inf_nan=False)
    """How much of the recording is used."""
    consent: Consent | None = None
    """What the client says of the speaker's consent."""
    created: str
    """When it was registered, or replaced: UTC, ISO 8601."""


class VoiceFolder:
    """The voices in the folder at `path`. Its methods block, and raise `OSError`.

    What is on disk is the truth, and the index what was last read of it: it is read again whenever
    the folder is locked and after each change, for another front may use the folder too, as while
    one service takes over from another.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.usable: dict[str, Voice] = {}
        """The voices that can be used, by id. What changes them puts another dictionary here."""
        self.written: dict[str, Voice] = {}
        """Those and the ones whose recording is not there."""
        self.unreadable: dict[str, bytes | None] = {}
        """By the id it takes, the bytes of each file that is no voice; None: not even those."""
        self.held: Counter[str] = Counter()
        """Keys of which nothing may be removed now."""
        self._recordings = path / _RECORDINGS
        self._complained: set[str] = set()

    def recording(self, key: str) -> Path:
        """Where a recording lies."""
        return self._recordings / key

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Alone in the folder, of all processes, with an index that is right. Makes the folder."""
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

    def read(self) -> None:
        """Bring the index up to date."""
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
                    raise ValueError(f"it is the voice {voice.id}")
                written[id] = voice
            except (OSError, ValueError) as error:
                unreadable[id] = content
                self._complain(path, str(error))
        usable = {id: voice for id, voice in written.items() if self._has_recording(voice)}
        for id in written.keys() - usable.keys():
            self._complain(self._file(id), "its recording is not there, or not as it was")
        self.written, self.unreadable, self.usable = written, unreadable, usable

    def put(self, voice: Voice, recording: BinaryIO) -> None:
        """Make `voice` exist, or replace the one of its id. The folder must be locked."""
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
        """Make `voice` exist no more. The folder must be locked."""
        try:
            os.unlink(self._file(voice.id))
            sync_folder(self.path)
        finally:
            self.read()
            self.drop(voice.key)

    def drop(self, key: str) -> None:
        """Remove what is kept of a recording, unless a voice names it or it is held.

        The folder must be locked. What cannot be removed is left to `tidy`, for the change that
        this belongs to has been made.
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
        """Remove what a crash has left: unfinished files, and what no voice names.

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
        """Whether a voice names it, or a file might that is damaged or from another version."""
        return any(voice.key == key for voice in self.written.values()) or any(
            content is None or key.encode() in content for content in self.unreadable.values()
        )

    def _complain(self, path: Path, error: str) -> None:
        if path.name not in self._complained:
            self._complained.add(path.name)
            logger.error("voice_unreadable", file=str(path), error=error)

    def _file(self, id: str) -> Path:
        return self.path / f"{id}{_VOICE}"


def _content(path: Path) -> bytes:
    if not path.is_file():  # reading a pipe would not end
        return b""
    with open(path, "rb") as file:
        return file.read(_LARGEST_VOICE)


def _write(path: Path, source: BinaryIO) -> None:
    """Put all that `source` gives at `path`, safe on the disk, or leave what is there."""
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
