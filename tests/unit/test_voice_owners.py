"""Whose voices are whose: the rules, and that no other place knows voices."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ipc.errors import ErrorCode, ServiceError
from supervisor.dispatch.spool import Spool
from supervisor.dispatch.upload import Upload
from supervisor.voices.owners import SeenVoices, Viewer
from supervisor.voices.store import VoiceStore

ROOT = Path(__file__).parents[2]
OPERATOR = Viewer()
ANNA, BEN, NOBODY = (Viewer(name, unlimited=False) for name in ("anna", "ben", None))


@pytest.fixture
def store(tmp_path: Path) -> VoiceStore:
    store = VoiceStore(tmp_path / "voices")
    store.load()
    return store


async def add(store: VoiceStore, viewer: Viewer, id: str, data: bytes = b"RIFF") -> None:
    spool = Spool(store._folder.path, 1024)
    try:
        async with Upload(spool) as upload:
            await upload.write(data)
            await upload.close()
            await SeenVoices(store, viewer).save(id, upload, seconds=1.0)
    finally:
        spool.close()


def ids(store: VoiceStore, viewer: Viewer) -> list[str]:
    return [voice.id for voice in SeenVoices(store, viewer).list()]


async def test_a_voice_is_there_for_its_owner_and_operators(store: VoiceStore) -> None:
    await add(store, ANNA, "hers")
    await add(store, BEN, "His")
    await add(store, OPERATOR, "shared")
    assert ids(store, ANNA) == ["hers", "shared"]
    assert ids(store, BEN) == ["His", "shared"]
    assert ids(store, NOBODY) == ["shared"]
    assert ids(store, OPERATOR) == ["His", "hers", "shared"]
    assert SeenVoices(store, BEN).get("hers") is None
    assert SeenVoices(store, BEN).find("HERS") is None
    found = SeenVoices(store, ANNA).find("HERS")
    assert found is not None
    assert (found.id, found.owner) == ("hers", "anna")
    assert SeenVoices(store, ANNA).find("his") is None


async def test_only_who_owns_a_voice_changes_it(store: VoiceStore) -> None:
    await add(store, ANNA, "hers")
    his = SeenVoices(store, BEN)
    assert not await his.delete("hers")
    assert not await his.rename("hers", "x")
    with pytest.raises(ServiceError, match="'hers' is taken; use another id") as caught:
        his.check_room("hers")
    assert caught.value.code is ErrorCode.conflict
    assert "anna" not in caught.value.message
    with pytest.raises(ServiceError, match="taken"):  # also if it was registered meanwhile
        await add(store, BEN, "hers", b"OggS")
    assert await SeenVoices(store, ANNA).rename("hers", "Mine")
    await add(store, OPERATOR, "hers", b"OggS")  # it stays hers
    await add(store, ANNA, "hers", b"fLaC")
    voice = store.get("hers")
    assert voice is not None
    assert (voice.owner, voice.size) == ("anna", 4)
    assert await SeenVoices(store, OPERATOR).delete("hers")


async def test_a_voice_without_an_owner_is_everyones_to_use(store: VoiceStore) -> None:
    await add(store, OPERATOR, "shared")
    for viewer in (ANNA, NOBODY):
        seen = SeenVoices(store, viewer)
        assert seen.get("shared") is not None
        for change in (seen.delete("shared"), seen.rename("shared", "x")):
            with pytest.raises(ServiceError, match="only operators") as caught:
                await change
            assert caught.value.code is ErrorCode.forbidden
        with pytest.raises(ServiceError, match="taken"):
            seen.check_room("shared")
    assert await SeenVoices(store, OPERATOR).delete("shared")


def test_requests_reach_voices_through_their_owners_alone() -> None:
    direct = re.compile(r"(service\.voices|store)\.(get|find|list|save|rename|delete|check_room)\(")
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in sorted((ROOT / "supervisor/http").rglob("*.py"))
        for line in path.read_text("utf-8").splitlines()
        if direct.search(line)
    ]
    assert found == []
