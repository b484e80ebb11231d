"""Encoded voices: bounded, told from damaged ones, and there again after a worker's death."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import io
import json
import mmap
import os
import pickle
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
import wave
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest

from ipc.errors import ServiceError
from ipc.messages import WorkerOptions
from ipc.operations import Recording, Sampling, Speak, SpeechResult, Voice
from model_procs.audio.decode import decode
from model_procs.audio.pcm import Samples
from model_procs.engine import EngineConfig
from model_procs.engines.flite import FliteEngine, FliteVoice
from model_procs.engines.pocket.engine import PocketEngine
from model_procs.speech.base import SpeechEngine
from model_procs.speech.voice_cache import VoiceCache
from model_procs.speech.voice_files import SMALLEST, VoiceFiles
from tests.support.outputs import pieces_of, speech
from tests.support.recordings import spoken
from tests.support.service import NET, ROOT, RunningService, read_wav, running
from tests.support.voice_engines import TellingFlite, TellingPocket

MB = 1024 * 1024


class Notes:
    """A codec whose voices are lists of one text; it counts what it reads."""

    def __init__(self) -> None:
        self.imported = 0

    def export_voice(self, voice: list[str]) -> bytes:
        return json.dumps(voice).encode()

    def import_voice(self, data: memoryview) -> list[str]:
        self.imported += 1
        voice: list[str] = json.loads(bytes(data))
        return voice


def note(letter: str, size: int = MB) -> list[str]:
    """A voice that takes `size` bytes: brackets and quotes are four, the checksum is eight."""
    return [letter * (size - 12)]


def open_cache(
    folder: Path | None, *, version: str = "a", disk_mb: float = 100, memory_mb: float = 10
) -> tuple[VoiceCache, Notes]:
    codec = Notes()
    cache = VoiceCache(
        codec,
        version,
        folder=folder,
        disk_bytes=int(disk_mb * MB),
        memory_bytes=int(memory_mb * MB),
    )
    cache.load_hot()
    return cache, codec


def kept(folder: Path) -> set[str]:
    """The keys on disk."""
    return {path.stem for path in folder.rglob("*.voice")}


def set_last_use(folder: Path, key: str, seconds_ago: float) -> None:
    (path,) = folder.rglob(f"{key}.voice")
    moment = time.time() - seconds_ago
    os.utime(path, (moment, moment))


# Memory


def test_memory_loses_what_was_used_longest_ago() -> None:
    cache, _ = open_cache(None, memory_mb=3)
    for letter in "abc":
        cache.put(letter, note(letter))
    assert cache.get("a") == note("a")
    cache.put("d", note("d"))
    assert cache.get("b") is None
    assert [cache.get(letter) for letter in "acd"] == [note(letter) for letter in "acd"]


def test_memory_is_bounded_in_bytes_whatever_the_sizes() -> None:
    cache, _ = open_cache(None, memory_mb=3)
    rng = np.random.default_rng(0)
    for index in range(200):
        cache.put(str(index % 50), note("x", int(rng.integers(100, 2 * MB))))
        assert 0 < cache.memory.size <= 3 * MB
    cache.put("huge", note("x", 4 * MB))
    assert cache.get("huge") is None
    assert cache.memory.size > 0  # nothing had to go for what does not fit at all


def test_small_voices_are_bounded_in_number() -> None:
    cache, _ = open_cache(None, memory_mb=1)
    count = MB // SMALLEST
    for index in range(2 * count):
        cache.put(str(index), ["small"])
    assert [cache.get(str(index)) is None for index in range(2 * count)] == (
        [True] * count + [False] * count
    )


def test_the_same_key_again_counts_once() -> None:
    cache, _ = open_cache(None, memory_mb=3)
    for _ in range(10):
        cache.put("a", note("a"))
    assert cache.memory.size <= MB


# Files


def test_a_voice_outlives_its_cache(tmp_path: Path) -> None:
    first, _ = open_cache(tmp_path)
    assert first.put("a", note("a")) == note("a")
    second, codec = open_cache(tmp_path)
    assert codec.imported == 1  # before anybody asks
    assert second.get("a") == note("a")
    assert codec.imported == 1
    (folder,) = tmp_path.iterdir()
    (file,) = folder.iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_the_disk_loses_what_was_used_longest_ago(tmp_path: Path) -> None:
    cache, _ = open_cache(tmp_path, disk_mb=3, memory_mb=0)
    for age, letter in enumerate("abc"):
        cache.put(letter, note(letter))
        set_last_use(tmp_path, letter, 1000 - age)
    assert cache.get("a") == note("a")  # a use
    cache.put("d", note("d"))
    assert kept(tmp_path) == {"a", "c", "d"}
    cache.put("e", note("e", 2 * MB))
    assert kept(tmp_path) == {"d", "e"} or kept(tmp_path) == {"a", "e"}


def test_a_use_from_memory_counts_on_disk(tmp_path: Path) -> None:
    cache, codec = open_cache(tmp_path, disk_mb=2)
    for letter in "ab":
        cache.put(letter, note(letter))
    set_last_use(tmp_path, "a", 1000)
    set_last_use(tmp_path, "b", 500)
    imported = codec.imported
    cache.get("a")
    assert codec.imported == imported
    cache.put("c", note("c"))
    assert kept(tmp_path) == {"a", "c"}


def test_the_disk_is_bounded_in_bytes(tmp_path: Path) -> None:
    cache, _ = open_cache(tmp_path, disk_mb=3)
    rng = np.random.default_rng(0)
    for index in range(100):
        cache.put(str(index % 30), note("x", int(rng.integers(100, 2 * MB))))
        sizes = [path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()]
        assert 0 < sum(sizes) <= 3 * MB
    cache.put("huge", note("x", 4 * MB))
    assert "huge" not in kept(tmp_path)
    assert kept(tmp_path)


def test_a_smaller_limit_holds_from_the_start(tmp_path: Path) -> None:
    cache, _ = open_cache(tmp_path)
    for age, letter in enumerate("abcd"):
        cache.put(letter, note(letter))
        set_last_use(tmp_path, letter, 1000 - age)
    open_cache(tmp_path, disk_mb=2)
    assert kept(tmp_path) == {"c", "d"}


def test_the_hottest_voices_are_loaded_up_to_the_bound(tmp_path: Path) -> None:
    cache, _ = open_cache(tmp_path)
    sizes = {"a": 1, "b": 1, "c": 3, "d": 1}
    for age, (letter, size) in enumerate(sizes.items()):
        cache.put(letter, note(letter, size * MB))
        set_last_use(tmp_path, letter, 1000 - age)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.voice")}
    successor, codec = open_cache(tmp_path, memory_mb=2)
    assert codec.imported == 2
    # That is no use: a recycle does not change what is hot.
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.voice")} == times
    assert [successor.get(letter) for letter in "db"] == [note("d"), note("b")]
    assert codec.imported == 2  # c does not fit into memory and keeps nothing else out
    assert successor.get("c") == note("c", 3 * MB)
    assert codec.imported == 3


def test_the_hottest_of_all_is_the_last_to_be_lost(tmp_path: Path) -> None:
    cache, _ = open_cache(tmp_path)
    for age, letter in enumerate("ab"):
        cache.put(letter, note(letter))
        set_last_use(tmp_path, letter, 1000 - age)
    successor, codec = open_cache(tmp_path, memory_mb=2)
    successor.put("c", note("c"))
    imported = codec.imported
    successor.get("b")
    assert codec.imported == imported
    successor.get("a")
    assert codec.imported == imported + 1


# Voices with a name


def open_named(
    folder: Path, *, version: str = "a", disk_mb: float = 1, memory_mb: float = 10
) -> tuple[VoiceCache, Notes]:
    (folder / "cache").mkdir(exist_ok=True)
    (folder / "named").mkdir(exist_ok=True)
    codec = Notes()
    cache = VoiceCache(
        codec,
        version,
        folder=folder / "cache",
        disk_bytes=int(disk_mb * MB),
        memory_bytes=int(memory_mb * MB),
        named_folder=folder / "named",
    )
    cache.load_hot()
    return cache, codec


def test_voices_with_a_name_are_all_kept(tmp_path: Path) -> None:
    cache, _ = open_named(tmp_path, memory_mb=0)
    for letter in "abcdef":
        cache.put(letter, note(letter), named=letter in "abc")
    assert kept(tmp_path / "named") == {"a", "b", "c"}
    assert kept(tmp_path / "cache") == {"f"}
    successor, _ = open_named(tmp_path)
    assert [successor.get(letter) for letter in "abcf"] == [note(letter) for letter in "abcf"]
    assert successor.get("d") is None


def test_a_cached_voice_that_gets_a_name_moves(tmp_path: Path) -> None:
    cache, codec = open_named(tmp_path)
    cache.put("a", note("a"))
    imported = codec.imported
    assert cache.get("a", named=True) == note("a")
    assert codec.imported == imported
    assert (kept(tmp_path / "named"), kept(tmp_path / "cache")) == ({"a"}, set())
    # Once it has no name any more, the front removes its file.
    (path,) = (tmp_path / "named").rglob("a.voice")
    path.unlink()
    successor, _ = open_named(tmp_path)
    assert successor.get("a", named=True) is None


def test_named_voices_of_another_model_are_removed(tmp_path: Path) -> None:
    old, _ = open_named(tmp_path, version="old")
    old.put("a", note("a"), named=True)
    new, _ = open_named(tmp_path, version="new")
    assert new.get("a", named=True) is None
    assert kept(tmp_path) == set()
    new.put("a", note("b"), named=True)
    assert open_named(tmp_path, version="new")[0].get("a") == note("b")


def test_the_hottest_are_loaded_wherever_they_are_kept(tmp_path: Path) -> None:
    cache, _ = open_named(tmp_path, disk_mb=9)
    for age, letter in enumerate("abcd"):
        cache.put(letter, note(letter), named=letter in "ac")
        set_last_use(tmp_path, letter, 1000 - age)
    successor, codec = open_named(tmp_path, disk_mb=9, memory_mb=2)
    assert codec.imported == 2
    assert [successor.get(letter) for letter in "cd"] == [note("c"), note("d")]
    assert codec.imported == 2


def test_a_damaged_named_voice_is_encoded_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache, _ = open_named(tmp_path, memory_mb=0)
    cache.put("a", note("a"), named=True)
    (path,) = (tmp_path / "named").rglob("a.voice")
    path.write_bytes(path.read_bytes()[:-1])
    assert cache.get("a", named=True) is None
    assert "removed the encoded voice a" in caplog.text
    cache.put("a", note("a"), named=True)
    assert cache.get("a") == note("a")


class Raw:
    """A codec whose voices are their bytes."""

    def export_voice(self, voice: memoryview) -> bytes:
        return bytes(voice)

    def import_voice(self, data: memoryview) -> memoryview:
        return data


def test_a_large_voice_is_mapped_and_stays_when_its_file_goes(tmp_path: Path) -> None:
    cache = VoiceCache(Raw(), "a", folder=tmp_path, disk_bytes=5 * MB, memory_bytes=5 * MB)
    sound = os.urandom(2 * MB)
    voice = cache.put("a", memoryview(sound))
    assert isinstance(voice.obj, mmap.mmap)
    (path,) = tmp_path.rglob("a.voice")
    voice[0] ^= 1  # an engine that writes to its voice does so for itself alone
    voice[0] ^= 1
    assert zlib.crc32(path.read_bytes()[8:]) == zlib.crc32(sound)
    cache.put("b", memoryview(os.urandom(4 * MB)))
    assert kept(tmp_path) == {"b"}
    assert bytes(voice) == sound


def with_checksum(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(8, "big") + data


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "half": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "checksum only": lambda data: data[:8],
    "zeros, as a power cut leaves them": lambda data: bytes(len(data)),
    "one bit": lambda data: data[:-9] + bytes([data[-9] ^ 4]) + data[-8:],
    "too long": lambda data: data + b"x",
    "not what the engine writes": lambda data: with_checksum(b"\xff not JSON"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_removed_and_encoded_again(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache, _ = open_cache(tmp_path, memory_mb=0)
    cache.put("a", note("a"))
    cache.put("b", note("b"))
    (path,) = tmp_path.rglob("a.voice")
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    assert cache.get("a") is None
    assert kept(tmp_path) == {"b"}
    assert "removed the encoded voice a" in caplog.text
    cache.put("a", note("a"))
    assert cache.get("a") == note("a")
    # The same before READY.
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    successor, _ = open_cache(tmp_path)
    assert kept(tmp_path) == {"b"}
    assert successor.get("b") == note("b")


def test_other_versions_are_removed_and_nothing_else(tmp_path: Path) -> None:
    old, _ = open_cache(tmp_path, version="old")
    old.put("a", note("a"))
    foreign = tmp_path / "pip" / "wheel.whl"
    foreign.parent.mkdir()
    foreign.write_bytes(b"somebody else's")
    guest = tmp_path / "voices-guest" / "letter.txt"
    guest.parent.mkdir()
    guest.write_bytes(b"somebody else's")
    new, _ = open_cache(tmp_path, version="new")
    assert new.get("a") is None
    assert kept(tmp_path) == set()
    assert not list(tmp_path.glob("voices-old*"))
    assert foreign.exists()
    assert guest.exists()
    # A worker of the old version that still serves goes on, and is tidied up after.
    old.put("a", note("a"))
    assert kept(tmp_path) == {"a"}
    open_cache(tmp_path, version="new")
    assert kept(tmp_path) == set()


def test_what_a_killed_worker_was_writing_goes_away(tmp_path: Path) -> None:
    open_cache(tmp_path)
    (folder,) = tmp_path.iterdir()
    for name, age in (("old.part", 120), ("young.part", 0)):
        (folder / name).write_bytes(b"half a voice")
        os.utime(folder / name, (time.time() - age, time.time() - age))
    open_cache(tmp_path)
    assert [path.name for path in folder.iterdir()] == ["young.part"]


WRITER = """
import sys
from pathlib import Path
from tests.engines.test_voice_cache import note, open_cache
cache, _ = open_cache(Path(sys.argv[1]))
print("writing", flush=True)
while True:
    cache.put("a", note(sys.argv[2], 4 * 2**20))
"""


def test_workers_write_the_same_voice_at_once_and_are_killed(tmp_path: Path) -> None:
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), letter], cwd=ROOT, stdout=subprocess.PIPE
        )
        for letter in "xy"
    ]
    seen: set[bytes] = set()
    try:
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"writing\n"
        (folder,) = tmp_path.iterdir()
        files = VoiceFiles(tmp_path, folder.name, 100 * MB)
        end = time.monotonic() + NET
        while len(seen) < 2 and time.monotonic() < end:
            data = files.read("a")  # raises for a file that is not whole
            if data is None:
                assert not seen  # only before the first one was complete
            else:
                seen.add(bytes(data[2:3]))
    finally:
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
            writer.wait()
            assert writer.stdout is not None
            writer.stdout.close()
    assert seen == {b"x", b"y"}
    successor, _ = open_cache(tmp_path)
    assert successor.get("a") in (note("x", 4 * MB), note("y", 4 * MB))


def test_a_full_disk_costs_only_the_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache, _ = open_cache(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MB // 2, hard))
    try:
        for letter in "ab":
            assert cache.put(letter, note(letter)) == note(letter)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [cache.get(letter) for letter in "ab"] == [note("a"), note("b")]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert caplog.text.count("cannot be kept in files") == 1
    cache.put("c", note("c"))
    assert kept(tmp_path) == {"c"}


def test_a_folder_that_cannot_be_used_costs_only_the_files(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    cache, _ = open_cache(tmp_path / "file" / "cache")
    cache.put("a", note("a"))
    assert cache.get("a") == note("a")
    assert cache.get("b") is None
    assert caplog.text.count("cannot be kept in files") == 1


# Engines


class CountingFlite(FliteEngine):
    """flite; counts what it encodes."""

    def __init__(self) -> None:
        super().__init__(EngineConfig(Path("models")))
        self.encoded = 0
        self.load()

    def encode_voice(self, reference: Samples) -> FliteVoice:
        self.encoded += 1
        return super().encode_voice(reference)


def say(engine: SpeechEngine, recording: bytes | Path) -> tuple[bytes, SpeechResult]:
    """The WAV of a short text in that voice, and the result."""
    if isinstance(recording, bytes):
        given = Recording(hashlib.sha256(recording).hexdigest(), data=recording)
    else:
        key = hashlib.sha256(recording.read_bytes()).hexdigest()
        given = Recording(key, path=str(recording))
    operation = Speak("Hi.", Voice(recording=given), Sampling(seed=1))
    pieces, result = speech(engine.run(operation, threading.Event()), engine)
    return b"".join(pieces), result


def options(folder: Path | None, cache_bytes: int = MB) -> WorkerOptions:
    return WorkerOptions(
        voice_cache_dir=None if folder is None else str(folder),
        voice_cache_bytes=cache_bytes,
        voice_cache_memory_bytes=MB,
    )


@pytest.fixture(scope="module")
def recording() -> bytes:
    """Somebody's voice, as a WAV."""
    return spoken("The birch canoe slid on the smooth planks.", "rms")


def test_a_known_recording_is_not_encoded(tmp_path: Path, recording: bytes) -> None:
    spooled = tmp_path / "spooled"
    spooled.write_bytes(recording)
    engine = CountingFlite()
    engine.keep_voices(options(tmp_path))
    first, result = say(engine, recording)
    assert (result.voice_cached, engine.encoded) == (False, 1)
    second, result = say(engine, spooled)
    assert (result.voice_cached, engine.encoded) == (True, 1)
    successor = CountingFlite()
    successor.keep_voices(options(tmp_path))
    third, result = say(successor, recording)
    assert (result.voice_cached, successor.encoded) == (True, 0)
    assert first == second == third


@pytest.mark.parametrize("data", [b"", b"no sound at all", b"RIFF\0\0\0\0WAVE"])
def test_a_recording_that_cannot_be_decoded_is_not_kept(tmp_path: Path, data: bytes) -> None:
    engine = CountingFlite()
    engine.keep_voices(options(tmp_path))
    for _ in range(2):
        with pytest.raises(ServiceError):
            say(engine, data)
    assert kept(tmp_path) == set()


@pytest.mark.parametrize("cache_bytes", [0, MB])
def test_without_files_voices_are_kept_in_memory_unless_turned_off(
    recording: bytes, cache_bytes: int
) -> None:
    engine = CountingFlite()
    engine.keep_voices(options(None, cache_bytes))
    results = [say(engine, recording)[1].voice_cached for _ in range(2)]
    assert results == [False, cache_bytes > 0]
    assert engine.encoded == (1 if cache_bytes else 2)


class Bomb:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch exploded",)


@pytest.mark.parametrize("engine_type", [FliteEngine, PocketEngine])
def test_a_hostile_file_runs_no_code(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    engine_type: type[FliteEngine] | type[PocketEngine],
) -> None:
    monkeypatch.chdir(tmp_path)
    engine = engine_type(EngineConfig(tmp_path))
    cache = VoiceCache(engine, "a", folder=tmp_path / "cache", disk_bytes=MB, memory_bytes=MB)
    (tmp_path / "cache" / "voices-a-1").mkdir(parents=True)
    hostile = tmp_path / "cache" / "voices-a-1" / "a.voice"
    hostile.write_bytes(with_checksum(pickle.dumps(Bomb())))
    cache.load_hot()
    assert cache.get("a") is None
    assert not (tmp_path / "exploded").exists()
    assert not hostile.exists()


def test_pockets_voice_comes_back_to_the_last_bit(nano_models: Path) -> None:
    engine = PocketEngine(EngineConfig(nano_models))
    engine.load()
    noise = np.random.default_rng(0).standard_normal(24_000).astype(np.float32) * 0.05
    voice = engine.encode_voice(noise)
    data = engine.export_voice(voice)
    back = engine.import_voice(memoryview(bytearray(data)))
    assert {m: set(tensors) for m, tensors in back.items()} == {
        m: set(tensors) for m, tensors in voice.items()
    }
    pairs = [(voice[m][name], back[m][name]) for m in voice for name in voice[m]]
    assert pairs
    for ours, theirs in pairs:
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    # What is counted is what it holds.
    held = sum(theirs.nbytes for _, theirs in pairs)
    assert held <= len(data) < held + 4096
    spoken = [
        np.concatenate(list(pieces_of(engine, "Hello.", v, Sampling(seed=1))))
        for v in (voice, back, back)
    ]
    np.testing.assert_array_equal(spoken[0], spoken[1])
    np.testing.assert_array_equal(spoken[1], spoken[2])  # speaking has left it as it was


def test_pockets_voice_lies_in_the_mapped_file(tmp_path: Path) -> None:
    import torch

    # Half a minute, as the full-size model hears it.
    voice = {
        f"transformer.layers.{index}.self_attn": {
            "offset": torch.tensor([377]),
            "cache": torch.rand(2, 1, 377, 16, 64),
        }
        for index in range(2)
    }
    engine = PocketEngine(EngineConfig(tmp_path))
    cache = VoiceCache(engine, "a", folder=tmp_path, disk_bytes=99 * MB, memory_bytes=99 * MB)
    back = cache.put("a", voice)
    assert back.keys() == voice.keys()
    for name, tensors in back.items():
        assert tensors["offset"].item() == 377
        assert torch.equal(tensors["cache"], voice[name]["cache"])
    (path,) = tmp_path.rglob("a.voice")
    assert str(path) in Path("/proc/self/maps").read_text()
    del back, tensors
    cache.memory.put("a", None, 1)
    gc.collect()
    assert str(path) not in Path("/proc/self/maps").read_text()


def test_pockets_voices_depend_on_all_that_makes_them(nano_models: Path) -> None:
    formats = set()
    for quantize in (True, False, True):
        engine = PocketEngine(EngineConfig(nano_models, options={"quantize": quantize}))
        engine.load()
        formats.add(engine.voice_format)
    assert len(formats) == 2
    assert None not in formats


# The service


@pytest.fixture(params=[TellingFlite, TellingPocket])
def service(request: pytest.FixtureRequest, nano_models: Path) -> Iterator[RunningService]:
    settings = {
        "VOICE_ENGINE_TTS_ENGINE": f"tests.support.voice_engines:{request.param.__name__}",
        "VOICE_ENGINE_MODELS_DIR": str(nano_models),
    }
    with running(settings) as service:
        service.wait_ready()
        yield service


async def clone(service: RunningService, reference: bytes, **options: str) -> tuple[str, bytes]:
    """The X-Voice-Cache header and the PCM bytes of one answer."""
    form = aiohttp.FormData({"text": "Hello there.", "seed": "5", **options})
    form.add_field("reference_audio", io.BytesIO(reference), filename="me.wav")
    async with (
        aiohttp.ClientSession(service.url) as client,
        client.post("/v1/clone", data=form) as response,
    ):
        body = await response.read()
        assert response.status == 200
    return response.headers["X-Voice-Cache"], read_wav(body)[1]


def shorter(recording: bytes, seconds: float) -> bytes:
    """Another recording, which lacks the last `seconds` of this one."""
    rate, pcm = read_wav(recording)
    file = io.BytesIO()
    with wave.open(file, "wb") as wav:
        wav.setnchannels(1)
        wav.setsampwidth(2)
        wav.setframerate(rate)
        wav.writeframes(pcm[: -2 * int(seconds * rate)])
    return file.getvalue()


def encoded(reference: bytes) -> dict[str, Any]:
    """The log event that says that a worker encodes this recording, but for the worker's name."""
    samples = decode(reference, rate=16_000, max_seconds=30, truncate=True)
    return {"event": "child_output", "line": f"encoding {len(samples) / 16_000:.1f} s"}


async def encodings(service: RunningService, child: str, reference: bytes, *, new: bytes) -> int:
    """How often that worker has encoded `reference`.

    A worker's lines arrive in order, so a `new` recording shows that all have arrived.
    """
    header, _ = await clone(service, new)
    assert header == "miss"
    await asyncio.to_thread(lambda: service.wait_for(child=child, **encoded(new)))
    wanted = {"child": child, **encoded(reference)}
    return sum(wanted.items() <= event.items() for event in service.events)


def assert_same_sound(first: bytes, second: bytes) -> None:
    samples = [np.frombuffer(pcm, "<i2").astype(int) for pcm in (first, second)]
    assert len(samples[0]) == len(samples[1]) > 1000
    # Frames decoded in other groups differ in the last bits of a float.
    assert np.abs(samples[0] - samples[1]).max() <= 32


async def test_a_hot_voice_is_not_encoded_after_a_recycle_or_a_kill(
    service: RunningService, recording: bytes
) -> None:
    (first,) = service.children(model="tts")
    header, sound = await clone(service, recording)
    assert header == "miss"
    header, again = await clone(service, recording)
    assert header == "hit"
    assert_same_sound(sound, again)
    assert await encodings(service, first["name"], recording, new=shorter(recording, 0.4)) == 1

    async with (
        aiohttp.ClientSession(service.url) as client,
        client.post(f"/v1/children/{first['name']}/recycle") as response,
    ):
        assert response.status == 202
    recycled = await asyncio.to_thread(service.wait_for, "recycled", child=first["name"])
    header, again = await clone(service, recording)
    assert header == "hit"
    assert_same_sound(sound, again)
    (second,) = service.children(model="tts")
    assert second["name"] == recycled["successor"]
    assert await encodings(service, second["name"], recording, new=shorter(recording, 0.8)) == 0

    os.kill(second["pid"], signal.SIGKILL)
    await asyncio.to_thread(service.wait_for, "worker_died", child=second["name"])
    header, again = await clone(service, recording)
    assert header == "hit"
    assert_same_sound(sound, again)
    (third,) = service.children(model="tts")
    assert len({first["pid"], second["pid"], third["pid"]}) == 3
    assert await encodings(service, third["name"], recording, new=shorter(recording, 1.2)) == 0


async def test_voices_dir_that_cannot_be_made_is_told_once_and_harms_no_request(
    tmp_path: Path, recording: bytes
) -> None:
    (tmp_path / "file").touch()
    settings = {
        "VOICE_ENGINE_TTS_ENGINE": "flite",
        "VOICES_DIR": str(tmp_path / "file" / "voices"),
    }
    with running(settings) as service:
        service.wait_ready()
        headers = [(await clone(service, recording))[0] for _ in range(2)]
        assert headers == ["miss", "hit"]  # from the worker's memory
        service.stop()
        warnings = [e for e in service.events if e["event"] == "voice_cache_off"]
        assert len(warnings) == 1
        assert str(tmp_path) in warnings[0]["message"]


async def test_zero_turns_the_cache_off(tmp_path: Path, recording: bytes) -> None:
    settings = {
        "VOICE_ENGINE_TTS_ENGINE": "flite",
        "VOICE_ENGINE_VOICE_CACHE_MB": "0",
        "VOICES_DIR": str(tmp_path / "voices"),
    }
    with running(settings) as service:
        service.wait_ready()
        headers = [(await clone(service, recording))[0] for _ in range(2)]
    assert headers == ["miss", "miss"]
    assert kept(tmp_path / "voices") == set()
    assert not (tmp_path / "voices" / ".cache").exists()
