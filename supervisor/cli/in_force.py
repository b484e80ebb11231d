"""The settings in force: each with its value and where it comes from. Runs in a command.

Only the commands that need it import this: the settings take as long to load as all the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr, ValidationError
from pydantic_settings import DotEnvSettingsSource

from supervisor.cli import show
from supervisor.cli.client import CommandError
from supervisor.settings import Settings

_PREFIX = "VOICE_ENGINE_"
_OURS = frozenset({"VOICE_ENGINE_URL"})
"""Variables of this command line, which are no settings of the service."""


@dataclass(frozen=True, slots=True)
class Value:
    """A setting as it is in force; `text` of a secret says only that there is one."""

    variable: str
    text: str
    source: str
    description: str


def load_settings(env_file: Path | None) -> Settings:
    """The settings as `serve` would have them. Raises `CommandError`."""
    try:
        return Settings(_env_file=env_file)
    except ValidationError as error:
        problems = [
            f"{'.'.join(str(part) for part in problem['loc']) or 'settings'}: {problem['msg']}"
            for problem in error.errors(include_url=False)
        ]
    raise CommandError(f"{'; '.join(problems)}; `voice-engine settings` lists all settings")


def read_file(env_file: Path | None) -> dict[str, str]:
    """The variables of a file, by their names in capitals."""
    if env_file is None:
        return {}
    found = DotEnvSettingsSource(Settings, env_file=env_file).env_vars
    return {name.upper(): value or "" for name, value in found.items()}


def values(environment: Mapping[str, str], file: Mapping[str, str]) -> list[Value]:
    """All settings, in their order. The environment overrides the file."""
    upper = {name.upper(): value for name, value in environment.items()}
    found = []
    for name, variables in Settings.variables().items():
        field = Settings.model_fields[name]
        text, source = "" if field.default is None else str(field.default), "default"
        for place, given in (("env file", file), ("environment", upper)):
            for variable in reversed(variables):
                if variable in given:
                    text, source = given[variable], place
        if SecretStr in getattr(field.annotation, "__args__", ()):
            text = "set" if text else ""
        found.append(Value(variables[0], show.clean(text), source, str(field.description)))
    return found


def unknown(environment: Mapping[str, str], file: Mapping[str, str]) -> list[str]:
    """Variables that look like settings but are none: mistyped ones."""
    known = {each for variables in Settings.variables().values() for each in variables} | _OURS
    return sorted(
        name for name in {*environment, *file} if name.startswith(_PREFIX) and name not in known
    )
