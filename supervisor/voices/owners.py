"""Who may see, use and change which registered voice. Runs in the front.

Everything that requests do with registered voices goes through `SeenVoices`, so that the rules
stand here alone:

- a voice with an owner is there for its owner and for operators; for others it does not exist;
- a voice without an owner is there for everyone; only operators change it;
- the owner is the name of the key that a voice was registered with; whoever may replace or rename a
  voice leaves its owner as it is. What operators register has no owner.

If owners are off, everyone is as an operator is here.
"""

from __future__ import annotations

from dataclasses import dataclass

from ipc.errors import ErrorCode, ServiceError
from supervisor.dispatch.upload import Upload
from supervisor.voices.folder import Voice
from supervisor.voices.stores import Store


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who asks: the name of a key, None without one; or somebody whom nothing is hidden from."""

    name: str | None = None
    unlimited: bool = True

    def sees(self, voice: Voice) -> bool:
        """Whether the voice exists for this viewer."""
        return self.unlimited or voice.owner in (None, self.name)

    def owns(self, voice: Voice) -> bool:
        """Whether this viewer may change it."""
        return self.unlimited or (voice.owner is not None and voice.owner == self.name)


class SeenVoices:
    """The voices of a store as a viewer sees them."""

    def __init__(self, store: Store, viewer: Viewer) -> None:
        self._store = store
        self.viewer = viewer

    def get(self, id: str) -> Voice | None:
        """The voice with this id, or None."""
        voice = self._store.get(id)
        return voice if voice is not None and self.viewer.sees(voice) else None

    def find(self, id: str) -> Voice | None:
        """The voice with this id, or one whose id differs only in upper and lower case."""
        if (exact := self.get(id)) is not None:
            return exact
        folded = id.casefold()
        return next((voice for voice in self.list() if voice.id.casefold() == folded), None)

    def list(self) -> list[Voice]:
        """All voices, sorted by id."""
        return [voice for voice in self._store.list() if self.viewer.sees(voice)]

    def check_room(self, id: str) -> None:
        """Raise `ServiceError` when no voice can be saved with this id."""
        self._owner(self._store.get(id))
        self._store.check_room(id)

    async def save(
        self,
        id: str,
        upload: Upload,
        *,
        seconds: float,
        name: str | None = None,
        consent: str | None = None,
        created: str | None = None,
    ) -> Voice:
        """Save the closed `upload` as the voice `id`, as the store does."""
        return await self._store.save(
            id,
            upload,
            seconds=seconds,
            name=name,
            consent=consent,
            created=created,
            owner=self._owner,
        )

    async def rename(self, id: str, name: str) -> bool:
        """Give the voice `id` another name for people; False when there is none."""
        return await self._store.rename(id, name, self._may_change)

    async def delete(self, id: str) -> bool:
        """Delete the voice `id` and the files of its recording; False when there is none."""
        return await self._store.delete(id, self._may_change)

    def _owner(self, replaced: Voice | None) -> str | None:
        """The owner of a voice that replaces this one. Raises `ServiceError` (conflict)."""
        if replaced is None:
            return self.viewer.name
        if not self.viewer.owns(replaced):
            raise ServiceError(
                ErrorCode.conflict, f"the id '{replaced.id}' is taken; use another id"
            )
        return replaced.owner

    def _may_change(self, voice: Voice) -> bool:
        """False if it does not exist for the viewer. Raises `ServiceError` (forbidden)."""
        if not self.viewer.sees(voice):
            return False
        if not self.viewer.owns(voice):
            raise ServiceError(
                ErrorCode.forbidden,
                f"the voice '{voice.id}' has no owner, so that only operators may change it; "
                "register one of your own",
            )
        return True
