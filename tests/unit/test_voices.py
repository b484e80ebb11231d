"""Named voices on disk: whole at every moment, whoever kills the front and whenever."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from ipc.errors import ErrorCode, ServiceError
from supervisor.voices.folder import VoiceFolder
from supervisor.voices.store import ENCODED, VOICE_ID, VoiceStore
from tests.support.service import NET, ROOT, running
from tests.support.voice_changes import (
    AFTER,
    BEFORE,
    RECORDINGS,
    encoded_file,
    key_of,
    make,
    read,
    save,
)

FIRST, SECOND, THIRD = RECORDINGS.values()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "voices"


@pytest.fixture
def store(folder: Path) -> VoiceStore:
    store = VoiceStore(folder)
    store.load()
    return store


def reloaded(folder: Path) -> VoiceStore:
    """What a new front makes of the folder."""
    store = VoiceStore(folder)
    store.load()
    return store


def recordings(folder: Path) -> set[str]:
    return {path.name for path in (folder / "recordings").iterdir()}


def below(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*")}


def encode(folder: Path, recording: str) -> Path:
    """Keep an encoded voice, as a worker does."""
    path = encoded_file(folder, recording)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"encoded")
    return path


# What is kept.


async def test_a_saved_voice_is_there_and_in_the_next_front(
    folder: Path, store: VoiceStore
) -> None:
    assert len(SECOND) < 1000 < len(FIRST)  # from memory, and from a file
    for id, name, data in (("Z_9-", "Zoë", FIRST), ("a" * 64, None, SECOND)):
        saved = await save(store, id, name, data, consent="I, Zoë,\0 agree")
        assert (saved.id, saved.name, saved.size) == (id, name or id, len(data))
        assert (saved.seconds, saved.consent) == (1.5, "I, Zoë,\0 agree")
        assert (saved.media_type, store.get(id)) == ("audio/wav", saved)
        assert store.recording_path(saved).read_bytes() == data
    assert [voice.id for voice in store.list()] == ["Z_9-", "a" * 64]
    assert reloaded(folder).list() == store.list()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", saved.created)


async def test_only_the_service_can_read_them(folder: Path, store: VoiceStore) -> None:
    voice = await save(store, "a", None, FIRST)
    for path in (folder, folder / "recordings", folder / ENCODED, folder / "a.json"):
        assert path.stat().st_mode & 0o077 == 0, path
    assert store.recording_path(voice).stat().st_mode & 0o077 == 0


async def test_ids_differ_in_case(store: VoiceStore) -> None:
    await save(store, "anna", None, FIRST)
    await save(store, "Anna", None, SECOND)
    assert [(voice.id, voice.size) for voice in store.list()] == [
        ("Anna", len(SECOND)),
        ("anna", len(FIRST)),
    ]


async def test_a_replaced_recording_goes_with_all_that_was_made_of_it(
    folder: Path, store: VoiceStore
) -> None:
    await save(store, "a", "old", FIRST)
    encoded, other = encode(folder, "first"), encode(folder, "third")
    await save(store, "a", "new", THIRD)
    assert [voice.name for voice in store.list()] == ["new"]
    assert recordings(folder) == {key_of("third")}
    assert (encoded.exists(), other.exists()) == (False, True)


async def test_a_recording_that_two_voices_share_goes_with_the_second(
    folder: Path, store: VoiceStore
) -> None:
    await save(store, "a", None, FIRST)
    await save(store, "b", None, FIRST)
    encoded = encode(folder, "first")
    assert await store.delete("a")
    assert (recordings(folder), encoded.exists()) == ({key_of("first")}, True)
    assert (store.get("a"), [voice.id for voice in store.list()]) == (None, ["b"])
    assert await store.delete("b")
    assert (recordings(folder), encoded.exists()) == (set(), False)
    assert not await store.delete("b")
    assert read(folder) == {}


@pytest.mark.parametrize(
    ("head", "media_type"),
    [
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", "audio/wav"),
        (b"RF64\xff\xff\xff\xffWAVEds64", "audio/wav"),
        (b"fLaC\x00\x00\x00\x22", "audio/flac"),
        (b"OggS\x00\x02", "audio/ogg"),
        (b"ID3\x04\x00", "audio/mpeg"),
        (b"\xff\xfb\x90\x64", "audio/mpeg"),
        (b"\xff\xf3\x90\x64", "audio/mpeg"),
        (b"\xff\xf1\x50\x80", "audio/aac"),
        (b"\xff\xf9\x50\x80", "audio/aac"),
        (b"\x00\x00\x00\x20ftypM4A ", "audio/mp4"),
        (b"\x1a\x45\xdf\xa3\x9f", "audio/webm"),
        (b"FORM\x00\x00\x00\x00AIFF", "audio/aiff"),
        (b"caff\x00\x01", "audio/x-caf"),
        (b"#!AMR\n", "audio/amr"),
        (b"FORM\x00\x00\x00\x00ILBM", "application/octet-stream"),
        (b"\xff", "application/octet-stream"),
    ],
)
async def test_media_types_are_known_by_the_first_bytes(
    store: VoiceStore, head: bytes, media_type: str
) -> None:
    assert (await save(store, "a", None, head)).media_type == media_type


# What is refused.

NO_IDS = [
    *("", ".", "..", ".cache", ".encoded", "../x", "a/b", "/etc/passwd", "a\\b", "a.json"),
    *("a\0", "a\n", "\n", "a b", "é", "ａ", "٣", "a%2fb", "a" * 65),
]


@pytest.mark.parametrize("id", NO_IDS)
async def test_what_is_no_id_is_refused_and_nowhere_found(
    tmp_path: Path, store: VoiceStore, id: str
) -> None:
    with pytest.raises(ServiceError) as refused:
        await save(store, id, "name", FIRST)
    assert refused.value.code is ErrorCode.invalid_option
    assert store.get(id) is None
    assert not await store.delete(id)
    assert below(tmp_path) == {"voices", "recordings", ENCODED}


@given(st.text(max_size=66) | st.from_regex(VOICE_ID))
def test_an_id_is_a_file_name_that_means_nothing_else(id: str) -> None:
    try:
        VoiceStore(Path("voices")).check_room(id)
    except ServiceError:
        assert not 1 <= len(id) <= 64 or set(id) - set(
            "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        )
    else:
        assert os.path.normpath(f"voices/{id}.json") == f"voices/{id}.json"
        assert re.fullmatch("[A-Za-z0-9_-]{1,64}", id)


@pytest.mark.parametrize(
    ("name", "consent"), [("", None), ("n" * 201, None), ("\ud800", None), ("n", "c" * 2001)]
)
async def test_texts_that_cannot_be_kept_are_refused(
    store: VoiceStore, name: str, consent: str | None
) -> None:
    with pytest.raises(ServiceError, match=r"^(name|consent): ") as refused:
        await save(store, "a", name, FIRST, consent=consent)
    assert refused.value.code is ErrorCode.invalid_option
    assert store.list() == []


async def test_there_is_room_for_so_many(folder: Path) -> None:
    store = VoiceStore(folder, max_voices=2)
    store.load()
    await save(store, "a", None, FIRST)
    await save(store, "b", None, FIRST)
    with pytest.raises(ServiceError, match="raise VOICE_ENGINE_MAX_VOICES") as full:
        await save(store, "c", None, THIRD)
    assert full.value.code is ErrorCode.conflict
    assert recordings(folder) == {key_of("first")}
    await save(store, "b", "replaced", SECOND)
    await store.delete("a")
    await save(store, "c", None, THIRD)
    assert [voice.id for voice in store.list()] == ["b", "c"]


# What others have put there.


def break_metadata(folder: Path) -> dict[str, bytes]:
    """Damage the voice a; put in what is no voice. The bytes of all such files."""
    voice = json.loads((folder / "a.json").read_text())
    contents = {
        "a.json": json.dumps(voice).encode()[:-20],
        "other-id.json": json.dumps(voice).encode(),
        "outside.json": json.dumps({**voice, "id": "outside", "key": "../../etc/passwd"}).encode(),
        "package.json": b'{"private": true}',
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return contents


async def test_a_file_that_is_no_voice_is_told_once_and_left_alone(
    folder: Path, store: VoiceStore
) -> None:
    await save(store, "a", None, FIRST)
    await save(store, "b", None, SECOND)
    contents = break_metadata(folder)
    (folder / "folder.json").mkdir()
    store = VoiceStore(folder)
    with structlog.testing.capture_logs() as logged:
        store.load()
        await save(store, "c", None, THIRD)
        store.load()
    told = [Path(entry["file"]).name for entry in logged if entry["event"] == "voice_unreadable"]
    assert sorted(told) == sorted([*contents, "folder.json"])
    assert [voice.id for voice in store.list()] == ["b", "c"]
    for name in contents:
        with pytest.raises(ServiceError, match=re.escape(name)) as refused:
            await save(store, name.removesuffix(".json"), None, SECOND)
        assert refused.value.code is ErrorCode.conflict
        assert not await store.delete(name.removesuffix(".json"))
        assert (folder / name).read_bytes() == contents[name]
    # It may still be had back by hand.
    assert recordings(folder) == {key_of("first"), key_of("second"), key_of("third")}


@pytest.mark.parametrize("left", [None, b"", FIRST[:-1]])
async def test_a_voice_without_its_recording_can_only_be_replaced_or_removed(
    folder: Path, store: VoiceStore, left: bytes | None
) -> None:
    for id in ("a", "b"):
        await save(store, id, None, FIRST)
    recording = folder / "recordings" / key_of("first")
    if left is None:
        recording.unlink()
    else:
        recording.write_bytes(left)
    store = reloaded(folder)
    assert (store.list(), store.get("a")) == ([], None)
    assert await store.delete("b")
    voice = await save(store, "a", None, FIRST)
    assert reloaded(folder).list() == [voice]
    assert recording.read_bytes() == FIRST


FOREIGN = [
    *("readme.txt", ".hidden", ".cache/voices-x/" + "0" * 64 + ".voice", "voice/x.json"),
    *("recordings/notes", ENCODED + "/x.voice", ENCODED + "/voices-y/readme.voice"),
]
"""Files beside the voices' own."""


def test_leftovers_go_at_start_and_what_others_have_made_stays(folder: Path) -> None:
    asyncio.run(make(folder))
    for name in FOREIGN:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"foreign")
    reloaded(folder)
    for name in FOREIGN:
        assert (folder / name).read_bytes() == b"foreign"
        (folder / name).unlink()
    left = {path for path in folder.rglob("*") if path.is_file()}
    assert read(folder) == BEFORE  # and nothing else is there
    assert left == {path for path in folder.rglob("*") if path.is_file()}


async def test_two_fronts_may_use_one_folder(folder: Path, store: VoiceStore) -> None:
    await save(store, "a", None, FIRST)
    other = reloaded(folder)
    await save(store, "b", None, FIRST)
    await save(store, "c", None, SECOND)
    assert await other.delete("a")
    assert await other.delete("c")
    assert recordings(folder) == {key_of("first")}
    await save(store, "d", None, FIRST)
    assert [voice.id for voice in store.list()] == ["b", "d"]


# Held files.


async def test_what_is_held_stays_until_the_last_lets_go(folder: Path, store: VoiceStore) -> None:
    voice = await save(store, "a", None, FIRST)
    encoded = encode(folder, "first")
    async with store.hold(voice.key):
        async with store.hold(voice.key):
            assert await store.delete("a")
            assert (store.get("a"), store.list()) == (None, [])
        assert store.recording_path(voice).read_bytes() == FIRST
        assert encoded.exists()
    assert (recordings(folder), encoded.exists()) == (set(), False)


async def test_what_was_encoded_for_nothing_goes(folder: Path, store: VoiceStore) -> None:
    async with store.hold(key_of("first")):
        encoded = encode(folder, "first")
    assert not encoded.exists()
    async with store.hold(key_of("first")):
        encode(folder, "first")
        await save(store, "a", None, FIRST)
    assert (recordings(folder), encoded.exists()) == ({key_of("first")}, True)


# At the same time.


async def test_changes_of_one_voice_follow_each_other(folder: Path, store: VoiceStore) -> None:
    await asyncio.gather(
        *(
            save(store, "a", name, RECORDINGS[name]) if number % 3 else store.delete("a")
            for number, name in enumerate(sorted(RECORDINGS) * 7)
        )
    )
    await save(store, "a", "first", FIRST)
    assert read(folder) == {"a": ("first", "first")}


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """As another front does."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def test_one_front_at_a_time_changes_the_folder(folder: Path) -> None:
    with VoiceFolder(folder).locked(), pytest.raises(BlockingIOError), locked(folder):
        pass
    with locked(folder):
        pass


async def test_who_is_cancelled_waits_for_the_change(folder: Path, store: VoiceStore) -> None:
    with locked(folder):
        saving = asyncio.create_task(save(store, "a", None, FIRST))
        async with asyncio.timeout(NET):
            while not store._lock.locked():  # noqa: ASYNC110 -- else it has not begun
                await asyncio.sleep(0)
        saving.cancel()
        for _ in range(100):
            await asyncio.sleep(0)
        assert not saving.done()
        assert store.list() == []
    with pytest.raises(asyncio.CancelledError):
        await saving
    assert reloaded(folder).list() == store.list() != []


# Disks that fail.


def changes(*arguments: str) -> Any:
    """Run tests/voice_changes.py; what it prints, as JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.voice_changes", *arguments],
        cwd=ROOT,
        timeout=NET,
        check=True,
        capture_output=True,
        text=True,
    )
    lines = done.stdout.splitlines()
    return json.loads(lines[-1]) if lines else None


@pytest.mark.parametrize("size", [1000, 1500])  # met by the recording; after it, by metadata
async def test_a_full_disk_refuses_for_now_and_leaves_the_old_voice(
    folder: Path, size: int
) -> None:
    assert 1000 < len(THIRD) < 1500
    await make(folder)
    wire_name, retry_after = changes("limit", "replace", str(folder), str(size))
    assert wire_name == "spool_full"
    assert retry_after > 0
    # Nothing of the new one is left even before a start tidies up.
    assert recordings(folder) == {key_of("first"), key_of("second")}
    assert not any(name.startswith(".unfinished") for name in below(folder))
    assert read(folder) == BEFORE


async def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = VoiceStore(tmp_path / "file" / "voices")
    with structlog.testing.capture_logs() as logged:
        store.load()
        with pytest.raises(ServiceError, match="folder of its voices") as refused:
            await save(store, "a", None, FIRST)
        async with store.hold(key_of("first")):
            pass
    assert refused.value.code is ErrorCode.spool_full
    assert refused.value.retry_after
    assert [(entry["event"], entry["log_level"]) for entry in logged] == [
        ("voices_off", "error"),
        ("voice_not_saved", "error"),
    ]
    assert store.list() == []
    (tmp_path / "file").unlink()  # and now it can
    await save(store, "a", None, FIRST)
    assert [voice.id for voice in reloaded(tmp_path / "file" / "voices").list()] == ["a"]


def test_the_service_starts_without_its_folder_and_with_it(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "file").touch()
    with running({"VOICES_DIR": str(tmp_path / "file" / "voices")}) as service:
        assert "VOICES_DIR" in service.wait_for("voices_off")["message"]
        service.wait_ready()
    asyncio.run(make(folder))
    with running({"VOICES_DIR": str(folder)}) as service:
        assert recordings(folder) == {key_of("first"), key_of("second")}
        assert service.stop() == 0
    assert read(folder) == BEFORE


# Crashes.


@pytest.fixture
async def original(folder: Path) -> Path:
    await make(folder)
    return folder


@pytest.mark.parametrize("change", AFTER)
def test_a_kill_between_any_two_calls_leaves_the_old_or_the_new(
    original: Path, tmp_path: Path, change: str
) -> None:
    if change != "tidy":
        reloaded(original)
    copies = tmp_path / "copies"
    copies.mkdir()
    changes("kill", change, str(original), str(copies))
    assert read(copies / "completed") == AFTER[change]
    kills = len(list(copies.iterdir())) - 1
    states = [read(copies / str(at)) for at in range(kills)]
    first_new = next((at for at, state in enumerate(states) if state != BEFORE), kills)
    assert states == [BEFORE] * first_new + [AFTER[change]] * (kills - first_new)
    # It was killed before the change is made, and while it is being tidied up behind it.
    assert first_new > 0
    assert kills > first_new or change == "tidy"


class Disk:
    """What a power cut may leave: files and folders have as much as was synced, and any part more.

    Paths are relative to the folder of the voices.
    """

    def __init__(self, folder: Path) -> None:
        self._contents: list[dict[str, bytes]] = []
        """Of each file that ever was, what is `written` to it, and what is `synced` of that."""
        self._now: dict[str, int] = {}
        """Which file has which name."""
        for path in folder.rglob("*"):
            if path.is_file():
                self._now[str(path.relative_to(folder))] = self._new_file(path.read_bytes())
        self._synced = dict(self._now)
        self._pending: list[tuple[str, str, int | None]] = []
        """Names not synced: old name, new name, and the file that has got it."""

    def _new_file(self, content: bytes) -> int:
        self._contents.append({"written": content, "synced": content})
        return len(self._contents) - 1

    def call(self, call: str, path: str, detail: str | None) -> None:
        """Follow a call that was recorded."""
        if call == "create":
            self._rename(path, path, self._new_file(b""))
        elif call == "write":
            assert detail is not None
            self._contents[self._now[path]]["written"] += bytes.fromhex(detail)
        elif call == "fsync" and path in self._now:
            file = self._contents[self._now[path]]
            file["synced"] = file["written"]
        elif call == "fsync":
            left = []
            for entry in self._pending:
                if os.path.dirname(entry[1]) == path.removeprefix("."):
                    _apply(self._synced, entry)
                else:
                    left.append(entry)
            self._pending = left
        elif call == "rename":
            assert detail is not None
            self._rename(path, detail, self._now[path])
        elif call == "remove":
            self._rename(path, path, None)
        else:
            raise AssertionError(f"{call} {path} is not foreseen")

    def _rename(self, old: str, new: str, file: int | None) -> None:
        self._pending.append((old, new, file))
        _apply(self._now, self._pending[-1])

    def after_power_cut(self) -> Iterator[dict[str, bytes]]:
        """The bytes by path, for every choice of what else has reached the disk."""
        seen: list[dict[str, bytes]] = []
        for choice in itertools.product((False, True), repeat=len(self._pending)):
            names = dict(self._synced)
            for entry in itertools.compress(self._pending, choice):
                _apply(names, entry)
            for version in ("written", "synced"):
                files = {path: self._contents[file][version] for path, file in names.items()}
                if files not in seen:
                    seen.append(files)
                    yield files


def _apply(names: dict[str, int], entry: tuple[str, str, int | None]) -> None:
    old, new, file = entry
    names.pop(old, None)
    if file is not None:
        names[new] = file


def _put(folder: Path, files: dict[str, bytes]) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("change", AFTER)
def test_a_power_cut_after_any_call_leaves_the_old_or_the_new(
    original: Path, tmp_path: Path, change: str
) -> None:
    if change != "tidy":
        reloaded(original)
    disk = Disk(original)
    calls = changes("record", change, str(original))
    made = False
    for call in calls:
        disk.call(*call)
        for files in disk.after_power_cut():
            assert read(_put(tmp_path / "cut", files)) in (BEFORE, AFTER[change])
    for files in disk.after_power_cut():  # and what was answered for is there
        assert read(_put(tmp_path / "cut", files)) == AFTER[change]
        made = True
    assert made
