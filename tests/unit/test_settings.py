"""Settings: validated at start, documented in the README, chosen by what is on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from ipc.engines import ENGINES, Kind
from supervisor.memory.limits import MB, Limit
from supervisor.settings import ModelSettings, Settings

ROOT = Path(__file__).resolve().parent.parent.parent
HUM = "tests.support.listening_engines:Hum"


@pytest.fixture(autouse=True)
def no_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `auto` chooses must not depend on what this environment has."""
    monkeypatch.setattr("ipc.engines._importable", lambda modules: not tuple(modules))


def model(settings: Settings, name: str) -> ModelSettings:
    """The model of that name."""
    (found,) = [one for one in settings.models if one.name == name]
    return found


def engines(settings: Settings) -> tuple[str, ...]:
    """The engines of all models."""
    return tuple(one.engine.name for one in settings.models)


def test_the_readme_lists_every_setting() -> None:
    assert Settings.table() in (ROOT / "README.md").read_text()


def test_a_variable_of_the_environment_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "9000")
    monkeypatch.setenv("VOICE_ENGINE_TTS_WORKERS", "2")
    assert (Settings().port, model(Settings(), "tts").workers) == (9000, 2)


@pytest.mark.parametrize(
    "url", ["s3://voices", "s3://my.voices-1/some/where", "s3://voices/", " s3://voices/a_b/ "]
)
def test_a_bucket_of_voices(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("VOICES_URL", url)
    assert Settings().voices_url == url.strip()


@pytest.mark.parametrize(
    "url",
    [
        "voices",
        "http://host/voices",
        "s3://user:secret@voices",
        "s3://voices?x=1",
        "s3://",
        "s3://a b",
    ],
)
def test_what_is_no_bucket_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ValidationError, match="write s3://bucket/prefix") as refused:
        Settings(voices_url=url)
    assert "secret" not in str(refused.value)


def test_a_bucket_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValidationError, match=r"pip install -c constraints\.txt obstore"):
        Settings(voices_url="s3://voices")
    assert Settings().voices_url == ""


def test_auto_takes_the_real_model_when_all_its_files_are_there(tmp_path: Path) -> None:
    settings = Settings(models_dir=tmp_path)
    assert engines(settings) == ("flite", "sphinx")
    *most, last = ENGINES["pocket"].files
    for file in most:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    assert engines(Settings(models_dir=tmp_path)) == ("flite", "sphinx")
    (tmp_path / last).touch()
    assert engines(Settings(models_dir=tmp_path)) == ("pocket", "sphinx")


def test_a_profile_is_taken_at_its_word(tmp_path: Path) -> None:
    production = Settings(models_dir=tmp_path, profile="production")
    assert engines(production) == ("pocket", "sensevoice")


def test_bad_values_name_the_field() -> None:
    with pytest.raises(ValidationError, match="request_timeout"):
        Settings(request_timeout=0)


# Several engines of a kind


def test_the_first_engine_of_a_kind_is_its_default_model() -> None:
    settings = Settings(tts_engine=f" flite , {HUM}")
    assert [(one.name, one.kind, one.engine.name) for one in settings.models] == [
        ("tts", Kind.TTS, "flite"),
        ("Hum", Kind.TTS, "Hum"),
        ("stt", Kind.STT, "sphinx"),
    ]
    assert model(settings, "tts").engine is ENGINES["flite"]
    hum = model(settings, "Hum").engine
    assert (hum.factory, hum.profile, hum.default) == (HUM, "custom", False)
    other_way_round = Settings(tts_engine=f"{HUM},flite")
    assert [one.name for one in other_way_round.models] == ["tts", "flite", "stt"]
    assert model(other_way_round, "tts").engine.name == "Hum"


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        ("kokoro,whisper,pocket", {"tts": "kokoro", "pocket": "pocket", "stt": "whisper"}),
        (" sphinx , flite,kokoro", {"tts": "flite", "kokoro": "kokoro", "stt": "sphinx"}),
        # A kind that is not named has its default.
        ("kokoro", {"tts": "kokoro", "stt": "sensevoice"}),
        ("sphinx,whisper", {"tts": "pocket", "stt": "sphinx", "whisper": "whisper"}),
        ("", {"tts": "pocket", "stt": "sensevoice"}),
    ],
)
def test_one_list_names_the_models_of_both_kinds(
    monkeypatch: pytest.MonkeyPatch, listed: str, expected: dict[str, str]
) -> None:
    monkeypatch.setenv("VOICE_ENGINE_MODELS", listed)
    settings = Settings(profile="production")
    assert {one.name: one.engine.name for one in settings.models} == expected


def test_the_list_goes_together_with_a_class_of_the_other_kind() -> None:
    settings = Settings(engines="whisper,sphinx", tts_engine=HUM, stt_workers="1,sphinx=2")
    assert engines(settings) == ("Hum", "whisper", "sphinx")
    assert model(settings, "sphinx").workers == 2


@pytest.mark.parametrize(
    ("text", "workers"),
    [
        ("3", (3, 3)),
        ("1,Hum=2", (1, 2)),
        ("Hum=2", (1, 2)),
        ("Hum=2, flite = 4", (4, 2)),
        ("5,flite=4,Hum=2", (4, 2)),
        (3, (3, 3)),
    ],
)
def test_a_value_may_be_for_one_engine(text: str | int, workers: tuple[int, int]) -> None:
    # A number is what a TOML file or a test may give.
    settings = Settings.model_validate({"tts_engine": f"flite,{HUM}", "tts_workers": text})
    assert (model(settings, "tts").workers, model(settings, "Hum").workers) == workers
    assert (model(settings, "tts").need.workers, model(settings, "Hum").need.workers) == workers
    assert model(settings, "stt").workers == 1


def test_capacity_is_the_engines_own_unless_it_is_set() -> None:
    settings = Settings(
        tts_engine=f"flite,{HUM}", tts_capacity="auto,Hum=4", tts_live="Hum=2", stt_capacity="1"
    )
    flite, hum, sphinx = (model(settings, name) for name in ("tts", "Hum", "stt"))
    assert (flite.capacity, flite.live, flite.need.capacity) == (None, None, 1)
    assert (hum.capacity, hum.live) == (4, 2)
    assert (hum.need.capacity, hum.need.least) == (4, 4)
    assert hum.need.growth == hum.need.request + 3 * hum.need.further
    assert (sphinx.capacity, sphinx.live) == (1, None)
    # A number is what a TOML file or a test may give.
    numbers = Settings.model_validate({"tts_engine": HUM, "tts_capacity": 4, "tts_live": 2})
    assert (model(numbers, "tts").capacity, model(numbers, "tts").live) == (4, 2)


def test_memory_limits_may_be_for_one_engine() -> None:
    settings = Settings(
        tts_engine=f"flite,{HUM}", tts_hard_limit_mb="900,Hum=+300", tts_soft_limit_mb="Hum=+200"
    )
    flite, hum = model(settings, "tts").need, model(settings, "Hum").need
    assert (flite.soft, flite.hard) == (None, Limit(900 * MB, growth=False))
    assert hum.soft == Limit(200 * MB, growth=True)
    assert hum.hard == Limit(300 * MB, growth=True)
    assert (model(settings, "stt").need.soft, model(settings, "stt").need.hard) == (None, None)
    footprint = ENGINES["flite"].footprint
    assert (flite.template, flite.worker, flite.request) == (
        footprint.template,
        footprint.worker,
        footprint.request,
    )


def test_each_model_knows_the_setting_of_its_limits() -> None:
    settings = Settings(tts_engine=f"flite,{HUM}")
    assert [one.limit_setting for one in settings.models] == [
        "VOICE_ENGINE_TTS_SOFT_LIMIT_MB or _HARD_LIMIT_MB",
        "VOICE_ENGINE_TTS_SOFT_LIMIT_MB or _HARD_LIMIT_MB",
        "VOICE_ENGINE_STT_SOFT_LIMIT_MB or _HARD_LIMIT_MB",
    ]


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"engines": "kokoro,whisper,kokoro"}, "VOICE_ENGINE_MODELS names kokoro twice"),
        (
            {"engines": "kokoro,whisper-1"},
            "whisper-1 is unknown; use some of flite, kokoro, .*, whisper;",
        ),
        ({"engines": HUM}, "is unknown; .* goes into VOICE_ENGINE_TTS_ENGINE or"),
        (
            {"engines": "kokoro", "tts_engine": HUM},
            "VOICE_ENGINE_MODELS and VOICE_ENGINE_TTS_ENGINE both name an engine for tts",
        ),
        (
            {"engines": "flite,sphinx", "stt_engine": "sphinx"},
            "VOICE_ENGINE_MODELS and VOICE_ENGINE_STT_ENGINE both name an engine for stt",
        ),
        ({"engines": "kokoro", "tts_workers": "1,flite=2"}, "there is no engine flite"),
        ({"idle_unload": "-1"}, "idle_unload"),
        ({"tts_engine": "flite,flite"}, "tts_engine names an engine twice"),
        ({"tts_engine": f"{HUM},other.module:Hum"}, "tts_engine names an engine twice"),
        ({"tts_engine": "flite,festival"}, "tts_engine=festival is unknown"),
        ({"tts_engine": "flite,sphinx"}, "tts_engine=sphinx is an engine for stt"),
        ({"tts_workers": "1,Hum=2"}, "tts_workers: there is no engine Hum"),
        ({"tts_workers": "1,sphinx=2"}, "tts_workers: there is no engine sphinx"),
        ({"tts_workers": "1,=2"}, "tts_workers: there is no engine"),
        ({"tts_hard_limit_mb": "900,Hum=+300"}, "tts_hard_limit_mb: there is no engine Hum"),
        ({"stt_soft_limit_mb": "flite=+300"}, "stt_soft_limit_mb: there is no engine flite"),
        ({"tts_workers": "flite=0"}, "tts_workers: '0' is not a number"),
        ({"tts_workers": "1,flite=x"}, "tts_workers: 'x' is not a number"),
        ({"tts_workers": "65"}, "tts_workers: '65' is not a number"),
        ({"tts_workers": "flite=2=3"}, "there is no engine flite=2"),
        ({"tts_workers": "٣"}, "is not a number of workers"),
        ({"tts_capacity": "flite=0"}, "tts_capacity: '0' is not a number of requests; write auto"),
        ({"tts_capacity": "65"}, "tts_capacity: '65' is not a number"),
        ({"tts_capacity": "some"}, "tts_capacity: 'some' is not a number"),
        ({"tts_capacity": "4"}, "tts_capacity: the engine flite serves one request at a time"),
        ({"stt_capacity": "sphinx=2"}, "stt_capacity: the engine sphinx serves one request"),
        ({"tts_live": "2"}, "tts_live: the engine flite serves one request at a time"),
        ({"tts_live": "1,Hum=2"}, "tts_live: there is no engine Hum"),
        (
            {"tts_engine": HUM, "tts_capacity": "2", "tts_live": "3"},
            "tts_live: 3 is more than the capacity, 2",
        ),
        ({"tts_hard_limit_mb": "flite=lots"}, "tts_hard_limit_mb: 'lots' is not a limit"),
    ],
)
def test_what_several_engines_cannot_have(values: dict[str, str], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        Settings.model_validate(values)
