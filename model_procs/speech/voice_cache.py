"""Encoded voices that outlive a worker: in its memory, and in files that all workers share.

Runs in speech workers. A voice is known by the hash of the recording it was made from, so that a
hit skips decoding too, and lies in a folder named for what it depends on besides: engine, weights,
library. The cache is bounded in bytes, in memory and on disk, and loses what was used longest ago.
Voices that have a name are kept apart, all of them, until the front removes their files. A file's
time of change is when its voice was last used, which tells a new worker which voices are hot. Large
files are mapped: workers share their pages, and the kernel may drop them and read them again.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Collection
from pathlib import Path
from typing import Any, Protocol

from model_procs.speech.voice_files import FOLDER, VoiceFiles, cost

logger = logging.getLogger(__name__)

_LAYOUT = 1
"""Raise it when the layout of the files changes, or how a reference is decoded."""


class VoiceCodec(Protocol):
    """What turns an engine's voice into bytes and back; `SpeechEngine` is one."""

    def export_voice(self, voice: Any) -> bytes: ...

    def import_voice(self, data: memoryview) -> Any: ...


class VoiceCache:
    """Voices in memory before voices in files.

    `folder` None keeps none in files, but for those with a name, which go into `named_folder`. A
    folder that fails is told once in the log, and requests go on without it.
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
        self._complained = False

    def get(self, key: str, *, named: bool = False) -> Any | None:
        """The voice, which many requests may share; None when it must be encoded.

        A `named` one is from now on kept as such.
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
        """Keep `voice`. Returns it as it comes back from its bytes, which is how it is used.

        So every request sounds the same, and the voice holds no memory but that of its bytes.
        """
        data = self._codec.export_voice(voice)
        self._write(key, data, named=named)
        kept = self._load(key)
        if kept is None:
            kept = self._codec.import_voice(memoryview(bytearray(data)))
            self.memory.put(key, kept, len(data))
        return kept

    def load_hot(self) -> None:
        """Bring the voices used last into memory, as many as fit; remove those nobody can use."""
        found: dict[str, tuple[int, int]] = {}
        for store in self._stores:
            try:
                store.tidy()
                found |= {key: (used, size) for used, key, size in store.entries()}
            except OSError as error:
                self._complain(error)
        chosen: list[str] = []
        room = self.memory.limit
        for key, (_, size) in sorted(found.items(), key=lambda entry: entry[1], reverse=True):
            if cost(size) <= room:
                chosen.append(key)
                room -= cost(size)
        for key in reversed(chosen):  # the hottest last, to be lost last
            self._load(key)

    def _write(self, key: str, data: bytes, *, named: bool) -> None:
        """Put a voice into the store that it belongs to, and out of the other."""
        try:
            if named and self._named is not None:
                self._named.write(key, data)
                if self._files is not None:
                    self._files.remove(key)
            elif self._files is not None:
                self._files.write(key, data)
        except OSError as error:
            self._complain(error)

    def _load(self, key: str) -> Any | None:
        """The voice from its file into memory; one that is not as it was written is removed."""
        for store in self._stores:
            try:
                data = store.read(key)
                if data is None:
                    continue
                voice = self._codec.import_voice(data)
            except MemoryError:
                raise
            except OSError as error:
                self._complain(error)
            except Exception as error:  # whatever a parser makes of bytes that are no voice
                logger.warning("removed the encoded voice %s: %s", key, error)
                store.remove(key)
            else:
                self.memory.put(key, voice, len(data))
                return voice
        return None

    def _complain(self, error: OSError) -> None:
        if not self._complained:
            self._complained = True
            logger.warning("encoded voices cannot be kept in files: %s", error)


class VoiceMemory:
    """The voices that one worker holds, at most `limit` bytes of them."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        self._voices: OrderedDict[str, tuple[Any, int]] = OrderedDict()

    def get(self, key: str) -> Any | None:
        """The voice, which is now the last to be lost."""
        if key not in self._voices:
            return None
        self._voices.move_to_end(key)
        return self._voices[key][0]

    def put(self, key: str, voice: Any, size: int) -> None:
        """Keep a voice of `size` bytes, unless it alone is over the limit."""
        taken = cost(size)
        if key in self._voices:
            self.size -= self._voices.pop(key)[1]
        if taken > self.limit:
            return
        while self.size + taken > self.limit:
            self.size -= self._voices.popitem(last=False)[1][1]
        self._voices[key] = (voice, taken)
        self.size += taken
