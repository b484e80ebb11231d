"""What the front asks of a model, and what it answers: frozen dataclasses. Used in every process.

A route makes an operation, the codec carries it, and an engine gets it; its result comes back the
same way. All fields are typed, so that mypy follows a value from the HTTP form to the engine.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

MAX_SEED = 2**32
"""Seeds are below it."""

REFERENCE_SECONDS = 30.0
"""How much of a reference recording is used; the rest is ignored."""

TRANSCRIPT_SECONDS = 720.0
"""The longest recording that is transcribed; a longer one is refused."""

AUTO_LANGUAGE = "auto"
"""The language hint of a request that gives none."""

NO_LANGUAGE = "nospeech"
"""The language of a recording in which nobody speaks."""

TRANSIENT = {"transient": True}
"""Metadata of fields that do not change what a request asks for: see `ipc.codec.content`."""

ResultT = TypeVar("ResultT")


class Operation(Generic[ResultT]):
    """Base of the operations; `ResultT` is the type of the result."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording as a client sent it; `key` is the SHA-256 of its bytes, in hex.

    The bytes are in `data`, or in the private file at `path`. With neither, only the key is known:
    a worker may have kept the voice of this recording.
    """

    key: str
    data: bytes | None = field(default=None, metadata=TRANSIENT)
    path: str | None = field(default=None, metadata=TRANSIENT)

    @property
    def source(self) -> bytes | str | None:
        """The bytes, or the path of the file that holds them; None when only the key is known."""
        return self.data if self.data is not None else self.path


@dataclass(frozen=True, slots=True)
class Voice:
    """The voice to speak with: a built-in one, or that of a recording; without both, the default.

    A `registered` voice has a name, so that its encoded form is kept until it is deleted.
    """

    builtin: str | None = None
    recording: Recording | None = None
    registered: bool = False


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a model draws its samples. None leaves the engine's own default."""

    seed: int = field(metadata=TRANSIENT)
    temperature: float | None = None
    decode_steps: int | None = None
    eos_threshold: float | None = None


@dataclass(frozen=True, slots=True)
class SentenceTime:
    """When a sentence of the text is spoken, in seconds of the answer."""

    text: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class SpeechResult:
    """Speech was made: `samples` of it at `sample_rate` Hz.

    `encode_seconds` is the time that the output format took, `voice_cached` whether the voice was
    known; None where an engine does not tell. `alignment` is None unless it was asked for, and its
    times are exact or approximate.
    """

    sample_rate: int
    samples: int
    encode_seconds: float | None = None
    voice_cached: bool | None = None
    alignment: tuple[SentenceTime, ...] | None = None
    alignment_exact: bool = False

    @property
    def duration(self) -> float:
        """Seconds of speech."""
        return self.samples / self.sample_rate


@dataclass(frozen=True, slots=True)
class Speak(Operation[SpeechResult]):
    """Speak `text`. None leaves a choice to the engine or to the format.

    With `streamed` the bytes come as they are made, and headers leave the length open.
    """

    text: str
    voice: Voice
    sampling: Sampling
    response_format: str = "wav"
    streamed: bool = False
    sample_rate: int | None = None
    bit_rate: int | None = None
    speed: float = 1.0
    alignment: bool = False


@dataclass(frozen=True, slots=True)
class VoiceResult:
    """A voice was made of `seconds` of a recording; `cached`: it was known before."""

    seconds: float
    cached: bool


@dataclass(frozen=True, slots=True)
class EncodeVoice(Operation[VoiceResult]):
    """Make a voice of a recording, prove that it speaks, and keep it if it is `registered`."""

    recording: Recording
    registered: bool = True


@dataclass(frozen=True, slots=True)
class Word:
    """A word with its punctuation, and when it is said, in seconds of the recording."""

    word: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Paralinguistics:
    """How something is said: language, emotion, sound events; probabilities where there are any.

    `language` is a code or `NO_LANGUAGE`, `emotion` HAPPY, SAD, ANGRY, NEUTRAL, ... or EMO_UNKNOWN.
    """

    language: str
    emotion: str
    events: tuple[str, ...] = ()
    language_probability: float | None = None
    emotion_probability: float | None = None
    event_probability: float | None = None


@dataclass(frozen=True, slots=True)
class Segment:
    """What people read as one subtitle; `start` and `end` in seconds of the recording.

    `words` is None unless words were asked for.
    """

    id: int
    start: float
    end: float
    text: str
    paralinguistics: Paralinguistics
    words: tuple[Word, ...] | None = None


@dataclass(frozen=True, slots=True)
class Transcript:
    """What is said in a recording of `duration` seconds; `raw` keeps the model's own tags."""

    text: str
    raw: str
    duration: float
    paralinguistics: Paralinguistics
    segments: tuple[Segment, ...] = ()


@dataclass(frozen=True, slots=True)
class Transcribe(Operation[Transcript]):
    """Transcribe a recording.

    `language` is a hint, or `AUTO_LANGUAGE`; `itn` writes numbers as digits and adds punctuation;
    with `words` each segment has its words; with `streamed` each segment is sent when it is known.
    """

    recording: Recording
    language: str = AUTO_LANGUAGE
    itn: bool = True
    words: bool = False
    streamed: bool = False


AnyOperation = Speak | EncodeVoice | Transcribe
AnyResult = SpeechResult | VoiceResult | Transcript

RESULT_OF: dict[type[AnyOperation], type[AnyResult]] = {
    Speak: SpeechResult,
    EncodeVoice: VoiceResult,
    Transcribe: Transcript,
}
"""The type of each operation's result."""
