"""Changes of a folder of voices in processes that are watched: killed, limited, or recorded.

A program, so that what watches it (an audit hook cannot be taken away again) ends with it:

    python -m tests.support.voice_changes kill CHANGE FOLDER INTO
    python -m tests.support.voice_changes record CHANGE FOLDER
    python -m tests.support.voice_changes limit CHANGE FOLDER BYTES
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ipc.errors import ServiceError
from supervisor.dispatch.spool import Spool
from supervisor.dispatch.upload import Upload
from supervisor.voices.store import ENCODED, Voice, VoiceStore

RECORDINGS = {
    name: b"RIFF....WAVE" + name.encode() * size
    for name, size in {"first": 500, "second": 10, "third": 200}.items()
}
"""Some stay in memory on their way in, some go to a file."""

_SPOOL_BYTES = 1000
_CONSENT = "yes " * 400

State = dict[str, tuple[str, str]]
"""Name and recording of each voice, by id."""

BEFORE: State = {"a": ("old", "first"), "b": ("b", "second"), "c": ("c", "second")}

AFTER: dict[str, State] = {
    "add": {**BEFORE, "d": ("new", "third")},
    "replace": {**BEFORE, "a": ("new", "third")},
    "share": {**BEFORE, "a": ("new", "second")},
    "rename": {**BEFORE, "a": ("new", "first")},
    "delete": {id: voice for id, voice in BEFORE.items() if id != "a"},
    "delete_sharing": {id: voice for id, voice in BEFORE.items() if id != "c"},
    "tidy": BEFORE,
}
"""What each change makes of that."""


def key_of(recording: str) -> str:
    """The key of one of `RECORDINGS`."""
    return hashlib.sha256(RECORDINGS[recording]).hexdigest()


def encoded_file(folder: Path, recording: str) -> Path:
    """What a worker has made of one of `RECORDINGS`."""
    return folder / ENCODED / "voices-x-1" / f"{key_of(recording)}.voice"


async def save(
    store: VoiceStore,
    id: str,
    name: str | None,
    data: bytes,
    *,
    consent: str | None = None,
    spool_bytes: int = _SPOOL_BYTES,
) -> Voice:
    """Save as a handler of a request does."""
    with tempfile.TemporaryDirectory() as parent:
        spool = Spool(Path(parent), spool_bytes)
        try:
            async with Upload(spool) as upload:
                await upload.write(data)
                await upload.close()
                return await store.save(id, upload, name=name, seconds=1.5, consent=consent)
        finally:
            spool.close()


async def make(folder: Path) -> None:
    """Bring about `BEFORE`, and leftovers of crashes."""
    store = VoiceStore(folder)
    store.load()
    for id, (name, recording) in BEFORE.items():
        await save(store, id, name, RECORDINGS[recording])
    encoded_file(folder, "first").parent.mkdir(parents=True)
    for recording in RECORDINGS:  # that of the third belongs to no voice yet
        encoded_file(folder, recording).write_bytes(recording.encode())
    (folder / ".unfinished-x").write_bytes(b"half")
    (folder / "recordings" / ".unfinished-y").write_bytes(b"half")
    (folder / "recordings" / ("0" * 64)).write_bytes(b"nobody's")


def read(folder: Path) -> State:
    """What a new front finds there: voices that are whole, and nothing that is left over."""
    store = VoiceStore(folder)
    store.load()
    names = {key_of(name): name for name in RECORDINGS}
    state: State = {}
    for voice in store.list():
        data = store.recording_path(voice).read_bytes()
        assert hashlib.sha256(data).hexdigest() == voice.key
        assert json.loads((folder / f"{voice.id}.json").read_text())["key"] == voice.key
        state[voice.id] = (voice.name, names[voice.key])
    keys = {voice.key for voice in store.list()}
    files = {path for path in folder.rglob("*") if path.is_file()}
    encoded = {path for path in files if path.suffix == ".voice"}
    assert files - encoded == {
        *(folder / f"{id}.json" for id in state),
        *(folder / "recordings" / key for key in keys),
    }
    assert {path.stem for path in encoded} <= keys
    return state


def reloaded(folder: Path) -> VoiceStore:
    """What a new front makes of the folder."""
    store = VoiceStore(folder)
    store.load()
    return store


def recordings(folder: Path) -> set[str]:
    """The names of the kept recordings."""
    return {path.name for path in (folder / "recordings").iterdir()}


def below(folder: Path) -> set[str]:
    """The names of all files and folders in there."""
    return {path.name for path in folder.rglob("*")}


async def _change(change: str, folder: Path) -> None:
    store = VoiceStore(folder)
    store.load()  # which is all there is to "tidy"
    if change.startswith("delete"):
        (gone,) = BEFORE.keys() - AFTER[change].keys()
        assert await store.delete(gone)
    elif change != "tidy":
        ((id, (name, recording)),) = AFTER[change].items() - BEFORE.items()
        await save(store, id, name, RECORDINGS[recording], consent=_CONSENT)


def _watch(folder: Path, seen: Callable[[str, str, Any], None]) -> None:
    """Have `seen(call, path, detail)` called before each call that changes a file in `folder`.

    Details: descriptor and bytes of a write; the new name of a rename.
    """
    within = f"{folder}/"
    changing = os.O_CREAT | os.O_WRONLY | os.O_RDWR | os.O_TRUNC

    def audit(event: str, args: tuple[Any, ...]) -> None:
        path = args[0] if args else None
        if not isinstance(path, str | os.PathLike) or not f"{os.fspath(path)}/".startswith(within):
            return
        if event == "open" and args[2] & changing:
            seen("create", os.fspath(path), None)
        elif event == "os.rename":
            seen("rename", os.fspath(path), os.fspath(args[1]))
        elif event in ("os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate"):
            seen(event.removeprefix("os."), os.fspath(path), None)

    sys.addaudithook(audit)
    write, fsync = os.write, os.fsync  # of which there are no audit events

    def path_of(descriptor: int) -> str:
        return os.readlink(f"/proc/self/fd/{descriptor}")

    def watched_write(descriptor: int, data: bytes | memoryview) -> int:
        if path_of(descriptor).startswith(within):
            seen("write", path_of(descriptor), (descriptor, bytes(data)))
        return write(descriptor, data)

    def watched_fsync(descriptor: int) -> None:
        if f"{path_of(descriptor)}/".startswith(within):
            seen("fsync", path_of(descriptor), None)
        fsync(descriptor)

    os.write, os.fsync = watched_write, watched_fsync  # type: ignore[assignment]


def _kill_everywhere(change: str, folder: Path, into: Path) -> None:
    """Make `change` in copies of `folder`, killed at the first, second, third ... call of the kind.

    A write that it is killed at has written half. The copies are named by the call they met.
    """
    for at in itertools.count():
        copy = into / str(at)
        shutil.copytree(folder, copy)
        process = os.fork()
        if process == 0:
            _kill(copy, at)
            asyncio.run(_change(change, copy))
            os._exit(0)
        _, status = os.waitpid(process, 0)
        if status == 0:
            copy.rename(into / "completed")
            return
        assert os.WIFSIGNALED(status)
        assert os.WTERMSIG(status) == signal.SIGKILL


def _kill(folder: Path, at: int) -> None:
    calls = itertools.count()
    write = os.write

    def seen(call: str, path: str, detail: Any) -> None:
        if next(calls) == at:
            if call == "write":
                descriptor, data = detail
                write(descriptor, data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)

    _watch(folder, seen)


def _record(change: str, folder: Path) -> None:
    """Print what `change` calls, as JSON: call, path, and detail, relative to `folder`."""
    calls: list[tuple[str, str, str | None]] = []

    def seen(call: str, path: str, detail: Any) -> None:
        if call == "write":
            detail = detail[1].hex()
        elif detail is not None:
            detail = os.path.relpath(detail, folder)
        calls.append((call, os.path.relpath(path, folder), detail))

    _watch(folder, seen)
    asyncio.run(_change(change, folder))
    print(json.dumps(calls))


def _limit(change: str, folder: Path, size: int) -> None:
    """Make `change` where no file can become larger than `size` bytes; print what it is told."""

    async def main() -> None:
        ((id, (name, recording)),) = AFTER[change].items() - BEFORE.items()
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            await save(store, id, name, RECORDINGS[recording], spool_bytes=2**20, consent=_CONSENT)
        except ServiceError as error:
            print(json.dumps([error.code.wire_name, error.retry_after]))

    store = VoiceStore(folder)
    store.load()
    asyncio.run(main())


def main(task: str, change: str, folder: str, *more: str) -> None:
    """The command line."""
    if task == "kill":
        _kill_everywhere(change, Path(folder), Path(more[0]))
    elif task == "record":
        _record(change, Path(folder))
    else:
        _limit(change, Path(folder), int(more[0]))


if __name__ == "__main__":
    main(*sys.argv[1:])
