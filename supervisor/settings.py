"""Every setting, limit and timeout, from the environment, validated at start. Runs in the front.

Each is `VOICE_ENGINE_` and its name in capitals; PORT and VOICES_DIR go without the prefix, as
hosting platforms set them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import (
    AliasChoices,
    Field,
    PrivateAttr,
    SecretStr,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from ipc.engines import ENGINES, MODELS, EngineSpec, Footprint
from supervisor.access.keys import Keys
from supervisor.memory.limits import Limit, Need

_CUSTOM = Footprint(template=64, worker=32, request=32)
"""Assumed of an engine that is named by its class."""

_ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^/\s]+")


class Settings(BaseSettings):
    """What the service runs with. Durations are in seconds, memory in megabytes (2^20 bytes)."""

    model_config = SettingsConfigDict(
        env_prefix="VOICE_ENGINE_",
        extra="ignore",
        populate_by_name=True,
        frozen=True,
        hide_input_in_errors=True,  # keys are among it
        allow_inf_nan=False,
    )

    # Where it listens and keeps things.
    host: str = Field("::", description="address to listen on; :: is every one, IPv4 included")
    port: int = Field(
        8000,
        ge=0,
        le=65535,
        validation_alias=AliasChoices("PORT", "VOICE_ENGINE_PORT", "port"),
        description="port to listen on; 0 takes a free one",
    )
    models_dir: Path = Field(Path("models"), description="folder of the real models' weights")
    voices_dir: Path = Field(
        Path("voices"),
        validation_alias=AliasChoices("VOICES_DIR", "VOICE_ENGINE_VOICES_DIR", "voices_dir"),
        description="folder of the registered voices",
    )
    voice_cache_mb: int = Field(
        512, ge=0, description="encoded voices kept there, of any recording; 0: none anywhere"
    )
    voice_cache_memory_mb: int = Field(
        64, ge=0, description="encoded voices kept in the memory of each speech worker"
    )
    spool_dir: Path | None = Field(
        None, description="folder for large uploads and answers (default: the system's for such)"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least severe event that is logged"
    )

    # Who gets in.
    api_keys: SecretStr | None = Field(
        None, description="keys of clients, `name:key,name:key`; without any key all may come in"
    )
    api_key: SecretStr | None = Field(None, description="the key, where one is enough")
    api_keys_file: Path | None = Field(
        None, description="file of more keys, `name:key` a line; SIGHUP has it read again"
    )
    admin_key: SecretStr | None = Field(
        None, description="key for operators' endpoints (default: any client's), good for all"
    )
    rate_limit_per_minute: float = Field(
        0, ge=0, description="requests a minute of each key, or address; 0: any"
    )
    cors_origins: str = Field(
        "", description="origins whose pages may call the service, `https://a.example,...`, or `*`"
    )

    # Which engines, and how they run.
    profile: Literal["auto", "production", "embedded"] = Field(
        "auto", description="auto takes production for each model whose weights are there"
    )
    tts_engine: str = Field("", description="engine for speech: a name or module:Class")
    stt_engine: str = Field("", description="engine for transcription: the same")
    tts_workers: int = Field(1, ge=1, le=64, description="workers for speech")
    stt_workers: int = Field(1, ge=1, le=64, description="workers for transcription")
    threads: int = Field(1, ge=1, le=64, description="threads a worker computes with")
    quantize: bool = Field(True, description="int8 weights where the engine has them")
    start_method: Literal["fork", "spawn"] = Field(
        "fork", description="fork workers from a loaded template, or load in each"
    )

    # What clients may ask for.
    max_text_chars: int = Field(5000, ge=1, description="longest text to speak")
    max_reference_mb: int = Field(50, ge=1, description="largest reference recording")
    max_audio_mb: int = Field(300, ge=1, description="largest recording to transcribe")
    max_voices: int = Field(1000, ge=0, description="voices that may be registered")
    spool_threshold_kb: int = Field(
        128, ge=1, le=1024, description="uploads over this go to a file, not into memory"
    )
    queue_size: int = Field(64, ge=1, description="requests that may wait for each model")
    queue_seconds: float = Field(
        120.0, gt=0, description="work that may wait for each model, as estimated"
    )
    client_share: float = Field(
        0.75, gt=0, le=1, description="part of a queue that one client may have"
    )
    max_connections: int = Field(
        512, ge=1, description="connections that may be open; others get 503 at once"
    )
    send_timeout: float = Field(60.0, gt=0, description="without a client reading its answer")
    idle_timeout: float = Field(
        75.0, gt=0, description="for a connection to send the head of its first, or next, request"
    )
    request_timeout: float = Field(300.0, gt=0, description="from upload to answer")

    # How workers are kept.
    load_timeout: float = Field(300.0, gt=0, description="for a model to load")
    warm_up_timeout: float = Field(60.0, gt=0, description="for a forked worker to be READY")
    ping_interval: float = Field(1.0, gt=0, description="between pings, and between RSS samples")
    ping_timeout: float = Field(15.0, gt=0, description="without a pong until a worker is killed")
    cancel_grace: float = Field(0.5, gt=0, description="for a cancelled engine to stop by itself")
    drain_timeout: float = Field(30.0, ge=0, description="for requests in flight at shutdown")
    max_attempts: int = Field(3, ge=1, description="workers that one request may cost")
    quarantine: float = Field(
        600.0, ge=0, description="during which a request that cost so many is refused"
    )
    backoff_base: float = Field(0.5, gt=0, description="first pause between failing restarts")
    backoff_max: float = Field(30.0, gt=0, description="longest pause between failing restarts")
    failures_max: int = Field(5, ge=1, description="failed starts in a row until FAILED")
    failed_pause: float = Field(60.0, gt=0, description="pause of a FAILED model between probes")

    # Memory. A limit is RSS ("900") or growth over what a worker held at READY ("+400").
    tts_soft_limit_mb: str = Field("", description="replace a speech worker, without a gap")
    tts_hard_limit_mb: str = Field("", description="kill a speech worker, replay its request")
    stt_soft_limit_mb: str = Field("", description="the same for transcription")
    stt_hard_limit_mb: str = Field("", description="the same for transcription")
    memory_limit_mb: int | None = Field(
        None, ge=1, description="memory of the whole service, below the container's own"
    )
    pressure: float = Field(
        0.9, gt=0, le=1, description="part of that memory at which workers are replaced for it"
    )
    soft_samples: int = Field(3, ge=1, description="samples in a row over the soft limit")
    min_lifetime: float = Field(5.0, ge=0, description="before a worker is replaced at all")
    max_requests: int = Field(0, ge=0, description="requests until a worker is replaced; 0: any")
    max_age: float = Field(0, ge=0, description="age at which a worker is replaced; 0: any")
    recycle_jitter: float = Field(
        0.1, ge=0, lt=1, description="part by which workers differ in those two"
    )
    trim_growth_mb: int = Field(64, ge=0, description="growth at which an idle worker trims")

    @field_validator(
        "tts_soft_limit_mb", "tts_hard_limit_mb", "stt_soft_limit_mb", "stt_hard_limit_mb"
    )
    @classmethod
    def _is_limit(cls, text: str) -> str:
        Limit.parse(text)
        return text

    @field_validator("cors_origins")
    @classmethod
    def _is_origins(cls, text: str) -> str:
        for origin in _split(text):
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin} is no origin; write it as https://host or http://host:1"
                )
        return text

    @model_validator(mode="after")
    def _check(self) -> Settings:
        for model in MODELS:
            self.engine(model)
        self._keys = Keys.load(
            keys=_reveal(self.api_keys),
            key=_reveal(self.api_key),
            file=self.api_keys_file,
            admin=_reveal(self.admin_key),
        )
        return self

    _keys: Keys = PrivateAttr()

    @property
    def keys(self) -> Keys:
        """The keys of all these settings, as they were when this object was made."""
        return self._keys

    @property
    def origins(self) -> frozenset[str]:
        """Whose pages may call the service from a browser."""
        return frozenset(_split(self.cors_origins))

    @classmethod
    def table(cls) -> str:
        """All settings as a Markdown table: variable, default, what it is for."""
        rows = [("variable", "default", "what it is"), ("---", "---", "---")]
        for name, field in cls.model_fields.items():
            alias = field.validation_alias
            variable = (
                str(alias.choices[0])
                if isinstance(alias, AliasChoices)
                else f"VOICE_ENGINE_{name.upper()}"
            )
            default = "" if field.default is None else str(field.default)
            rows.append((f"`{variable}`", default and f"`{default}`", str(field.description)))
        return "\n".join("| " + " | ".join(row) + " |" for row in rows)

    def engine(self, model: str) -> EngineSpec:
        """The engine that serves `model`, by override, else by profile."""
        override: str = getattr(self, f"{model}_engine")
        if override in ENGINES:
            spec = ENGINES[override]
            if spec.model != model:
                raise ValueError(f"{model}_engine={override} is an engine for {spec.model}")
            return spec
        if ":" in override:
            return EngineSpec(override.rpartition(":")[2], model, "custom", override, _CUSTOM)
        if override:
            raise ValueError(
                f"{model}_engine={override} is unknown; there are {', '.join(sorted(ENGINES))}"
            )
        by_profile = {spec.profile: spec for spec in ENGINES.values() if spec.model == model}
        production = by_profile["production"]
        if self.profile == "production" or (
            self.profile == "auto" and production.installed(self.models_dir)
        ):
            return production
        return by_profile["embedded"]

    def need(self, model: str) -> Need:
        """What `model` needs of the container's memory, and the limits that are wished for."""
        footprint = self.engine(model).footprint
        return Need(
            template=footprint.template,
            worker=footprint.worker,
            request=footprint.request,
            workers=self.workers(model),
            soft=Limit.parse(getattr(self, f"{model}_soft_limit_mb")),
            hard=Limit.parse(getattr(self, f"{model}_hard_limit_mb")),
        )

    def workers(self, model: str) -> int:
        """How many workers `model` has."""
        count: int = getattr(self, f"{model}_workers")
        return count


def _reveal(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
