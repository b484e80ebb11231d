"""Tiny engines with which tests reach every fault of a model. They run in children of the service.

The text of a request is a script of commands separated by ";":

    say N          yield N pieces of 20 ms of a sound that depends on the seed
    own N          hand over N pieces at once, even of a whole answer, that depend on the worker
    mark TEXT      in a stream with times: what was said since the last mark is this sentence
    sleep SECONDS  compute, noticing a cancellation every 10 ms
    work SECONDS   the same, but longer beside others: each adds half of these seconds
    wait PATH      the same until that file is there: a gate which the test opens
    leak MB        keep that much memory for ever
    hang           never come back, deaf to cancellation
    spin           the same, holding the interpreter's lock
    crash          die as if by a fault of the machine code
    exit N         leave with exit code N
    garbage        write nonsense to the pipe of replies
    half PATH      write half a frame there, once: the file at PATH, which must exist, is removed
    nofork PATH    let no process be forked while there is a file at PATH
    print TEXT     write to stdout, below Python
    flood LINES    write so many lines there, as fast as they are taken
    warn TEXT      warn as Python's libraries do
    raise TEXT     fail as a model's bug would
    alarm SECONDS  die so much later
    thread         leave a thread behind, for which the process waits at its end
    live N         let so many requests be live streams from now on (`ScriptedBatch`)
    pid            nothing: for recordings, whose transcript tells the pid in any case
    segment TEXT   hear a sentence of one second

`Script` speaks (its answer is a WAV). `ScriptedBatch` speaks up to four scripts at once, all of
them live, unless the settings say otherwise: while one waits or sleeps, the others go on.
`Voiced` has a voice. `Choosing` makes up a number when it loads, unless it is told one; its sound
depends on it.
`Multiplying` computes with PyTorch besides. `ScriptedRecognizer` transcribes: the script is the
recording, and the transcript too if it has no segments; `raw` is JSON with the worker's pid and the
number of bytes. Nothing here imports numpy at its start: hundreds of tests start these engines.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import random
import signal
import stat
import struct
import tempfile
import threading
import time
import warnings
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

from ipc.codec import encode
from ipc.engines import BuiltinVoice, EngineInfo
from ipc.messages import Pong
from ipc.operations import (
    AnyOperation,
    Paralinguistics,
    Segment,
    SentenceTime,
    Speak,
    SpeechResult,
    SpokenSentence,
    Transcribe,
    Transcript,
)
from ipc.wav_header import wav_header
from model_procs.engine import Cancelled, EngineConfig, Needs, Output

SAMPLE_RATE = 24_000
PIECE = 480

_leaked: list[bytearray] = []


class Script:
    """A speech engine that does as it is told."""

    load_script = "VOICE_TEST_LOAD"
    warm_up_script = "VOICE_TEST_WARM_UP"

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._chosen: dict[str, int] = {}

    @property
    def needs(self) -> Needs:
        """The files of scripts: tests keep them where temporary files are."""
        return Needs(writable=(Path(tempfile.gettempdir()),))

    def load(self) -> None:
        """Load, or fail to, as the script in the environment says."""
        for command, argument in _parse(_setting(self.load_script)):
            _obey(command, argument, threading.Event())

    def warm_up(self) -> None:
        """The same before the first request."""
        for command, argument in _parse(_setting(self.warm_up_script)):
            _obey(command, argument, threading.Event())

    def info(self) -> EngineInfo:
        """As real engines describe themselves."""
        return EngineInfo(engine="script", sample_rate=SAMPLE_RATE, chosen=self._chosen)

    def run(self, operation: AnyOperation, stop: threading.Event) -> Output:
        """Run the script in `text`."""
        assert isinstance(operation, Speak)
        rng = random.Random(operation.sampling.seed + sum(self._chosen.values()))
        samples = 0
        pieces: list[bytes] = []
        marks: list[SentenceTime] = []
        if operation.streamed:
            yield wav_header(SAMPLE_RATE, None)
        for command, argument in _parse(operation.text):
            if command == "say":
                for _ in range(int(argument)):
                    piece = rng.randbytes(2 * PIECE)
                    samples += PIECE
                    if operation.streamed:
                        yield piece
                    else:
                        pieces.append(piece)
            elif command == "mark":
                start = marks[-1].end if marks else 0.0
                place = operation.text.index(argument, marks[-1].source_end if marks else 0)
                said = SentenceTime(
                    argument, start, samples / SAMPLE_RATE, place, place + len(argument)
                )
                marks.append(said)
                if operation.streamed and operation.alignment:
                    yield SpokenSentence(len(marks) - 1, marks[-1])
            elif command == "own":
                for _ in range(int(argument)):
                    yield struct.pack("<h", os.getpid() % 2**15) * PIECE
            else:
                yield from self._wait(command, argument, stop)
        if not operation.streamed:
            yield wav_header(SAMPLE_RATE, samples) + b"".join(pieces)
        return SpeechResult(SAMPLE_RATE, samples)

    def _wait(
        self, command: str, argument: str, stop: threading.Event
    ) -> Generator[None, None, None]:
        """Obey a command that says nothing."""
        _obey(command, argument, stop)
        yield from ()


class ScriptedBatch(Script):
    """A speech engine of capacity 4: scripts that sleep or wait do so together, step by step."""

    def __init__(self, config: EngineConfig) -> None:
        super().__init__(config)
        self.capacity = config.capacity or 4
        self.live = config.live or self.capacity
        self._working = 0

    def wake(self) -> None:
        """Steps are short."""

    def step(self) -> None:
        """Ten milliseconds for all that wait."""
        time.sleep(0.01)

    def _wait(
        self, command: str, argument: str, stop: threading.Event
    ) -> Generator[None, None, None]:
        if command == "sleep":
            end = time.monotonic() + float(argument)
            while time.monotonic() < end:
                yield None
        elif command == "live":
            self.live = int(argument)
        elif command == "work":
            yield from self._work(float(argument))
        elif command == "wait":
            while not Path(argument).exists():
                yield None
        else:
            _misbehave(command, argument)

    def _work(self, seconds: float) -> Generator[None, None, None]:
        """Compute for so long, and longer beside others."""
        self._working += 1
        try:
            before = time.monotonic()
            while seconds > 0:
                yield None
                now = time.monotonic()
                seconds -= (now - before) / (1 + 0.5 * (self._working - 1))
                before = now
        finally:
            self._working -= 1


class Voiced(Script):
    """Has a voice with a name, for clients that must name one."""

    def info(self) -> EngineInfo:
        """As engines describe themselves that have voices."""
        return replace(super().info(), voices=(BuiltinVoice("any", "Any"),), default_voice="any")


class Choosing(Script):
    """Makes up a number when it loads, which all that are loaded later must be told."""

    def load(self) -> None:
        """Choose."""
        self._chosen = {"number": self._config.options.get("number", random.getrandbits(32))}


class Multiplying(Script):
    """Multiplies matrices with PyTorch: in the template, and for each request with all threads."""

    def load(self) -> None:
        """What an engine with PyTorch does, so that its process can be forked."""
        import torch

        torch.set_num_threads(1)
        _multiply()

    def warm_up(self) -> None:
        """Only now there may be more threads."""
        import torch

        torch.set_num_threads(self._config.threads)

    def run(self, operation: AnyOperation, stop: threading.Event) -> Output:
        """Multiply, then obey the text."""
        _multiply()
        return (yield from super().run(operation, stop))


def _multiply() -> None:
    import torch

    matrix = torch.ones(1024, 1024)
    assert (matrix @ matrix).sum() == 1024**3


class ScriptedRecognizer(Script):
    """A transcription engine that does as the recording tells it, and always starts."""

    load_script = warm_up_script = "VOICE_TEST_NOTHING"

    def run(self, operation: AnyOperation, stop: threading.Event) -> Output:
        """Run the script in the recording's bytes; the transcript is the script."""
        assert isinstance(operation, Transcribe)
        data = operation.recording.data
        if data is None:
            data = Path(str(operation.recording.path)).read_bytes()
        script = data.rstrip(b"\0").decode()
        told = Paralinguistics("en", "NEUTRAL", ("Speech",))
        segments: list[Segment] = []
        for command, argument in _parse(script):
            if command == "segment":
                number = len(segments)
                segments.append(Segment(number, number, number + 1, argument, told))
                if operation.streamed:
                    yield segments[-1]
            else:
                _obey(command, argument, stop)
        return Transcript(
            text=" ".join(segment.text for segment in segments) or script,
            raw=json.dumps({"pid": os.getpid(), "bytes": len(data)}),
            duration=len(segments),
            paralinguistics=told,
            segments=tuple(segments),
        )


class ScriptedTranslator(ScriptedRecognizer):
    """The same, but it also translates; `raw` has the options of the request instead."""

    def info(self) -> EngineInfo:
        """As engines describe themselves that translate."""
        return EngineInfo(engine="translator", sample_rate=SAMPLE_RATE, translates=True)

    def run(self, operation: AnyOperation, stop: threading.Event) -> Output:
        """Run the script; `raw` is JSON with the options."""
        result = yield from super().run(operation, stop)
        assert isinstance(operation, Transcribe)
        assert isinstance(result, Transcript)
        options = {
            "prompt": operation.prompt,
            "temperature": operation.temperature,
            "translate": operation.translate,
        }
        return replace(result, raw=json.dumps(options))


def _setting(name: str) -> str:
    """The environment's word, or that of the file it names: tests change a file while it runs."""
    value = os.environ.get(name, "")
    return Path(value[1:]).read_text() if value.startswith("@") else value


def obey_script(script: str, stop: threading.Event) -> None:
    """Obey the commands of a script that need no model."""
    for command, argument in _parse(script):
        _obey(command, argument, stop)


def _parse(script: str) -> list[tuple[str, str]]:
    commands = [command.strip() for command in script.split(";")]
    return [
        (command.split(" ", 1)[0], command.split(" ", 1)[1] if " " in command else "")
        for command in commands
        if command
    ]


def _obey(command: str, argument: str, stop: threading.Event) -> None:
    if command in ("sleep", "work"):
        end = time.monotonic() + float(argument)
        while time.monotonic() < end:
            if stop.wait(0.01):
                raise Cancelled
    elif command == "wait":
        while not Path(argument).exists():
            if stop.wait(0.01):
                raise Cancelled
    else:
        _misbehave(command, argument)


def _misbehave(command: str, argument: str) -> None:
    match command:
        case "leak":
            _leaked.append(bytearray(b"\1") * (int(argument) * 1024 * 1024))
        case "hang":
            threading.Event().wait()
        case "spin":
            ctypes.PyDLL(None).pause()
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "exit":
            os._exit(int(argument))
        case "print" | "flood":
            text = argument if command == "print" else "\n".join("x" * int(argument))
            lines = memoryview(f"{text}\n".encode())
            while lines:
                lines = lines[os.write(1, lines) :]
        case "warn":
            warnings.warn(argument, stacklevel=1)
        case "raise":
            raise RuntimeError(argument)
        case "alarm":
            signal.setitimer(signal.ITIMER_REAL, float(argument))
        case "thread":
            threading.Thread(target=threading.Event().wait).start()
        case _:
            _tamper(command, argument)


def _tamper(command: str, argument: str) -> None:
    match command:
        case "garbage":
            write_to_pipes(b"\xff" * 64)
        case "half":
            _write_half_a_frame(Path(argument))
        case "nofork":
            _forbid_fork(Path(argument))


def _write_half_a_frame(once: Path) -> None:
    if once.exists():
        once.unlink()
        frame = encode(Pong(1))
        write_to_pipes(frame[: len(frame) // 2])


def _forbid_fork(while_there: Path) -> None:
    fork = os.fork

    def fork_or_fail() -> int:
        if while_there.exists():
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return fork()

    os.fork = fork_or_fail


def write_to_pipes(data: bytes) -> None:
    """A model that writes to descriptors that are not its own: every pipe it finds but its log."""
    for descriptor in range(3, 256):
        try:
            is_pipe = stat.S_ISFIFO(os.fstat(descriptor).st_mode)
            writable = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
        except OSError:
            continue
        if is_pipe and writable:
            os.write(descriptor, data)
