"""The files of shared voices on this machine: fetched from the bucket, and offered to it.

Runs in the front, and in any process that hands voices to workers on this machine; it needs neither
HTTP nor the list of voices. Workers read voices from two folders:

- `.encoded/<format>/<key>.voice`: the encoded voice, which a worker writes if it is not there;
- `recordings/<key>`: the recording, which is needed only if there is no encoded voice.

Both are in `.shared` of VOICES_DIR, beside the voices that are registered in that folder without a
bucket. They are copies, so that the least recently used ones are removed when they are too many.
What comes from the bucket is not trusted: a recording must have the SHA-256 that names it; an
encoded voice must have its checksum here, and is checked by the worker as any file is. If a worker
has removed one as damaged, it is not fetched again but made again, and replaced in the bucket.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from supervisor.log import logger
from supervisor.threads import in_thread
from supervisor.voices.bucket import NEW, Bucket, BucketError, ChangedMeanwhileError
from supervisor.voices.folder import ENCODED, SHARED

if TYPE_CHECKING:
    from supervisor.settings import Settings

_RECORDINGS = "recordings"
_ENCODED_THERE = "encoded"
_VOICE = ".voice"
_UNFINISHED = ".unfinished-"
_KEY = re.compile("[0-9a-f]{64}")
_FORMAT = re.compile(r"voices-[A-Za-z0-9._-]+")
_MB = 1024 * 1024
_LARGEST = 512 * _MB
"""In bytes. No recording and no encoded voice is larger."""

_CHECKSUM_BYTES = 8
"""An encoded voice begins with its CRC-32; see `model_procs/speech/voice_files.py`."""

_IN_USE_SECONDS = 60.0
"""A file that was used so recently is not removed: another process may be about to use it."""

_ABSENT_SECONDS = 60.0
"""For so long an encoded voice that the bucket did not have is not asked for again."""

_HURRY_SECONDS = 3.0
"""The longest time for an encoded voice that can be made of a recording that is here."""

_OFFERS = 32
"""How many encoded voices are offered to the bucket at the same time, at most."""

_REMEMBERED = 10_000


def shared_folder(voices_dir: Path) -> Path:
    """The folder of the copies in VOICES_DIR."""
    return voices_dir.resolve() / SHARED


def recording_object(key: str) -> str:
    """Where the bucket has a recording."""
    return f"{_RECORDINGS}/{key}"


def encoded_object(form: str, key: str) -> str:
    """Where the bucket has an encoded voice."""
    return f"{_ENCODED_THERE}/{form}/{key}{_VOICE}"


class NoRecordingError(Exception):
    """Neither this machine nor the bucket has a recording that fits its key."""


class SharedStates:
    """Copies of the bucket's files in `folder`, of about `limit` bytes.

    `encoded` is the folder that workers take as `voice_dir`.
    """

    def __init__(self, bucket: Bucket, folder: Path, limit: int) -> None:
        self.bucket = bucket
        self.folder = folder
        self.limit = limit
        self.encoded = folder / ENCODED
        self._recordings = folder / _RECORDINGS
        self._held: Counter[str] = Counter()
        self._fetching: dict[str, asyncio.Task[None]] = {}
        self._fetched: set[tuple[str, str]] = set()
        """Encoded voices (format, key) that came from the bucket."""
        self._there: set[tuple[str, str]] = set()
        """Encoded voices that the bucket has."""
        self._damaged: set[tuple[str, str]] = set()
        """Encoded voices in the bucket that cannot be used."""
        self._offered: dict[str, asyncio.Task[None]] = {}
        """Offers that are under way, by key."""
        self._absent: dict[tuple[str, str], float] = {}
        """When the bucket did not have an encoded voice."""

    @classmethod
    def of(cls, settings: Settings) -> SharedStates:
        """As the settings say; VOICES_URL must be set."""
        return cls(
            Bucket(settings.voices_url),
            shared_folder(settings.voices_dir),
            settings.shared_voices_mb * _MB,
        )

    def recording(self, key: str) -> Path:
        """Where this machine has the recording, if it has it."""
        return self._recordings / key

    @contextlib.contextmanager
    def hold(self, key: str) -> Iterator[None]:
        """Keep the files of this key on this machine inside the block."""
        self._held[key] += 1
        try:
            yield
        finally:
            self._held[key] -= 1
            if not self._held[key]:
                del self._held[key]

    async def fetch(self, key: str) -> None:
        """See to it that workers here can use the voice of this key. Hold the key meanwhile.

        Raises `BucketError` if the bucket is needed and cannot be had, and `NoRecordingError`.
        """
        await self._once(key, lambda: self._fetch(key))

    async def fetch_recording(self, key: str) -> Path:
        """The file with the recording, fetched if need be. Hold the key meanwhile.

        Raises what `fetch` raises.
        """
        if not await in_thread(self.recording(key).is_file):
            await self._once(f"{key} recording", lambda: self._fetch_recording(key))
        return self.recording(key)

    async def offer(self, key: str) -> None:
        """Give the bucket what a worker here has encoded, if it has none. Raises `BucketError`."""
        made = await in_thread(lambda: self._formats_with(key))
        new = [form for form in made if (form, key) not in self._there]
        for form in new:
            entry = (form, key)
            path = self.encoded / form / f"{key}{_VOICE}"
            only = None if entry in self._damaged else NEW
            with contextlib.suppress(ChangedMeanwhileError):  # it has one
                try:
                    await self.bucket.put(encoded_object(form, key), path, only=only)
                except BucketError:
                    if await in_thread(path.is_file):
                        raise
                    continue  # it was removed meanwhile
            self._damaged.discard(entry)
            _remember(self._there, entry)
        if new:
            await in_thread(lambda: self._shrink(lambda _: True, self.limit))

    def offer_soon(self, key: str, wanted: Callable[[], bool] = lambda: True) -> None:
        """The same in the background, if it is `wanted` then; returns at once."""
        if key in self._offered or len(self._offered) >= _OFFERS:
            return

        async def offer() -> None:
            try:
                if wanted():
                    await self.offer(key)
            except OSError as error:
                logger.warning("shared_voice_not_offered", key=key, error=str(error))
            finally:
                del self._offered[key]

        self._offered[key] = asyncio.get_running_loop().create_task(offer())

    async def close(self) -> None:
        """End what goes on in the background."""
        tasks = list(self._offered.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def tidy(self) -> None:
        """Remove copies of what the bucket does not have any more. Raises `BucketError`."""
        kept = {each.path.rpartition("/")[2] for each in await self.bucket.objects(_RECORDINGS)}
        await in_thread(lambda: self._shrink(lambda key: key not in kept, 0))

    async def forget(self, key: str) -> None:
        """Remove the copies of this key, unless it is held."""
        if key not in self._held:
            await in_thread(lambda: self._remove(key))

    async def remove(self, key: str) -> None:
        """Remove the recording and the encoded voices from the bucket. Raises `BucketError`."""
        for form in await self.bucket.folders(_ENCODED_THERE):
            await self.bucket.delete(encoded_object(form, key))
            self._there.discard((form, key))
        await self.bucket.delete(recording_object(key))

    async def keys(self, older_than: float) -> set[str]:
        """The keys of all files in the bucket that are older. Raises `BucketError`."""
        found = [
            *await self.bucket.objects(_RECORDINGS),
            *await self.bucket.objects(_ENCODED_THERE),
        ]
        names = {
            each.path.rpartition("/")[2].removesuffix(_VOICE)
            for each in found
            if each.modified < older_than
        }
        return {name for name in names if _KEY.fullmatch(name)}

    async def _once(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Await `work`; those who come with the same name meanwhile wait for the same."""

        async def run() -> None:
            try:
                await work()
            finally:
                del self._fetching[name]

        task = self._fetching.get(name)
        if task is None:
            task = self._fetching[name] = asyncio.get_running_loop().create_task(run())
            task.add_done_callback(_retrieve)
        await asyncio.shield(task)

    async def _fetch(self, key: str) -> None:
        forms, here, recorded = await in_thread(lambda: self._look(key))
        if forms and here == forms:
            return
        now = time.monotonic()
        missing = []
        for form in forms - here:
            entry = (form, key)
            if entry in self._fetched:  # a worker found it damaged
                self._fetched.discard(entry)
                self._there.discard(entry)
                _remember(self._damaged, entry)
            absent = self._absent.get(entry)
            recently = absent is not None and now - absent < _ABSENT_SECONDS
            if entry in self._damaged or (recorded and recently):
                continue
            missing.append(form)
        fetched = await asyncio.gather(
            *(self._fetch_encoded(form, key, hurry=recorded) for form in missing)
        )
        if not recorded and (not forms or here | {*filter(None, fetched)} != forms):
            await self._fetch_recording(key)
        await in_thread(lambda: self._shrink(lambda _: True, self.limit))

    async def _fetch_encoded(self, form: str, key: str, *, hurry: bool) -> str | None:
        """The format if it could be fetched; else the voice can be made of its recording."""
        entry = (form, key)
        folder = self.encoded / form
        try:
            async with (
                _unfinished(folder, folder / f"{key}{_VOICE}") as (file, keep),
                asyncio.timeout(_HURRY_SECONDS if hurry else None),
            ):
                if await self.bucket.fetch(encoded_object(form, key), file, _LARGEST):
                    if not await in_thread(lambda: _is_whole(file)):
                        raise ValueError("its checksum is wrong")
                    keep()
                    _remember(self._fetched, entry)
                    _remember(self._there, entry)
                    return form
        except ValueError as error:
            logger.warning("shared_voice_damaged", key=key, format=form, error=str(error))
            _remember(self._damaged, entry)
        except OSError as error:
            logger.warning(
                "shared_voice_not_fetched", key=key, format=form, error=str(error) or "slow"
            )
        if len(self._absent) >= _REMEMBERED:
            self._absent.clear()
        self._absent[entry] = time.monotonic()
        return None

    async def _fetch_recording(self, key: str) -> None:
        async with _unfinished(self._recordings, self.recording(key)) as (file, keep):
            try:
                if not await self.bucket.fetch(recording_object(key), file, _LARGEST):
                    raise NoRecordingError(f"the bucket has no recording {key}")
            except ValueError as error:
                raise NoRecordingError(f"the recording {key} cannot be used: {error}") from None
            if await in_thread(lambda: _digest(file)) != key:
                logger.error("recording_damaged", key=key)
                raise NoRecordingError(f"the bucket's recording {key} has another SHA-256")
            keep()

    # What is done in threads

    def _look(self, key: str) -> tuple[set[str], set[str], bool]:
        """The formats of the engines here, those of them that there are files in, the recording."""
        forms = set(self._formats())
        here = set()
        for form in forms:
            with contextlib.suppress(FileNotFoundError):
                os.utime(self.encoded / form / f"{key}{_VOICE}")
                here.add(form)
        recorded = False
        with contextlib.suppress(FileNotFoundError):
            os.utime(self.recording(key))
            recorded = True
        return forms, here, recorded

    def _formats(self) -> list[str]:
        try:
            with os.scandir(self.encoded) as entries:
                return [each.name for each in entries if _FORMAT.fullmatch(each.name)]
        except FileNotFoundError:
            return []

    def _formats_with(self, key: str) -> list[str]:
        return [
            form for form in self._formats() if (self.encoded / form / f"{key}{_VOICE}").is_file()
        ]

    def _files(self) -> Iterator[Path]:
        yield from self._recordings.glob("*")
        yield from self.encoded.glob("*/*")

    def _shrink(self, superfluous: Callable[[str], bool], limit: int) -> None:
        """Remove files that may be removed, oldest first, until the rest has `limit` bytes."""
        unused = time.time() - _IN_USE_SECONDS
        entries, total = [], 0
        for path in self._files():
            with contextlib.suppress(FileNotFoundError):
                stat = path.stat()
                total += stat.st_size
                entries.append((stat.st_mtime, path, stat.st_size))
        for used, path, size in sorted(entries):
            if total <= limit or used > unused:
                break
            key = path.name.removesuffix(_VOICE)
            unfinished = path.name.startswith(_UNFINISHED)
            if unfinished or (_KEY.fullmatch(key) and key not in self._held and superfluous(key)):
                self._unlink(path, key)
                total -= size

    def _remove(self, key: str) -> None:
        for path in (*self.encoded.glob(f"*/{key}{_VOICE}"), self.recording(key)):
            self._unlink(path, key)

    def _unlink(self, path: Path, key: str) -> None:
        # Before the file, so that its absence is not taken for a damage.
        self._fetched.discard((path.parent.name, key))
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


@contextlib.asynccontextmanager
async def _unfinished(
    folder: Path, path: Path
) -> AsyncIterator[tuple[BinaryIO, Callable[[], None]]]:
    """A new file, which becomes `path` at the end if the function that comes with it was called."""
    kept = False

    def keep() -> None:
        nonlocal kept
        kept = True

    def make() -> tuple[BinaryIO, str]:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=_UNFINISHED, dir=folder)
        return open(descriptor, "w+b"), name

    def finish() -> None:
        with file:
            if kept:
                file.flush()
                os.fsync(file.fileno())
                os.replace(name, path)
            else:
                os.unlink(name)

    file, name = await in_thread(make)
    try:
        yield file, keep
    finally:
        await in_thread(finish)


def _is_whole(file: BinaryIO) -> bool:
    file.seek(0)
    expected, crc, size = file.read(_CHECKSUM_BYTES), 0, 0
    while piece := file.read(_MB):
        crc = zlib.crc32(piece, crc)
        size += len(piece)
    return size > 0 and expected == crc.to_bytes(_CHECKSUM_BYTES, "big")


def _digest(file: BinaryIO) -> str:
    file.seek(0)
    digest = hashlib.sha256()
    while piece := file.read(_MB):
        digest.update(piece)
    return digest.hexdigest()


def _remember(entries: set[tuple[str, str]], entry: tuple[str, str]) -> None:
    """Add an entry to a set that must not grow without a bound; forgetting costs a request."""
    if len(entries) >= _REMEMBERED:
        entries.clear()
    entries.add(entry)


def _retrieve(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()  # whoever waits gets it; nobody may wait any more
