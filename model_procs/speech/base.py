"""What all speech engines share: which voice speaks, sentence by sentence, in which format.

Runs in workers.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ipc.errors import ErrorCode, ServiceError
from ipc.messages import Json, Request
from model_procs.audio.decode import decode
from model_procs.audio.pcm import Samples
from model_procs.engine import Cancelled
from model_procs.speech.alignment import Alignment
from model_procs.speech.encode import Encoder
from model_procs.speech.text import sentences, strip_tags
from model_procs.speech.voice_cache import VoiceCache

REFERENCE_SECONDS = 30.0
"""How much of a reference recording is used; what follows is ignored."""

_MAX_SEED = 2**32

_BYTES_DEPEND_ON_BITS = ("flac", "aac")
"""Formats in which other last bits of the samples make another number of bytes."""


@dataclass(frozen=True, slots=True)
class SpeechOptions:
    """Options of one synthesis. `None` leaves the engine's own default."""

    seed: int
    temperature: float | None = None
    decode_steps: int | None = None
    eos_threshold: float | None = None
    exact: bool = False
    """Whether samples must come out the same to the last bit, whatever that costs."""


class SpeechEngine:
    """Base of text-to-speech engines.

    Operations: `speak`, a text in a voice to speech, and `encode`, a recording to a voice.
    """

    sample_rate: int
    reference_rate: int
    approximation: str | None = None
    """What a client must know when the engine cannot really clone a voice."""
    voice_format: str | None = None
    """All that an encoded voice depends on besides its recording, as part of a file's name.

    None means that encoded voices cannot be kept.
    """
    options: tuple[str, ...] = ()
    """The fields of `SpeechOptions` that the engine takes, besides the seed."""
    obeyed_tags: frozenset[str] = frozenset()
    """Tags in a text that the engine obeys, such as "laugh"; it never sees others."""
    default_voice: str | None = None
    """The built-in voice of requests that name none."""
    _voices: VoiceCache | None = None

    def describe(self) -> Json:
        """What is the engine's own in `info`: `engine`, `notes`."""
        raise NotImplementedError

    def builtin_voices(self) -> list[Json]:
        """The voices that need no recording: `id`, `name` and `language` of each."""
        return []

    def load_builtin_voice(self, name: str) -> Any:
        """One of `builtin_voices`, as `encode_voice` would give it."""
        raise NotImplementedError

    def encode_voice(self, reference: Samples) -> Any:
        """The engine's own form of the voice in `reference` (mono at `reference_rate`)."""
        raise NotImplementedError

    def export_voice(self, voice: Any) -> bytes:
        """An encoded voice as bytes; needed with a `voice_format`."""
        raise NotImplementedError

    def import_voice(self, data: memoryview) -> Any:
        """The voice of which `export_voice` has made `data`, best without a copy of it.

        May raise anything, but execute nothing.
        """
        raise NotImplementedError

    def check_text(self, text: str) -> None:
        """Raise `ServiceError` for a text that the engine cannot read."""

    def synthesize(
        self, text: str, voice: Any, options: SpeechOptions, stop: threading.Event
    ) -> Iterator[Samples]:
        """Speak `text`, a sentence: mono pieces at `sample_rate`, each as soon as it exists.

        `voice` may serve other requests later and must stay as it is.
        """
        raise NotImplementedError

    def info(self) -> Json:
        """Facts for clients and for /health."""
        info: Json = {
            "sample_rate": self.sample_rate,
            "voices": self.builtin_voices(),
            "default_voice": self.default_voice,
            "voice_format": self.voice_format,
            "options": list(self.options),
        }
        if self.approximation:
            info["approximation"] = self.approximation
        return self.describe() | info

    def keep_voices(self, options: Json) -> None:
        """Keep encoded voices from now on, and load the hot ones; in the worker, before READY.

        `options`: `voice_cache_bytes` (0: keep only those with a name), `voice_cache_memory_bytes`,
        `voice_cache_dir`, the folder that all workers share, or None, and `voice_dir`, the same for
        voices with a name.
        """
        size = options.get("voice_cache_bytes", 0)
        folder, named_folder = (
            None if path is None else Path(path)
            for path in (options.get("voice_cache_dir"), options.get("voice_dir"))
        )
        if self.voice_format is None or not (size or named_folder):
            return
        self._voices = VoiceCache(
            self,
            self.voice_format,
            folder=folder if size else None,
            disk_bytes=size,
            memory_bytes=options["voice_cache_memory_bytes"] if size else 0,
            named_folder=named_folder,
        )
        self._voices.load_hot()

    def run(self, request: Request, stop: threading.Event) -> Generator[bytes, None, Json]:
        """Speak, or encode a voice."""
        match request.operation:
            case "speak":
                return (yield from self._answer(request, stop))
            case "encode":
                return self._prepare_voice(request, stop)
            case other:
                raise ServiceError(
                    ErrorCode.invalid_request, f"there is no operation {other!r} of speech"
                )

    def _answer(self, request: Request, stop: threading.Event) -> Generator[bytes, None, Json]:
        """Find the voice, speak, and yield encoded sound.

        `params`: text; the voice, see `_find_voice`; stream; alignment; the fields of
        `SpeechOptions`; and for the encoder response_format (wav), sample_rate (the engine's),
        bit_rate (the format's) and speed (1.0). With `stream` bytes come as they are made, and
        headers leave the length open.
        """
        params = request.params
        options = self._check_options(params)
        encoder = Encoder(
            params.get("response_format", "wav"),
            self.sample_rate,
            params.get("sample_rate"),
            params.get("speed", 1.0),
            bit_rate=params.get("bit_rate"),
            streamed=params["stream"],
        )
        text = strip_tags(params["text"], self.obeyed_tags)
        self.check_text(text)
        voice, known = self._find_voice(request)
        alignment = Alignment(self.sample_rate * params.get("speed", 1.0))
        for number, sentence in enumerate(sentences(text)):
            # A seed of its own, so that a sentence does not depend on how long the last one was.
            own = replace(options, seed=(options.seed + number) % _MAX_SEED)
            for piece in self.synthesize(sentence, voice, own, stop):
                if stop.is_set():
                    raise Cancelled
                if len(piece):
                    alignment.add(sentence, number, len(piece))
                    if data := encoder.feed(piece):
                        yield data
        if not alignment.sentences:
            raise ServiceError(
                ErrorCode.empty_text,
                "the text holds nothing that can be spoken; send at least one word",
            )
        yield encoder.finish()
        result: Json = {
            "format": encoder.format,
            "sample_rate": encoder.sample_rate,
            "samples": encoder.samples,
            "duration": encoder.samples / encoder.sample_rate,
            "encode_s": encoder.seconds,
            "voice_cached": known,
        }
        if params.get("alignment"):
            result["alignment"] = alignment.describe(result["duration"])
            result["alignment_exact"] = False
        if self.approximation and _is_clone(request):
            result["approximation"] = self.approximation
        return result

    def _prepare_voice(self, request: Request, stop: threading.Event) -> Json:
        """Encode the voice of a recording unless it is known, and make sure that it speaks.

        `params`: voice_key and keep_voice, as in `_find_voice`.
        """
        reference = self._decode(request)
        key, named = request.params["voice_key"], request.params.get("keep_voice", False)
        voice = None if self._voices is None else self._voices.get(key, named=named)
        known = voice is not None
        if not known:
            voice = self._encode(key, reference, named=named)
        pieces = self.synthesize("Hello.", voice, SpeechOptions(request.params["seed"]), stop)
        first = next(iter(pieces), None)
        if stop.is_set():
            raise Cancelled
        if first is None or not np.isfinite(first).all():
            raise ServiceError(
                ErrorCode.invalid_audio,
                "no speech can be made with the voice in this recording; send another one",
            )
        seconds = len(reference) / self.reference_rate
        return {"voice_key": key, "seconds": round(seconds, 3), "voice_cached": known}

    def _check_options(self, params: Json) -> SpeechOptions:
        """The options of a request. Raises `ServiceError` for one that the engine lacks."""
        given = {
            name: params[name]
            for name in ("temperature", "decode_steps", "eos_threshold")
            if params.get(name) is not None
        }
        for name in given:
            if name not in self.options:
                raise ServiceError(
                    ErrorCode.unknown_option,
                    f"the engine {self.describe()['engine']} has no option {name}; leave it out, "
                    "or use the engine pocket, which has it",
                )
        # A replay leaves out as many bytes of a stream as have been sent.
        exact = params["stream"] and params.get("response_format") in _BYTES_DEPEND_ON_BITS
        return SpeechOptions(seed=params["seed"], exact=exact, **given)

    def _find_voice(self, request: Request) -> tuple[Any, bool]:
        """The voice that is to speak, and whether it was known.

        `params`: `voice`, a built-in one; or `voice_key`, the hash of a recording, which comes with
        the request unless its voice has been kept. With `keep_voice` it has a name, and is kept
        for good. None of them: the default voice.
        """
        params = request.params
        key = params.get("voice_key")
        if params.get("voice") is not None:
            return self._builtin(params["voice"]), True
        if key is not None and self._voices is not None:
            voice = self._voices.get(key, named=params.get("keep_voice", False))
            if voice is not None:
                return voice, True
        if request.audio is not None or request.audio_path is not None:
            reference = self._decode(request)
            return self._encode(key, reference, named=params.get("keep_voice", False)), False
        if key is not None:
            raise ServiceError(
                ErrorCode.not_found, "this voice is not kept any more; send its recording again"
            )
        if self.default_voice is None:
            raise ServiceError(
                ErrorCode.invalid_request,
                f"the engine {self.describe()['engine']} has no voice of its own here; send a "
                "recording of the voice to speak with",
            )
        return self._builtin(self.default_voice), True

    def _builtin(self, name: str) -> Any:
        known = [voice["id"] for voice in self.builtin_voices()]
        if name not in known:
            raise ServiceError(
                ErrorCode.not_found,
                f"the engine {self.describe()['engine']} has no voice {name!r}; it has "
                f"{', '.join(known) or 'none'}",
            )
        return self.load_builtin_voice(name)

    def _decode(self, request: Request) -> Samples:
        """The recording of a request, as `encode_voice` wants it."""
        try:
            return decode(
                request.audio if request.audio is not None else str(request.audio_path),
                rate=self.reference_rate,
                max_seconds=REFERENCE_SECONDS,
                truncate=True,
            )
        except FileNotFoundError:
            raise ServiceError(
                ErrorCode.not_found, "the recording of this voice has been deleted; send another"
            ) from None

    def _encode(self, key: str | None, reference: Samples, *, named: bool) -> Any:
        voice = self.encode_voice(reference)
        if key is None or self._voices is None:
            return voice
        return self._voices.put(key, voice, named=named)


def _is_clone(request: Request) -> bool:
    """Whether the voice is that of a recording."""
    key = request.params.get("voice_key")
    return any(source is not None for source in (key, request.audio, request.audio_path))
