"""Which files `transcribe` takes, where their transcripts go, and how it waits for room."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import httpx
import pytest

from ipc.recordings import SUFFIXES
from supervisor.cli.client import CommandError, DownError, RefusedError
from supervisor.cli.files import replacing
from supervisor.cli.transcribe import AUDIO_SUFFIXES, Job, find, plan, room, transcript

_TEXT = {"response_format": "text"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with recordings and other files."""
    monkeypatch.chdir(tmp_path)
    for name in ("b.wav", "a.MP3", "notes.txt", "sub/c.opus", "sub/deep/d.wav", "sub/e.odd"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["."], ["a.MP3", "b.wav", "sub/c.opus", "sub/deep/d.wav"]),
        (["sub/e.odd"], ["sub/e.odd"]),
        (["*.wav"], ["b.wav"]),
        (["sub/**/*.wav"], ["sub/deep/d.wav"]),
        (
            ["b.wav", "sub/../b.wav", ".", "b.wav"],
            ["b.wav", "a.MP3", "sub/c.opus", "sub/deep/d.wav"],
        ),
    ],
)
def test_files_folders_and_patterns(folder: Path, names: list[str], found: list[str]) -> None:
    assert [str(path) for path in find(names)] == found


@pytest.mark.parametrize(
    ("name", "why"), [("x.wav", "no file, folder or pattern"), ("empty", "has no recordings")]
)
def test_what_names_nothing_is_an_error(folder: Path, name: str, why: str) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(CommandError, match=why) as raised:
        find(["b.wav", name])
    assert raised.value.code == 64


def test_every_recording_that_the_service_reads_is_found_in_folders() -> None:
    assert set(SUFFIXES.values()) <= AUDIO_SUFFIXES


def test_transcripts_lie_beside_their_recordings() -> None:
    jobs = plan([Path("a/x.wav"), Path("b/x.wav")], "srt", None)
    assert [str(job.target) for job in jobs] == ["a/x.srt", "b/x.srt"]


def test_two_recordings_never_share_a_transcript(folder: Path) -> None:
    jobs = plan([Path("x.wav"), Path("x.mp3"), Path("y.wav")], "txt", None)
    assert [str(job.target) for job in jobs] == ["x.wav.txt", "x.mp3.txt", "y.txt"]
    with pytest.raises(CommandError, match="of the same name"):
        plan([Path("a/x.wav"), Path("b/x.wav")], "txt", folder)


def test_another_place(folder: Path) -> None:
    assert plan([Path("x.wav")], "txt", folder / "new")[0].target == folder / "new"
    assert plan([Path("x.wav"), Path("y.wav")], "txt", folder)[1].target == folder / "y.txt"
    with pytest.raises(CommandError, match="is no folder"):
        plan([Path("x.wav"), Path("y.wav")], "txt", folder / "new")


def test_done_means_newer_than_the_recording(tmp_path: Path) -> None:
    job = Job(tmp_path / "a.wav", tmp_path / "a.txt")
    job.source.touch()
    assert not job.done
    job.target.touch()
    os.utime(job.source, ns=(0, 10))
    os.utime(job.target, ns=(0, 10))
    assert job.done
    os.utime(job.source, ns=(0, 11))
    assert not job.done


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("before")
    with pytest.raises(TypeError), replacing(target) as file:
        file.writelines([b"half", "no bytes"])  # type: ignore[list-item]
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.txt": "before"}
    (tmp_path / ".a.txt.part").write_text("what a killed command has left")
    with replacing(target) as file:
        file.write(b"whole")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.txt": "whole"}
    with (
        pytest.raises(CommandError, match=r"cannot be written.*name another place"),
        replacing(tmp_path / "none" / "a.txt"),
    ):
        pass


def _worker(model: str, **changes: Any) -> dict[str, Any]:
    return {"model": model, "lifecycle": "READY", "capacity": 4} | changes


def test_room_is_what_the_model_has_free_and_no_more_than_its_workers() -> None:
    health = {
        "models": {
            "tts": {"kind": "tts", "engine": "pocket", "free_slots": 8},
            "stt": {"kind": "stt", "engine": "sensevoice", "free_slots": 3},
            "whisper": {"kind": "stt", "engine": "whisper", "free_slots": 0},
        },
        "children": [
            _worker("tts"),
            _worker("stt"),
            _worker("stt"),
            _worker("stt", lifecycle="DRAINING"),
            _worker("stt", lifecycle="STARTING", capacity=None),
            _worker("whisper", capacity=3),
        ],
    }
    assert room(health, None) == (3, 8)
    assert room(health, "sensevoice") == (3, 8)
    assert room(health, "whisper") == (0, 3)
    assert room(health, "pocket") == (0, 0)
    assert room({"models": {}, "children": []}, None) == (0, 0)


class _Answers:
    """A service that answers one after the other; and the pauses that were made between."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self._answers = list(answers)
        self.pauses: list[float] = []
        self.bodies: list[bytes] = []
        self.client = httpx.AsyncClient(
            transport=httpx.MockTransport(self._answer), base_url="http://127.0.0.1:8000"
        )

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        self.bodies.append(await request.aread())
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)

    async def pause(self, seconds: float) -> None:
        """Do not wait."""
        self.pauses.append(seconds)


def _full(after: str | None = None, status: int = 503) -> httpx.Response:
    headers = {} if after is None else {"Retry-After": after}
    return httpx.Response(status, json={"detail": "full"}, headers=headers)


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """A recording."""
    path = tmp_path / "a.wav"
    path.write_bytes(b"sound")
    return path


async def test_it_waits_as_long_as_the_service_says(recording: Path) -> None:
    answers = _Answers(_full("7"), _full(), _full("2", 429), httpx.Response(200, text="hello\n"))
    text = await transcript(answers.client, recording, _TEXT, answers.pause)
    assert (text, answers.pauses) == (b"hello\n", [7, 1, 2])
    # The whole recording is sent each time.
    assert all(b"sound" in body for body in answers.bodies)


async def test_it_does_not_wait_for_ever(recording: Path) -> None:
    answers = _Answers(_full("100"))
    with pytest.raises(RefusedError, match="full"):
        await transcript(answers.client, recording, _TEXT, answers.pause)
    assert sum(answers.pauses) == 600


async def test_a_recording_that_is_refused_is_not_sent_again(recording: Path) -> None:
    answers = _Answers(httpx.Response(400, json={"detail": "no recording"}))
    with pytest.raises(RefusedError, match="no recording"):
        await transcript(answers.client, recording, _TEXT, answers.pause)
    assert answers.pauses == []


async def test_a_restart_of_the_service_is_waited_for(recording: Path) -> None:
    lost = httpx.ReadError("lost")
    answers = _Answers(lost, httpx.ConnectError("refused"), httpx.Response(200, text="hello"))
    assert await transcript(answers.client, recording, _TEXT, answers.pause) == b"hello\n"
    answers = _Answers(httpx.ConnectError("refused"))
    with pytest.raises(DownError):
        await transcript(answers.client, recording, _TEXT, answers.pause)
    assert sum(answers.pauses) == 30


async def test_json_is_written_for_people(recording: Path) -> None:
    answers = _Answers(httpx.Response(200, content='{"text": "ü"}'.encode()))
    text = await transcript(answers.client, recording, {"response_format": "json"}, answers.pause)
    assert text.decode() == '{\n  "text": "ü"\n}\n'


async def test_a_recording_that_has_gone_is_an_error_of_its_own(tmp_path: Path) -> None:
    answers = _Answers(_full())
    with pytest.raises(CommandError, match="cannot be read: No such file"):
        await transcript(answers.client, tmp_path / "gone.wav", _TEXT, answers.pause)
