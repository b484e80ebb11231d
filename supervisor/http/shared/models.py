"""Which model serves a request, and what its client is told about that. Runs in the front."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from ipc.engines import ENGINES, EngineInfo, Kind
from ipc.errors import ErrorCode, ServiceError
from ipc.operations import AUTO_LANGUAGE
from ipc.variants import variant_engine, variant_folder, variant_for
from supervisor.dispatch.models import Model, has_voice
from supervisor.http.api.operation import Call
from supervisor.http.context import warn

ModelName = Annotated[
    str,
    Field(
        max_length=200,
        description="name of a model (GET /v1/models lists them); any other name means the "
        "default one",
    ),
]


def choose(
    call: Call[Any, Any],
    kind: Kind,
    *,
    model: str | None = None,
    voice: str | None = None,
    language: str | None = None,
) -> Model:
    """The model for a request, see `Models.resolve`; `voice` is a built-in voice or a mix.

    A request for an engine of ours that does not run here is served by another one, with a warning.
    Raises `ServiceError` (not_found) if the model does not have the voice.
    """
    models = call.service.models
    chosen = models.resolve(kind, model=model, voice=voice, language=language)
    here = any(each.called(model) for each in models.of(kind))
    ours = model is not None and (model in ENGINES or model.startswith("pocket-"))
    if ours and not here:
        warn(call.request, f"no model {model} for {kind} runs here; {_name(chosen)} was used")
    elif kind is Kind.TTS and language is not None and not here:
        _warn_of_language(call, chosen, language)
    info = chosen.backend.info
    if voice is not None and info is not None and not has_voice(info, voice):
        raise ServiceError(
            ErrorCode.not_found,
            f"the model {_name(chosen)} has no voice '{voice[:64]}'; it has {voices_of(info)}",
        )
    return chosen


def _warn_of_language(call: Call[Any, Any], chosen: Model, language: str) -> None:
    """Tell the client if pocket speaks a language that other weights of it are made for."""
    engine, wanted = chosen.backend.engine, variant_for(language)
    known = {engine.language or "en", *languages(chosen)}
    if engine.factory == ENGINES["pocket"].factory and wanted and language not in known:
        folder = variant_folder(wanted)
        warn(
            call.request,
            f"{engine.name} was used, which does not know the language {language}: no weights for "
            f"it are in {folder} of the models folder; `voice-engine models pull "
            f"{variant_engine(wanted)}` brings them",
        )


def voices_of(info: EngineInfo) -> str:
    """The built-in voices of an engine, for messages."""
    return ", ".join(voice.id for voice in info.voices) or "none"


def languages(model: Model) -> list[str]:
    """The codes of the languages that a model has; none before it has loaded once."""
    info = model.backend.info
    if info is None:
        return []
    spoken = {voice.language for voice in info.voices if voice.language}
    if model.backend.engine.language is not None:
        spoken.add(model.backend.engine.language)
    return sorted((spoken | {*info.languages}) - {AUTO_LANGUAGE})


def _name(model: Model) -> str:
    return model.backend.engine.name
