"""OpenAI's endpoints for speech and models, for clients that only change their base URL.

Runs in the front. Transcription is in `transcription.py`. Schemas and names are those of the openai
SDKs (https://github.com/openai/openai-python).
"""

from __future__ import annotations

import base64
from typing import Annotated, Literal

import psutil
from aiohttp import hdrs, web
from pydantic import ConfigDict, Field, RootModel

from ipc.engines import Kind
from ipc.errors import ErrorCode, ServiceError
from ipc.formats import FormatName
from ipc.operations import Speak, SpeechResult
from supervisor.http.api.api_model import ApiModel
from supervisor.http.api.operation import (
    JSON,
    SERVER_SENT,
    Access,
    Answer,
    Call,
    Nothing,
    Operations,
    json_answer,
    operation,
)
from supervisor.http.routes.elevenlabs.account import ElevenLabsModel, elevenlabs_models
from supervisor.http.routes.openai.transcription import TRANSCRIPTION, TRANSLATION
from supervisor.http.routes.voices import lasting
from supervisor.http.shared.models import languages
from supervisor.http.shared.streaming import server_sent, server_sent_error
from supervisor.http.shared.synthesis import (
    Speed,
    TextLanguage,
    TextNormalization,
    named,
    sampling,
    sound_answer,
    speak,
    text_language,
)
from supervisor.http.shared.voice_names import resolve_voice
from supervisor.service import Service

TAG = "OpenAI"

PCM_RATE = 24_000
"""Sample rate in Hz of OpenAI's raw PCM, which has no header for it."""

_MODELS = {
    Kind.TTS: ("tts-1", "tts-1-hd", "gpt-4o-mini-tts"),
    Kind.STT: (
        "whisper-1",
        "gpt-4o-transcribe",
        "gpt-4o-mini-transcribe",
        "gpt-4o-transcribe-diarize",
    ),
}
"""OpenAI's names for the default models."""

_PIECES_A_SECOND = 20
"""Pieces of 50 ms, which `usage` counts as tokens; close to the rate of OpenAI's models."""


class VoiceReference(ApiModel):
    """A voice by its id, as OpenAI's clients name voices of their own."""

    model_config = ConfigDict(extra="ignore")

    id: Annotated[str, Field(examples=["anna"])]


class SpeechFields(ApiModel):
    """The text, the voice and the format. Other fields are ignored."""

    model_config = ConfigDict(extra="ignore")

    model: Annotated[
        str | None,
        Field(
            description="name of an engine; any other name means the default engine",
            examples=["tts-1"],
        ),
    ] = None
    input: Annotated[
        str, Field(description="the text to speak", examples=["Hello, this is my voice."])
    ]
    voice: Annotated[
        str | VoiceReference | None,
        Field(
            description="a built-in or registered voice, or a mix of built-in voices; OpenAI's "
            "names (alloy, nova, ...) are other names for the built-in voices; default: the "
            "engine's own",
            examples=["alloy"],
        ),
    ] = None
    instructions: Annotated[
        str | None, Field(description="accepted and ignored: no engine supports them")
    ] = None
    response_format: Annotated[
        FormatName | None,
        Field(description=f"format of the sound, default mp3; pcm is 16 bits at {PCM_RATE} Hz"),
    ] = None
    speed: Speed | None = None
    stream_format: Annotated[
        Literal["audio", "sse"] | None,
        Field(description="sse: events speech.audio.delta with base64, then speech.audio.done"),
    ] = None
    text_normalization: TextNormalization = "auto"
    language: TextLanguage | None = None


class ModelEntry(ApiModel):
    """A model: `engine` serves under this name, `created` is the start of the service.

    OpenAI's names stand for the default models.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "tts-1",
                    "object": "model",
                    "created": 1795373580,
                    "owned_by": "voice-engine",
                    "engine": "pocket",
                    "kind": Kind.TTS,
                    "default": True,
                    "languages": ["en"],
                    "options": ["temperature"],
                    "state": "SERVING",
                }
            ]
        }
    )

    id: str
    object: Literal["model"] = "model"
    created: Annotated[int, Field(description="Unix time")]
    owned_by: Literal["voice-engine"] = "voice-engine"
    engine: str
    kind: Annotated[str, Field(description="tts or stt")]
    default: Annotated[
        bool, Field(description="whether it serves requests that select no model of their kind")
    ]
    languages: Annotated[
        list[str],
        Field(description="codes of the languages that it has; empty until it has loaded once"),
    ]
    options: Annotated[
        list[str],
        Field(
            description="the options of /v1/tts that only some models have, of those that this one "
            "has; empty until it has loaded once"
        ),
    ]
    state: Annotated[
        str, Field(description="as in /health; UNLOADED: the next request loads it again")
    ]


class ModelList(ApiModel):
    """The models."""

    object: Literal["list"] = "list"
    data: list[ModelEntry]


class ModelsAnswer(RootModel[ModelList | list[ElevenLabsModel]]):
    """The models; for ElevenLabs' clients those for speech, as a bare list."""


class NamedVoice(ApiModel):
    """A voice that requests can name by its id."""

    id: Annotated[str, Field(examples=["anna"])]
    name: Annotated[str, Field(examples=["Anna"])]


class NamedVoices(ApiModel):
    """The built-in and the registered voices."""

    voices: list[NamedVoice]


class NamedModel(ApiModel):
    """A model for speech."""

    id: Annotated[str, Field(examples=["tts-1"])]
    name: Annotated[str, Field(examples=["tts-1"])]


class NamedModels(ApiModel):
    """The engines for speech, and OpenAI's names for the default one."""

    models: list[NamedModel]


class ModelPath(ApiModel):
    """Which model."""

    model: Annotated[str, Field(examples=["tts-1"])]


class _SpeechEvents:
    """Sound as OpenAI's server-sent events."""

    media_type = SERVER_SENT

    def __init__(self, text: str) -> None:
        self._characters = len(text)

    def item(self, item: bytes) -> bytes:
        audio = base64.b64encode(item).decode()
        return server_sent({"type": "speech.audio.delta", "audio": audio})

    def end(self, result: SpeechResult) -> bytes:
        pieces = round(result.duration * _PIECES_A_SECOND)
        usage = {
            "input_tokens": self._characters,
            "output_tokens": pieces,
            "total_tokens": self._characters + pieces,
        }
        return server_sent({"type": "speech.audio.done", "usage": usage})

    def error(self, error: ServiceError) -> bytes:
        return server_sent_error(error)


async def openai_speech(call: Call[SpeechFields, Nothing]) -> web.StreamResponse:
    """Speak a text; the sound is sent while it is generated.

    With `stream_format` sse it is sent as events. The service has no tokens, so `usage` in the last
    event counts characters of the input and pieces of 50 ms of sound.
    """
    fields = call.body
    asked = fields.voice.id if isinstance(fields.voice, VoiceReference) else fields.voice
    voice_id = await resolve_voice(call, asked, model=fields.model)
    response_format = fields.response_format or "mp3"
    async with named(call, voice_id) as voice:
        speech = Speak(
            fields.input,
            voice,
            sampling(),
            response_format=response_format,
            streamed=True,
            sample_rate=PCM_RATE if response_format == "pcm" else None,
            speed=1.0 if fields.speed is None else fields.speed,
            normalize=fields.text_normalization == "auto",
            language=text_language(fields.language),
            silence=True,
        )
        framing = _SpeechEvents(fields.input) if fields.stream_format == "sse" else None
        models, builtin = call.service.models, voice.builtin
        chosen = models.resolve(
            Kind.TTS, model=fields.model, voice=builtin, language=speech.language
        )
        info = chosen.backend.info
        spoken_by = voice_id or (info and info.default_voice)
        headers = {"X-Voice-Id": spoken_by} if spoken_by else {}
        return await speak(call, speech, model=fields.model, framing=framing, headers=headers)


async def openai_models(call: Call[Nothing, Nothing]) -> web.StreamResponse:
    """List the engines, and OpenAI's names for the default ones.

    ElevenLabs' clients ask the same path; a request with the header `xi-api-key` and without
    `Authorization` gets their list.
    """
    headers = call.request.headers
    if "xi-api-key" in headers and hdrs.AUTHORIZATION not in headers:
        return json_answer(ModelsAnswer(elevenlabs_models(call.service)))
    return json_answer(ModelList(data=_models(call.service)))


async def audio_voices(call: Call[Nothing, Nothing]) -> web.StreamResponse:
    """List the voices, as Open WebUI and clients of Kokoro-FastAPI ask for them."""
    voices = [NamedVoice(id=each.id, name=each.name) for each in lasting(call)]
    return json_answer(NamedVoices(voices=voices))


async def audio_models(call: Call[Nothing, Nothing]) -> web.StreamResponse:
    """List the models for speech, as Open WebUI asks for them."""
    names = [
        name
        for model in call.service.models.of(Kind.TTS)
        for name in model.names(_MODELS[Kind.TTS])
    ]
    return json_answer(NamedModels(models=[NamedModel(id=name, name=name) for name in names]))


async def openai_model(call: Call[Nothing, ModelPath]) -> web.StreamResponse:
    """One model."""
    for entry in _models(call.service):
        if entry.id == call.params.model:
            return json_answer(entry)
    raise ServiceError(
        ErrorCode.not_found,
        f"there is no model '{call.params.model[:64]}'; GET /v1/models lists all models",
    )


def _models(service: Service) -> list[ModelEntry]:
    created = int(psutil.Process().create_time())
    serving = service.models.serving
    named = [(model.backend.engine.name, model) for model in serving]
    for model in serving:
        named += [(name, model) for name in _MODELS[model.kind] if model.default]
    return [
        ModelEntry(
            id=name,
            created=created,
            engine=model.backend.engine.name,
            kind=model.kind,
            default=model.default,
            languages=languages(model),
            options=list(model.backend.info.options) if model.backend.info else [],
            state=model.backend.state.value,
        )
        for name, model in named
    ]


_SOUND = sound_answer()

OPERATIONS: Operations = (
    operation(
        "POST",
        "/v1/audio/speech",
        openai_speech,
        summary="Speak",
        tag=TAG,
        body=SpeechFields,
        media=(JSON,),
        answers={
            200: Answer(
                _SOUND.description,
                {**_SOUND.content, SERVER_SENT: "speech.audio.delta and speech.audio.done"},
                {**_SOUND.headers, "X-Voice-Id": "the voice that speaks"},
            )
        },
        errors=(ErrorCode.not_found,),
    ),
    TRANSCRIPTION,
    TRANSLATION,
    operation(
        "GET",
        "/v1/models",
        openai_models,
        summary="List the models",
        tag=TAG,
        answers={200: Answer("The models.", {JSON: ModelsAnswer})},
    ),
    operation(
        "GET",
        "/v1/audio/voices",
        audio_voices,
        summary="List the voices by id and name",
        tag=TAG,
        answers={200: Answer("The voices.", {JSON: NamedVoices})},
        access=Access.LIST,
    ),
    operation(
        "GET",
        "/v1/audio/models",
        audio_models,
        summary="List the models for speech",
        tag=TAG,
        answers={200: Answer("The models.", {JSON: NamedModels})},
        access=Access.LIST,
    ),
    operation(
        "GET",
        "/v1/models/{model}",
        openai_model,
        summary="One model",
        tag=TAG,
        params=ModelPath,
        answers={200: Answer("The model.", {JSON: ModelEntry})},
    ),
)
