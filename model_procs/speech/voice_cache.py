"""The cache of encoded voices: in each worker's memory, and in files that all workers share.

Runs in speech workers. The key of a voice is the hash of its recording, so a hit also saves the
decoding. The folder's name contains everything else that the encoded voice depends on: engine,
weights, library. The cache has a limit in bytes, in memory and on disk, and drops the least
recently used voices. Registered ("named") voices are stored separately and without a limit; the
front removes their files. The modification time of a file is the last use of its voice, so a new
worker knows which voices to load first. Large files are memory-mapped: workers share their pages,
and the kernel may drop the pages and read them again.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Collection
from pathlib import Path
from typing import Any, Protocol

from model_procs.speech.voice_files import FOLDER, VoiceFiles, cost

logger = logging.getLogger(__name__)

_LAYOUT = 3
"""Increase this when the file layout changes, or the way a recording is decoded."""


class VoiceCodec(Protocol):
    """Converts an engine's voice to bytes and back. `SpeechEngine` implements it."""

    def export_voice(self, voice: Any) -> bytes: ...

    def import_voice(self, data: memoryview) -> Any: ...


class VoiceCache:
    """Voices in memory, backed by voices in files.

    With `folder` None only named voices are kept in files, in `named_folder`. An error of a folder
    is logged once, and requests continue without it.
    """

    def __init__(
        self,
        codec: VoiceCodec,
        voice_format: str,
        *,
        folder: Path | None,
        disk_bytes: int,
        memory_bytes: int,
        named_folder: Path | None = None,
        other_engines: Collection[str] = (),
    ) -> None:
        self._codec = codec
        self.memory = VoiceMemory(memory_bytes)
        name = f"{FOLDER}{voice_format}-{_LAYOUT}"
        self._files = (
            None if folder is None else VoiceFiles(folder, name, disk_bytes, other_engines)
        )
        self._named = (
            None if named_folder is None else VoiceFiles(named_folder, name, None, other_engines)
        )
        self._stores = [store for store in (self._named, self._files) if store is not None]
        self._error_logged = False

    def get(self, key: str, *, named: bool = False) -> Any | None:
        """The voice, which requests share; None when it is not cached.

        With `named` it is kept as a named voice from now on.
        """
        voice = self.memory.get(key)
        if voice is None:
            voice = self._load(key)
        if voice is None:
            return None
        if named and self._named is not None and not self._named.holds(key):
            self._write(key, self._codec.export_voice(voice), named=True)
        for store in self._stores:
            store.touch(key)
        return voice

    def put(self, key: str, voice: Any, *, named: bool = False) -> Any:
        """Store `voice`. Returns the voice as read back from its bytes; use that one.

        So the first request sounds like all later ones, and a voice takes only the memory of its
        bytes.
        """
        data = self._codec.export_voice(voice)
        self._write(key, data, named=named)
        kept = self._load(key)
        if kept is None:
            kept = self._codec.import_voice(memoryview(bytearray(data)))
            self.memory.put(key, kept, len(data))
        return kept

    def load_hot(self) -> None:
        """Load the most recently used voices into memory, as many as fit; tidy the folders."""
        found: dict[str, tuple[int, int]] = {}
        for store in self._stores:
            try:
                store.tidy()
                found |= {key: (used, size) for used, key, size in store.entries()}
            except OSError as error:
                self._log_once(error)
        chosen: list[str] = []
        room = self.memory.limit
        for key, (_, size) in sorted(found.items(), key=lambda entry: entry[1], reverse=True):
            if cost(size) <= room:
                chosen.append(key)
                room -= cost(size)
        for key in reversed(chosen):  # load the most recent one last, so that it is dropped last
            self._load(key)

    def _write(self, key: str, data: bytes, *, named: bool) -> None:
        """Write a voice into its store, and remove it from the other one."""
        try:
            if named and self._named is not None:
                self._named.write(key, data)
                if self._files is not None:
                    self._files.remove(key)
            elif self._files is not None:
                self._files.write(key, data)
        except OSError as error:
            self._log_once(error)

    def _load(self, key: str) -> Any | None:
        """Load a voice from its file into memory. A damaged file is removed."""
        for store in self._stores:
            try:
                data = store.read(key)
                if data is None:
                    continue
                voice = self._codec.import_voice(data)
            except MemoryError:
                raise
            except OSError as error:
                self._log_once(error)
            except Exception as error:  # parsers raise anything for invalid bytes
                logger.warning("removed the encoded voice %s: %s", key, error)
                store.remove(key)
            else:
                self.memory.put(key, voice, len(data))
                return voice
        return None

    def _log_once(self, error: OSError) -> None:
        if not self._error_logged:
            self._error_logged = True
            logger.warning("encoded voices cannot be kept in files: %s", error)


class VoiceMemory:
    """The voices in one worker's memory, at most `limit` bytes of them."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        self._voices: OrderedDict[str, tuple[Any, int]] = OrderedDict()

    def get(self, key: str) -> Any | None:
        """The voice, now marked as the most recently used one."""
        if key not in self._voices:
            return None
        self._voices.move_to_end(key)
        return self._voices[key][0]

    def put(self, key: str, voice: Any, size: int) -> None:
        """Store a voice of `size` bytes, unless it alone exceeds the limit."""
        taken = cost(size)
        if key in self._voices:
            self.size -= self._voices.pop(key)[1]
        if taken > self.limit:
            return
        while self.size + taken > self.limit:
            self.size -= self._voices.popitem(last=False)[1][1]
        self._voices[key] = (voice, taken)
        self.size += taken
