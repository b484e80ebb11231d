"""The models of the service, and which of them a request means. Runs in the front."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ipc.engines import EngineInfo, Kind
from ipc.operations import AUTO_LANGUAGE
from supervisor.dispatch.backend import Backend


@dataclass(frozen=True, slots=True)
class Model:
    """An engine with its weights, and where it runs.

    The default model of a kind has the kind's name, every other one that of its engine.
    """

    name: str
    kind: Kind
    backend: Backend

    @property
    def default(self) -> bool:
        """Whether it serves the requests of its kind that mean no other model."""
        return self.name == self.kind.value


class Models:
    """All models, each kind's default one before its others."""

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

    def of(self, kind: Kind) -> Sequence[Model]:
        """Those of one kind, the default one first."""
        return self._by_kind[kind]

    def default(self, kind: Kind) -> Model:
        """The model of requests that mean no other one."""
        return self._by_kind[kind][0]

    def resolve(
        self,
        kind: Kind,
        *,
        model: str | None = None,
        voice: str | None = None,
        language: str | None = None,
    ) -> Model:
        """The model that a request means.

        In this order: the one whose name or engine is `model`; else the one that has the built-in
        voice `voice`; else the first that knows `language`; else the default one. Clients send
        names of models that exist elsewhere, so a name that is not known here means nothing.
        """
        candidates = self._by_kind[kind]
        if len(candidates) > 1:
            for found in candidates:
                if model is not None and model in (found.name, found.backend.engine.name):
                    return found
            for found in candidates:
                info = found.backend.info
                if info is not None and _suits(info, voice, language):
                    return found
        return candidates[0]


def _suits(info: EngineInfo, voice: str | None, language: str | None) -> bool:
    """Whether the model has the voice, or, without one to look for, knows the language."""
    if voice is not None:
        return any(builtin.id == voice for builtin in info.voices)
    return language not in (None, AUTO_LANGUAGE) and language in info.languages
