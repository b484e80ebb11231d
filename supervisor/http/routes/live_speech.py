"""The service's own session for speech: text comes as it is written, sound goes as it is made.

Runs in the front. The protocol is described in docs/live.md.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from ipc.engines import EngineInfo, Kind
from ipc.errors import ErrorCode, ServiceError
from ipc.formats import FORMATS
from supervisor.http.api.api_model import ApiModel
from supervisor.http.api.operation import Nothing, Operations
from supervisor.http.api.read import read_message
from supervisor.http.api.session import End, Session, session
from supervisor.http.shared.joined_sound import LiveFormat
from supervisor.http.shared.live_speech import MOST_WAITING, LiveSound, LiveSpeech, Manner
from supervisor.http.shared.models import ModelName, choose
from supervisor.http.shared.synthesis import (
    CfgGuidance,
    DecodeSteps,
    EosThreshold,
    NoiseClamp,
    Rate,
    Seed,
    Speed,
    Temperature,
    TextLanguage,
    TextNormalization,
    named,
    sampling,
    text_language,
)
from supervisor.http.shared.tasks import stop
from supervisor.http.shared.voice_names import VoiceChoice, resolve_voice

TAG = "Speech"

# What clients send


class _Message(ApiModel):
    model_config = ConfigDict(extra="ignore")

    type: Literal["start", "text", "flush", "cancel", "end"]


class _Start(ApiModel):
    """How to speak; all of it may be left out."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["start"]
    voice: VoiceChoice | None = None
    model: ModelName | None = None
    format: LiveFormat = "pcm"
    sample_rate: Rate | None = None
    speed: Speed | None = None
    language: TextLanguage | None = None
    text_normalization: TextNormalization = "auto"
    seed: Seed | None = None
    temperature: Temperature | None = None
    decode_steps: DecodeSteps | None = None
    eos_threshold: EosThreshold | None = None
    noise_clamp: NoiseClamp | None = None
    cfg_guidance: CfgGuidance | None = None
    api_key: Annotated[str | None, Field(max_length=1000)] = None

    def manner(self) -> Manner:
        return Manner(
            sampling(
                self.seed,
                temperature=self.temperature,
                decode_steps=self.decode_steps,
                eos_threshold=self.eos_threshold,
                noise_clamp=self.noise_clamp,
                cfg_guidance=self.cfg_guidance,
            ),
            self.format,
            voice=self.voice,
            model=self.model,
            sample_rate=self.sample_rate,
            speed=1.0 if self.speed is None else self.speed,
            normalize=self.text_normalization == "auto",
            language=text_language(self.language),
        )


class _Text(ApiModel):
    model_config = ConfigDict(extra="forbid")

    type: Literal["text"]
    text: Annotated[str, Field(max_length=MOST_WAITING)]
    flush: bool = False


class _Bare(ApiModel):
    model_config = ConfigDict(extra="forbid")

    type: Literal["flush", "cancel", "end"]


# What they get


class _Started(ApiModel):
    type: Literal["started"] = "started"
    engine: str
    format: str
    sample_rate: int
    approximation: str | None = None


class _Word(ApiModel):
    word: str
    start: float
    end: float


class _Sentence(ApiModel):
    type: Literal["sentence"] = "sentence"
    text: str
    start: float
    end: float
    words: list[_Word]


class _Flushed(ApiModel):
    type: Literal["flushed"] = "flushed"
    seconds: float


class _Cancelled(ApiModel):
    type: Literal["cancelled"] = "cancelled"
    characters: int
    seconds: float


class _Done(ApiModel):
    type: Literal["done"] = "done"
    seconds: float


class _Error(ApiModel):
    type: Literal["error"] = "error"
    code: str
    message: str
    text: str | None = None


async def tts_stream(session: Session[Nothing]) -> None:
    """Speak a text while it is written: a WebSocket.

    The client sends JSON messages: `start` with the voice and other options, `text` as it is
    written, `flush`, `cancel` (the person has begun to speak) and `end`. It gets the sound in
    binary messages, and JSON messages that tell what was said when. docs/live.md describes them.
    """
    conversation = _Conversation(session)
    try:
        await conversation.run()
    finally:
        await conversation.stop()


class _Conversation:
    """One session. It is the `Listener` of its speech."""

    def __init__(self, session: Session[Nothing]) -> None:
        self._session = session
        self._manner: Manner | None = None
        self._speech: LiveSpeech | None = None
        self._speaking: asyncio.Task[None] | None = None
        self._ended = False
        self._changed = asyncio.Event()
        """Whether one of its tasks may be done."""

    async def run(self) -> None:
        """Until the client has all it asked for, or has gone."""
        reading = asyncio.create_task(self._read())
        reading.add_done_callback(self._note)
        try:
            while not (reading.done() or (self._speaking and self._speaking.done())):
                self._changed.clear()
                await self._changed.wait()
        finally:
            reading.cancel()
            await asyncio.wait({reading})
        if not reading.cancelled():
            reading.result()
        if self._session.end is End.CLIENT:
            return
        if self._speech is not None and self._speaking is not None:
            self._speech.end()
            await self._speaking  # raises what has made it fail
        if self._ended:
            await self._session.send_json(_Done(seconds=self._seconds()))

    async def stop(self) -> None:
        """Stop to speak at once."""
        speaking, self._speaking = self._speaking, None
        await stop((speaking,))
        self._speech = None

    async def heard(self, sound: LiveSound) -> None:
        if sound.audio:
            await self._session.send(sound.audio)
        said = sound.sentence
        if said is not None:
            words = [_Word(word=word, start=start, end=end) for word, start, end in said.words]
            await self._session.send_json(
                _Sentence(text=said.text, start=said.start, end=said.end, words=words)
            )

    async def flushed(self) -> None:
        await self._session.send_json(_Flushed(seconds=self._seconds()))

    async def failed(self, error: ServiceError, text: str) -> None:
        if error.code is ErrorCode.unauthorized:
            raise error
        await self._tell(error, text)

    async def _read(self) -> None:
        """Obey what the client sends, until no more comes."""
        while not self._ended:
            message = await self._session.receive()
            if message is None:
                return
            try:
                await self._obey(message)
            except ServiceError as error:
                await self._tell(error)
                if error.code is ErrorCode.unauthorized:
                    raise
        # All has come. Notice when the client goes before it has heard all of it.
        while (message := await self._session.receive()) is not None:
            with contextlib.suppress(ServiceError):
                if read_message(message, _Message).type == "cancel":
                    await self._cancel()
                    return

    async def _obey(self, message: str | bytes) -> None:
        match read_message(message, _Message).type:
            case "start":
                await self._start(read_message(message, _Start))
            case "text":
                fields = read_message(message, _Text)
                speech = await self._begun()
                await speech.room()
                speech.add(fields.text)
                if fields.flush:
                    speech.flush()
            case "flush":
                read_message(message, _Bare)
                (await self._begun()).flush()
            case "cancel":
                read_message(message, _Bare)
                await self._cancel()
            case "end":
                read_message(message, _Bare)
                (await self._begun()).end()
                self._ended = True

    async def _start(self, start: _Start) -> None:
        if self._manner is not None:
            raise ServiceError(
                ErrorCode.invalid_request,
                "the session has begun already; send start first, or open another session",
            )
        if start.api_key is not None and self._session.needs_key:
            self._session.authenticate(start.api_key)
        call, manner = self._session.piece(), start.manner()
        voice = await resolve_voice(call, manner.voice, model=manner.model)
        async with named(call, voice) as known:
            chosen = choose(
                call, Kind.TTS, model=manner.model, voice=known.builtin, language=manner.language
            )
        info = await chosen.backend.known_info()
        if not isinstance(info, EngineInfo):
            raise ServiceError(
                ErrorCode.model_unavailable,
                f"the model for {chosen.name} has not loaded; try again",
                retry_after=max(1.0, chosen.backend.retry_after),
            )
        self._manner = manner
        rate = FORMATS[manner.response_format].rate(manner.sample_rate or info.sample_rate)
        await self._session.send_json(
            _Started(
                engine=chosen.backend.engine.name,
                format=manner.response_format,
                sample_rate=rate,
                approximation=info.approximation if known.recording is not None else None,
            ),
            exclude_none=True,
        )

    async def _begun(self) -> LiveSpeech:
        """The speech that more text belongs to."""
        if self._manner is None:
            await self._start(_Start(type="start"))
        assert self._manner is not None
        if self._speech is None:
            self._speech = LiveSpeech(self._session, self._manner, self)
            self._speaking = asyncio.create_task(self._speech.run())
            self._speaking.add_done_callback(self._note)
        return self._speech

    async def _cancel(self) -> None:
        """Stop to speak, and forget what was not spoken. What comes next is a new stream."""
        speech = self._speech
        await self.stop()
        said, seconds = (0, 0.0) if speech is None else (speech.said, speech.seconds)
        await self._session.send_json(_Cancelled(characters=said, seconds=round(seconds, 3)))

    def _note(self, _: asyncio.Task[None]) -> None:
        self._changed.set()

    def _seconds(self) -> float:
        return 0.0 if self._speech is None else round(self._speech.seconds, 3)

    async def _tell(self, error: ServiceError, text: str | None = None) -> None:
        told = _Error(code=error.code.wire_name, message=error.message, text=text)
        await self._session.send_json(told, exclude_none=True)


OPERATIONS: Operations = (
    session(
        "/v1/tts/stream",
        tts_stream,
        kind=Kind.TTS,
        summary="Speak a text while it is written",
        tag=TAG,
        key_in_message=True,
        protocols=("voice-engine",),
    ),
)
