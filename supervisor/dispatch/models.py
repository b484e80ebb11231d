"""The models of the service, and the choice of one for a request. Runs in the front."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ipc.engines import SERVING_KINDS, EngineInfo, Kind
from ipc.errors import ErrorCode, ServiceError
from ipc.operations import AUTO_LANGUAGE
from ipc.voice_mix import parse_mix
from supervisor.dispatch.backend import Backend
from supervisor.workers.lifecycle import ModelState


@dataclass(frozen=True, slots=True)
class Model:
    """An engine with its weights, and where it runs.

    The default model of a kind has the kind's name, each other model its engine's name.
    """

    name: str
    kind: Kind
    backend: Backend

    @property
    def default(self) -> bool:
        """Whether it serves the requests of its kind that select no other model."""
        return self.name == self.kind.value

    def called(self, name: str | None) -> bool:
        """Whether a request that asks for `name` means this model."""
        return name is not None and (name == self.name or name in self.backend.engine.names)

    def names(self, others: Iterable[str]) -> list[str]:
        """What clients may call it: its engine, and if it is the default one `others`."""
        return [self.backend.engine.name, *(others if self.default else ())]


class Models:
    """All models; of each kind, the default one first."""

    def __init__(self, models: Sequence[Model]) -> None:
        self._by_kind = {
            kind: sorted(
                (model for model in models if model.kind is kind),
                key=lambda model: not model.default,
            )
            for kind in Kind
        }

    def __iter__(self) -> Iterator[Model]:
        for models in self._by_kind.values():
            yield from models

    @property
    def serving(self) -> Sequence[Model]:
        """Those that serve requests by themselves."""
        return [model for kind in SERVING_KINDS for model in self.of(kind)]

    @property
    def shown(self) -> Sequence[Model]:
        """All but the one that finds speech, as long as no session has needed it."""
        return [
            model
            for model in self
            if model.kind is not Kind.VAD
            or model.backend.info is not None
            or model.backend.state is not ModelState.UNLOADED
        ]

    def of(self, kind: Kind) -> Sequence[Model]:
        """The models of one kind, the default one first."""
        return self._by_kind[kind]

    def default(self, kind: Kind) -> Model:
        """The model for requests that select no other one."""
        return self._by_kind[kind][0]

    def named(self, name: str) -> Model:
        """The model with this name, or with this engine. Raises `ServiceError` (not_found)."""
        for model in self:
            if model.called(name):
                return model
        names = ", ".join(model.name for model in self)
        raise ServiceError(
            ErrorCode.not_found, f"there is no model called {name[:64]}; it runs {names}"
        )

    def resolve(
        self,
        kind: Kind,
        *,
        model: str | None = None,
        voice: str | None = None,
        language: str | None = None,
    ) -> Model:
        """The model that a request selects.

        In this order: the one whose name or engine is `model`; else the first that has the built-in
        voice `voice`, or the voices of that mix, those that are for `language` first; else the
        first that knows `language`, or is for it; else the default one. Clients send the names of
        other services' models, so an unknown name is ignored.
        """
        candidates = self._by_kind[kind]
        if len(candidates) > 1:
            for found in candidates:
                if found.called(model):
                    return found
            for_language = [
                found
                for found in candidates
                if language is not None and found.backend.engine.language == language
            ]
            if voice is None and for_language:
                return for_language[0]
            for found in [*for_language, *candidates]:
                info = found.backend.info
                if info is not None and _suits(info, voice, language):
                    return found
        return candidates[0]

    def translator(self, model: str | None = None) -> Model:
        """The model that translates speech: the one called `model`, else the first that can.

        A model that has not loaded yet may turn out to be unable. Raises `ServiceError`
        (invalid_request) when no model can translate.
        """
        candidates = [
            each
            for each in self._by_kind[Kind.STT]
            if each.backend.info is None or each.backend.info.translates
        ]
        for found in candidates:
            if found.called(model):
                return found
        if candidates:
            return candidates[0]
        engine = self.default(Kind.STT).backend.engine.name
        raise ServiceError(
            ErrorCode.invalid_request,
            "translation needs a model that translates speech, such as Whisper (whisper-1 at "
            f"OpenAI); the engine {engine} of this service only transcribes: send the recording to "
            "/v1/audio/transcriptions, or let the service run the engine whisper "
            f"(VOICE_ENGINE_STT_ENGINE={engine},whisper)",
        )


def has_voice(info: EngineInfo, voice: str) -> bool:
    """Whether `voice` is a built-in voice of the engine, or a mix of them that it speaks."""
    ids = {builtin.id for builtin in info.voices}
    if voice in ids or not info.mixes:
        return voice in ids
    try:
        return all(name in ids for name, _ in parse_mix(voice))
    except ValueError:
        return False


def _suits(info: EngineInfo, voice: str | None, language: str | None) -> bool:
    """Whether the model has the voice; without a voice, whether it knows the language."""
    if voice is not None:
        return has_voice(info, voice)
    return language not in (None, AUTO_LANGUAGE) and language in info.languages
