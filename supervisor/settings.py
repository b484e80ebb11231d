"""Every setting, limit and timeout, from the environment, validated at start. Runs in the front.

A variable is `VOICE_ENGINE_` and the setting's name in capitals. PORT and VOICES_DIR have no
prefix, because hosting platforms set them so.
"""

from __future__ import annotations

import importlib.util
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AliasChoices,
    Field,
    PrivateAttr,
    SecretStr,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from ipc.engines import (
    ENGINES,
    PULLABLE,
    SERVING_KINDS,
    SILERO,
    EngineSpec,
    Footprint,
    Kind,
    Profile,
    default_engine,
)
from ipc.variants import find_variant, find_variants, is_pullable
from supervisor.access.keys import Keys
from supervisor.memory.limits import Limit, Need

CUSTOM_FOOTPRINT = Footprint(template=64, worker=32, request=32, further=32)
"""Assumed for an engine that a setting names by its class; in MB."""

BEST_FIRST: tuple[Profile, ...] = ("production", "embedded", "minimal")
_LISTENING_GROWTH = Limit(SILERO.footprint.request * 1024 * 1024, growth=True)
"""The hard limit of the worker that finds speech: its requests are all small."""

BUCKET_URL = re.compile(
    r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?P<prefix>(/[\w.-]+)*)/?"
)
"""The URLs of buckets that are known: no credentials, no options."""

APPLICATION = r"^[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?$"
"""The names that an application on a cluster may have."""

_ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^/\s]+")
MAX_WORKERS = 64
_MAX_CAPACITY = 64

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """What the settings say about one model: its engine, its workers, its limits.

    `name` is the kind's name for the default model of a kind, else the engine's; `limit_setting` is
    the name of the setting for its memory limits. `capacity` and `live` are how many requests, and
    how many live streams, each worker serves at once; None means what the engine finds best.
    """

    name: str
    kind: Kind
    engine: EngineSpec
    workers: int
    need: Need
    limit_setting: str
    capacity: int | None = None
    live: int | None = None


class Settings(BaseSettings):
    """All settings of the service. Durations are in seconds, memory in megabytes (2^20 bytes)."""

    model_config = SettingsConfigDict(
        env_prefix="VOICE_ENGINE_",
        extra="ignore",
        populate_by_name=True,
        frozen=True,
        hide_input_in_errors=True,  # the input has keys
        allow_inf_nan=False,
    )

    # Addresses and folders.
    host: str = Field("::", description="address to listen on; :: means all, also IPv4")
    port: int = Field(
        8000,
        ge=0,
        le=65535,
        validation_alias=AliasChoices("PORT", "VOICE_ENGINE_PORT", "port"),
        description="port to listen on; 0 takes a free one",
    )
    metrics_port: int = Field(
        0,
        ge=0,
        le=65535,
        description="port for `/metrics` alone, which the other port then does not have; 0 = none",
    )
    cluster: str = Field(
        "",
        description="Ray cluster that runs the models, `auto` for the one that this machine is "
        "part of, or HOST:PORT of its head; empty = this process runs them",
    )
    cluster_wait: float = Field(
        60.0, ge=0, description="seconds that a front waits at its start for its application"
    )
    application: str = Field(
        "voice-engine",
        pattern=APPLICATION,
        description="name of the application on the cluster",
    )
    models_dir: Path = Field(Path("models"), description="folder of the real models' weights")
    cache_dir: Path = Field(
        Path("~/.cache/voice-engine"),
        description="folder for weights that come in packages: they are put together there once",
    )
    voices_dir: Path = Field(
        Path("voices"),
        validation_alias=AliasChoices("VOICES_DIR", "VOICE_ENGINE_VOICES_DIR", "voices_dir"),
        description="folder of the registered voices",
    )
    voices_url: str = Field(
        "",
        validation_alias=AliasChoices("VOICES_URL", "VOICE_ENGINE_VOICES_URL", "voices_url"),
        description="bucket of the registered voices instead, which several instances share: "
        "`s3://bucket/prefix`, with endpoint and credentials in the AWS_ variables; VOICES_DIR has "
        "copies then",
    )
    shared_voices_mb: int = Field(
        1024, ge=1, description="MB of copies of voices from that bucket kept on disk"
    )
    voice_cache_mb: int = Field(
        512,
        ge=0,
        description="MB of encoded voices kept on disk for recordings that are not registered; "
        "0 = none",
    )
    voice_cache_memory_mb: int = Field(
        64, ge=0, description="MB of encoded voices kept in the memory of each speech worker"
    )
    spool_dir: Path | None = Field(
        None,
        description="folder for large uploads and responses (default: the temporary folder)",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="lowest level of events that are logged"
    )
    log_format: Literal["auto", "human", "json"] = Field(
        "auto",
        description="form of the log: human-readable text, or a JSON object on each line; auto "
        "means text on a terminal",
    )

    # Access.
    api_keys: SecretStr | None = Field(
        None,
        description="API keys of clients, `name:key,name:key`; without API keys the service is "
        "open to everyone who can reach it",
    )
    api_key: SecretStr | None = Field(None, description="the API key, if one key is enough")
    api_keys_file: Path | None = Field(
        None, description="file with more API keys, one `name:key` per line; SIGHUP reads it again"
    )
    admin_key: SecretStr | None = Field(
        None,
        description="key for operators' endpoints, valid for all others too; without it any "
        "client's key is enough",
    )
    public_lists: bool = Field(
        False,
        description="whether `/v1/audio/voices` and `/v1/audio/models` need no key; Open WebUI "
        "asks for them without one",
    )
    public_metrics: bool = Field(
        False, description="whether `/metrics` needs no key, although there are some"
    )
    page: bool = Field(
        True, description="whether there is a page at `/`, to use and to watch the service"
    )
    voice_owners: Literal["off", "keys"] = Field(
        "off",
        description="whose registered voices are: off = everyone's; keys = each belongs to the key "
        "that it was registered with, and to operators",
    )
    rate_limit_per_minute: float = Field(
        0,
        ge=0,
        description="requests per minute for each key, or for each address without keys; "
        "0 = unlimited",
    )
    cors_origins: str = Field(
        "",
        description="web origins whose pages may call the service, `https://a.example,...`, or `*`",
    )

    # Which engines, and how they run.
    profile: Literal["auto", "production", "embedded", "minimal"] = Field(
        "auto",
        description="which default engines to use: production (pocket, sensevoice), embedded "
        "(kokoro, whisper) or minimal (flite, sphinx); auto means the first of these that is "
        "installed, for each kind",
    )
    engines: str = Field(
        "",
        validation_alias=AliasChoices("VOICE_ENGINE_MODELS", "engines"),
        description="models to run, of both kinds in one list: `pocket,kokoro,sensevoice,whisper`; "
        "of each kind the first is the default; a kind without a name gets that of the profile; "
        "pocket's other languages and sizes, such as pocket-french, are loaded on demand unless "
        "they are in the list",
    )
    tts_engine: str = Field(
        "",
        description="instead of names in that list: engine for speech, a name or module:Class; of "
        "several (`a,b`) the first is the default",
    )
    stt_engine: str = Field("", description="the same for transcription")
    watch_models: float = Field(
        5.0,
        ge=0,
        description="seconds between looks into the models folder: a default engine, or new "
        "weights, are taken up once their files are complete, without a restart; 0 = never",
    )
    pull: str = Field(
        "",
        description="engines whose weights are downloaded into the models folder if they are not "
        "there, `pocket,sensevoice`, while the installed engines serve",
    )
    vad_engine: str = Field(
        SILERO.name,
        description="engine that finds speech in live sound, loaded when a session needs it: "
        f"{SILERO.name}, a module:Class, or off: then there is no live transcription",
    )
    idle_unload: float = Field(
        0,
        ge=0,
        description="seconds without a request after which a model is unloaded; the next request "
        "loads it again; 0 = never",
    )
    on_demand_unload: float = Field(
        300,
        gt=0,
        description="the same for a model that is loaded on demand: pocket's other languages and "
        "sizes",
    )
    tts_workers: str = Field(
        "1", description="number of workers of each speech engine; with `1,a=2` engine a has two"
    )
    stt_workers: str = Field("1", description="the same for transcription")
    tts_capacity: str = Field(
        "auto",
        description="number of requests that a speech worker serves at once, `auto` or in the "
        "notation of workers; auto means as many as its engine can and the memory allows",
    )
    stt_capacity: str = Field("auto", description="the same for transcription")
    tts_live: str = Field(
        "auto",
        description="number of them that may be streamed while they are spoken; auto means as many "
        "as keep up with real time, measured at load and in use",
    )
    threads: Annotated[int, Field(ge=1, le=64)] | Literal["auto"] = Field(
        "auto",
        description="number of compute threads of a worker; auto means the cores that the "
        "container may use, shared by the workers of a model",
    )
    quantize: bool = Field(True, description="use int8 weights where the engine has them")
    start_method: Literal["fork", "spawn"] = Field(
        "fork",
        description="fork: workers share the weights of a template; spawn: each loads its own copy",
    )

    sandbox: Literal["auto", "off"] = Field(
        "auto",
        description="auto: workers give up the network, programs and files that they do not need, "
        "as far as the kernel lets them; off: they give up nothing",
    )

    # Limits for clients.
    max_text_chars: int = Field(
        5000,
        ge=1,
        le=500_000,  # with a recording beside it, it fits into a frame to a worker
        description="longest text to speak, in characters",
    )
    max_reference_mb: int = Field(50, ge=1, description="largest reference recording, in MB")
    max_audio_mb: int = Field(300, ge=1, description="largest recording to transcribe, in MB")
    max_voices: int = Field(1000, ge=0, description="number of voices that may be registered")
    spool_threshold_kb: int = Field(
        128,
        ge=1,
        le=1024,
        description="KB of an upload that stay in memory; a larger upload goes to a file",
    )
    queue_size: int = Field(64, ge=1, description="number of requests that may wait for each model")
    queue_seconds: float = Field(
        120.0, gt=0, description="seconds of estimated work that may wait for each model"
    )
    client_share: float = Field(
        0.75, gt=0, le=1, description="share of a queue that one client may fill, 0 to 1"
    )
    max_connections: int = Field(
        512, ge=1, description="number of connections that may be open; others get 503 at once"
    )
    max_sessions: int = Field(
        400,
        ge=1,
        description="number of live sessions (WebSockets) that may be open; one client may have "
        "the same share of them as of a queue",
    )
    session_ping: float = Field(
        20.0,
        gt=0,
        description="seconds between the pings of a session; a client that answers none is gone",
    )
    send_timeout: float = Field(
        60.0,
        gt=0,
        description="seconds until a client that does not read its response is disconnected",
    )
    idle_timeout: float = Field(
        75.0,
        gt=0,
        description="seconds until a connection must send the headers of its first or next request",
    )
    request_timeout: float = Field(
        300.0, gt=0, description="seconds from the end of the upload to the response, at most"
    )

    # Supervision of workers.
    load_timeout: float = Field(300.0, gt=0, description="seconds that a model may take to load")
    warm_up_timeout: float = Field(
        60.0, gt=0, description="seconds until a forked worker must be READY"
    )
    ping_interval: float = Field(
        1.0, gt=0, description="seconds between pings, and between RSS samples"
    )
    ping_timeout: float = Field(
        15.0, gt=0, description="seconds without a pong after which a worker is killed"
    )
    cancel_grace: float = Field(
        0.5, gt=0, description="seconds that a cancelled request has to stop by itself"
    )
    drain_timeout: float = Field(
        30.0, ge=0, description="seconds that requests in flight have to finish at shutdown"
    )
    max_attempts: int = Field(
        3, ge=1, description="number of workers that may die on one request before it fails"
    )
    quarantine: float = Field(
        600.0, ge=0, description="seconds for which such a request is refused afterwards"
    )
    backoff_base: float = Field(
        1.0,
        gt=0,
        description="seconds of the pause after the second failed start in a row; it doubles",
    )
    backoff_max: float = Field(
        60.0, gt=0, description="seconds of the longest pause between failed starts"
    )
    failures_max: int = Field(
        5, ge=1, description="number of failed starts in a row after which a model is FAILED"
    )

    # Memory. A limit is an RSS ("900"), or growth over a worker's RSS at READY ("+400"). With
    # several engines, "900,a=+400" gives engine a its own limit.
    tts_soft_limit_mb: str = Field(
        "",
        description="RSS in MB at which a speech worker is replaced without a gap; `+400` means "
        "growth since READY",
    )
    tts_hard_limit_mb: str = Field(
        "", description="RSS in MB at which a speech worker is killed and its requests are replayed"
    )
    stt_soft_limit_mb: str = Field("", description="the same for transcription, in MB")
    stt_hard_limit_mb: str = Field("", description="the same for transcription, in MB")
    memory_limit_mb: int | None = Field(
        None, ge=1, description="MB for the whole service, if less than the container's memory"
    )
    pressure: float = Field(
        0.9,
        gt=0,
        le=1,
        description="share of the service's memory in use at which workers are replaced, 0 to 1",
    )
    soft_samples: int = Field(
        3,
        ge=1,
        description="number of samples in a row over the soft limit after which a worker is "
        "replaced",
    )
    min_lifetime: float = Field(
        5.0,
        ge=0,
        description="seconds from the start of a worker for which it is not replaced; the hard "
        "limit applies at once",
    )
    max_requests: int = Field(
        0, ge=0, description="number of requests after which a worker is replaced; 0 = unlimited"
    )
    max_age: float = Field(
        0, ge=0, description="seconds after which a worker is replaced; 0 = unlimited"
    )
    recycle_jitter: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="share by which the two limits before differ between workers, 0 to 1",
    )
    trim_growth_mb: int = Field(
        64, ge=0, description="MB of growth at which a worker gives free memory back"
    )

    @field_validator(
        *("tts_workers", "stt_workers", "tts_capacity", "stt_capacity", "tts_live"), mode="before"
    )
    @classmethod
    def _is_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) else value

    @field_validator("cache_dir")
    @classmethod
    def _has_home(cls, folder: Path) -> Path:
        try:
            return folder.expanduser()
        except RuntimeError:  # a user without a home
            return Path(tempfile.gettempdir(), "voice-engine")

    @field_validator("voices_url")
    @classmethod
    def _is_bucket(cls, url: str) -> str:
        url = url.strip()
        if url and not BUCKET_URL.fullmatch(url):
            raise ValueError(
                "it is not the URL of a bucket; write s3://bucket/prefix, and put endpoint and "
                "credentials into AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        if url and importlib.util.find_spec("obstore") is None:
            raise ValueError(
                "a bucket needs the package obstore, which is not installed; install it with "
                "`.venv/bin/pip install -c constraints.txt obstore`"
            )
        return url

    @field_validator("pull")
    @classmethod
    def _can_be_pulled(cls, text: str) -> str:
        for name in _split(text):
            if not is_pullable(name):
                raise ValueError(
                    f"{name} is unknown; use some of {', '.join(PULLABLE)}, pocket-french, ..."
                )
        return text

    @field_validator("cors_origins")
    @classmethod
    def _is_origins(cls, text: str) -> str:
        for origin in _split(text):
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin} is not an origin; write it as https://host or http://host:1"
                )
        return text

    @model_validator(mode="after")
    def _check(self) -> Settings:
        if self.metrics_port and self.metrics_port == self.port:
            raise ValueError(
                f"metrics_port is the port of the service, {self.port}; choose another one, or "
                "leave it out: then /metrics is on that port"
            )
        self._models = self.chosen_again()
        self._listeners = self._listening()
        self._keys = Keys.load(
            keys=_reveal(self.api_keys),
            key=_reveal(self.api_key),
            file=self.api_keys_file,
            admin=_reveal(self.admin_key),
        )
        if self.voice_owners == "keys" and self._keys.open:
            raise ValueError(
                "voice_owners is keys, but there is no key of a client; set VOICE_ENGINE_API_KEYS"
            )
        return self

    _keys: Keys = PrivateAttr()
    _models: tuple[ModelSettings, ...] = PrivateAttr()
    _listeners: tuple[ModelSettings, ...] = PrivateAttr()

    @property
    def models(self) -> tuple[ModelSettings, ...]:
        """The models that serve requests by themselves; of each kind, the default one first."""
        return self._models

    @property
    def pulled(self) -> tuple[str, ...]:
        """The engines whose weights are to be downloaded."""
        return tuple(_split(self.pull))

    def chosen_again(self) -> tuple[ModelSettings, ...]:
        """The models, with the default engines that the models folder has by now."""
        return tuple(model for kind in SERVING_KINDS for model in self._models_of(kind))

    def with_model(self, model: ModelSettings) -> Settings:
        """The same settings with another engine for the model of this name."""
        other = self.model_copy()
        other._models = tuple(model if each.name == model.name else each for each in self._models)
        return other

    def with_added(self, models: Sequence[ModelSettings]) -> Settings:
        """The same settings with those of `models` that they do not have yet."""
        other = self.model_copy()
        known = {model.name for model in self._models}
        other._models = (*self._models, *(each for each in models if each.name not in known))
        return other

    def with_only(self, kind: Kind, name: str) -> Settings:
        """The same settings for one model: the default one of `kind`, which is called `name`."""
        other = self.model_copy()
        found = next(each for each in self.all_models if each.kind is kind)
        other._models, other._listeners = (), ()
        if kind is Kind.VAD:
            other._listeners = (found,)
        else:
            other._models = (replace(found, name=name),)
        return other

    @property
    def all_models(self) -> tuple[ModelSettings, ...]:
        """`models`, and the one that finds the speech in live sound, unless it is off."""
        return (*self._models, *self._listeners)

    @property
    def keys(self) -> Keys:
        """The API keys of all settings, as they were when this object was made."""
        return self._keys

    @property
    def origins(self) -> frozenset[str]:
        """The origins whose pages may call the service from a browser."""
        return frozenset(_split(self.cors_origins))

    @classmethod
    def variables(cls) -> dict[str, tuple[str, ...]]:
        """The environment variables of each field, the one to use first."""
        found: dict[str, tuple[str, ...]] = {}
        for name, field in cls.model_fields.items():
            alias = field.validation_alias
            choices = alias.choices if isinstance(alias, AliasChoices) else ()
            found[name] = tuple(str(choice) for choice in choices if str(choice).isupper()) or (
                f"VOICE_ENGINE_{name.upper()}",
            )
        return found

    @classmethod
    def table(cls) -> str:
        """All settings as a Markdown table: variable, default, what it is for."""
        rows = [("variable", "default", "what it is"), ("---", "---", "---")]
        for name, (variable, *_) in cls.variables().items():
            field = cls.model_fields[name]
            default = "" if field.default is None else str(field.default)
            rows.append((f"`{variable}`", default and f"`{default}`", str(field.description)))
        return "\n".join("| " + " | ".join(row) + " |" for row in rows)

    def _models_of(self, kind: Kind) -> list[ModelSettings]:
        """The models of one kind. Raises `ValueError` for settings that contradict each other."""
        setting = f"{kind}_engine"
        listed = self._listed(kind)
        named = [self._engine(kind, setting, name) for name in _split(getattr(self, setting))]
        if listed and named:
            raise ValueError(
                f"VOICE_ENGINE_MODELS and VOICE_ENGINE_{setting.upper()} both name an engine for "
                f"{kind}; name all engines of a kind in one of the two"
            )
        engines = listed or named or [self._default(kind)]
        engines += self._variants(kind, engines, chosen=bool(listed or named))
        names = [spec.name for spec in engines]
        if len(set(names)) < len(names):
            raise ValueError(f"{setting} names an engine twice")

        def model(index: int, spec: EngineSpec) -> ModelSettings:
            def value(field: str, read: Callable[[str], _T]) -> _T:
                setting = f"{kind}_{field}"
                return _by_engine(setting, getattr(self, setting), read, names)[spec.name]

            workers = value("workers", _count)
            capacity = value("capacity", _at_once)
            live = value("live", _at_once) if kind is Kind.TTS else None
            for name, number in (("capacity", capacity), ("live", live)):
                if (number or 1) > 1 and spec.profile != "custom" and spec.capacity == 1:
                    raise ValueError(
                        f"{kind}_{name}: the engine {spec.name} serves one request at a time"
                    )
            if capacity and live and live > capacity:
                raise ValueError(f"{kind}_live: {live} is more than the capacity, {capacity}")
            footprint = spec.footprint
            return ModelSettings(
                name=spec.name if index else kind.value,
                kind=kind,
                engine=spec,
                workers=workers,
                need=Need(
                    template=footprint.template,
                    worker=footprint.worker,
                    request=footprint.request,
                    workers=workers,
                    soft=value("soft_limit_mb", Limit.parse),
                    hard=value("hard_limit_mb", Limit.parse),
                    further=footprint.further,
                    capacity=capacity or spec.capacity,
                    least=capacity or 1,
                    on_demand=spec.on_demand,
                ),
                limit_setting=f"VOICE_ENGINE_{kind.upper()}_SOFT_LIMIT_MB or _HARD_LIMIT_MB",
                capacity=capacity,
                live=live,
            )

        return [model(index, spec) for index, spec in enumerate(engines)]

    def _listening(self) -> tuple[ModelSettings, ...]:
        """The model that finds speech in live sound; none if it is off."""
        name = self.vad_engine.strip()
        if name == "off":
            return ()
        if ":" in name:
            spec = custom_engine(Kind.VAD, name, SILERO.footprint)
        elif name == SILERO.name:
            spec = SILERO
        else:
            raise ValueError(
                f"vad_engine={name} is unknown; use {SILERO.name}, a class of your own "
                "(module:Class), or off"
            )
        return (
            ModelSettings(
                name=Kind.VAD.value,
                kind=Kind.VAD,
                engine=spec,
                workers=1,
                need=Need(
                    template=spec.footprint.template,
                    worker=spec.footprint.worker,
                    request=spec.footprint.request,
                    workers=1,
                    soft=None,
                    hard=_LISTENING_GROWTH,
                ),
                limit_setting="the limit in supervisor/settings.py",
            ),
        )

    def _variants(self, kind: Kind, engines: list[EngineSpec], *, chosen: bool) -> list[EngineSpec]:
        """Other weights of pocket that are installed, if pocket may serve; loaded on demand.

        `chosen`: the settings name the engines of this kind.
        """
        production = default_engine(Kind.TTS, "production")
        allowed = self.profile in ("auto", "production") and not chosen
        if kind is not Kind.TTS or not (
            allowed or any(spec.factory == production.factory for spec in engines)
        ):
            return []
        names = [spec.name for spec in engines]
        return [spec for spec in find_variants(self.models_dir) if spec.name not in names]

    def _named(self, name: str) -> EngineSpec | None:
        """The engine called `name` in the table, or other weights of one that are installed."""
        found = ENGINES.get(name) or find_variant(self.models_dir, name)
        return replace(found, on_demand=False) if found and found.on_demand else found

    def _listed(self, kind: Kind) -> list[EngineSpec]:
        """The engines of `kind` in the list of both kinds."""
        names = _split(self.engines)
        found = {name: self._named(name) for name in names}
        for name in names:
            if found[name] is None:
                raise ValueError(
                    f"VOICE_ENGINE_MODELS: {name} is unknown; use some of "
                    f"{', '.join(sorted(ENGINES))}; an engine of your own (module:Class) goes into "
                    "VOICE_ENGINE_TTS_ENGINE or VOICE_ENGINE_STT_ENGINE"
                )
            if names.count(name) > 1:
                raise ValueError(f"VOICE_ENGINE_MODELS names {name} twice")
        return [spec for spec in found.values() if spec is not None and spec.kind is kind]

    def _engine(self, kind: Kind, setting: str, name: str) -> EngineSpec:
        """The engine called `name`, or of the class that it names."""
        if ":" in name:
            return custom_engine(kind, name)
        spec = self._named(name)
        if spec is None:
            raise ValueError(
                f"{setting}={name} is unknown; use one of {', '.join(sorted(ENGINES))}"
            )
        if spec.kind is not kind:
            raise ValueError(f"{setting}={name} is an engine for {spec.kind}")
        return spec

    def _default(self, kind: Kind) -> EngineSpec:
        """The engine that the profile chooses."""
        if self.profile != "auto":
            return default_engine(kind, self.profile)
        engines = [default_engine(kind, profile) for profile in BEST_FIRST]
        return next((spec for spec in engines if spec.installed(self.models_dir)), engines[-1])


def custom_engine(kind: Kind, factory: str, footprint: Footprint = CUSTOM_FOOTPRINT) -> EngineSpec:
    """An engine that a setting names by its class, `module:Class`."""
    return EngineSpec(factory.rpartition(":")[2], kind, "custom", factory, footprint)


def _by_engine(
    setting: str, text: str, read: Callable[[str], _T], engines: list[str]
) -> dict[str, _T]:
    """The value that `text` has for each engine: one for all, `engine=value` for some of them."""
    values = dict.fromkeys(engines, read(""))
    for part in _split(text):
        engine, equals, value = part.rpartition("=")
        if equals and engine.strip() not in values:
            raise ValueError(f"{setting}: there is no engine {engine.strip()}")
        try:
            values |= dict.fromkeys([engine.strip()] if equals else engines, read(value.strip()))
        except ValueError as error:
            raise ValueError(f"{setting}: {error}") from None
    return values


def _count(text: str) -> int:
    """A number of workers; "" means 1."""
    if not text:
        return 1
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= MAX_WORKERS):
        raise ValueError(f"{text!r} is not a number of workers; write 1 to {MAX_WORKERS}")
    return int(text)


def _at_once(text: str) -> int | None:
    """A number of requests at once; "" and "auto" mean None."""
    if text in ("", "auto"):
        return None
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= _MAX_CAPACITY):
        raise ValueError(
            f"{text!r} is not a number of requests; write auto or 1 to {_MAX_CAPACITY}"
        )
    return int(text)


def _reveal(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
