"""OpenAI's realtime session for transcription. Runs in the front.

Names and shapes are those of the openai SDKs (`openai.types.realtime`), those of the beta included:
there the session is `transcription_session`, and its fields are flat.
"""

from __future__ import annotations

import uuid
from dataclasses import asdict, replace
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from ipc.engines import Json, Kind
from ipc.errors import ErrorCode, ServiceError
from ipc.operations import SoundFormat
from supervisor.http.api.api_model import ApiModel
from supervisor.http.api.operation import Operations
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
    Why,
    check_options,
    decoded,
)
from supervisor.http.shared.stable_text import StableText
from supervisor.http.shared.turns import TurnSettings

_RATE = 24_000
"""Sample rate in Hz of OpenAI's pcm16."""

_FORMATS: dict[str, tuple[SoundFormat, int]] = {
    "pcm16": ("pcm16", _RATE),
    "audio/pcm": ("pcm16", _RATE),
    "g711_ulaw": ("mulaw", TELEPHONE_RATE),
    "audio/pcmu": ("mulaw", TELEPHONE_RATE),
    "g711_alaw": ("alaw", TELEPHONE_RATE),
    "audio/pcma": ("alaw", TELEPHONE_RATE),
}
"""OpenAI's names of formats, in both versions."""

_DEFAULT = TurnSettings()

_TEXT = "conversation.item.input_audio_transcription"


class TranscriptionSessionParams(ApiModel):
    """What the session is for. Other parameters are ignored."""

    model_config = ConfigDict(extra="ignore")

    intent: Annotated[
        str | None, Field(description="transcription; nothing else is offered", max_length=100)
    ] = None
    model: Annotated[
        str | None,
        Field(
            description="name of an engine; any other name means the default engine",
            max_length=200,
        ),
    ] = None


class _Loose(ApiModel):
    """Other fields are ignored: OpenAI's sessions have many that are about responses."""

    model_config = ConfigDict(extra="ignore")


class _Event(_Loose):
    type: str
    event_id: str | None = None


class _Format(_Loose):
    type: Literal["audio/pcm", "audio/pcmu", "audio/pcma"] = "audio/pcm"
    rate: Annotated[int | None, Field(ge=8000, le=48000)] = None


class _Transcription(_Loose):
    model: Annotated[str | None, Field(max_length=200)] = None
    language: Annotated[str | None, Field(max_length=32)] = None
    prompt: Annotated[str | None, Field(max_length=2000)] = None


class _TurnDetection(_Loose):
    type: Literal["server_vad", "semantic_vad"] = "server_vad"
    threshold: Annotated[float | None, Field(ge=0, le=1)] = None
    prefix_padding_ms: Annotated[int | None, Field(ge=0, le=5000)] = None
    silence_duration_ms: Annotated[int | None, Field(ge=0, le=10_000)] = None

    def turns(self) -> TurnSettings:
        """The same in our words; our defaults are OpenAI's."""
        threshold, prefix, silence = (
            self.threshold,
            self.prefix_padding_ms,
            self.silence_duration_ms,
        )
        return TurnSettings(
            _DEFAULT.threshold if threshold is None else min(max(threshold, 0.05), 0.99),
            _DEFAULT.prefix_ms if prefix is None else prefix,
            _DEFAULT.silence_ms if silence is None else max(silence, 100),
        )


class _Input(_Loose):
    format: _Format | None = None
    transcription: _Transcription | None = None
    turn_detection: _TurnDetection | None = None


class _Audio(_Loose):
    input: _Input | None = None


class _SessionFields(_Loose):
    """Both versions: `audio.input`, or flat."""

    type: str | None = None
    audio: _Audio | None = None
    input_audio_format: Literal["pcm16", "g711_ulaw", "g711_alaw"] | None = None
    input_audio_transcription: _Transcription | None = None
    turn_detection: _TurnDetection | None = None


class _Update(_Loose):
    session: _SessionFields


class _Append(_Loose):
    audio: str


async def realtime(session: Session[TranscriptionSessionParams]) -> None:
    """Transcribe sound while it is said, as OpenAI's realtime sessions for transcription do.

    A WebSocket. `session.update` sets format, language and turn detection,
    `input_audio_buffer.append` brings the sound in base64; the text of an utterance comes in deltas
    and is completed. docs/live.md tells what differs from OpenAI.
    """
    params = session.params
    if params.intent not in (None, "transcription"):
        await _refuse(session, f"intent={params.intent}")
    # Clients that want to talk to a model name one, and say nothing of their intent.
    talks = "realtime" in (model := params.model or "")
    hears = "transcribe" in model or "whisper" in model
    if params.intent is None and talks and not hears:
        await _refuse(session, f"model={model}")
    await _Conversation(session).run()


async def _refuse(session: Session[TranscriptionSessionParams], asked: str) -> None:
    """Tell the client that only transcription is offered, and end the session."""
    error = ServiceError(
        ErrorCode.invalid_request,
        f"this service has realtime sessions for transcription only, not {asked[:100]}; open "
        "/v1/realtime?intent=transcription",
    )
    await session.tell({"type": "error", "error": _error(error)})
    raise error


class _Conversation:
    """One session."""

    def __init__(self, session: Session[TranscriptionSessionParams]) -> None:
        self._session = session
        self._id = f"sess_{uuid.uuid4().hex}"
        self._options = LiveOptions("pcm16", _RATE, model=session.params.model)
        self._transcription: Json = {"model": session.params.model or "whisper-1"}
        self._detection: Json | None = _described(TurnSettings())
        self._beta = False
        self._items: dict[int, StableText] = {}
        """The texts of utterances that are not complete."""
        self._last_item: str | None = None

    async def run(self) -> None:
        """Until the client has gone. Errors in messages are told, and the session goes on."""
        async with LiveTranscription(self._session, self._options, self._tell) as live:
            await self._send("session.created", session=self._described())
            while (message := await self._session.receive()) is not None:
                event_id = None
                try:
                    event = read_message(message, _Event)
                    event_id = event.event_id
                    await self._obey(live, event.type, message)
                except ServiceError as error:
                    await self._send("error", error=_error(error, event_id))
                    if error.code.status >= 500:
                        raise
            if self._session.end is not End.CLIENT:
                await live.finish()

    async def _obey(self, live: LiveTranscription, type: str, message: str | bytes) -> None:
        match type:
            case "input_audio_buffer.append":
                sound = read_message(message, _Append).audio
                await live.feed(decoded(sound, "the audio", ErrorCode.invalid_request))
            case "input_audio_buffer.commit":
                live.commit()
            case "input_audio_buffer.clear":
                live.clear()
                await self._send("input_audio_buffer.cleared")
            case "session.update" | "transcription_session.update":
                self._beta = type.startswith("transcription")
                self._update(live, read_message(message, _Update).session, message)
                name = "transcription_session" if self._beta else "session"
                await self._send(f"{name}.updated", session=self._described())
            case _:
                raise ServiceError(
                    ErrorCode.invalid_request,
                    f"a session for transcription has no event {type[:100]!r}; it has "
                    "session.update and input_audio_buffer.append, .commit and .clear",
                )

    def _update(
        self, live: LiveTranscription, fields: _SessionFields, message: str | bytes
    ) -> None:
        """Set what the client sends; what it leaves out stays as it is. Raises `ServiceError`."""
        if fields.type not in (None, "transcription"):
            raise ServiceError(
                ErrorCode.invalid_option,
                f"session.type {fields.type[:100]!r} is not offered; use transcription",
            )
        options, given = self._options, fields.audio.input if fields.audio else None
        transcription = fields.input_audio_transcription
        detection, says_detection = (
            fields.turn_detection,
            "turn_detection" in fields.model_fields_set,
        )
        if given is not None:
            transcription = given.transcription or transcription
            if "turn_detection" in given.model_fields_set:
                detection, says_detection = given.turn_detection, True
            if given.format is not None:
                sound, rate = _FORMATS[given.format.type]
                rate = given.format.rate or rate if sound == "pcm16" else rate
                options = replace(options, format=sound, sample_rate=rate)
        if fields.input_audio_format is not None:
            sound, rate = _FORMATS[fields.input_audio_format]
            options = replace(options, format=sound, sample_rate=rate)
        if transcription is not None:
            options = replace(
                options,
                language=language_code(transcription.language),
                prompt=transcription.prompt or None,
                model=transcription.model or options.model,
            )
        if says_detection:
            options = replace(options, turns=None if detection is None else detection.turns())
        check_options(self._session, options)
        live.configure(options)
        self._options = options
        if transcription is not None:
            self._transcription |= transcription.model_dump(exclude_none=True)
        if says_detection:
            self._detection = None if options.turns is None else _described(options.turns)

    def _described(self) -> Json:
        """The session, in the shape of the client's version."""
        options = self._options
        base: Json = {"id": self._id, "object": "realtime.transcription_session"}
        if self._beta:
            formats = {"pcm16": "pcm16", "mulaw": "g711_ulaw", "alaw": "g711_alaw"}
            return {
                **base,
                "input_audio_format": formats[options.format],
                "input_audio_transcription": self._transcription,
                "turn_detection": self._detection,
            }
        names = {"pcm16": "audio/pcm", "mulaw": "audio/pcmu", "alaw": "audio/pcma"}
        sound: Json = {"type": names[options.format]}
        if options.format == "pcm16":
            sound["rate"] = options.sample_rate
        told = {
            "format": sound,
            "transcription": self._transcription,
            "turn_detection": self._detection,
            "noise_reduction": None,
        }
        return {**base, "type": "transcription", "audio": {"input": told}, "include": []}

    async def _tell(self, event: LiveEvent) -> None:
        match event:
            case Began(number, at):
                self._items[number] = StableText()
                if self._options.turns is not None:
                    await self._send(
                        "input_audio_buffer.speech_started",
                        audio_start_ms=round(at * 1000),
                        item_id=self._item(number),
                    )
            case Ended():
                await self._ended(event)
            case Partial(number, _, _, transcript, _):
                if delta := self._items[number].partial(transcript.text):
                    await self._delta(number, delta)
            case Final():
                await self._completed(event)
            case Failed(number, error):
                self._items.pop(number, None)
                item = self._item(number)
                told = _error(error)
                await self._send(f"{_TEXT}.failed", item_id=item, content_index=0, error=told)
            case Broken(error):
                await self._send("error", error=_error(error))
                await self._session.close(1011, error.message)

    async def _ended(self, event: Ended) -> None:
        item = self._item(event.number)
        if event.why in (Why.SILENCE, Why.LENGTH) and self._options.turns is not None:
            await self._send(
                "input_audio_buffer.speech_stopped",
                audio_end_ms=round(event.end * 1000),
                item_id=item,
            )
        previous, self._last_item = self._last_item, item
        await self._send("input_audio_buffer.committed", item_id=item, previous_item_id=previous)
        added: Json = {
            "id": item,
            "object": "realtime.item",
            "type": "message",
            "status": "completed",
            "role": "user",
            "content": [{"type": "input_audio", "transcript": None}],
        }
        names = ("created",) if self._beta else ("added", "done")
        for name in names:
            await self._send(f"conversation.item.{name}", previous_item_id=previous, item=added)

    async def _completed(self, event: Final) -> None:
        text = event.transcript.text
        if rest := self._items.pop(event.number).final(text):
            await self._delta(event.number, rest)
        said = asdict(event.transcript.paralinguistics)
        await self._send(
            f"{_TEXT}.completed",
            item_id=self._item(event.number),
            content_index=0,
            transcript=text,
            usage={"type": "duration", "seconds": round(event.end - event.start, 3)},
            start=round(event.start, 3),
            end=round(event.end, 3),
            **said,
        )

    async def _delta(self, number: int, delta: str) -> None:
        await self._send(f"{_TEXT}.delta", item_id=self._item(number), content_index=0, delta=delta)

    def _item(self, number: int) -> str:
        return f"item_{self._id[5:17]}_{number}"

    async def _send(self, type: str, **fields: Any) -> None:
        await self._session.tell(
            {"type": type, "event_id": f"event_{uuid.uuid4().hex[:20]}", **fields}
        )


def _described(turns: TurnSettings) -> Json:
    return {
        "type": "server_vad",
        "threshold": turns.threshold,
        "prefix_padding_ms": turns.prefix_ms,
        "silence_duration_ms": turns.silence_ms,
    }


def _error(error: ServiceError, event_id: str | None = None) -> Json:
    return {
        "type": error.code.type,
        "code": error.code.wire_name,
        "message": error.message,
        "param": None,
        "event_id": event_id,
    }


OPERATIONS: Operations = (
    session(
        "/v1/realtime",
        realtime,
        kind=Kind.STT,
        summary="Transcribe sound while it is said (OpenAI)",
        tag="OpenAI",
        params=TranscriptionSessionParams,
        protocols=("realtime",),
    ),
)
