"""Transcription of sound while it comes, for all APIs. Runs in the front.

    feed() --> inbox --Listen--> vad worker --> windows --> utterance --Transcribe--> stt worker
       ^         |                                              |                         |
       +--waits--+                                              +--> Partial, Final, ... <+

The front decodes nothing: each step of sound goes to a worker and comes back as PCM with the
probabilities of speech, and with the state for the next step. Steps and utterances are ordinary
jobs; so a worker's death costs a replay, and a session without sound has no job at all.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType
from typing import Any

from ipc.engines import Kind
from ipc.errors import ErrorCode, ServiceError
from ipc.operations import (
    AUTO_LANGUAGE,
    LIVE_RATE,
    LIVE_WINDOW,
    MAX_LISTEN_STATE,
    NO_LANGUAGE,
    TRANSCRIPT_SECONDS,
    Effort,
    Listen,
    Listened,
    Paralinguistics,
    SoundFormat,
    Transcribe,
    Transcript,
)
from supervisor.dispatch.cost import Unit, Work
from supervisor.dispatch.job import Job
from supervisor.dispatch.live_sound import LiveSound
from supervisor.dispatch.models import Model
from supervisor.dispatch.response_buffer import SegmentBuffer
from supervisor.http.api.session import Session
from supervisor.http.context import client
from supervisor.http.record import RECORD
from supervisor.http.shared.models import choose
from supervisor.http.shared.tasks import retrieve, stop
from supervisor.http.shared.turns import (
    Cut,
    Paused,
    Resumed,
    Started,
    Stopped,
    Turn,
    Turns,
    TurnSettings,
)
from supervisor.log import logger

TELEPHONE_RATE = 8_000
"""Sample rate in Hz of mu-law and A-law, unless a client says another."""

_BATCH_SECONDS = 0.08
"""How long a step waits for more sound, if there is little."""
_STEP_SECONDS = 0.1
"""So much sound makes a step at once."""
_LARGEST_STEP_SECONDS = 1.0
_PACKED_STEP_BYTES = 16 * 1024
"""The largest step of sound whose seconds only a worker can tell."""
_PARTIAL_SECONDS = 0.3
"""A partial text comes at most so often."""
_PARTIAL_SHARE = 1.5
"""It also begins so many times its own duration after the one before, so that others get a turn."""
_BUSY_SECONDS = 0.1
"""How soon to look again whether the model has a free slot."""
_PARTIAL_PAUSE = 2.0
"""Seconds without partial texts after one that failed."""
_LONGEST_PARTIAL = 60.0
"""A longer utterance, without pauses or ended by the client alone, gets no partial texts."""
_MOST_WAITING = 4
"""So many utterances may wait for their final text before the sound waits, too."""
_SURE = 0.8
"""A language that is so probable is that of what follows, too, unless that is far likelier another.
"""
_EMOTION_AFTER = 3
"""So many partial texts in a row must have the same emotion before it is told."""
_NO_EMOTION = "EMO_UNKNOWN"
_PLAIN: dict[SoundFormat, int] = {"pcm16": 2, "mulaw": 1, "alaw": 1}
"""Bytes of a sample, of formats whose seconds are known from their size."""


@dataclass(frozen=True, slots=True)
class LiveOptions:
    """How a session's sound is transcribed. `turns` None: only the client ends utterances."""

    format: SoundFormat = "pcm16"
    sample_rate: int = LIVE_RATE
    language: str = AUTO_LANGUAGE
    model: str | None = None
    prompt: str | None = None
    interim: bool = True
    words: bool = False
    itn: bool = True
    turns: TurnSettings | None = field(default_factory=TurnSettings)
    hotwords: tuple[str, ...] = ()

    @property
    def bytes_a_second(self) -> int | None:
        """How many bytes a second of sound has; None if only a worker can tell."""
        width = _PLAIN.get(self.format)
        return None if width is None else width * self.sample_rate


class Why(Enum):
    """What ended an utterance."""

    SILENCE = "silence"
    LENGTH = "it was too long"
    COMMIT = "the client"
    END = "the end of the sound"


@dataclass(frozen=True, slots=True)
class Began:
    """An utterance begins `at` so many seconds of the stream."""

    number: int
    at: float


@dataclass(frozen=True, slots=True)
class Ended:
    """It is over; its final text follows."""

    number: int
    start: float
    end: float
    why: Why


@dataclass(frozen=True, slots=True)
class Partial:
    """What it has been so far. `emotion` is there once it is stable."""

    number: int
    start: float
    end: float
    transcript: Transcript
    emotion: Paralinguistics | None


@dataclass(frozen=True, slots=True)
class Final:
    """Its text, once and for all; `start` is what times in the transcript count from."""

    number: int
    start: float
    end: float
    transcript: Transcript


@dataclass(frozen=True, slots=True)
class Failed:
    """Its text cannot be had; the session goes on."""

    number: int
    error: ServiceError


@dataclass(frozen=True, slots=True)
class Broken:
    """The session cannot go on."""

    error: ServiceError


LiveEvent = Began | Ended | Partial | Final | Failed | Broken
Tell = Callable[[LiveEvent], Awaitable[None]]

_SILENCE = Transcript("", "", 0.0, Paralinguistics(NO_LANGUAGE, _NO_EMOTION))


class _Command(Enum):
    COMMIT = "commit"
    CLEAR = "clear"
    END = "end"


class _NoStream:
    """The stream of an operation that has none."""

    size = 0

    def append(self, item: Any) -> None:
        """Nothing comes."""

    def rewind(self) -> None:
        """There is nothing."""

    def finish(self, error: BaseException | None = None) -> None:
        """Nobody reads it."""


@dataclass(slots=True, eq=False)
class _Utterance:
    """One utterance; positions are samples of the stream."""

    number: int
    start: int
    sound: LiveSound
    heard: int = 0
    """Windows that had speech."""
    end: int | None = None
    early: asyncio.Task[Transcript] | None = None
    """The final text, if what was heard before a pause is all."""
    partial: asyncio.Task[None] | None = None
    partial_size: int = 0
    """How many bytes the last partial text was made of."""
    emotions: deque[str] = field(default_factory=lambda: deque(maxlen=_EMOTION_AFTER))

    async def drop(self) -> None:
        """Stop what is going on for it, and forget its sound."""
        await stop((self.early, self.partial))
        await self.sound.close()


class LiveTranscription:
    """The transcription of one session; an async context manager.

    `tell` gets what happens, one event after the other. When the last is `Broken`, nothing more
    happens, and `feed` raises its error.
    """

    def __init__(self, session: Session[Any], options: LiveOptions, tell: Tell) -> None:
        self._session = session
        self._options = options
        self._tell_client = tell
        self._telling = asyncio.Lock()
        self._inbox: deque[bytes | _Command] = deque()
        self._size = 0
        """Bytes of sound in the inbox."""
        self._arrived = asyncio.Event()
        self._taken = asyncio.Event()
        self._state = b""
        self._begun = False
        """Whether sound has come: its format is then what it is."""
        self._position = 0
        """Samples of all windows so far."""
        self._fresh = bytearray()
        """Sound behind the last window."""
        self._ahead = 0
        """How many bytes of it belong to an utterance that is over."""
        self._recent = bytearray()
        """The last sound before `_position`, outside of utterances."""
        self._turns = Turns(options.turns or TurnSettings())
        self._count = 0
        self._open: _Utterance | None = None
        self._over: asyncio.Queue[_Utterance | None] = asyncio.Queue(_MOST_WAITING)
        self._language: str | None = None
        """The last one that was recognized beyond doubt."""
        self._next_partial = 0.0
        self._later: asyncio.TimerHandle | None = None
        self._closed = False
        self._error: ServiceError | None = None
        self._finished = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._left: list[_Utterance] = []
        """Utterances whose final text is still to come."""

    async def __aenter__(self) -> LiveTranscription:
        self._tasks = [asyncio.create_task(self._guarded(each)) for each in self._loops()]
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closed = True
        self._cancel_timer()
        await stop(self._tasks)
        for utterance in (self._open, *self._left):
            if utterance is not None:
                await utterance.drop()

    @property
    def options(self) -> LiveOptions:
        """As they are now."""
        return self._options

    @property
    def buffered(self) -> int:
        """Bytes of sound in memory here: a bound of it is the promise of `feed`."""
        utterances = [each.sound.held for each in (self._open, *self._left) if each is not None]
        return self._size + len(self._fresh) + len(self._recent) + sum(utterances)

    def configure(self, options: LiveOptions) -> None:
        """Use other options from now on. Raises `ServiceError` if it is too late for the format."""
        known = self._options
        if self._begun and (options.format, options.sample_rate) != (
            known.format,
            known.sample_rate,
        ):
            raise ServiceError(
                ErrorCode.invalid_option,
                "sound has come already, so its format cannot change; open another session",
            )
        self._options = options
        if options.turns is not None:
            self._turns.settings = options.turns

    async def feed(self, sound: bytes) -> None:
        """The next sound; waits while there is a second of it that no worker has taken yet.

        Raises `ServiceError` if the session cannot go on.
        """
        self._begun = True
        while self._size >= self._room and self._error is None:
            self._taken.clear()
            await self._taken.wait()
        self._check()
        if sound:
            self._inbox.append(sound)
            self._size += len(sound)
            self._arrived.set()

    def commit(self) -> None:
        """What was fed so far is an utterance: its final text follows, even if it is empty."""
        self._command(_Command.COMMIT)

    def clear(self) -> None:
        """Forget what was fed and has not been an utterance yet."""
        self._command(_Command.CLEAR)

    async def finish(self) -> None:
        """No more sound comes: wait until all that there was has been told."""
        self._command(_Command.END)
        await self._finished.wait()

    # The sound

    @property
    def _room(self) -> int:
        """How many bytes may wait: a second of sound."""
        return self._options.bytes_a_second or _PACKED_STEP_BYTES

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _command(self, command: _Command) -> None:
        self._inbox.append(command)
        self._arrived.set()

    def _loops(self) -> tuple[Coroutine[Any, Any, None], ...]:
        return (self._listen(), self._conclude())

    async def _guarded(self, loop: Coroutine[Any, Any, None]) -> None:
        """Run one of the two loops; its error ends the session."""
        try:
            await loop
        except ServiceError as error:
            await self._break(error)
        except ConnectionError:
            await self._break(ServiceError(ErrorCode.cancelled, "the client has gone"), tell=False)
        except Exception:
            logger.exception("live_transcription_failed")
            message = "a bug in the service; its log has the details"
            await self._break(ServiceError(ErrorCode.engine_error, message))

    async def _break(self, error: ServiceError, *, tell: bool = True) -> None:
        if self._error is None:
            self._error = error
            self._taken.set()
            try:
                if tell:
                    await self._tell(Broken(error))
            except ConnectionError:
                pass
            finally:
                self._finished.set()

    async def _listen(self) -> None:
        """Take sound out of the inbox, step by step, until the end."""
        await self._step(b"")  # it loads the model, and finds out whether the format can be had
        while True:
            await self._some_sound()
            while self._inbox and isinstance(command := self._inbox[0], _Command):
                self._inbox.popleft()
                if command is _Command.COMMIT:
                    await self._commit(Why.COMMIT)
                elif command is _Command.CLEAR:
                    await self._clear()
                else:
                    await self._step(b"", last=True)
                    if self._open is not None and self._open.sound.size > 2 * LIVE_WINDOW:
                        await self._commit(Why.END)
                    await self._over.put(None)
                    return
            if sound := self._take():
                await self._step(sound)

    async def _some_sound(self) -> None:
        """Wait for a command, or for sound, and then a little for more of it."""
        wanted = int((self._options.bytes_a_second or 0) * _STEP_SECONDS)
        loop = asyncio.get_running_loop()
        end: float | None = None
        while not any(isinstance(each, _Command) for each in self._inbox):
            if self._size:
                end = end or loop.time() + _BATCH_SECONDS
                if self._size >= wanted or loop.time() >= end:
                    return
            self._arrived.clear()
            try:
                async with asyncio.timeout_at(end):
                    await self._arrived.wait()
            except TimeoutError:
                return

    def _take(self) -> bytes:
        """Sound for the next step: at most a second, and none behind a command."""
        rate = self._options.bytes_a_second
        most = _PACKED_STEP_BYTES if rate is None else int(rate * _LARGEST_STEP_SECONDS)
        pieces: list[bytes] = []
        size = 0
        while self._inbox and size < most and isinstance(piece := self._inbox[0], bytes):
            if len(piece) > most - size:
                self._inbox[0] = piece[most - size :]
                piece = piece[: most - size]
            else:
                self._inbox.popleft()
            pieces.append(piece)
            size += len(piece)
        self._size -= size
        if self._size < self._room:
            self._taken.set()
        return b"".join(pieces)

    async def _step(self, sound: bytes, *, last: bool = False) -> None:
        """Let a worker decode `sound` and find the speech in it."""
        options = self._options
        rate = options.bytes_a_second
        operation = Listen(sound, options.format, options.sample_rate, self._state, last)
        work = Work(Unit.SECONDS, len(sound) / rate) if rate else Work(Unit.BYTES, len(sound))
        listened = await _listener(self._session).backend.run(
            self._job(operation, _NoStream(), work)
        )
        if len(listened.state) > MAX_LISTEN_STATE:
            raise ServiceError(ErrorCode.engine_error, "a worker gave back far too large a state")
        if sound or last:  # not after the first step: the format may still change
            self._state = listened.state
        await self._hear(listened)
        self._maybe_partial()

    def _job(self, operation: Any, output: Any, work: Work) -> Job[Any]:
        call = self._session.piece()
        who = client(call.request)
        return Job(operation, output, call.deadline, who, work, continues=call.continues)

    async def _hear(self, listened: Listened) -> None:
        """Go through the new sound window by window."""
        self._fresh += listened.pcm
        for probability in listened.probabilities:
            window = self._fresh[: 2 * LIVE_WINDOW]
            del self._fresh[: 2 * LIVE_WINDOW]
            self._position += LIVE_WINDOW
            new = window[self._ahead :]
            self._ahead = max(0, self._ahead - len(window))
            if self._options.turns is None:
                await self._grow(new, probability)
                continue
            if self._open is not None:
                await self._open.sound.write(new)
                self._open.heard += probability >= self._turns.settings.threshold
            else:
                self._recent += new
                excess = len(self._recent) - 2 * self._turns.needed
                del self._recent[: max(0, excess)]
            for turn in self._turns.feed(probability):
                await self._turn(turn)

    async def _grow(self, new: bytes | bytearray, probability: float) -> None:
        """Without detection of turns, all sound is one utterance until the client ends it."""
        if not new:
            return
        if self._open is None:
            await self._begin(self._position - len(new) // 2, b"")
        assert self._open is not None
        await self._open.sound.write(new)
        self._open.heard += probability >= self._turns.settings.threshold
        if self._open.sound.seconds >= TRANSCRIPT_SECONDS:
            await self._over_now(self._position, Why.LENGTH)

    async def _turn(self, turn: Turn) -> None:
        utterance = self._open
        match turn:
            case Started(at):
                await self._session.admitted()
                behind = min(2 * (self._position - at), len(self._recent))
                before = bytes(self._recent[len(self._recent) - behind :])
                self._recent.clear()
                await self._begin(self._position - behind // 2, before)
                assert self._open is not None
                self._open.heard = 1
            case Paused() if utterance is not None:
                await stop((utterance.partial,))
                utterance.early = asyncio.create_task(self._transcribe(utterance, "soon"))
                utterance.early.add_done_callback(retrieve)
            case Resumed() if utterance is not None:
                await stop((utterance.early,))
                utterance.early = None
            case Stopped(at):
                await self._over_now(at, Why.SILENCE)
            case Cut(at) if utterance is not None:
                await self._drop_attempts(utterance)
                place = max(0, min(2 * (at - utterance.start), utterance.sound.size))
                rest = await utterance.sound.split(place)
                await self._over_now(at, Why.LENGTH)
                await self._session.admitted()
                await self._begin(at, b"", rest)
                assert self._open is not None
                self._open.heard = 1

    async def _begin(self, start: int, sound: bytes, grown: LiveSound | None = None) -> None:
        self._count += 1
        self._open = _Utterance(self._count, start, grown or LiveSound(self._session.service.spool))
        await self._open.sound.write(sound)
        await self._tell(Began(self._count, start / LIVE_RATE))

    async def _over_now(self, end: int, why: Why) -> None:
        """The open utterance is over."""
        utterance = self._open
        if utterance is None:
            return
        utterance.end = max(end, utterance.start)
        await stop((utterance.partial,))
        self._open = None
        self._left.append(utterance)
        ended = Ended(utterance.number, utterance.start / LIVE_RATE, utterance.end / LIVE_RATE, why)
        await self._tell(ended)
        await self._over.put(utterance)

    async def _commit(self, why: Why) -> None:
        """End what there is, also the sound that is no whole window yet."""
        if self._open is None:  # nobody spoke; whoever asks gets an answer
            if self._options.turns is None:
                await self._session.admitted()
            await self._begin(self._position, b"")
        assert self._open is not None
        await self._drop_attempts(self._open)
        await self._open.sound.write(self._fresh[self._ahead :])
        self._ahead = len(self._fresh)
        stopped = self._turns.stop()
        self._turns.reset()
        self._recent.clear()
        end = self._position + len(self._fresh) // 2 if stopped is None else stopped.at
        await self._over_now(end, why)

    async def _clear(self) -> None:
        if self._open is not None:
            await self._open.drop()
            self._open = None
        self._recent.clear()
        self._ahead = len(self._fresh)
        self._turns.reset()

    async def _drop_attempts(self, utterance: _Utterance) -> None:
        await stop((utterance.partial, utterance.early))
        utterance.early = None

    # The texts

    def _model(self) -> Model:
        options = self._options
        model = choose(self._session.call, Kind.STT, model=options.model, language=options.language)
        self._session.call.request[RECORD].model = model.name
        return model

    async def _transcribe(self, utterance: _Utterance, effort: Effort) -> Transcript:
        """The transcript of what there is of an utterance."""
        options, model = self._options, self._model()
        recording = await utterance.sound.recording()
        operation = Transcribe(
            recording,
            options.language,
            options.itn,
            options.words,
            prompt=options.prompt,
            hotwords=options.hotwords,
            effort=effort,
            previous_language=self._language,
        )
        segments = SegmentBuffer()
        work = Work(Unit.SECONDS, utterance.sound.seconds, TRANSCRIPT_SECONDS)
        try:
            transcript: Transcript = await model.backend.run(self._job(operation, segments, work))
            return transcript
        finally:
            segments.close()

    def _maybe_partial(self) -> None:
        """Hear the open utterance again, if the model keeps up."""
        utterance = self._open
        if self._closed or utterance is None or utterance.early is not None:
            return
        if not self._options.interim:
            return
        if self._turns.quiet:  # it would hold up the final text
            return
        running = utterance.partial is not None and not utterance.partial.done()
        new = utterance.sound.size - utterance.partial_size
        if (
            running
            or not utterance.heard
            or new < 2 * LIVE_RATE * _PARTIAL_SECONDS
            or utterance.sound.seconds > _LONGEST_PARTIAL
        ):
            return
        wait = self._next_partial - time.monotonic()
        if wait <= 0 and self._model().backend.busy:
            wait = _BUSY_SECONDS
        if wait > 0:  # perhaps no more sound comes meanwhile
            self._cancel_timer()
            self._later = asyncio.get_running_loop().call_later(wait, self._maybe_partial)
            return
        utterance.partial_size = utterance.sound.size
        utterance.partial = asyncio.create_task(self._partial(utterance))
        utterance.partial.add_done_callback(retrieve)

    def _cancel_timer(self) -> None:
        if self._later is not None:
            self._later.cancel()

    async def _partial(self, utterance: _Utterance) -> None:
        began = time.monotonic()
        end = utterance.start + utterance.sound.size // 2
        try:
            transcript = await self._transcribe(utterance, "draft")
        except ServiceError as error:
            self._next_partial = time.monotonic() + _PARTIAL_PAUSE
            logger.debug("partial_text_failed", error=error.message)
            return
        spent = time.monotonic() - began
        self._next_partial = began + max(_PARTIAL_SECONDS, _PARTIAL_SHARE * spent)
        if not transcript.text:
            return
        said = transcript.paralinguistics
        utterance.emotions.append(said.emotion)
        stable = len(utterance.emotions) == _EMOTION_AFTER and len({*utterance.emotions}) == 1
        partial = Partial(
            utterance.number,
            utterance.start / LIVE_RATE,
            end / LIVE_RATE,
            transcript,
            said if stable and said.emotion != _NO_EMOTION else None,
        )
        await self._tell(partial)
        asyncio.get_running_loop().call_soon(self._maybe_partial)

    async def _conclude(self) -> None:
        """Tell the final texts of utterances, in order, until the end."""
        while (utterance := await self._over.get()) is not None:
            await self._tell(await self._final(utterance))
            self._left.remove(utterance)
            await utterance.drop()
        self._finished.set()

    async def _final(self, utterance: _Utterance) -> Final | Failed:
        assert utterance.end is not None
        try:
            if not utterance.heard or not utterance.sound.size:
                transcript = _SILENCE
            elif utterance.early is not None:
                transcript = await utterance.early
            else:
                transcript = await self._transcribe(utterance, "soon")
        except ServiceError as error:
            return Failed(utterance.number, error)
        said = transcript.paralinguistics
        if (said.language_probability or 0.0) >= _SURE:
            self._language = said.language
        start, end = utterance.start / LIVE_RATE, utterance.end / LIVE_RATE
        return Final(utterance.number, start, end, transcript)

    async def _tell(self, event: LiveEvent) -> None:
        async with self._telling:
            await self._tell_client(event)


def decoded(sound: str, name: str, code: ErrorCode) -> bytes:
    """Sound that came in base64. Raises `ServiceError` with this `code` and the field's `name`."""
    try:
        return base64.b64decode(sound, validate=True)
    except (binascii.Error, ValueError):
        raise ServiceError(
            code, f"{name} is not valid base64; encode the bytes of the sound"
        ) from None


def check_options(session: Session[Any], options: LiveOptions) -> None:
    """Raise `ServiceError` (invalid_option) for a language, or hotwords, that the model refuses."""
    model = choose(session.call, Kind.STT, model=options.model, language=options.language)
    info = model.backend.info
    if info is not None and options.language not in (AUTO_LANGUAGE, *info.languages):
        raise ServiceError(
            ErrorCode.invalid_option,
            f"the engine {info.engine} does not know the language {options.language!r}; send auto, "
            f"or one of {', '.join(info.languages)}",
        )
    if info is not None and options.hotwords and not info.hotwords:
        raise ServiceError(
            ErrorCode.invalid_option,
            f"the engine {info.engine} knows no hotwords; leave hotwords out",
        )


def _listener(session: Session[Any]) -> Model:
    """The model that finds the speech. Raises `ServiceError` if there is none."""
    models = session.service.models.of(Kind.VAD)
    if not models:
        raise ServiceError(
            ErrorCode.model_unavailable,
            "live transcription is off: VOICE_ENGINE_VAD_ENGINE says so, or the container has too "
            "little memory; send whole recordings to /v1/transcribe",
        )
    return models[0]
