"""The registered voices that several fronts share in a bucket. Runs in the front.

The bucket contains
- `voices/<id>.json`: the metadata of a voice, as `supervisor/voices/folder.py` writes it;
- `recordings/<key>`: the uploaded bytes, whose SHA-256 is the key;
- `encoded/<format>/<key>.voice`: the encoded voice, made once by a worker of any machine;
- `claims/<key>/...` and `deleting/<key>`: who registers, or removes, a recording just now.

A voice is created, changed and deleted by one conditional write of its metadata. Of two fronts that
change one voice at once, the second finds that it has changed, reads it again, and decides again.
A voice is deleted by writing a mark in its place; then the object with the mark is deleted. Who
registers the voice meanwhile waits until the mark is gone, so that nobody deletes a voice that he
has not seen.

A recording is removed when no voice names it. Whoever registers a voice first writes a claim, then
looks for `deleting/<key>`; whoever removes a recording first writes `deleting/<key>`, then looks
for claims and voices. So at least one of the two sees the other: the one who removes gives up, the
one who registers waits. What a front that died has left is removed by a sweep, each hour.

Reading voices needs no I/O. What another front has changed is known here a second later, and a
request for an unknown voice looks for it at once. While the bucket cannot be read, the voices
remain as they were.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ipc.errors import ErrorCode, ServiceError
from ipc.operations import Recording
from ipc.recordings import HEAD_BYTES
from supervisor.dispatch.upload import Upload
from supervisor.log import logger
from supervisor.threads import in_thread
from supervisor.voices.bucket import NEW, ChangedMeanwhileError
from supervisor.voices.folder import VOICE_ID, Voice
from supervisor.voices.refresh import GAP, PERIOD, Refresh
from supervisor.voices.states import NoRecordingError, SharedStates, recording_object
from supervisor.voices.store import (
    always,
    as_before,
    check_id,
    media_type_of,
    new_voice,
    open_recording,
    refuse_no_room,
    unreadable,
)

_VOICES = "voices"
_CLAIMS = "claims"
_DELETING = "deleting"
_JSON = ".json"
_LARGEST_VOICE = 1024 * 1024
_READERS = 16
"""How many voices are read at the same time."""

_OPEN_SECONDS = 3.0
"""How long the start waits for the voices, at most."""

_SAVE_SECONDS = 120.0
"""The longest time from a claim to the voice."""

_REMOVE_SECONDS = 30.0
"""The longest time for the removal of a recording."""

_CLAIM_SECONDS = 900.0
"""A claim of this age is of a front that died."""

_POLL = 0.1
_RETRY_AFTER = 5.0
_SWEEP_SECONDS = 3600.0
_SWEPT_AGE = 3600.0
"""What nobody names is swept at this age, in seconds; nobody can be about to name it then."""

_T = TypeVar("_T")

_MARK = re.compile(rb'\{"deleted": "[0-9a-f]{32}"\}')


def _mark() -> bytes:
    """What stands in the place of a voice that is being deleted. Each is another one."""
    return json.dumps({"deleted": secrets.token_hex(16)}).encode()


@dataclass(frozen=True, slots=True)
class _Entry:
    """What the bucket has for an id: a voice, a mark, or something that is not valid."""

    tag: str
    voice: Voice | None = None
    marked: bool = False
    content: bytes = b""
    """Of what is not valid."""


class SharedVoiceStore:
    """The voices in the bucket of `states`, at most `max_voices` of them.

    A cancelled caller waits until its change is finished.

    Fronts that register voices at the same moment may exceed `max_voices` by a few.
    """

    def __init__(
        self,
        states: SharedStates,
        max_voices: int = 1000,
        *,
        workers_here: bool = True,
        period: float = PERIOD,
        gap: float = GAP,
        patience: float = 10.0,
    ) -> None:
        self.max_voices = max_voices
        self._workers_here = workers_here
        """Whether workers here need the files; else replicas fetch them by themselves."""
        self.states = states
        self.bucket = states.bucket
        self._patience = patience
        """Seconds after which what another front has begun is taken over: it has died."""
        self.refresh = Refresh(self._look, period=period, gap=gap)
        """When the bucket is read."""
        self._entries: dict[str, _Entry] = {}
        """A change replaces the whole dictionary."""
        self._read: dict[str, _Entry] = {}
        """What was read last of each id, so that a look that fails halfway is not lost."""
        self._reported: set[str] = set()
        self._changes = 0
        self._own: dict[str, tuple[int, _Entry | None]] = {}
        """Changes of this front that a look which had begun before may not know."""
        self._known = asyncio.Event()
        """Set once the voices have been read."""
        self._reachable = True
        self._tasks: set[asyncio.Task[None]] = set()

    # Reading

    def get(self, id: str) -> Voice | None:
        """The voice with this id, or None."""
        entry = self._entries.get(id)
        return None if entry is None else entry.voice

    @property
    def keys(self) -> set[str]:
        """The keys of the recordings of all voices."""
        return {entry.voice.key for entry in self._entries.values() if entry.voice is not None}

    @property
    def count(self) -> int:
        """How many voices there are."""
        return sum(entry.voice is not None for entry in self._entries.values())

    def list(self) -> list[Voice]:
        """All voices, sorted by id."""
        found = sorted(self._entries.items())
        return [entry.voice for _, entry in found if entry.voice is not None]

    def check_room(self, id: str) -> None:
        """Raise `ServiceError` when no voice can be saved with this id."""
        if not self._known.is_set():
            raise _unavailable()
        check_id(id)
        entry = self._entries.get(id)
        if entry is not None and entry.voice is None and not entry.marked:
            raise unreadable(id)
        if entry is None or entry.voice is None:
            refuse_no_room(self.count, self.max_voices)

    async def look_again(self) -> None:
        """Learn what other fronts have changed until now; for a voice that is not known.

        Raises `ServiceError` if the voices have never been read.
        """
        if self._reachable:
            await self.refresh.soon()
        if not self._known.is_set():
            raise _unavailable()

    # Start and end

    async def open(self) -> None:
        """Read the voices; returns without them if that takes long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_OPEN_SECONDS):
                await self.refresh.again()
        if not self._known.is_set():
            self._down("no answer yet")

    async def run(self) -> None:
        """Keep the voices up to date, and sweep, until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.refresh.run())
            group.create_task(self._sweep_often())

    async def close(self) -> None:
        """End what goes on in the background."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.states.close()

    # Files

    @contextlib.asynccontextmanager
    async def hold(self, key: str) -> AsyncIterator[None]:
        """Keep the files of this key on this machine inside the block.

        Afterwards they are removed unless a voice uses the key.
        """
        try:
            with self.states.hold(key):
                yield
        finally:
            await self._forget(key)

    def recording_path(self, voice: Voice) -> Path:
        """The file with the recording, which is there after `fetch_recording`."""
        return self.states.recording(voice.key)

    async def fetch(self, voice: Voice) -> None:
        """See to it that workers can use a voice whose key is held. Raises `ServiceError`."""
        if self._workers_here:
            await self._fetching(voice, self.states.fetch(voice.key))

    async def fetch_recording(self, voice: Voice) -> None:
        """Have the recording of a voice whose key is held. Raises `ServiceError`."""
        await self._fetching(voice, self.states.fetch_recording(voice.key))

    def offer(self, voice: Voice) -> None:
        """Give others what a worker here may have encoded of a voice; returns at once."""
        if self._workers_here:
            self.states.offer_soon(voice.key, lambda: voice.key in self.keys)

    # Changes

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

        The voice is in the bucket when this returns. `name` defaults to the id, `created` to now;
        `owner` gives the owner by the voice that is replaced, and may raise. When this raises
        `ServiceError`, no voice has changed; but if that is 503, the voice may have been saved.
        """
        self.check_room(id)
        recording = upload.recording
        head = await in_thread(lambda: _head(recording))
        voice = new_voice(
            id, upload, seconds=seconds, name=name, consent=consent, created=created
        ).model_copy(update={"media_type": media_type_of(head)})

        async def work() -> Voice:
            with self._reported_as("voice_not_saved", id):
                async with asyncio.timeout(_SAVE_SECONDS):
                    replaced, saved = await self._save(voice, recording, owner)
            if replaced is not None and replaced.key != saved.key:
                await self._drop(replaced.key)
            self.offer(saved)
            return saved

        return await _to_the_end(work())

    async def rename(self, id: str, name: str, allowed: Callable[[Voice], bool] = always) -> bool:
        """Give the voice `id` another name for people; False when there is none.

        It is as if there were none if it is not `allowed`. Raises `ServiceError`.
        """
        with self._reported_as("voice_not_saved", id):
            return await _to_the_end(self._rename(id, name, allowed))

    async def delete(self, id: str, allowed: Callable[[Voice], bool] = always) -> bool:
        """Delete the voice `id` and the files of its recording; False when there is none.

        It is as if there were none if it is not `allowed`. Raises `ServiceError`.
        """
        with self._reported_as("voice_not_deleted", id):
            return await _to_the_end(self._delete(id, allowed))

    async def sweep(self, age: float = _SWEPT_AGE) -> None:
        """Remove what fronts that died have left, and recordings that no voice names."""
        before = time.time() - age
        for claim in await self.bucket.objects(_CLAIMS):
            if claim.modified < before:
                await self.bucket.delete(claim.path)
        for marker in await self.bucket.objects(_DELETING):
            if marker.modified < before:
                await self.bucket.delete(marker.path)
        for id, entry in list(self._entries.items()):
            if not entry.marked:
                continue
            stored = await self.bucket.head(_object(id))
            if stored is not None and stored.tag == entry.tag and stored.modified < before:
                with contextlib.suppress(ChangedMeanwhileError):
                    await self.bucket.put(_object(id), _mark(), only=entry.tag)
                    await self.bucket.delete(_object(id))
        for key in await self.states.keys(before) - self.keys:
            await self._drop(key)
        await self.states.tidy()

    async def _save(
        self,
        voice: Voice,
        recording: Recording,
        owner: Callable[[Voice | None], str | None],
    ) -> tuple[Voice | None, Voice]:
        """The voice that was replaced, and the one that was saved."""
        end = asyncio.get_running_loop().time() + self._patience
        claim = f"{_CLAIMS}/{voice.key}/{secrets.token_hex(16)}"
        await self.bucket.put(claim, b"")
        try:
            while await self.bucket.head(f"{_DELETING}/{voice.key}") is not None:
                if asyncio.get_running_loop().time() > end + _REMOVE_SECONDS:
                    break  # its front has died: a removal takes no longer
                await asyncio.sleep(_POLL)
            stored = await self.bucket.head(recording_object(voice.key))
            if stored is None or stored.size != voice.size:
                data = recording.data if recording.path is None else Path(recording.path)
                assert data is not None
                await self.bucket.put(recording_object(voice.key), data)
            while True:
                entry = await self._current(voice.id)
                while entry is not None and entry.marked:
                    if asyncio.get_running_loop().time() > end:
                        break  # its front has died; the mark is replaced
                    await asyncio.sleep(_POLL)
                    entry = await self._current(voice.id)
                if entry is not None and entry.voice is None and not entry.marked:
                    raise unreadable(voice.id)
                replaced = None if entry is None else entry.voice
                saved = voice.model_copy(update={"owner": owner(replaced)})
                self.check_room(voice.id)
                with contextlib.suppress(ChangedMeanwhileError):
                    await self._write(saved, NEW if entry is None else entry.tag)
                    return replaced, saved
        finally:
            with contextlib.suppress(OSError):  # a sweep removes it
                await self.bucket.delete(claim)

    async def _rename(self, id: str, name: str, allowed: Callable[[Voice], bool]) -> bool:
        while True:
            entry = await self._current(id)
            if entry is None or entry.voice is None or not allowed(entry.voice):
                return False
            voice = entry.voice.model_copy(update={"name": name})
            with contextlib.suppress(ChangedMeanwhileError):
                await self._write(voice, entry.tag)
                return True

    async def _delete(self, id: str, allowed: Callable[[Voice], bool]) -> bool:
        mark = _mark()
        while True:
            entry = await self._current(id)
            if entry is None or entry.voice is None or not allowed(entry.voice):
                return False
            with contextlib.suppress(ChangedMeanwhileError):
                await self._put(_object(id), mark, entry.tag)
                break
        self._changed(id, None)
        try:
            await self.bucket.delete(_object(id))
        except OSError as error:  # the mark says that it is deleted; a sweep removes it
            logger.warning("voice_mark_left", voice=id, error=str(error))
        await self._drop(entry.voice.key)
        return True

    async def _write(self, voice: Voice, only: str) -> None:
        data = voice.model_dump_json(indent=2).encode()
        tag = await self._put(_object(voice.id), data, only)
        self._changed(voice.id, _Entry(tag, voice))

    async def _put(self, path: str, data: bytes, only: str) -> str:
        """Put under a condition; returns the tag.

        The library sends a put again when the response to the first is lost. What is refused then
        may be there all the same.
        """
        try:
            return await self.bucket.put(path, data, only=only)
        except ChangedMeanwhileError:
            found = await self.bucket.get(path, _LARGEST_VOICE)
            if found is None or found[0] != data:
                raise
            return found[1]

    def _changed(self, id: str, entry: _Entry | None) -> None:
        """This front has changed a voice."""
        self._changes += 1
        self._own[id] = self._changes, entry
        entries = {other: known for other, known in self._entries.items() if other != id}
        self._entries = entries if entry is None else entries | {id: entry}

    async def _drop(self, key: str) -> None:
        """Remove the files of a recording from the bucket, unless a voice uses it or is about to.

        An error is logged; a sweep comes back.
        """
        try:
            async with asyncio.timeout(_REMOVE_SECONDS):
                await self._drop_unclaimed(key)
        except (OSError, TimeoutError) as error:
            logger.error("recording_not_removed", key=key, error=str(error))

    async def _drop_unclaimed(self, key: str) -> None:
        marker = f"{_DELETING}/{key}"
        try:
            await self._put(marker, secrets.token_bytes(16), NEW)
        except ChangedMeanwhileError:
            return  # another front is about it, or has died and a sweep removes what it has left
        try:
            begun = await self.bucket.head(marker)
            claims = await self.bucket.objects(f"{_CLAIMS}/{key}")
            if begun is None or any(
                claim.modified > begun.modified - _CLAIM_SECONDS for claim in claims
            ):
                return
            await self.refresh.again()
            if self._reachable and not self._is_named(key):
                await self.states.remove(key)
                await self.states.forget(key)
        finally:
            await self.bucket.delete(marker)

    def _is_named(self, key: str) -> bool:
        """Whether a voice uses it, or might: what is not valid counts if it contains the key."""
        return any(
            entry.voice.key == key if entry.voice is not None else key.encode() in entry.content
            for entry in self._entries.values()
        )

    # The bucket

    async def _current(self, id: str) -> _Entry | None:
        """What the bucket has for an id now."""
        if not re.fullmatch(VOICE_ID, id):
            return None
        got = await self.bucket.get(_object(id), _LARGEST_VOICE)
        return None if got is None else self._parse(id, *got)

    def _parse(self, id: str, content: bytes, tag: str) -> _Entry:
        if _MARK.fullmatch(content):
            return _Entry(tag, marked=True)
        try:
            voice = Voice.model_validate_json(content)
            if voice.id != id:
                raise ValueError(f"the id in it is {voice.id}")
        except ValueError as error:
            if id not in self._reported:
                self._reported.add(id)
                logger.error("voice_unreadable", file=_object(id), error=str(error))
            return _Entry(tag, content=content)
        return _Entry(tag, voice)

    async def _look(self) -> None:
        """Read what has changed."""
        begun = self._changes
        try:
            listed = {
                id: each.tag
                for each in await self.bucket.objects(_VOICES)
                if (id := _id(each.path)) is not None
            }
            await self._read_changed(listed)
        except OSError as error:
            self._down(str(error))
            return
        except ExceptionGroup as group:
            failed, bugs = group.split(OSError)
            if bugs is not None or failed is None:
                raise
            self._down(str(failed.exceptions[0]))
            return
        entries = {id: self._read[id] for id in listed if id in self._read}
        self._read = dict(entries)
        for id, (change, entry) in list(self._own.items()):
            if change <= begun:
                del self._own[id]
            elif entry is not None:
                entries[id] = entry
            else:
                entries.pop(id, None)
        before = self.keys
        self._entries = entries
        self._known.set()
        if not self._reachable:
            self._reachable = True
            logger.info("shared_voices_back", voices=self.count)
        for key in before - self.keys:
            self._spawn(self._forget(key))

    async def _read_changed(self, listed: dict[str, str]) -> None:
        room = asyncio.Semaphore(_READERS)

        async def read(id: str) -> None:
            async with room:
                entry = await self._current(id)
            if entry is None:
                self._read.pop(id, None)
            else:
                self._read[id] = entry

        changed = [
            id for id, tag in listed.items() if id not in self._read or self._read[id].tag != tag
        ]
        async with asyncio.TaskGroup() as group:
            for id in changed:
                group.create_task(read(id))

    def _down(self, error: str) -> None:
        if self._reachable:
            self._reachable = False
            logger.error(
                "shared_voices_unreachable",
                error=error,
                message="the voices stay as they were last seen, and none can be registered, "
                "until the bucket in VOICES_URL answers; see the AWS_ variables",
            )

    async def _forget(self, key: str) -> None:
        with contextlib.suppress(OSError):
            if key not in self.keys:
                await self.states.forget(key)

    async def _fetching(self, voice: Voice, fetching: Coroutine[Any, Any, object]) -> None:
        try:
            await fetching
        except NoRecordingError as error:
            logger.error("recording_missing", voice=voice.id, error=str(error))
            raise ServiceError(
                ErrorCode.not_found,
                f"the recording of the voice '{voice.id}' has been deleted; register it again",
            ) from error
        except OSError as error:
            logger.error("voice_not_fetched", voice=voice.id, error=str(error))
            raise _unavailable() from error

    async def _sweep_often(self) -> None:
        while True:
            # Fronts that start at the same moment do not sweep at the same moment.
            await asyncio.sleep(_SWEEP_SECONDS * random.uniform(0.5, 1.5))
            try:
                await self.sweep()
            except OSError as error:
                logger.warning("shared_voices_not_swept", error=str(error))
            except Exception:  # a bug must be logged, and must not end the sweeps
                logger.exception("shared_voices_not_swept")

    @contextlib.contextmanager
    def _reported_as(self, event: str, id: str) -> Iterator[None]:
        """Tell clients of errors of the bucket that they may try again, and the log which."""
        try:
            yield
        except (OSError, TimeoutError) as error:
            logger.error(event, voice=id, error=str(error) or "it took too long")
            raise _unavailable() from error

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _to_the_end(change: Coroutine[Any, Any, _T]) -> _T:
    """The result of a change. A cancelled caller waits for it: it uses what the caller releases."""
    task = asyncio.get_running_loop().create_task(change)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # marks it as retrieved; nobody else will read it
        raise


def _object(id: str) -> str:
    return f"{_VOICES}/{id}{_JSON}"


def _id(path: str) -> str | None:
    """The id of the voice in an object, None if it is none."""
    folder, _, name = path.rpartition("/")
    id = name.removesuffix(_JSON)
    return id if folder == _VOICES and name != id and re.fullmatch(VOICE_ID, id) else None


def _head(recording: Recording) -> bytes:
    with open_recording(recording) as file:
        return file.read(HEAD_BYTES)


def _unavailable() -> ServiceError:
    return ServiceError(
        ErrorCode.voices_unavailable,
        "the registered voices cannot be reached now; try again later",
        retry_after=_RETRY_AFTER,
    )
