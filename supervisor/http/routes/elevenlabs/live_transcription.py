"""ElevenLabs' live transcription (their model is called Scribe v2 Realtime). Runs in the front.

Names and messages are those of the elevenlabs SDKs (`elevenlabs/realtime`).
"""

from __future__ import annotations

import uuid
from dataclasses import asdict
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from ipc.engines import Json, Kind
from ipc.errors import ErrorCode, ServiceError
from ipc.operations import SoundFormat
from supervisor.http.api.api_model import ApiModel
from supervisor.http.api.operation import Operations
from supervisor.http.api.read import read_message
from supervisor.http.api.session import End, Session, session
from supervisor.http.shared.languages import ISO_639_3, language_code
from supervisor.http.shared.live_transcription import (
    Broken,
    Failed,
    Final,
    LiveEvent,
    LiveOptions,
    LiveTranscription,
    Partial,
    check_options,
    decoded,
)
from supervisor.http.shared.turns import TurnSettings

TAG = "ElevenLabs"

AudioFormat = Literal[
    "pcm_8000", "pcm_16000", "pcm_22050", "pcm_24000", "pcm_44100", "pcm_48000", "ulaw_8000"
]

_ERRORS = {
    ErrorCode.unauthorized: "auth_error",
    ErrorCode.rate_limited: "rate_limited",
    ErrorCode.overloaded: "resource_exhausted",
    ErrorCode.model_unavailable: "resource_exhausted",
    ErrorCode.invalid_audio: "input_error",
    ErrorCode.invalid_request: "invalid_request",
    ErrorCode.invalid_option: "invalid_request",
    ErrorCode.unknown_option: "invalid_request",
    ErrorCode.missing_field: "invalid_request",
}
"""ElevenLabs' types of messages for errors; others are `transcriber_error`."""


class LiveTranscriptionParams(ApiModel):
    """How to transcribe; other parameters of ElevenLabs are accepted and ignored."""

    model_config = ConfigDict(extra="ignore")

    model_id: Annotated[
        str | None,
        Field(
            description="name of an engine; any other name means the default engine",
            max_length=200,
            examples=["scribe_v2_realtime"],
        ),
    ] = None
    audio_format: Annotated[AudioFormat, Field(description="format of the sound")] = "pcm_16000"
    language_code: Annotated[
        str | None, Field(max_length=32, description="a hint: en, eng, ...", examples=["en"])
    ] = None
    commit_strategy: Annotated[
        Literal["manual", "vad"],
        Field(description="who ends an utterance: the client, or silence"),
    ] = "manual"
    vad_silence_threshold_secs: Annotated[
        float, Field(ge=0.1, le=5, description="so much silence ends an utterance")
    ] = 1.5
    vad_threshold: Annotated[
        float, Field(ge=0.05, le=0.95, description="the probability above which sound is speech")
    ] = 0.4
    include_timestamps: Annotated[
        bool, Field(description="also send committed_transcript_with_timestamps")
    ] = False
    include_language_detection: Annotated[
        bool, Field(description="the same, with the language; the words are then in it, too")
    ] = False

    def options(self) -> LiveOptions:
        """The same in our words."""
        coding, _, rate = self.audio_format.partition("_")
        sound: SoundFormat = "mulaw" if coding == "ulaw" else "pcm16"
        turns = TurnSettings(
            self.vad_threshold, silence_ms=round(self.vad_silence_threshold_secs * 1000)
        )
        return LiveOptions(
            sound,
            int(rate),
            language_code(self.language_code),
            self.model_id,
            words=self.timed,
            turns=turns if self.commit_strategy == "vad" else None,
        )

    @property
    def timed(self) -> bool:
        """Whether the message with times and language is wanted."""
        return self.include_timestamps or self.include_language_detection


class _Chunk(ApiModel):
    model_config = ConfigDict(extra="ignore")

    message_type: Literal["input_audio_chunk"]
    audio_base_64: str = ""
    commit: bool = False
    sample_rate: int | None = None
    previous_text: str | None = None


async def speech_to_text_realtime(session: Session[LiveTranscriptionParams]) -> None:
    """Transcribe sound while it is said, as ElevenLabs' `scribe_v2_realtime` does.

    A WebSocket: `input_audio_chunk` brings the sound in base64, and may commit an utterance. It
    answers with `partial_transcript` and `committed_transcript`. docs/live.md tells what differs.
    """
    try:
        await _Conversation(session).run()
    except ServiceError as error:
        await session.tell(_error(error))
        raise


class _Conversation:
    """One session."""

    def __init__(self, session: Session[LiveTranscriptionParams]) -> None:
        self._session = session
        self._params = session.params
        self._options = self._params.options()

    async def run(self) -> None:
        """Until the client has gone. Raises `ServiceError`."""
        params = self._params
        check_options(self._session, self._options)
        async with LiveTranscription(self._session, self._options, self._tell) as live:
            config = params.model_dump(exclude_none=True)
            config["sample_rate"] = self._options.sample_rate
            await self._send("session_started", session_id=uuid.uuid4().hex, config=config)
            while (message := await self._session.receive()) is not None:
                chunk = read_message(message, _Chunk)
                if chunk.sample_rate not in (None, self._options.sample_rate):
                    raise ServiceError(
                        ErrorCode.invalid_option,
                        f"a chunk says {chunk.sample_rate} Hz, but audio_format is "
                        f"{params.audio_format}; send the sound in that format",
                    )
                sound = decoded(chunk.audio_base_64, "audio_base_64", ErrorCode.invalid_audio)
                await live.feed(sound)
                if chunk.commit:
                    live.commit()
            if self._session.end is not End.CLIENT:
                await live.finish()

    async def _tell(self, event: LiveEvent) -> None:
        match event:
            case Partial():
                await self._send("partial_transcript", text=event.transcript.text)
            case Final():
                await self._committed(event)
            case Failed(_, error):
                await self._session.tell(_error(error))
            case Broken(error):
                await self._session.tell(_error(error))
                await self._session.close(1011, error.message)
            case _:
                pass

    async def _committed(self, final: Final) -> None:
        transcript = final.transcript
        said = asdict(transcript.paralinguistics)
        await self._send("committed_transcript", text=transcript.text, **said)
        if not self._params.timed:
            return
        language = transcript.paralinguistics.language
        words: list[Json] = []
        for segment in transcript.segments:
            for word in segment.words or ():
                if words:
                    end = words[-1]["end"]
                    words.append(_word(" ", end, max(end, final.start + word.start), "spacing"))
                start = final.start + word.start
                words.append(_word(word.word, start, final.start + word.end, "word", word.logprob))
        await self._send(
            "committed_transcript_with_timestamps",
            text=transcript.text,
            language_code=ISO_639_3.get(language, language),
            words=words if self._params.include_timestamps else [],
        )

    async def _send(self, message_type: str, **fields: Any) -> None:
        await self._session.tell({"message_type": message_type, **fields})


def _word(text: str, start: float, end: float, type: str, logprob: float | None = None) -> Json:
    told: Json = {"text": text, "start": round(start, 3), "end": round(end, 3), "type": type}
    return told if logprob is None else told | {"logprob": logprob}


def _error(error: ServiceError) -> Json:
    kind = _ERRORS.get(error.code, "transcriber_error")
    return {"message_type": kind, "error": error.message, "code": error.code.wire_name}


OPERATIONS: Operations = (
    session(
        "/v1/speech-to-text/realtime",
        speech_to_text_realtime,
        kind=Kind.STT,
        summary="Transcribe sound while it is said (ElevenLabs)",
        tag=TAG,
        params=LiveTranscriptionParams,
    ),
)
