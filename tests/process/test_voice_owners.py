"""Voices that belong to keys: the same rules on the native API, OpenAI's and ElevenLabs'."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.process.test_voice_endpoints import HUM, recording
from tests.support.service import NET, RunningService, running
from tests.unit.test_voice_archive import facts, packed

pytestmark = pytest.mark.quick

KEYS = {"anna": "k-anna-2f81", "ben": "k-ben-77d0", "operator": "k-admin-03c9"}
SOUND = recording()


@pytest.fixture(scope="module")
def service() -> Iterator[RunningService]:
    settings = HUM | {
        "VOICE_ENGINE_API_KEYS": f"anna:{KEYS['anna']},ben:{KEYS['ben']}",
        "VOICE_ENGINE_ADMIN_KEY": KEYS["operator"],
        "VOICE_ENGINE_VOICE_OWNERS": "keys",
        "VOICE_ENGINE_PUBLIC_LISTS": "true",
    }
    with running(settings) as service:
        service.wait_ready()
        yield service


@pytest.fixture
def clients(service: RunningService) -> Iterator[dict[str, httpx.Client]]:
    opened = {
        name: httpx.Client(base_url=service.url, timeout=NET, headers={"X-API-Key": key})
        for name, key in KEYS.items()
    }
    opened["stranger"] = httpx.Client(base_url=service.url, timeout=NET)
    yield opened
    for client in opened.values():
        client.close()


def register(client: httpx.Client, voice_id: str) -> int:
    data = {"voice_id": voice_id}
    files = {"audio": ("a.wav", SOUND)}
    return client.post("/v1/voices/register", data=data, files=files).status_code


@pytest.fixture
def voices(clients: dict[str, httpx.Client]) -> Iterator[None]:
    """One of Anna's, and one of the operators'."""
    assert register(clients["anna"], "hers") == 200
    assert register(clients["operator"], "shared") == 200
    yield
    for voice_id in ("hers", "shared"):
        clients["operator"].delete(f"/v1/voices/{voice_id}")


def listed(client: httpx.Client) -> list[set[str]]:
    """The voices that are no built-in ones, as each API lists them."""
    native = client.get("/v1/voices").json()["voices"]
    paged = client.get("/v2/voices?page_size=100").json()["voices"]
    openai = client.get("/v1/audio/voices").json()["voices"]
    return [
        {voice["voice_id"] for voice in native if voice["type"] != "builtin"},
        {voice["voice_id"] for voice in paged if voice["type"] != "builtin"},
        {voice["id"] for voice in openai} - {"hum"},
    ]


def test_lists_have_the_voices_of_the_key(clients: dict[str, httpx.Client], voices: None) -> None:
    assert listed(clients["anna"]) == [{"hers", "shared"}] * 3
    assert listed(clients["ben"]) == [{"shared"}] * 3
    assert listed(clients["operator"]) == [{"hers", "shared"}] * 3
    public = clients["stranger"].get("/v1/audio/voices").json()["voices"]
    assert "hers" not in {voice["id"] for voice in public}
    slots = {
        name: clients[name].get("/v1/user/subscription").json()["voice_slots_used"]
        for name in ("anna", "ben")
    }
    assert slots == {"anna": 2, "ben": 1}
    owner = {name: clients[name].get("/v1/voices/hers").json().get("owner") for name in KEYS}
    assert owner == {"anna": "anna", "ben": None, "operator": "anna"}
    assert clients["anna"].get("/v1/voices/shared").json()["owner"] is None


Sent = tuple[str, str, dict[str, Any]]

USES: dict[str, Sent] = {
    "show": ("GET", "/v1/voices/{id}", {}),
    "audio": ("GET", "/v1/voices/{id}/audio", {}),
    "archive": ("GET", "/v1/voices/{id}/archive", {}),
    "sample": ("GET", "/v1/voices/{id}/samples/sample-1/audio", {}),
    "settings": ("GET", "/v1/voices/{id}/settings", {}),
    "edit settings": ("POST", "/v1/voices/{id}/settings/edit", {"json": {}}),
    "tts": ("POST", "/v1/tts", {"json": {"text": "Hi.", "voice_id": "{id}"}}),
    "tts in another case": ("POST", "/v1/tts", {"json": {"text": "Hi.", "voice_id": "{ID}"}}),
    "openai": (
        "POST",
        "/v1/audio/speech",
        {"json": {"model": "tts-1", "input": "Hi.", "voice": "{id}", "response_format": "wav"}},
    ),
    "elevenlabs": ("POST", "/v1/text-to-speech/{id}", {"json": {"text": "Hi."}}),
    "elevenlabs stream": ("POST", "/v1/text-to-speech/{id}/stream", {"json": {"text": "Hi."}}),
    "elevenlabs times": (
        "POST",
        "/v1/text-to-speech/{id}/with-timestamps",
        {"json": {"text": "Hi."}},
    ),
}
CHANGES: dict[str, Sent] = {
    "rename": ("POST", "/v1/voices/{id}/edit", {"files": {"name": (None, "Hers")}}),
    "delete": ("DELETE", "/v1/voices/{id}", {}),
}


def send(client: httpx.Client, sent: Sent, voice_id: str) -> httpx.Response:
    method, path, options = sent

    def filled(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: filled(each) for key, each in value.items()}
        if isinstance(value, str):
            return value.replace("{id}", voice_id).replace("{ID}", voice_id.upper())
        return value

    return client.request(method, filled(path), **filled(options))


@pytest.mark.parametrize("use", USES | CHANGES)
def test_for_others_a_voice_does_not_exist(
    clients: dict[str, httpx.Client], voices: None, use: str
) -> None:
    sent = (USES | CHANGES)[use]
    his, missing = (send(clients["ben"], sent, voice_id) for voice_id in ("hers", "none"))
    assert his.status_code == missing.status_code == 404
    told, expected = his.text, missing.text
    for name in ("hers", "HERS"):
        told = told.replace(name, "X")
    for name in ("none", "NONE"):
        expected = expected.replace(name, "X")
    ids = [answer.headers["X-Request-Id"] for answer in (his, missing)]
    assert told.replace(ids[0], "") == expected.replace(ids[1], "")
    assert "anna" not in his.text
    assert send(clients["operator"], sent, "hers").status_code == 200
    if use not in CHANGES:
        assert send(clients["anna"], sent, "hers").status_code == 200
        assert send(clients["ben"], sent, "shared").status_code == 200
    elif use == "rename":
        assert send(clients["anna"], sent, "hers").status_code == 200


@pytest.mark.parametrize("change", CHANGES)
def test_only_operators_change_a_voice_without_an_owner(
    clients: dict[str, httpx.Client], voices: None, change: str
) -> None:
    refused = send(clients["ben"], CHANGES[change], "shared")
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")
    assert send(clients["operator"], CHANGES[change], "shared").status_code == 200


def test_an_id_of_another_owner_is_taken(clients: dict[str, httpx.Client], voices: None) -> None:
    archive = {"archive": ("a.tar", packed(facts(SOUND), SOUND))}
    for voice_id in ("hers", "shared"):
        assert register(clients["ben"], voice_id) == 409
        refused = clients["ben"].put(f"/v1/voices/{voice_id}/archive", files=archive)
        assert refused.status_code == 409
        assert refused.json()["detail"].endswith(f"the id '{voice_id}' is taken; use another id")
        assert "anna" not in refused.text
    # Who may replace it leaves it whose it was.
    for name in ("anna", "operator"):
        put = clients[name].put("/v1/voices/hers/archive", files=archive)
        assert put.status_code == 200
        assert clients["anna"].get("/v1/voices/hers").json()["owner"] == "anna"
    assert clients["anna"].delete("/v1/voices/hers").status_code == 200
    assert register(clients["ben"], "hers") == 200
    assert clients["anna"].get("/v1/voices/hers").status_code == 404


def test_elevenlabs_clients_own_what_they_add(clients: dict[str, httpx.Client]) -> None:
    files = [("files", ("a.wav", SOUND))]
    added = clients["ben"].post("/v1/voices/add", data={"name": "His"}, files=files).json()
    path = f"/v1/voices/{added['voice_id']}"
    assert clients["ben"].get(path).json()["owner"] == "ben"
    assert clients["anna"].get(path).status_code == 404
    assert clients["ben"].delete(path).status_code == 200


def test_cached_voices_are_listed_for_operators_alone(clients: dict[str, httpx.Client]) -> None:
    cloned = clients["anna"].post(
        "/v1/clone", data={"text": "Hi."}, files={"reference_audio": ("a.wav", recording(pitch=90))}
    )
    assert cloned.status_code == 200
    kinds = {
        name: {voice["type"] for voice in clients[name].get("/v1/voices").json()["voices"]}
        for name in ("anna", "ben")
    }
    assert all("cached" not in each for each in kinds.values())
