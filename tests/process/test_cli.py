"""The command line against the running service: as other programs call it, and in a terminal."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import wave
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import pytest

from ipc.engines import ENGINES
from supervisor.cli.command import examples_of
from tests.support.service import (
    MINIMAL,
    NET,
    ROOT,
    Gate,
    RunningService,
    running,
)
from tests.support.terminal import DOWN, INTERRUPT, Terminal
from tests.unit.test_cli_commands import COMMANDS

_PARALLEL = {"VOICE_ENGINE_STT_WORKERS": "2", "VOICE_ENGINE_MEMORY_LIMIT_MB": "2000"}


@pytest.fixture(scope="module")
def service() -> Iterator[RunningService]:
    """With scripted engines, and two workers that transcribe."""
    with running(_PARALLEL) as service:
        service.wait_ready()
        yield service


def environment(service: RunningService | None = None, **more: str) -> dict[str, str]:
    """For commands that talk to `service`."""
    url = {} if service is None else {"VOICE_ENGINE_URL": service.url}
    return {**os.environ, "PYTHONPATH": str(ROOT), **url, **more}


def command(
    *arguments: str, service: RunningService | None = None, folder: Path = ROOT, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run `voice-engine` to its end."""
    more = options.pop("more", {})
    return subprocess.run(
        [sys.executable, "-m", "supervisor.cli", *arguments],
        env=environment(service, **more),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=NET,
        check=False,
        **options,
    )


def command_to(out: BinaryIO, *arguments: str, service: RunningService, stdin: TextIO) -> int:
    """Run `voice-engine` with files for its input and its output; its exit code."""
    return subprocess.call(
        [sys.executable, "-m", "supervisor.cli", *arguments],
        env=environment(service),
        cwd=ROOT,
        stdin=stdin,
        stdout=out,
        timeout=NET,
    )


# As other programs call it


def test_say_writes_a_file_in_the_format_of_its_name(
    service: RunningService, tmp_path: Path
) -> None:
    done = command("say", "say 5", "-o", "a.wav", "--seed", "1", service=service, folder=tmp_path)
    assert (done.returncode, done.stdout) == (0, "")
    with wave.open(str(tmp_path / "a.wav")) as sound:
        assert sound.getnframes() == 5 * 480
    script = tmp_path / "script"
    script.write_text("say 5")
    with script.open() as text, (tmp_path / "b.wav").open("wb") as out:
        piped = command_to(out, "say", "-o", "-", "--seed", "1", service=service, stdin=text)
    assert piped == 0
    assert (tmp_path / "b.wav").read_bytes() == (tmp_path / "a.wav").read_bytes()


def test_say_speaks_a_pipe_while_it_comes(service: RunningService, tmp_path: Path) -> None:
    pipe, text = os.pipe()
    out = tmp_path / "a.wav"
    with (
        os.fdopen(pipe, "rb") as stdin,
        os.fdopen(text, "w") as writer,
        ThreadPoolExecutor() as pool,
    ):
        done = pool.submit(
            command, "say", "-", "-o", str(out), "--seed", "1", service=service, stdin=stdin
        )
        writer.write("say 3; print spoken;\n\n")
        writer.flush()
        service.wait_for("child_output", line="spoken")  # the text has not ended
        writer.write("say 2")
        writer.close()
        assert done.result().returncode == 0
    with wave.open(str(out)) as sound:
        # Besides, the scripted engine makes a header for each piece.
        assert sound.getnframes() == 5 * 480 + 2 * 22
    with (tmp_path / "b.pcm").open("wb") as piped:
        script = tmp_path / "script"
        script.write_text("say 2")
        with script.open() as input:
            said = ("say", "-", "-o", "-", "--format", "pcm")
            assert command_to(piped, *said, service=service, stdin=input) == 0
    assert (tmp_path / "b.pcm").stat().st_size == 44 + 2 * 960


@pytest.mark.parametrize(
    ("arguments", "text", "code"),
    [
        ("say - -o a.wav", "raise no", 1),
        ("say - -v nobody -o a.mp3", "hi", 1),
        ("--url http://127.0.0.1:9 say - -o a.wav", "hi", 2),
        ("--url http://127.0.0.1:9 say - -o a.flac", "hi", 2),
    ],
    ids=["fails", "no voice", "no service", "not live"],
)
def test_a_pipe_that_cannot_be_spoken_is_explained(
    arguments: str, text: str, code: int, service: RunningService, tmp_path: Path
) -> None:
    done = command(*arguments.split(), service=service, folder=tmp_path, input=text)
    assert done.returncode == code, done
    assert done.stderr.startswith("voice-engine: ")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_no_file(service: RunningService, tmp_path: Path) -> None:
    done = command("say", "raise no", "-o", "a.wav", service=service, folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("voice-engine: ")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_player_gets_the_sound_while_it_is_made(
    service: RunningService, tmp_path: Path, gate: Gate
) -> None:
    first, programs = tmp_path / "first", tmp_path / "bin"
    programs.mkdir()
    player = programs / "aplay"
    # It reads some bytes, tells so, and goes on to the end.
    player.write_text(
        f"#!/bin/sh\nhead -c 44 > {first}.part\nmv {first}.part {first}\ncat > rest\n"
    )
    player.chmod(0o755)
    script = f"say 2; wait {first}; say 2; print ended"
    done = command(
        "say",
        script,
        service=service,
        folder=tmp_path,
        more={"PATH": f"{programs}:/usr/bin:/bin"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert first.read_bytes()[:4] == b"RIFF"
    assert (tmp_path / "rest").stat().st_size == 4 * 960


def test_without_a_player_it_says_what_to_do(service: RunningService, tmp_path: Path) -> None:
    done = command("say", "say 1", service=service, more={"PATH": str(tmp_path)})
    assert done.returncode == 64
    assert "ffplay" in done.stderr
    assert "-o speech.wav" in done.stderr


def test_a_player_that_fails_is_told(service: RunningService, tmp_path: Path) -> None:
    player = tmp_path / "aplay"
    player.write_text("#!/bin/sh\nexit 3\n")
    player.chmod(0o755)
    done = command("say", "say 1", service=service, more={"PATH": f"{tmp_path}:/usr/bin:/bin"})
    assert (done.returncode, "aplay ended with 3" in done.stderr) == (1, True)


def test_transcribe_to_the_output(service: RunningService, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_text("segment hello")
    done = command("transcribe", "a.wav", "-o", "-", service=service, folder=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "hello\n", "")
    subtitles = command(
        "transcribe", "-", "--format", "srt", service=service, folder=tmp_path, input="segment hey"
    )
    assert subtitles.stdout.splitlines()[1:] == ["00:00:00,000 --> 00:00:01,000", "hey"]


@pytest.mark.parametrize(
    ("url", "arguments", "code"),
    [
        ("http://127.0.0.1:9", ["status"], 2),
        ("http://127.0.0.1:9", ["say", "hi", "-o", "x.wav"], 2),
        ("http://127.0.0.1:9", ["transcribe", "x.wav"], 2),
        ("http://127.0.0.1:9", ["wait", "--timeout", "0"], 2),
        ("http://127.0.0.1:9", ["top"], 64),
        ("http://[", ["voices", "ls"], 64),
    ],
)
def test_exit_codes_without_a_service(
    url: str, arguments: list[str], code: int, tmp_path: Path
) -> None:
    (tmp_path / "x.wav").touch()
    done = command(*arguments, "--url", url, folder=tmp_path)
    assert done.returncode == code, done
    assert (done.stdout + done.stderr).count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["x.wav"]


def test_a_key_is_sent_and_never_printed(tmp_path: Path) -> None:
    keys = {"VOICE_ENGINE_API_KEY": "client-key", "VOICE_ENGINE_ADMIN_KEY": "operators-key"}
    with running(keys) as service:
        service.wait_ready()
        said = ("say", "say 1", "-o", str(tmp_path / "a.wav"))
        lacking = command(*said, service=service)
        assert (lacking.returncode, "VOICE_ENGINE_API_KEY" in lacking.stderr) == (1, True)
        wrong = command(*said, "--key", "wrong-key", service=service)
        assert (wrong.returncode, "wrong-key" in wrong.stderr) == (1, False)
        by_option = command(*said, "--key", "client-key", service=service)
        by_variable = command(*said, service=service, more=keys)
        assert (by_option.returncode, by_variable.returncode) == (0, 0)
        recycle = ("recycle", "tts-1")
        client = command(*recycle, "--key", "client-key", service=service)
        assert (client.returncode, "VOICE_ENGINE_ADMIN_KEY" in client.stderr) == (1, True)
        operator = command(*recycle, service=service, more=keys)
        assert operator.returncode == 0, operator.stderr
        shown = command("settings", "--changed", service=service, more=keys)
        for done in (lacking, wrong, by_option, by_variable, client, operator, shown):
            assert not re.search("client-key|operators-key|wrong-key", done.stdout + done.stderr)


def test_serve_takes_global_options_too() -> None:
    done = command("--url", "http://127.0.0.1:9", "serve", "--port", "99999")
    assert (done.returncode, "port" in done.stderr.lower()) == (2, True)
    assert command("serve", "--prot", "1").returncode == 64
    assert "SIGHUP" in command("serve", "-h").stdout


def test_a_reader_that_goes_away_is_no_error() -> None:
    line = f"{shlex.quote(sys.executable)} -m supervisor.cli settings | head -1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        env=environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=NET,
        check=False,
    )
    assert done.stdout.startswith("VARIABLE")
    assert done.stderr == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    script = command("--show-completion", shell)
    assert script.returncode == 0, script.stderr
    assert "_VOICE_ENGINE_COMPLETE" in script.stdout


def test_names_of_the_running_service_are_completed(service: RunningService) -> None:
    words = "voice-engine recycle st"
    done = command(
        service=service,
        more={
            "_VOICE_ENGINE_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": "2",
        },
    )
    assert set(done.stdout.split()) >= {"stt-template", "stt-1"}
    assert "tts-1" not in done.stdout


# In a terminal


@pytest.fixture
def recordings(tmp_path: Path) -> tuple[Path, Gate]:
    """Twenty recordings, one of them bad; the last ten wait for the gate."""
    gate = Gate(tmp_path / "gate")
    folder = tmp_path / "talks"
    folder.mkdir()
    for number in range(20):
        script = f"segment talk {number}" if number != 7 else "raise no sound in it"
        if number >= 10:
            script = f"wait {gate}; {script}"
        (folder / f"talk-{number:02}.wav").write_text(script)
    return folder, gate


def _transcripts(folder: Path) -> list[str]:
    """What is in the folder besides recordings."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".wav")


def test_twenty_recordings_go_on_where_they_were_killed(
    service: RunningService, recordings: tuple[Path, Gate]
) -> None:
    folder, gate = recordings
    whole = [f"talk-{number:02}.txt" for number in range(20) if number != 7]

    killed = Terminal(["transcribe", "talks"], environment(service), folder.parent)
    killed.wait_for(
        lambda text: "10/20" in text and "talk-10.wav" in text and "talk-11.wav" in text
    )
    killed.process.kill(signal.SIGKILL)
    assert killed.end() == -signal.SIGKILL
    assert _transcripts(folder) == whole[:9]
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.txt")}

    stopped = Terminal(["transcribe", "talks"], environment(service), folder.parent)
    stopped.wait_for(lambda text: "1/11" in text and "talk-11.wav" in text)
    stopped.press(INTERRUPT)
    assert stopped.end() == 130
    assert "stopped: 0 of 11 done; the same command does the others" in stopped.text
    assert stopped.output.rstrip().endswith(b"others") or b"\x1b[?25h" in stopped.output
    assert _transcripts(folder) == whole[:9]

    gate.open()
    finished = Terminal(["transcribe", "talks"], environment(service), folder.parent)
    assert finished.end() == 1
    assert "9 of 20 are done already" in finished.text
    assert re.search(r"failed: talks/talk-07.wav: .*no sound in it", _joined(finished.text))
    assert "10 of 11 are done, 1 failed" in _joined(finished.text)
    assert _transcripts(folder) == whole
    for number, name in enumerate(name for name in whole if name not in before):
        assert (folder / name).read_text() == f"talk {number + 10}\n"
    unchanged = {name: (folder / name).stat().st_mtime_ns for name in before}
    assert unchanged == before

    (folder / "talk-07.wav").write_text("segment mended")
    mended = command("transcribe", "talks", service=service, folder=folder.parent)
    assert (mended.returncode, mended.stdout) == (0, "")
    assert (folder / "talk-07.txt").read_text() == "mended\n"
    nothing = command("transcribe", "talks", service=service, folder=folder.parent)
    assert (nothing.returncode, nothing.stderr) == (
        0,
        "20 of 20 are done already; --again does them again\n",
    )


def _joined(text: str) -> str:
    """The lines of a screen as one."""
    return re.sub(r"\n", "", text)


def test_as_many_at_once_as_there_is_room(
    service: RunningService, tmp_path: Path, gate: Gate
) -> None:
    # Each of the two waits for what the other prints: one after the other they would never end.
    for name in ("a", "b"):
        script = f"print at-once-{name}; wait {gate}; segment {name}"
        (tmp_path / f"{name}.wav").write_text(script)
    terminal = Terminal(["transcribe", "."], environment(service), tmp_path)
    for name in ("a", "b"):
        service.wait_for("child_output", line=f"at-once-{name}")
    gate.open()
    assert terminal.end() == 0
    assert "2 of 2 are done" in terminal.text


def test_status_fits_into_a_terminal(service: RunningService, tmp_path: Path) -> None:
    terminal = Terminal(["status"], environment(service), tmp_path, columns=100)
    assert terminal.end() == 0
    assert re.search(r"^ok +voice-engine .* up ", terminal.text)
    assert re.search(r"\ntts-1 +IDLE +\d+ +\d+ ", terminal.text)


def test_doctor_fits_into_a_terminal(service: RunningService, tmp_path: Path) -> None:
    more = {"PORT": str(service.port), "VOICE_ENGINE_HOST": "127.0.0.1"}
    terminal = Terminal(["doctor"], environment(service, **more), tmp_path)
    code = terminal.end()
    words = re.findall(r"^.{15,25}? (ok|warning|failed) ", terminal.text, re.MULTILINE)
    assert len(words) > 8, terminal.text
    assert code == max({"ok": 0, "warning": 1, "failed": 2}[word] for word in words)
    assert f"{service.port}: served by voice-engine" in terminal.text


# Operators


def _names(service: RunningService, model: str, role: str = "worker") -> list[str]:
    return [child["name"] for child in service.children(role, model)]


def _line(pattern: str) -> Callable[[str], bool]:
    """Whether a line of the screen begins so."""
    return lambda text: re.search(f"^{pattern}", text, re.MULTILINE) is not None


def test_top_recycles_and_kills_by_key_and_gives_the_terminal_back(tmp_path: Path) -> None:
    with running() as service:
        service.wait_ready()
        top = Terminal(["top"], environment(service), tmp_path)
        first = top.wait_for(_line("tts-1 "))
        assert first.startswith("ok  voice-engine")
        assert len(first.splitlines()) == 24
        top.wait_for(_line("stt-1 .* ▁"))

        # From tts-1 two lines down: over the template of stt, to its worker.
        top.press(DOWN + DOWN + "r")
        recycled = service.wait_for("recycled", child="stt-1")
        told = service.wait_for("act", act="recycle", target="stt-1")
        assert told["why"] == "by hand, in voice-engine top"
        successor = recycled["successor"]
        top.wait_for(lambda text: _line(f"{successor} ")(text) and not _line("stt-1 ")(text))
        top.wait_for(lambda text: "stt-1: recycling" in text and " recycled " in text)

        top.press("k")
        top.wait_for(f"kill {successor}? y/n")
        top.press("n")
        top.wait_for("q quit")
        top.press("k")
        top.wait_for(f"kill {successor}? y/n")
        top.press("y")
        service.wait_for("act", act="kill", target=successor)

        top.press("p")
        top.wait_for(_line("stt +paused "))
        top.press("p")
        top.wait_for(_line("stt +SERVING "))

        top.press("q")
        assert top.end() == 0
        assert _given_back(top)
        kills = [each for each in service.events if each.get("act") == "kill"]
        assert [each["target"] for each in kills] == [successor]


def _given_back(terminal: Terminal) -> bool:
    """Whether keys are as before, and the last words were: your own screen, your cursor."""
    last = terminal.output[terminal.output.rindex(b"\x1b[?1049") :]
    return terminal.cooked and last.startswith(b"\x1b[?1049l") and b"\x1b[?25l" not in last


@pytest.mark.parametrize("end", ["interrupt", "terminate", "hang up"])
def test_top_gives_the_terminal_back_however_it_ends(
    service: RunningService, end: str, tmp_path: Path
) -> None:
    top = Terminal(["top"], environment(service), tmp_path)
    top.wait_for(_line("tts-1 "))
    assert not top.is_cooked()
    if end == "interrupt":
        top.press(INTERRUPT)
    else:
        top.process.kill(signal.SIGTERM if end == "terminate" else signal.SIGHUP)
    assert top.end() == 130
    assert _given_back(top)


def test_top_outlives_the_service_and_follows_the_next_one(tmp_path: Path) -> None:
    with running() as service:
        service.wait_ready()
        port = str(service.port)
        top = Terminal(["top"], environment(service), tmp_path)
        top.wait_for(_line("tts-1 "))
        service.stop()
        top.wait_for(lambda text: text.startswith("down  no response"))
        assert _line("tts-1 ")(top.text)
        with running({"VOICE_ENGINE_STT_WORKERS": "2"}, ["--port", port]) as second:
            second.wait_ready()
            top.wait_for(lambda text: text.startswith("ok ") and _line("stt-2 ")(text))
            top.press("q")
            assert top.end() == 0


def test_acts_wait_for_their_end_and_say_why(tmp_path: Path) -> None:
    with running(_PARALLEL) as service:
        service.wait_ready()

        def done(*arguments: str) -> str:
            finished = command(*arguments, "--reason", "a test", service=service)
            assert (finished.returncode, finished.stdout) == (0, ""), finished
            return finished.stderr

        words = done("recycle", "tts-1", "--wait")
        assert words == "tts-1: recycling\ntts-1: replaced by tts-2\n"
        assert _names(service, "tts") == ["tts-2"]

        words = done("recycle", "--all")
        for name in ("tts-2", "stt-1", "stt-2"):
            assert f"{name}: recycling\n" in words
        assert words.count(" is ready\n") == 3
        # One after the other: the next act comes when the successor of the last is READY.
        order = [
            (each["event"], each["model"] if each["event"] == "worker_ready" else each["target"])
            for each in service.events
            if each["event"] in ("worker_ready", "act")
        ][-6:]
        assert order == [
            *(("act", "tts-2"), ("worker_ready", "tts")),
            *(("act", "stt-1"), ("worker_ready", "stt")),
            *(("act", "stt-2"), ("worker_ready", "stt")),
        ]

        (worker,) = _names(service, "tts")
        assert re.search(r"tts-\d+ is ready", done("kill", worker, "--wait"))
        assert "tts-template is ready" in done("kill", "tts-template", "--wait")
        assert done("scale", "tts", "3", "--wait") == "tts: scaling\ntts: 3 ready\n"
        assert len(_names(service, "tts")) == 3
        assert done("reload", "--wait").count("reloaded\n") == 2
        done("pause", "stt")
        assert service.health()["models"]["stt"]["paused"]
        assert command("status", service=service).returncode == 1
        assert command("wait", "--model", "stt", "--timeout", "0", service=service).returncode == 2
        done("resume", "stt")
        assert command("wait", "--model", "stt", service=service).returncode == 0
        assert done("unload", "stt", "--wait") == "stt: unloading\nstt: unloaded\n"
        assert done("log-level", "debug") == "debug: ok\n"
        acts = [each for each in service.events if each["event"] == "act"]
        assert {each["why"] for each in acts} == {"a test"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["recycle", "tts-99"], "voice-engine status"),
        (["kill", "tts-99", "--wait"], "voice-engine status"),
        (["kill", "front"], "voice-engine status"),
        (["pause", "nothing"], "nothing"),
        (["scale", "tts", "60"], "memory"),
        (["wait", "--model", "nothing"], "nothing"),
    ],
)
def test_what_cannot_be_done_is_a_line_and_1(
    service: RunningService, arguments: list[str], words: str
) -> None:
    done = command(*arguments, service=service)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("voice-engine: ")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_reload_that_fails_says_why(tmp_path: Path) -> None:
    load = tmp_path / "load"
    load.write_text("")
    with running({"VOICE_TEST_LOAD": f"@{load}"}) as service:
        service.wait_ready()
        load.write_text("raise no weights")
        done = command("reload", "tts", "--wait", service=service)
        assert done.returncode == 1
        assert "no weights" in done.stderr.splitlines()[-1]


def test_events_follow_until_the_service_ends(tmp_path: Path) -> None:
    with running() as service:
        service.wait_ready()
        kept = command("events", "--json", service=service)
        names = [json.loads(line)["event"] for line in kept.stdout.splitlines()]
        assert names[0] == "listening"
        assert {"template_ready", "worker_ready"} <= set(names)
        following = Terminal(["events", "--follow"], environment(service), tmp_path, columns=120)
        following.wait_for(lambda text: text.count("worker_ready") == 2)
        assert command("recycle", "tts-1", service=service).returncode == 0
        following.wait_for(lambda text: "successor=tts-2" in text)
        service.stop()
        following.wait_for("stopping")
        following.end()


# The examples of the help


def test_every_example_of_the_help_works(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    program = programs / "voice-engine"
    python = shlex.quote(sys.executable)
    program.write_text(f'#!/bin/sh\nexec {python} -m supervisor.cli "$@"\n')
    program.chmod(0o755)
    here = tmp_path / "here"
    (here / "more").mkdir(parents=True)
    (here / "interviews").mkdir()
    (here / "voice-engine.env").write_text("VOICE_ENGINE_THREADS=1\n")
    # Weights that are there already are not downloaded.
    for name in ("pocket", "sensevoice"):
        for file in ENGINES[name].files:
            (here / "models" / file).parent.mkdir(parents=True, exist_ok=True)
            (here / "models" / file).touch()
    (here / "models" / "pocket-tts" / "voices").mkdir()

    with running(MINIMAL) as service:
        service.wait_ready()
        variables = environment(service, PATH=f"{programs}:{os.environ['PATH']}")
        speech = command("say", "Hello.", "-o", "me.wav", service=service, folder=here)
        assert speech.returncode == 0, speech.stderr
        shutil.copy(here / "me.wav", here / "interviews")
        shutil.copy(here / "me.wav", here / "more" / "one.mp3")

        for example in _examples():
            if example.startswith("voice-engine top"):
                shown = Terminal(example.split()[1:], variables, here)
                shown.wait_for("q quit")
                shown.press("q")
                assert shown.end() == 0, example
                continue
            if example.startswith("voice-engine serve"):
                _serve(example, variables, here)
                continue
            done = subprocess.run(
                ["bash", "-c", example],
                env=variables,
                cwd=here,
                capture_output=True,
                text=True,
                timeout=NET,
                check=False,
            )
            # What doctor finds depends on the machine.
            expected = (0, 1, 2) if "doctor" in example else (0,)
            assert done.returncode in expected, (example, done.stdout, done.stderr)
        several = ("voices", "add", "both", "me.wav", "hello.wav", "--consent", "a test")
        assert command(*several, service=service, folder=here).returncode == 0
        listed = json.loads(command("voices", "ls", "--json", service=service).stdout)["voices"]
        (both,) = [voice for voice in listed if voice["voice_id"] == "both"]
        assert (len(both["samples"]), both["consent"]) == (2, "a test")

        # Its weights are there, but empty.
        spoilt = ("models", "verify", "pocket", "--folder", "models")
        verified = command(*spoilt, service=service, folder=here)
        assert verified.returncode == 1
        assert verified.stdout.startswith("pocket      failed ")
    assert (here / "anna.wav").read_bytes() == (here / "me.wav").read_bytes()
    for made in ("hello.wav", "fast.mp3", "mine.wav", "interviews/me.srt", "more/one.srt"):
        assert (here / made).stat().st_size > 0, made


def _examples() -> list[str]:
    """All but those that need a cluster, which tests/cluster has."""
    found = [example for each in COMMANDS.values() for example in examples_of(each.epilog)]
    return [example for example in found if not example.startswith("voice-engine cluster")]


def _serve(example: str, variables: dict[str, str], folder: Path) -> None:
    """Start the service as the example does, but on a port that is free, and stop it."""
    line = example.replace("--port 8000", "--port 0")
    assert line != example
    served = subprocess.Popen(
        ["bash", "-c", f"exec {line}"],
        env={**variables, **MINIMAL, "VOICES_DIR": str(folder / "voices")},
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert served.stderr is not None
    with served, served.stderr as log:
        for entry in log:
            if json.loads(entry)["event"] == "listening":
                served.send_signal(signal.SIGTERM)
    assert served.returncode == 0, example
