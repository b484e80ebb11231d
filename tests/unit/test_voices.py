"""Named voices on disk: whole at every moment, whoever kills the front and whenever."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from ipc.errors import ErrorCode, ServiceError
from supervisor.voices.folder import VoiceFolder
from supervisor.voices.store import ENCODED, VOICE_ID, VoiceStore
from tests.support.service import NET
from tests.support.voice_changes import (
    BEFORE,
    RECORDINGS,
    below,
    encoded_file,
    key_of,
    make,
    read,
    recordings,
    reloaded,
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


async def test_what_another_front_changes_in_the_folder_is_seen(
    folder: Path, store: VoiceStore
) -> None:
    other = reloaded(folder)
    saved = await save(other, "a", None, FIRST)
    assert store.get("a") is None
    await store.look_again()
    assert store.list() == [saved]
    os.utime(folder, ns=(0, 0))  # long ago, so that the index is up to date
    await store.look_again()
    known = store.list()
    await store.look_again()
    assert store.list() == known  # not read again
    assert await other.delete("a")
    await store.look_again()
    assert store.list() == []


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
