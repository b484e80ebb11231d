"""The service as the commands see it: its address, its key, its answers. Runs in a command."""

from __future__ import annotations

import ipaddress
import os
import re
import urllib.parse
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

FAILED, DOWN, USAGE = 1, 2, 64
"""Exit codes: refused or failed, no service or no model that serves, wrong usage."""

_CONNECT_SECONDS = 5.0
_HEARTBEAT_SECONDS = 30.0
_ANSWER_SECONDS = 600.0
"""Longer than the service's own time limit, which is what should end a request."""

_FOR_PROGRAMS = re.compile(r"; (GET /v1/\S+ .*|see /health)$")
"""What errors advise those to do who write programs; our own advice says the same."""

Json = dict[str, Any]


class CommandError(Exception):
    """A command cannot go on: a line that says what to do, and the exit code."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.code = code


class DownError(CommandError):
    """There is no service at the address, or none that can be understood."""

    def __init__(self, message: str) -> None:
        super().__init__(message, DOWN)


class RefusedError(CommandError):
    """The service has refused the request, or failed; `status` is HTTP's."""

    def __init__(self, message: str, status: int, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Address:
    """Where the service is, and the keys that it may want."""

    url: str
    key: str | None = None
    admin_key: str | None = None

    @classmethod
    def of(cls, url: str | None, key: str | None, environment: Mapping[str, str]) -> Address:
        """From options, else from the environment; a key that is given is used for everything."""
        url = url or environment.get("VOICE_ENGINE_URL")
        url = url or f"http://127.0.0.1:{environment.get('PORT') or 8000}"
        url = url if "://" in url else f"http://{url}"
        admin = key or environment.get("VOICE_ENGINE_ADMIN_KEY") or None
        client = key or environment.get("VOICE_ENGINE_API_KEY") or admin
        return cls(url.rstrip("/").removesuffix("/health"), client, admin or client)

    @classmethod
    def of_environment(cls) -> Address:
        """The address for a command that has no options: the completion of names."""
        return cls.of(None, None, os.environ)

    @property
    def _options(self) -> dict[str, Any]:
        parts = urllib.parse.urlsplit(self.url)
        return {
            "base_url": self.url,
            "timeout": httpx.Timeout(_ANSWER_SECONDS, connect=_CONNECT_SECONDS),
            # A proxy that the environment names is for the network, not for this machine.
            "trust_env": not _is_loopback(parts.hostname or ""),
            # Certificates that nobody asks for take a tenth of a second to read.
            "verify": parts.scheme != "http",
        }

    def _headers(self, *, operator: bool) -> dict[str, str]:
        key = self.admin_key if operator else self.key
        return {"Authorization": f"Bearer {key}"} if key else {}

    def live_options(self) -> dict[str, Any]:
        """Options of aiohttp's client for a session with the service."""
        trust_env = not _is_loopback(urllib.parse.urlsplit(self.url).hostname or "")
        return {
            "headers": self._headers(operator=False),
            "heartbeat": _HEARTBEAT_SECONDS,
            "trust_env": trust_env,
        }

    @contextmanager
    def service(self, *, operator: bool = False) -> Iterator[Service]:
        """A connection to the service; `operator`: for what needs the operators' key."""
        try:
            client = httpx.Client(headers=self._headers(operator=operator), **self._options)
        except (ValueError, httpx.InvalidURL) as error:
            raise CommandError(f"{self.url} is not an address: {error}", USAGE) from None
        with client:
            yield Service(client)

    @asynccontextmanager
    async def async_client(self) -> AsyncIterator[httpx.AsyncClient]:
        """The same for several requests at once."""
        async with httpx.AsyncClient(headers=self._headers(operator=False), **self._options) as it:
            yield it


class Service:
    """The service behind its HTTP interface."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def json(self, method: str, path: str, **options: Any) -> Json:
        """The JSON object of a response. Raises `CommandError`."""
        with self.stream(method, path, **options) as response:
            response.read()
            return json_of(response)

    @contextmanager
    def stream(self, method: str, path: str, **options: Any) -> Iterator[httpx.Response]:
        """A response whose body is read as it comes. Raises `CommandError`."""
        with (
            connected(str(self._client.base_url)),
            self._client.stream(method, path, **options) as response,
        ):
            if not response.is_success:  # a redirect, too: its body is not what was asked for
                response.read()
                raise refusal(response)
            yield response

    def health(self) -> tuple[int, Json]:
        """HTTP status and body of /health, which is also a body when no model serves."""
        with connected(str(self._client.base_url)):
            response = self._client.get("/health", timeout=_CONNECT_SECONDS)
        body = json_of(response)
        children, models = body.get("children"), body.get("models")
        if not (
            isinstance(children, list)
            and isinstance(models, dict)
            and all(isinstance(part, dict) for part in (*children, *models.values()))
        ):
            raise DownError(
                f"{response.url} (status {response.status_code}) is not the state of a voice "
                "engine; give its address with --url"
            )
        return response.status_code, body


def json_of(response: httpx.Response) -> Json:
    """The JSON object of a response. Raises `DownError`."""
    try:
        body = response.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise DownError(
            f"the response from {response.url} (status {response.status_code}) is not JSON; give "
            "the address of a voice engine with --url"
        )
    return body


@contextmanager
def connected(url: str) -> Iterator[None]:
    """Errors of the connection as a `DownError`."""
    try:
        yield
    except httpx.RequestError as error:
        raise no_response(url, error) from error


def no_response(url: str, error: Exception) -> DownError:
    """The error when the connection to the service cannot be had, or is lost."""
    return DownError(
        f"no response from {url.rstrip('/')} ({error or type(error).__name__}); start the "
        "service with `voice-engine serve`, or give its address with --url"
    )


def refusal(response: httpx.Response) -> RefusedError:
    """The error for a response, which has been read: the service's own words and what to do."""
    detail, status = _detail(response), response.status_code
    after = response.headers.get("Retry-After", "")
    retry_after = float(after) if after.replace(".", "", 1).isdigit() else None
    told = advice(status, response.request.url.path)
    return RefusedError(f"{detail}; {told}" if told else detail, status, retry_after)


def _detail(response: httpx.Response) -> str:
    try:
        body = response.json()
        detail = body["detail"] if isinstance(body, dict) else None
    except (ValueError, KeyError):
        detail = None
    if isinstance(detail, str):
        return _FOR_PROGRAMS.sub("", detail)
    return f"{response.url} answers {response.status_code} {response.reason_phrase}"


def advice(status: int, path: str) -> str:
    """What a user can do about a refusal with this status of HTTP."""
    if status == 401:
        return "set VOICE_ENGINE_API_KEY, or add --key"
    if status == 403:
        return "set VOICE_ENGINE_ADMIN_KEY to the operators' key"
    if status in (404, 409):
        return (
            "`voice-engine voices ls` lists the voices"
            if "voice" in path
            else ("`voice-engine status` lists what runs")
        )
    if status == 422 or status >= 500:
        return "`voice-engine status` and `voice-engine events` say more"
    return ""


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
