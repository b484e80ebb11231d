"""The store of registered voices in a folder, for request handlers. Runs in the front.

`supervisor/voices/folder.py` describes the files on disk. Several fronts may use one folder: what
another one has changed is known here a second later, and a request for an unknown voice looks for
it at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import re
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, TypeVar

from pydantic import ValidationError

from ipc.errors import ErrorCode, ServiceError
from ipc.operations import Recording
from ipc.recordings import HEAD_BYTES, detect
from supervisor.dispatch.upload import Upload
from supervisor.log import logger
from supervisor.threads import in_thread
from supervisor.voices.folder import (
    CACHED,
    ENCODED,
    VOICE_ID,
    VOICE_ID_RULE,
    Consent,
    Voice,
    VoiceFolder,
    VoiceId,
    VoiceName,
)
from supervisor.voices.refresh import Refresh

__all__ = [
    "CACHED",
    "ENCODED",
    "VOICE_ID",
    "VOICE_ID_RULE",
    "Consent",
    "Voice",
    "VoiceId",
    "VoiceName",
    "VoiceStore",
]

_RETRY_AFTER_FULL = 5.0

_T = TypeVar("_T")


def as_before(replaced: Voice | None) -> str | None:
    """The owner of the voice that is replaced."""
    return None if replaced is None else replaced.owner


def always(_: Voice) -> bool:
    """Whether the voice may be changed: yes."""
    return True


def refuse_no_room(count: int, max_voices: int) -> None:
    """Raise `ServiceError` when there may be no more voices than these."""
    if count >= max_voices:
        raise ServiceError(
            ErrorCode.conflict,
            f"{count} voices are registered, the limit is {max_voices}; delete one, or "
            "have the operator raise VOICE_ENGINE_MAX_VOICES",
        )


def check_id(id: str) -> None:
    """Raise `ServiceError` when no voice may have this id."""
    if not re.fullmatch(VOICE_ID, id):
        raise ServiceError(ErrorCode.invalid_option, VOICE_ID_RULE)


def unreadable(id: str) -> ServiceError:
    """The error where a voice would replace a file that is not valid."""
    return ServiceError(
        ErrorCode.conflict,
        f"the server's file {id}.json is not a valid voice; choose another id, or have the "
        "operator remove that file",
    )


def media_type_of(head: bytes) -> str:
    """The media type of the recording that begins with `head`."""
    known = detect(head)
    return "application/octet-stream" if known is None else known.media_type


def new_voice(
    id: str,
    upload: Upload,
    *,
    seconds: float,
    name: str | None,
    consent: str | None,
    created: str | None,
) -> Voice:
    """The voice of the closed `upload`, without its media type and owner. Raises `ServiceError`."""
    recording = upload.recording
    try:
        return Voice(
            id=id,
            name=id if name is None else name,
            key=recording.key,
            media_type="",
            size=upload.size,
            parts=recording.parts,
            seconds=seconds,
            consent=consent,
            created=created or datetime.now(UTC).isoformat(timespec="seconds"),
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise ServiceError(
            ErrorCode.invalid_option, f"{first['loc'][0]}: {first['msg']}"
        ) from error


class VoiceStore:
    """The voices in `folder`, at most `max_voices` of them.

    Reading needs no I/O. Changes run off the event loop, one at a time. A cancelled caller waits
    until its change is finished.
    """

    def __init__(self, folder: Path, max_voices: int = 1000) -> None:
        self.max_voices = max_voices
        self._folder = VoiceFolder(folder)
        self._lock = asyncio.Lock()
        self._refresh = Refresh(self._look, gap=0.0)  # a look is a stat, if nothing has changed

    def load(self) -> None:
        """Read the folder and remove what a crash has left. Creates the folder if needed.

        An error is logged; the voices that can be read are available all the same.
        """
        folder = self._folder
        try:
            with folder.locked():
                folder.tidy()
            if not os.access(folder.path, os.R_OK | os.W_OK | os.X_OK):
                raise PermissionError(f"{folder.path} is not writable")
        except OSError as error:
            with contextlib.suppress(OSError):
                folder.read()
            logger.error(
                "voices_off",
                error=str(error),
                message=f"no voice can be registered; make the folder {folder.path} writable, or "
                "set VOICES_DIR to another one",
            )

    def get(self, id: str) -> Voice | None:
        """The voice with this id, or None."""
        return self._folder.usable.get(id)

    @property
    def keys(self) -> set[str]:
        """The keys of the recordings of all voices."""
        return {voice.key for voice in self._folder.usable.values()}

    @property
    def count(self) -> int:
        """How many voices can be used."""
        return len(self._folder.usable)

    def list(self) -> list[Voice]:
        """All voices, sorted by id."""
        return [voice for _, voice in sorted(self._folder.usable.items())]

    async def look_again(self) -> None:
        """Learn what other fronts have changed until now; for a voice that is not known."""
        await self._refresh.soon()

    async def open(self) -> None:
        """Nothing: `load` has read the folder."""

    async def run(self) -> None:
        """Keep the voices up to date, until it is cancelled."""
        await self._refresh.run()

    async def close(self) -> None:
        """Nothing goes on in the background."""

    def recording_path(self, voice: Voice) -> Path:
        """The file with the recording. It exists while its key is held."""
        return self._folder.recording(voice.key)

    async def fetch(self, voice: Voice) -> None:
        """Nothing: workers read the folder."""

    async def fetch_recording(self, voice: Voice) -> None:
        """Nothing: the recording is there."""

    def offer(self, voice: Voice) -> None:
        """Nothing: workers write into the folder."""

    @contextlib.asynccontextmanager
    async def hold(self, key: str) -> AsyncIterator[None]:
        """Keep the files of the recording `key` inside the block, even when no voice uses it.

        Afterwards they are removed unless a voice uses them. So an encoded voice does not stay
        behind when its recording is not saved, or when its voice is deleted meanwhile. Hold the
        key of a voice before the first `await`.
        """
        held = self._folder.held
        held[key] += 1
        try:
            yield
        finally:
            held[key] -= 1
            if not held[key]:
                del held[key]
                if all(voice.key != key for voice in self._folder.usable.values()):
                    with contextlib.suppress(OSError):  # the next start tries again
                        await self._run(lambda: self._drop(key))

    def check_room(self, id: str) -> None:
        """Raise `ServiceError` when no voice can be saved with this id."""
        check_id(id)
        if id in self._folder.unreadable:
            raise unreadable(id)
        if id not in self._folder.written:
            refuse_no_room(len(self._folder.written), self.max_voices)

    async def save(
        self,
        id: str,
        upload: Upload,
        *,
        seconds: float,
        name: str | None = None,
        consent: str | None = None,
        created: str | None = None,
        owner: Callable[[Voice | None], str | None] = as_before,
    ) -> Voice:
        """Save the closed `upload` as the voice `id`, or replace that voice, atomically.

        The voice is on disk when this returns. `name` defaults to the id, `created` to now; `owner`
        gives the owner by the voice that is replaced, and may raise. When this raises
        `ServiceError`, nothing has changed.
        """
        self.check_room(id)
        recording = upload.recording
        voice = new_voice(id, upload, seconds=seconds, name=name, consent=consent, created=created)
        try:
            return await self._run(lambda: self._save(voice, recording, owner))
        except OSError as error:
            raise self._failed("voice_not_saved", id, error) from error

    async def rename(self, id: str, name: str, allowed: Callable[[Voice], bool] = always) -> bool:
        """Give the voice `id` another name for people; False when there is none.

        It is as if there were none if it is not `allowed`. Raises `ServiceError`.
        """
        try:
            return await self._run(lambda: self._rename(id, name, allowed))
        except OSError as error:
            raise self._failed("voice_not_saved", id, error) from error

    async def delete(self, id: str, allowed: Callable[[Voice], bool] = always) -> bool:
        """Delete the voice `id` and the files of its recording; False when there is none.

        It is as if there were none if it is not `allowed`. Raises `ServiceError`.
        """
        try:
            return await self._run(lambda: self._delete(id, allowed))
        except OSError as error:
            raise self._failed("voice_not_deleted", id, error) from error

    async def _run(self, work: Callable[[], _T]) -> _T:
        """Run `work` off the event loop, after all earlier changes."""
        async with self._lock:
            return await in_thread(work)

    def _save(
        self, voice: Voice, recording: Recording, owner: Callable[[Voice | None], str | None]
    ) -> Voice:
        with self._folder.locked(), open_recording(recording) as file:
            facts = {"owner": owner(self._folder.written.get(voice.id))}
            self.check_room(voice.id)
            facts["media_type"] = media_type_of(file.read(HEAD_BYTES))
            voice = voice.model_copy(update=facts)
            file.seek(0)
            self._folder.put(voice, file)
            return voice

    def _rename(self, id: str, name: str, allowed: Callable[[Voice], bool]) -> bool:
        with self._folder.locked():
            voice = self._folder.usable.get(id)
            if voice is None or not allowed(voice):
                return False
            # Its recording is there, so that only the file with the name is written.
            self._folder.put(voice.model_copy(update={"name": name}), io.BytesIO())
            return True

    def _delete(self, id: str, allowed: Callable[[Voice], bool]) -> bool:
        with self._folder.locked():
            voice = self._folder.written.get(id)
            if voice is None or not allowed(voice):
                return False
            self._folder.remove(voice)
            return True

    async def _look(self) -> None:
        with contextlib.suppress(OSError):  # the next change of a voice tells it
            await self._run(lambda: self._folder.read() if self._folder.changed() else None)

    def _drop(self, key: str) -> None:
        with self._folder.locked():
            self._folder.drop(key)

    def _failed(self, event: str, id: str, error: OSError) -> ServiceError:
        logger.error(event, voice=id, error=str(error), folder=str(self._folder.path))
        return ServiceError(
            ErrorCode.spool_full,
            "the server cannot write to the folder of its voices now, for example because the disk "
            "is full; try again later",
            retry_after=_RETRY_AFTER_FULL,
        )


def open_recording(recording: Recording) -> BinaryIO:
    """The bytes of a recording, which must be there. It blocks. Raises `OSError`."""
    if recording.data is not None:
        return io.BytesIO(recording.data)
    assert recording.path is not None
    return open(recording.path, "rb")
