"""What the service needs of a machine, checked. Runs in `voice-engine doctor`."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import resource
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path

from ipc.engines import ENGINES, EngineSpec
from supervisor.cli import show
from supervisor.cli.client import Address, CommandError
from supervisor.cli.in_force import load_settings, read_file, unknown
from supervisor.memory.cgroup import find_container, find_cores
from supervisor.memory.limits import FRONT_MB, MB, DoesNotFit, plan
from supervisor.settings import Settings

_DISTRIBUTION = "voice-engine"
_ROOM_MB = 500
"""Free space below which a folder may soon be full: the weights from packages and some uploads."""

FILES_OF_FRONT, FILES_OF_CONNECTION = 256, 3
"""File descriptors that the front reserves; `supervisor.http.connection` has the same numbers."""


_NEWEST_PYTHON = (3, 15)
"""The first version that nobody has had in mind."""


class Verdict(Enum):
    """How a check has ended; the value is the exit code of the worst one."""

    OK = 0
    WARNING = 1
    FAILED = 2


@dataclass(frozen=True, slots=True)
class Check:
    """What was looked at, and what to do about it."""

    name: str
    verdict: Verdict
    found: str
    advice: str = ""


def all_checks(env_file: Path | None) -> Iterator[Check]:
    """All checks, one after the other."""
    yield check_python()
    yield check_packages()
    try:
        settings = load_settings(env_file)
    except CommandError as error:
        yield Check(
            "settings", Verdict.FAILED, str(error), "correct them; the service cannot start"
        )
        return
    yield check_names(env_file)
    yield check_port(settings, serving(settings))
    yield from (check_weights(model.engine, settings) for model in settings.models)
    yield check_memory(settings)
    yield from check_folders(settings)
    yield check_descriptors(settings)
    yield from check_sandbox()
    yield check_clock()


def check_python() -> Check:
    """The version of Python."""
    found = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info > _NEWEST_PYTHON:
        advice = "it was never tried: take an older one, PYTHON=python3.13 make setup"
        return Check("python", Verdict.WARNING, found, advice)
    return Check("python", Verdict.OK, found)


def check_packages() -> Check:
    """That the packages that the service declares are installed, and new enough."""
    lacks, count = [], 0
    for declared in importlib.metadata.requires(_DISTRIBUTION) or []:
        if "extra ==" in declared:
            continue
        name = re.match(r"[A-Za-z0-9._-]+", declared)
        floor = re.search(r">=([0-9.]+)", declared)
        if name is None:
            continue
        count += 1
        try:
            version = importlib.metadata.version(name[0])
        except importlib.metadata.PackageNotFoundError:
            lacks.append(f"{name[0]} is missing")
            continue
        if floor is not None and _numbers(version) < _numbers(floor[1]):
            lacks.append(f"{name[0]} {version} is older than {floor[1]}")
    version = importlib.metadata.version(_DISTRIBUTION)
    if lacks:
        return Check("packages", Verdict.FAILED, ", ".join(lacks), "run `make setup`")
    return Check("packages", Verdict.OK, f"voice-engine {version} and its {count} packages")


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3]]


def check_names(env_file: Path | None) -> Check:
    """That no variable only looks like a setting."""
    names = unknown(os.environ, read_file(env_file))
    if names:
        return Check(
            "settings",
            Verdict.WARNING,
            f"no settings: {', '.join(names)}",
            "look for the right names: voice-engine settings",
        )
    return Check("settings", Verdict.OK, "valid")


def serving(settings: Settings) -> str | None:
    """What has the port here, if it is a voice engine."""
    host = "127.0.0.1" if settings.host in ("::", "0.0.0.0") else settings.host
    where = Address(f"http://{f'[{host}]' if ':' in host else host}:{settings.port}")
    try:
        with where.service() as service:
            health = service.health()[1]
    except CommandError:
        return None
    return f"voice-engine {health.get('version')}, {health.get('status')}"


def check_port(settings: Settings, served: str | None) -> Check:
    """That the service could listen, or that it does."""
    port = settings.port
    host = "::" if settings.host == "::" and socket.has_dualstack_ipv6() else settings.host
    host = "0.0.0.0" if host == "::" and not socket.has_dualstack_ipv6() else host
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host, port), family=family):
            pass
    except OSError as error:
        if served is not None:
            return Check("port", Verdict.OK, f"{port}: served by {served}")
        return Check(
            "port",
            Verdict.FAILED,
            f"{port}: {error.strerror or error}",
            "another program has it: set PORT to another number",
        )
    return Check("port", Verdict.OK, f"{port}: free")


def check_weights(spec: EngineSpec, settings: Settings) -> Check:
    """That an engine that would serve has its weights."""
    name = f"engine {spec.name}"
    if spec.name not in ENGINES:
        return Check(name, Verdict.OK, f"your own: {spec.factory}")
    if not spec.installed(settings.models_dir):
        return Check(
            name,
            Verdict.FAILED,
            "its libraries or its weights are missing",
            f"voice-engine models pull {settings.models_dir}"
            if spec.profile == "production"
            else "run `make setup` without SLIM=1",
        )
    if spec.name == "flite" and shutil.which("flite") is None:
        return Check(name, Verdict.FAILED, "the program flite is missing", "apt install flite")
    if spec.profile == "minimal":
        return Check(
            name,
            Verdict.WARNING,
            f"serves {spec.kind}, without neural weights",
            f"a better one: voice-engine models pull {settings.models_dir}",
        )
    return Check(name, Verdict.OK, f"serves {spec.kind}, {spec.profile}")


def check_memory(settings: Settings) -> Check:
    """That the models fit into the container."""
    override = settings.memory_limit_mb
    container = find_container(None if override is None else override * MB)
    cores = find_cores()
    limit = f"{container.limit // MB} MB ({container.source}), {cores.count:g} cores"
    needs = {model.name: model.need for model in settings.all_models}
    try:
        try:
            plans = plan(container.limit, needs)
        except DoesNotFit:  # the service then does without live transcription
            plans = plan(container.limit, {model.name: model.need for model in settings.models})
    except DoesNotFit as error:
        return Check(
            "memory", Verdict.FAILED, str(error), "the service cannot start before they fit"
        )
    parts = [f"the front needs {FRONT_MB} MB"]
    lowered = []
    for name, made in plans.items():
        need = needs[name]
        needed = need.template + need.workers * need.worker
        hard = made.limits.hard
        growth = f"grow by {hard.size // MB} MB" if hard.growth else f"have {hard.size // MB} MB"
        parts.append(f"{name} {needed} MB, each worker may {growth}")
        if made.capacity < need.capacity:
            lowered.append(f"{name} serves {made.capacity} of {need.capacity} requests at once")
    found = f"{limit}; {'; '.join(parts)}"
    lowered += [f"{name} cannot be loaded" for name in needs if name not in plans]
    if lowered:
        advice = f"{', '.join(lowered)}; give it more memory"
        return Check("memory", Verdict.WARNING, found, advice)
    return Check("memory", Verdict.OK, found)


def check_folders(settings: Settings) -> Iterator[Check]:
    """That the folders can be written, and have room."""
    for name, folder, variable in (
        ("voices", settings.voices_dir, "VOICES_DIR"),
        ("cache", settings.cache_dir, "VOICE_ENGINE_CACHE_DIR"),
        ("spool", settings.spool_dir or Path(tempfile.gettempdir()), "VOICE_ENGINE_SPOOL_DIR"),
    ):
        yield check_folder(f"{name} folder", folder.absolute(), variable)


def check_folder(name: str, folder: Path, variable: str) -> Check:
    """One of them. What is not there yet is made in the nearest folder that is."""
    existing = next(each for each in (folder, *folder.parents) if each.exists())
    free = shutil.disk_usage(existing).free
    found = f"{folder}: {show.size(free)} free"
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        advice = f"make {existing} writable, or set {variable} to another folder"
        return Check(name, Verdict.FAILED, f"{folder}: not writable", advice)
    if free < _ROOM_MB * MB:
        advice = f"free some space, or set {variable} to another folder"
        return Check(name, Verdict.WARNING, found, advice)
    return Check(name, Verdict.OK, found)


def check_descriptors(settings: Settings) -> Check:
    """That there may be as many connections as the settings allow."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = FILES_OF_FRONT + FILES_OF_CONNECTION * settings.max_connections
    words = "unlimited" if hard == resource.RLIM_INFINITY else str(hard)
    if hard != resource.RLIM_INFINITY and hard < needed:
        return Check(
            "open files",
            Verdict.WARNING,
            f"at most {words}, {needed} are better",
            f"ulimit -n {needed}, LimitNOFILE={needed} or --ulimit nofile={needed}",
        )
    return Check("open files", Verdict.OK, f"at most {words}")


def check_sandbox() -> Iterator[Check]:
    """That the kernel has what the sandbox of workers is made of."""
    import landlockpy
    import seccompy

    if landlockpy.supported():
        found = f"version {landlockpy.abi_version()} of its interface"
        yield Check("landlock", Verdict.OK, found)
    else:
        yield Check(
            "landlock",
            Verdict.WARNING,
            "the kernel or the container refuses it: workers can read what the service can",
            "do not run the service as root here",
        )
    if seccompy.supported():
        yield Check("seccomp", Verdict.OK, "the kernel has it")
    else:
        yield Check(
            "seccomp",
            Verdict.WARNING,
            "the kernel or the container refuses it: workers can use every system call",
            "do not run the service as root here",
        )


def check_clock() -> Check:
    """That the time is no nonsense: certificates and files depend on it."""
    now = datetime.now(UTC)
    installed = datetime.fromtimestamp(Path(__file__).stat().st_mtime, UTC)
    found = now.strftime("%Y-%m-%d %H:%M:%S UTC")
    if now < installed:
        return Check(
            "time", Verdict.WARNING, f"{found}, before this was installed", "set the clock"
        )
    return Check("time", Verdict.OK, found)
