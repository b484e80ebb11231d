"""The service's own session for transcription: sound goes as it is said, text comes as it is heard.

Runs in the front. The protocol is described in docs/live.md.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ipc.engines import Kind
from ipc.errors import ErrorCode, ServiceError
from ipc.operations import AUTO_LANGUAGE, LIVE_RATE, SoundFormat, Transcript
from supervisor.http.api.api_model import ApiModel
from supervisor.http.api.operation import Nothing, Operations
from supervisor.http.api.read import read_message
from supervisor.http.api.session import End, Session, session
from supervisor.http.shared.languages import language_code
from supervisor.http.shared.live_transcription import (
    TELEPHONE_RATE,
    Began,
    Broken,
    Ended,
    Failed,
    Final,
    LiveEvent,
    LiveOptions,
    LiveTranscription,
    Partial,
    check_options,
)
from supervisor.http.shared.models import ModelName
from supervisor.http.shared.transcription import Hotwords, Word, read_hotwords
from supervisor.http.shared.turns import TurnSettings

TAG = "Speech"

_DEFAULT = TurnSettings()

# What clients send


class _Message(ApiModel):
    model_config = ConfigDict(extra="ignore")

    type: Literal["start", "commit", "clear", "end"]


class _Vad(ApiModel):
    """When an utterance begins and ends; the names are those of OpenAI's `server_vad`."""

    model_config = ConfigDict(extra="forbid")

    threshold: Annotated[float, Field(ge=0.05, le=0.99)] = _DEFAULT.threshold
    prefix_padding_ms: Annotated[int, Field(ge=0, le=2000)] = _DEFAULT.prefix_ms
    silence_duration_ms: Annotated[int, Field(ge=100, le=5000)] = _DEFAULT.silence_ms
    max_utterance_s: Annotated[float, Field(ge=2, le=60)] = _DEFAULT.longest

    def turns(self) -> TurnSettings:
        return TurnSettings(
            self.threshold,
            self.prefix_padding_ms,
            self.silence_duration_ms,
            longest=self.max_utterance_s,
        )


class _Start(ApiModel):
    """What comes, and how it is transcribed; all of it may be left out."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["start"]
    format: SoundFormat = "pcm16"
    sample_rate: Annotated[int | None, Field(ge=8000, le=48000)] = None
    language: Annotated[str, Field(max_length=32)] = AUTO_LANGUAGE
    model: ModelName | None = None
    prompt: Annotated[str | None, Field(max_length=2000)] = None
    interim: bool = True
    words: bool = False
    itn: bool = True
    hotwords: Hotwords = []
    vad: _Vad | None = _Vad()
    api_key: Annotated[str | None, Field(max_length=1000)] = None

    def options(self) -> LiveOptions:
        rate = TELEPHONE_RATE if self.format in ("mulaw", "alaw") else LIVE_RATE
        return LiveOptions(
            self.format,
            self.sample_rate or rate,
            language_code(self.language),
            self.model,
            self.prompt or None,
            self.interim,
            self.words,
            self.itn,
            None if self.vad is None else self.vad.turns(),
            read_hotwords(self.hotwords),
        )


class _Bare(ApiModel):
    model_config = ConfigDict(extra="forbid")

    type: Literal["commit", "clear", "end"]


# What they get. Times are in seconds of the stream.


class _Started(ApiModel):
    type: Literal["started"] = "started"
    format: SoundFormat
    sample_rate: int


class _SpeechStarted(ApiModel):
    type: Literal["speech_started"] = "speech_started"
    utterance: int
    at: float


class _SpeechStopped(ApiModel):
    type: Literal["speech_stopped"] = "speech_stopped"
    utterance: int
    at: float


class _Partial(ApiModel):
    type: Literal["partial"] = "partial"
    utterance: int
    text: str
    start: float
    end: float
    language: str
    emotion: str | None = None
    emotion_probability: float | None = None


class _Final(ApiModel):
    """It also has the fields of `Paralinguistics`."""

    model_config = ConfigDict(extra="allow")

    type: Literal["final"] = "final"
    utterance: int
    text: str
    start: float
    end: float
    words: list[Word] | None = None


class _Done(ApiModel):
    type: Literal["done"] = "done"


class _Error(ApiModel):
    """With an `utterance` only that one has failed."""

    type: Literal["error"] = "error"
    code: str
    message: str
    utterance: int | None = None


def words_of(transcript: Transcript, start: float) -> list[Word]:
    """The words of an utterance that began `start` seconds after the stream."""
    return [
        Word(word=word.word, start=round(start + word.start, 3), end=round(start + word.end, 3))
        for segment in transcript.segments
        for word in segment.words or ()
    ]


async def transcribe_stream(session: Session[Nothing]) -> None:
    """Transcribe sound while it is said: a WebSocket.

    The client sends `start` with the format and other options, the sound in binary messages, and
    `end`; `commit` ends an utterance and `clear` forgets it. It gets JSON messages: partial texts
    while somebody speaks, and for each utterance a final one with language and emotion.
    docs/live.md describes them.
    """
    try:
        await _Conversation(session).run()
    except ServiceError as error:
        told = _Error(code=error.code.wire_name, message=error.message)
        await session.send_json(told, exclude_none=True)
        raise


class _Conversation:
    """One session."""

    def __init__(self, session: Session[Nothing]) -> None:
        self._session = session
        self._options = LiveOptions()

    async def run(self) -> None:
        """Until the client has all it asked for, or has gone. Raises `ServiceError`."""
        message = await self._session.receive()
        if message is None:
            return
        if isinstance(message, bytes):
            raise ServiceError(
                ErrorCode.invalid_request,
                'the session has not begun; send {"type": "start"} first, then sound',
            )
        self._options = self._started(read_message(message, _Start))
        started = _Started(format=self._options.format, sample_rate=self._options.sample_rate)
        async with LiveTranscription(self._session, self._options, self._tell) as live:
            await self._session.send_json(started)
            while (message := await self._session.receive()) is not None:
                if isinstance(message, bytes):
                    await live.feed(message)
                    continue
                match read_message(message, _Message).type:
                    case "start":
                        raise ServiceError(
                            ErrorCode.invalid_request,
                            "the session has begun already; open another one for other options",
                        )
                    case "end":
                        read_message(message, _Bare)
                        break
                    case "commit":
                        read_message(message, _Bare)
                        live.commit()
                    case "clear":
                        read_message(message, _Bare)
                        live.clear()
            if self._session.end is not End.CLIENT:
                await live.finish()
                await self._session.send_json(_Done())

    def _started(self, start: _Start) -> LiveOptions:
        if start.api_key is not None and self._session.needs_key:
            self._session.authenticate(start.api_key)
        self._session.piece()  # raises if a key is still needed
        options = start.options()
        check_options(self._session, options)
        return options

    async def _tell(self, event: LiveEvent) -> None:
        match event:
            case Began(number, at) if self._options.turns is not None:
                told: BaseModel = _SpeechStarted(utterance=number, at=round(at, 3))
            case Ended(number, _, end, _) if self._options.turns is not None:
                told = _SpeechStopped(utterance=number, at=round(end, 3))
            case Partial(number, start, end, transcript, said):
                told = _Partial(
                    utterance=number,
                    text=transcript.text,
                    start=round(start, 3),
                    end=round(end, 3),
                    language=transcript.paralinguistics.language,
                    emotion=said and said.emotion,
                    emotion_probability=said and said.emotion_probability,
                )
            case Final():
                told = self._final(event)
            case Failed(number, error):
                told = _Error(code=error.code.wire_name, message=error.message, utterance=number)
            case Broken(error):
                told = _Error(code=error.code.wire_name, message=error.message)
            case _:
                return
        await self._session.send_json(told, exclude_none=True)
        if isinstance(event, Broken):
            await self._session.close(1011, event.error.message)

    def _final(self, final: Final) -> _Final:
        transcript = final.transcript
        said: dict[str, Any] = asdict(transcript.paralinguistics)
        return _Final(
            utterance=final.number,
            text=transcript.text,
            start=round(final.start, 3),
            end=round(final.end, 3),
            words=words_of(transcript, final.start) if self._options.words else None,
            **said,
        )


OPERATIONS: Operations = (
    session(
        "/v1/transcribe/stream",
        transcribe_stream,
        kind=Kind.STT,
        summary="Transcribe sound while it is said",
        tag=TAG,
        key_in_message=True,
        protocols=("voice-engine",),
    ),
)
