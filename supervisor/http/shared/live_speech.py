"""Speech of a text that is still being written, for all APIs. Runs in the front.

    add() --> LiveText --take()--> a piece --Speak--> a worker --> Listener.heard()
                 ^                                                    |
                 +---- what comes meanwhile waits for the next piece -+

Each piece is an ordinary job: it is admitted, waits for its turn, and is replayed when its worker
dies. So nothing that is said of requests is different for sessions, and one that says nothing costs
no worker.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Protocol

from ipc.errors import ErrorCode, ServiceError
from ipc.operations import MAX_SEED, Sampling, SentenceTime, Speak, SpeechResult, Voice
from supervisor.dispatch.job import Job
from supervisor.dispatch.models import Model
from supervisor.dispatch.sentence_buffer import SentenceBuffer, SpokenAudio
from supervisor.http.api.operation import Call
from supervisor.http.api.session import Session
from supervisor.http.shared.character_times import CharacterTimes, TextAligner, align_sentence
from supervisor.http.shared.joined_sound import JoinedSound
from supervisor.http.shared.live_text import LONGEST, LiveText
from supervisor.http.shared.synthesis import named, prepare, sound_rate
from supervisor.http.shared.tasks import retrieve
from supervisor.http.shared.voice_names import resolve_voice

PAUSE_SECONDS = 0.7
"""When no text has come for so long, what there is is spoken without waiting for its sentence."""

MOST_WAITING = 20_000
"""So many characters may wait to be spoken; a client that sends more waits, too."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How the pieces of a text are spoken; the fields are those of `Speak`."""

    sampling: Sampling
    response_format: str
    voice: str | None = None
    """As the client names it."""
    model: str | None = None
    sample_rate: int | None = None
    bit_rate: int | None = None
    speed: float = 1.0
    normalize: bool = True
    language: str | None = None

    def speech(self, text: str, voice: Voice, sentences: int) -> Speak:
        """The operation for a piece, before which there were so many sentences.

        Each sentence has its own seed. So it sounds the same in whatever piece it comes.
        """
        seed = (self.sampling.seed + sentences) % MAX_SEED
        return Speak(
            text,
            voice,
            replace(self.sampling, seed=seed),
            self.response_format,
            streamed=True,
            sample_rate=self.sample_rate,
            bit_rate=self.bit_rate,
            speed=self.speed,
            alignment=True,
            normalize=self.normalize,
            language=self.language,
            silence=True,
        )


@dataclass(frozen=True, slots=True)
class LiveSentence:
    """A sentence that has been spoken, or what else of a text was passed over.

    Times are in seconds of all the sound. `text` is the part of the client's text that it stands
    for; all of them together are the text. `source` has the times of its characters, `spoken` those
    of the characters as they were spoken, `words` those of its words, if the engine knows them.
    """

    text: str
    start: float
    end: float
    begin: float
    """Where the times of `source` begin: the end of the sentence before."""
    source: CharacterTimes
    spoken: CharacterTimes
    words: tuple[tuple[str, float, float], ...] = ()
    last: bool = False
    """Whether its piece ends with it."""


@dataclass(frozen=True, slots=True)
class LiveSound:
    """The next bytes of the sound, and the sentence that ends with them; None: it goes on."""

    audio: bytes
    sentence: LiveSentence | None


class Listener(Protocol):
    """Who gets the sound of a text."""

    async def heard(self, sound: LiveSound) -> None:
        """The next sound."""

    async def flushed(self) -> None:
        """All has been spoken that had come before a flush."""

    async def failed(self, error: ServiceError, text: str) -> None:
        """The piece `text` could not be spoken, or not to its end. Raise `error` to give up."""


class LiveSpeech:
    """Speaks one text as it comes. `run` it in a task; cancel that to stop within a moment."""

    def __init__(
        self,
        session: Session[Any],
        manner: Manner,
        listener: Listener,
        *,
        schedule: tuple[int, ...] = (),
    ) -> None:
        self.manner = manner
        self.model: Model | None = None
        """Who speaks; None until there was a piece."""
        self.said = 0
        """How many characters have been spoken, up to the last sentence that is complete."""
        self._session = session
        self._listener = listener
        self._text = LiveText(schedule, min(LONGEST, session.service.settings.max_text_chars))
        self._ended = False
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self.came = 0
        """How many characters have come."""
        self._left = 0
        """How many of them do not wait any more."""
        self._flushes: deque[int] = deque()
        self._sound: JoinedSound | None = None
        self._sentences = 0
        self._last_push = 0.0

    @property
    def seconds(self) -> float:
        """How long the sound is that was made so far."""
        return 0.0 if self._sound is None else self._sound.seconds

    @property
    def silent(self) -> bool:
        """Whether no sound has been made yet."""
        return self.seconds == 0

    async def room(self) -> None:
        """Wait until more text can be taken."""
        await self._room.wait()

    def add(self, text: str, *, whole: bool = False) -> None:
        """More text. `whole`: it ends where a sentence does, if it looks like that."""
        self.came += len(text)
        self._text.push(text, whole=whole)
        self._last_push = asyncio.get_running_loop().time()
        if len(self._text) >= MOST_WAITING:
            self._room.clear()
        self._changed.set()

    def flush(self) -> None:
        """Speak all that has come, and tell when that is done."""
        self._text.flush()
        self._flushes.append(self.came)
        self._changed.set()

    def trigger(self) -> None:
        """Speak what has come, if it is not too little."""
        self._text.trigger()
        self._changed.set()

    def end(self) -> None:
        """No more text comes: speak what has come, then `run` ends."""
        self._ended = True
        self._text.flush()
        self._changed.set()

    async def run(self) -> None:
        """Speak until all is said after `end`. Raises what `Listener.failed` raises."""
        while (piece := await self._next()) is not None:
            try:
                await self._speak(piece)
            except ServiceError as error:
                await self._listener.failed(error, piece)
            self._left += len(piece)

    async def _next(self) -> str | None:
        """The next piece, once there is one; None when no more comes."""
        while True:
            self._changed.clear()
            while self._flushes and self._flushes[0] <= self._left:
                self._flushes.popleft()
                await self._listener.flushed()
            if piece := self._text.take():
                if len(self._text) < MOST_WAITING:
                    self._room.set()
                if piece.strip():
                    return piece
                self._left += len(piece)
                continue
            if self._ended:
                return None
            waits = bool(len(self._text)) and self._text.speakable and not self._text.schedule
            try:
                async with asyncio.timeout_at(self._last_push + PAUSE_SECONDS if waits else None):
                    await self._changed.wait()
            except TimeoutError:
                self._text.hurry()
                if piece := self._text.take():
                    return piece
                await self._changed.wait()  # a word that has begun; it needs more

    async def _speak(self, piece: str) -> None:
        """Speak one piece. Raises `ServiceError`."""
        await self._session.admitted()
        call = self._session.piece()
        voice_id = await resolve_voice(call, self.manner.voice, model=self.manner.model)
        async with named(call, voice_id) as voice:
            speech = self.manner.speech(piece, voice, self._sentences)
            while True:
                try:
                    await self._once(call, speech)
                    return
                except ServiceError as error:
                    wait = error.retry_after or 1.0
                    late = time.monotonic() + wait > call.deadline
                    if error.code is not ErrorCode.overloaded or late:
                        raise
                # A client that sends requests would try again; in a session only we can.
                await asyncio.sleep(wait)

    async def _once(self, call: Call[Any, Any], speech: Speak) -> None:
        buffer = SentenceBuffer(call.service.spool, at_once=True)
        model, job = prepare(call, speech, self.manner.model, buffer)
        times: _Times | None = None
        async with aclosing(_sound_of(model, job, buffer)) as sounds:
            async for part in sounds:
                if self._sound is None:
                    rate = sound_rate(model, speech)
                    self._sound = JoinedSound(speech.response_format, rate, speech.bit_rate)
                if times is None:
                    self.model = model
                    self._sound.begin()
                    times = _Times(speech.text, self._sound.seconds)
                sentence = None
                if part.sentence is not None:
                    self._sentences += bool(part.sentence.time.text)
                    sentence = times.next(part.sentence.time, last=part.sentence.last)
                await self._hear(self._sound.feed(part.audio), sentence)
        if times is not None and job.result is not None:
            await self._hear(b"", times.rest(job.result.duration))

    async def _hear(self, audio: bytes, sentence: LiveSentence | None) -> None:
        if sentence is not None:
            self.said += len(sentence.text)
        if audio or sentence is not None:
            await self._listener.heard(LiveSound(audio, sentence))


async def _sound_of(
    model: Model, job: Job[SpeechResult], buffer: SentenceBuffer
) -> AsyncGenerator[SpokenAudio, None]:
    """Run `job`, and yield its sound as it is made. Closed early, it cancels the job."""
    running = asyncio.create_task(model.backend.run(job))
    running.add_done_callback(retrieve)
    try:
        while (part := await buffer.read()) is not None:
            yield part
        await running
    finally:
        running.cancel()
        buffer.close()


class _Times:
    """The times of the sentences of one piece, which begins at `begin` seconds of all sound."""

    def __init__(self, text: str, begin: float) -> None:
        self._text = text
        self._begin = begin
        self._aligner = TextAligner(text)
        self._place = 0
        self._clock = 0.0
        self._any = False

    def next(self, time: SentenceTime, *, last: bool) -> LiveSentence:
        """The next sentence; the last one has all the text that is left."""
        source = self._aligner.next(time)
        if last:
            rest = self._aligner.rest(time.end)
            for name in CharacterTimes.model_fields:
                getattr(source, name).extend(getattr(rest, name))
        spoken = align_sentence(time, self._clock if self._any else None)
        words = tuple(
            (self._text[word.source_start : word.source_end], word.start, word.end)
            for word in time.words
            if word.source_end > word.source_start
        )
        return self._sentence(source, spoken, time.start, time.end, words)

    def rest(self, duration: float) -> LiveSentence | None:
        """What is left of the text when the piece is over; None if it is nothing."""
        if self._place >= len(self._text):
            return None
        rest = self._aligner.rest(duration)
        return self._sentence(rest, rest, self._clock, max(self._clock, duration))

    def _sentence(
        self,
        source: CharacterTimes,
        spoken: CharacterTimes,
        start: float,
        end: float,
        words: tuple[tuple[str, float, float], ...] = (),
    ) -> LiveSentence:
        begin, self._clock, self._any = self._begin + self._clock, end, True
        text = "".join(source.characters)
        self._place += len(text)
        return LiveSentence(
            text,
            round(self._begin + start, 3),
            round(self._begin + end, 3),
            round(begin, 3),
            _later(source, self._begin),
            _later(spoken, self._begin),
            tuple(
                (word, round(self._begin + a, 3), round(self._begin + b, 3)) for word, a, b in words
            ),
            last=self._place >= len(self._text),
        )


def _later(times: CharacterTimes, seconds: float) -> CharacterTimes:
    return CharacterTimes(
        characters=times.characters,
        character_start_times_seconds=[
            round(each + seconds, 3) for each in times.character_start_times_seconds
        ],
        character_end_times_seconds=[
            round(each + seconds, 3) for each in times.character_end_times_seconds
        ],
    )
