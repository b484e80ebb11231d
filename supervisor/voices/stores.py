"""What the service asks of a store of registered voices, wherever they are. Runs in the front.

There are two: `VoiceStore` keeps them in a folder, `SharedVoiceStore` in a bucket that the fronts
of several machines share.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from supervisor.dispatch.upload import Upload
from supervisor.voices.folder import ENCODED, SHARED, Voice
from supervisor.voices.store import VoiceStore, always, as_before

if TYPE_CHECKING:
    from supervisor.settings import Settings


class Store(Protocol):
    """The registered voices. The methods are described where they do something."""

    max_voices: int

    def get(self, id: str) -> Voice | None: ...

    @property
    def keys(self) -> set[str]: ...

    @property
    def count(self) -> int: ...

    def list(self) -> list[Voice]: ...

    def check_room(self, id: str) -> None: ...

    async def look_again(self) -> None: ...

    async def open(self) -> None: ...

    async def run(self) -> None: ...

    async def close(self) -> None: ...

    def hold(self, key: str) -> AbstractAsyncContextManager[None]: ...

    def recording_path(self, voice: Voice) -> Path: ...

    async def fetch(self, voice: Voice) -> None: ...

    async def fetch_recording(self, voice: Voice) -> None: ...

    def offer(self, voice: Voice) -> None: ...

    async def save(
        self,
        id: str,
        upload: Upload,
        *,
        seconds: float,
        name: str | None = None,
        consent: str | None = None,
        created: str | None = None,
        owner: Callable[[Voice | None], str | None] = as_before,
    ) -> Voice: ...

    async def rename(
        self, id: str, name: str, allowed: Callable[[Voice], bool] = always
    ) -> bool: ...

    async def delete(self, id: str, allowed: Callable[[Voice], bool] = always) -> bool: ...


def open_store(settings: Settings) -> Store:
    """The store that the settings ask for. What is in a folder has been read."""
    if settings.voices_url:
        from supervisor.voices.shared_store import SharedVoiceStore
        from supervisor.voices.states import SharedStates

        return SharedVoiceStore(
            SharedStates.of(settings), settings.max_voices, workers_here=not settings.cluster
        )
    store = VoiceStore(settings.voices_dir.resolve(), settings.max_voices)
    store.load()
    return store


def encoded_folder(settings: Settings) -> Path:
    """The folder in which workers keep the encoded form of registered voices."""
    folder = settings.voices_dir.resolve()
    return (folder / SHARED if settings.voices_url else folder) / ENCODED
