"""Which model a request means."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ipc.engines import BuiltinVoice, EngineInfo, EngineSpec, Footprint, Kind
from ipc.operations import ResultT
from supervisor.dispatch.backend import Backend, BackendStatus
from supervisor.dispatch.job import Job
from supervisor.dispatch.models import Model, Models
from supervisor.workers.lifecycle import ModelState


class FakeBackend:
    """A backend that only says which engine it runs, and what that says once it has loaded."""

    def __init__(self, engine: str, kind: Kind, info: EngineInfo | None) -> None:
        self.state = ModelState.STARTING if info is None else ModelState.SERVING
        self.engine = EngineSpec(engine, kind, "custom", "module:Class", Footprint(1, 1, 1))
        self.info = info
        self.retry_after = 0.0
        self.busy = False

    async def run(self, job: Job[ResultT]) -> ResultT:
        """Nobody asks for it here."""
        raise NotImplementedError

    async def known_info(self) -> EngineInfo | None:
        """What it says at once."""
        return self.info

    def status(self) -> BackendStatus:
        """Nobody asks for it here."""
        raise NotImplementedError

    def recycle(self, child: str) -> bool | None:
        """There are no children."""
        return None

    def kill(self, child: str) -> bool:
        """There are no children."""
        return False

    def pause(self) -> None:
        """Nothing runs."""

    def resume(self) -> None:
        """Nothing runs."""

    def unload(self, reason: str) -> bool:
        """Nothing is loaded."""
        return False

    async def adapt(self) -> None:
        """Nothing changes."""

    def start(self) -> None:
        """Nothing has to load."""

    async def drain(self) -> None:
        """Nothing is in flight."""

    async def reload(self) -> None:
        """Nothing changes."""

    async def close(self) -> None:
        """Nothing is open."""


def model(
    name: str,
    engine: str,
    kind: Kind = Kind.TTS,
    *,
    voices: str = "",
    languages: str = "",
    loaded: bool = True,
    mixes: bool = False,
) -> Model:
    """A model with these voices and languages, words of a text."""
    info = EngineInfo(
        engine,
        16_000,
        voices=tuple(BuiltinVoice(voice, voice.title()) for voice in voices.split()),
        languages=tuple(languages.split()),
        mixes=mixes,
    )
    backend: Backend = FakeBackend(engine, kind, info if loaded else None)
    return Model(name, kind, backend)


POCKET = model("tts", "pocket", voices="alba marius")
FLITE = model("flite", "flite", voices="slt alba")
CLONER = model("cloner", "cloner", loaded=False, voices="slt late")
SENSEVOICE = model("stt", "sensevoice", Kind.STT, languages="auto zh en")
SPHINX = model("sphinx", "sphinx", Kind.STT, languages="auto en")
PARROT = model("parrot", "parrot", Kind.STT, languages="auto fr en")
MODELS = Models([SPHINX, FLITE, PARROT, POCKET, CLONER, SENSEVOICE])


def test_default_models_come_before_others() -> None:
    assert [one.name for one in MODELS] == ["tts", "flite", "cloner", "stt", "sphinx", "parrot"]
    assert MODELS.of(Kind.TTS) == [POCKET, FLITE, CLONER]
    assert MODELS.of(Kind.STT) == [SENSEVOICE, SPHINX, PARROT]
    assert [one.default for one in MODELS.of(Kind.TTS)] == [True, False, False]
    assert (MODELS.default(Kind.TTS), MODELS.default(Kind.STT)) == (POCKET, SENSEVOICE)


@pytest.mark.parametrize(
    ("name", "voice", "expected"),
    [
        (None, None, POCKET),
        # By the name of the model, or of its engine.
        ("tts", None, POCKET),
        ("pocket", None, POCKET),
        ("flite", None, FLITE),
        # Names that mean something elsewhere, or for another kind.
        ("tts-1-hd", None, POCKET),
        ("Flite", None, POCKET),
        ("", None, POCKET),
        ("sphinx", None, POCKET),
        ("stt", None, POCKET),
        # By a built-in voice: the default model's own first.
        (None, "marius", POCKET),
        (None, "alba", POCKET),
        (None, "slt", FLITE),
        (None, "nobody", POCKET),
        # The model's name has the last word; one that is unknown has none.
        ("pocket", "slt", POCKET),
        ("flite", "marius", FLITE),
        ("tts-1-hd", "slt", FLITE),
        # A model that has not loaded is found by its name, and by no voice.
        ("cloner", None, CLONER),
        (None, "late", POCKET),
    ],
)
def test_which_model_speaks(name: str | None, voice: str | None, expected: Model) -> None:
    assert MODELS.resolve(Kind.TTS, model=name, voice=voice) is expected


@pytest.mark.parametrize(
    ("name", "language", "expected"),
    [
        (None, None, SENSEVOICE),
        (None, "auto", SENSEVOICE),
        (None, "zh", SENSEVOICE),
        (None, "en", SENSEVOICE),
        (None, "fr", PARROT),
        (None, "tlh", SENSEVOICE),
        ("sphinx", None, SPHINX),
        ("sphinx", "fr", SPHINX),
        ("whisper-1", "fr", PARROT),
        ("whisper-1", "auto", SENSEVOICE),
    ],
)
def test_which_model_listens(name: str | None, language: str | None, expected: Model) -> None:
    assert MODELS.resolve(Kind.STT, model=name, language=language) is expected


@pytest.mark.parametrize(
    ("name", "voice", "expected"),
    [
        (None, "af_bella+af_sky", "mixer"),
        (None, "af_bella(2)+ af_sky (1)", "mixer"),
        ("mixer", "af_bella+af_sky", "mixer"),
        ("tts-1", "af_bella+af_sky", "mixer"),
        # What is no mix of one model's voices is the default model's to refuse.
        (None, "af_bella+alba", "pocket"),
        (None, "af_bella+", "pocket"),
        (None, "alba+marius", "pocket"),
        ("pocket", "af_bella+af_sky", "pocket"),
    ],
)
def test_which_model_speaks_a_mix(name: str | None, voice: str, expected: str) -> None:
    mixer = model("mixer", "mixer", voices="af_bella af_sky", mixes=True)
    found = Models([POCKET, FLITE, mixer]).resolve(Kind.TTS, model=name, voice=voice)
    assert found.backend.engine.name == expected


def test_the_automatic_language_is_no_reason_to_leave_the_default_model() -> None:
    deaf = model("stt", "deaf", Kind.STT)
    assert Models([deaf, SPHINX]).resolve(Kind.STT, language="auto") is deaf
    assert Models([deaf, SPHINX]).resolve(Kind.STT, language="en") is SPHINX


def test_a_default_model_that_has_not_loaded_still_serves_what_nobody_else_can() -> None:
    models = Models([model("tts", "pocket", loaded=False), FLITE])
    assert models.resolve(Kind.TTS, voice="marius") is models.default(Kind.TTS)
    assert models.resolve(Kind.TTS, voice="slt") is FLITE


def test_one_model_serves_whatever_is_asked_for() -> None:
    models = Models([POCKET, SENSEVOICE])
    assert models.resolve(Kind.TTS, model="flite", voice="slt") is POCKET
    assert models.resolve(Kind.STT, model="sphinx", language="fr") is SENSEVOICE


def variant(name: str, language: str | None, voices: str = "") -> Model:
    """Other weights of pocket."""
    made = model(f"pocket-{name}", f"pocket-{name}", voices=voices)
    made.backend.engine = replace(  # type: ignore[misc]
        made.backend.engine, variant=name, language=language, on_demand=True
    )
    return made


FRENCH, LARGE = variant("french", "fr", "alba lola"), variant("french_24l", None, "alba")
LANGUAGES = Models([POCKET, FRENCH, LARGE, FLITE])


@pytest.mark.parametrize(
    ("name", "voice", "language", "expected"),
    [
        (None, None, None, POCKET),
        (None, None, "en", POCKET),
        (None, None, "fr", FRENCH),
        (None, None, "de", POCKET),
        # By its name, or the library's.
        ("pocket-french_24l", None, None, LARGE),
        ("french_24l", None, "fr", LARGE),
        ("french", "slt", "de", FRENCH),
        ("pocket", None, "fr", POCKET),
        # A voice that several have; one that the model of the language does not have.
        (None, "alba", None, POCKET),
        (None, "alba", "fr", FRENCH),
        (None, "lola", None, FRENCH),
        (None, "slt", "fr", FLITE),
        ("", None, None, POCKET),
    ],
)
def test_a_language_selects_the_model_that_is_made_for_it(
    name: str | None, voice: str | None, language: str | None, expected: Model
) -> None:
    found = LANGUAGES.resolve(Kind.TTS, model=name, voice=voice, language=language)
    assert found is expected
