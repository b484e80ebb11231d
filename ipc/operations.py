"""Operations of models and their results: frozen dataclasses. Used in every process.

A route makes an operation, the codec carries it, and an engine gets it; the result comes back the
same way. All fields are typed, so mypy checks a value from the HTTP form to the engine.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

MAX_SEED = 2**32
"""Seeds are below this number."""

REFERENCE_SECONDS = 30.0
"""How many seconds of a reference recording are used; the rest is ignored."""

TRANSCRIPT_SECONDS = 720.0
"""The longest recording that is transcribed, in seconds; a longer one is refused."""

AUTO_LANGUAGE = "auto"
"""The language of a request without a language hint."""

NO_LANGUAGE = "nospeech"
"""The language of a recording without speech."""

MIN_PROBABILITY = 0.001
"""Less likely tags are left out of distributions."""

MAX_HOTWORDS = 100
"""The most hotwords of a request."""

MAX_HOTWORD = 50
"""Characters of the longest hotword."""

TRANSIENT = {"transient": True}
"""Metadata of fields that are not part of a request's content: see `ipc.codec.content`."""

ResultT = TypeVar("ResultT")


class Operation(Generic[ResultT]):
    """Base of the operations; `ResultT` is the type of the result."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording as a client sent it; `key` is the SHA-256 of its bytes, in hex.

    The bytes are in `data`, or in the private file at `path`. If both are None, only the key is
    known: workers may have kept the encoded voice of this recording. If there are `parts`, the
    bytes are several recordings, one after the other, of these sizes; the key also depends on them.
    """

    key: str
    data: bytes | None = field(default=None, metadata=TRANSIENT)
    path: str | None = field(default=None, metadata=TRANSIENT)
    parts: tuple[int, ...] = field(default=(), metadata=TRANSIENT)

    @property
    def source(self) -> bytes | str | None:
        """The bytes, or the path of the file that holds them; None when only the key is known."""
        return self.data if self.data is not None else self.path


@dataclass(frozen=True, slots=True)
class Voice:
    """The voice to speak with: a built-in one, or the voice of a recording; else the default one.

    The encoded form of a `registered` voice is kept until the voice is deleted.
    """

    builtin: str | None = None
    recording: Recording | None = None
    registered: bool = False


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a model draws its samples. None means the engine's own default.

    - `temperature`: the variance of the noise that a frame of sound is made from;
    - `decode_steps`: in how many steps it is made;
    - `eos_threshold`: the score above which the speech ends; higher is later;
    - `noise_clamp`: the largest noise;
    - `cfg_guidance`: how much text and voice count, by classifier-free guidance; 1 is none.
    """

    seed: int = field(metadata=TRANSIENT)
    temperature: float | None = None
    decode_steps: int | None = None
    eos_threshold: float | None = None
    noise_clamp: float | None = None
    cfg_guidance: float | None = None

    @property
    def guided(self) -> bool:
        """Whether the engine computes everything twice: with text and voice, and without."""
        return self.cfg_guidance not in (None, 1.0)


@dataclass(frozen=True, slots=True)
class WordTime:
    """When a word of a sentence is spoken, in seconds of the sound.

    It has the characters from `text_start` to `text_end` of the sentence as it is spoken, and
    stands for those from `source_start` to `source_end` of the request's text; none if the word
    before stands for them too.
    """

    start: float
    end: float
    text_start: int
    text_end: int
    source_start: int
    source_end: int


@dataclass(frozen=True, slots=True)
class SentenceTime:
    """When a sentence is spoken, in seconds of the sound; `text` is the sentence as it is spoken.

    It stands for the characters of the request's text from `source_start` to `source_end`. `words`
    has the words in order, without punctuation; it is empty if the engine does not know them.
    """

    text: str
    start: float
    end: float
    source_start: int
    source_end: int
    words: tuple[WordTime, ...] = ()


@dataclass(frozen=True, slots=True)
class SpokenSentence:
    """A sentence in a stream of speech, after its last bytes; numbers count from 0.

    Codecs hold back a little, so that the last of its sound may come with the next sentence.
    `last`: nothing comes after it; then its text may be empty.
    """

    number: int
    time: SentenceTime
    last: bool = False


@dataclass(frozen=True, slots=True)
class SpeechResult:
    """The result of `Speak`: it gave `samples` samples at `sample_rate` Hz.

    - `encode_seconds`: the time for encoding; `voice_cached`: whether the voice was already
      encoded. Both are None if the engine does not report them.
    - `alignment`: the times of the sentences, or None if the request did not ask for them, or if
      they came in the stream;
      `alignment_exact`: whether the times of words are in it, and exact.
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
    """Speak `text`. None means the default of the engine or of the format.

    With `streamed` the bytes come while they are generated, and headers leave the length open; with
    `alignment` each sentence comes after its bytes. `sample_rate` is in Hz, `bit_rate` in bits per
    second.

    With `normalize` Markdown, numbers and signs are read as a person reads them, in `language` (a
    code; None means the engine's). With `silence` a text without words is a short silence instead
    of an error.

    `loudness` is in LUFS; None leaves it as the engine makes it. With `trim` there is no silence
    before and after the speech.
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
    normalize: bool = True
    language: str | None = None
    silence: bool = False
    loudness: float | None = None
    trim: bool = False


@dataclass(frozen=True, slots=True)
class VoiceResult:
    """The result of `EncodeVoice`: `seconds` of the recording were used; `cached`: known before."""

    seconds: float
    cached: bool


@dataclass(frozen=True, slots=True)
class EncodeVoice(Operation[VoiceResult]):
    """Encode the voice of a recording, test that it speaks, and keep it if it is `registered`."""

    recording: Recording
    registered: bool = True


@dataclass(frozen=True, slots=True)
class Word:
    """A word with its punctuation, and when it is said, in seconds of the recording.

    `logprob` is the logarithm of its probability; None if the model has none.
    """

    word: str
    start: float
    end: float
    logprob: float | None = None


Distribution = dict[str, float]
"""The probability of each tag; together they are 1 but for what is rounded or left out."""


@dataclass(frozen=True, slots=True)
class Paralinguistics:
    """How something is said: language, emotion, sound events. Probabilities may be None.

    `language` is a code or `NO_LANGUAGE`; `emotion` is HAPPY, SAD, ANGRY, NEUTRAL, ... or
    EMO_UNKNOWN. The last three fields tell how likely each tag is, the likeliest first, without
    those below `MIN_PROBABILITY`; None if the model does not know.
    """

    language: str
    emotion: str
    events: tuple[str, ...] = ()
    language_probability: float | None = None
    emotion_probability: float | None = None
    event_probability: float | None = None
    language_probabilities: Distribution | None = None
    emotions: Distribution | None = None
    event_probabilities: Distribution | None = None


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment of a transcript, as long as a subtitle; times are in seconds of the recording.

    - `words`: None if the request did not ask for words;
    - `avg_logprob`: the mean of the logarithms of its tokens' probabilities; `no_speech`: the
      probability that there is no speech;
    - `compression_ratio`: how repetitive the text is; `temperature`: at which it was recognized;
      `tokens`: the model's numbers of its tokens, for clients that know the model.

    What the model does not have is None, or ().
    """

    id: int
    start: float
    end: float
    text: str
    paralinguistics: Paralinguistics
    words: tuple[Word, ...] | None = None
    avg_logprob: float | None = None
    no_speech: float | None = None
    compression_ratio: float | None = None
    temperature: float | None = None
    tokens: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Transcript:
    """The transcript of a recording of `duration` seconds; `raw` keeps the model's own tags."""

    text: str
    raw: str
    duration: float
    paralinguistics: Paralinguistics
    segments: tuple[Segment, ...] = ()


Effort = Literal["full", "soon", "draft"]
"""What an engine does for a transcript: all, less to be there sooner, or as little as it can."""


@dataclass(frozen=True, slots=True)
class Transcribe(Operation[Transcript]):
    """Transcribe a recording.

    `language` is a hint, or `AUTO_LANGUAGE`. `itn` writes numbers as digits and adds punctuation.
    With `words` each segment has its words. With `streamed` each segment is sent when it is known.
    `effort` is how well it must be done: `full`; `soon`, because somebody waits for it; or as a
    `draft`, which another transcript replaces. Engines may then be faster, and do less well.

    `hotwords` are words and phrases that are likelier than usual, `hotword_weight` by how much;
    engines that cannot obey refuse them.

    Engines without these ignore them: `previous_language` is that of what was said before, so it is
    likelier than others where `language` is `AUTO_LANGUAGE`; `prompt` is a text before the
    recording, for its spelling and style; `temperature` is how random recognition is, None as the
    engine finds best. With `translate` the transcript is in English; engines that cannot translate
    refuse that.
    """

    recording: Recording
    language: str = AUTO_LANGUAGE
    itn: bool = True
    words: bool = False
    streamed: bool = False
    prompt: str | None = None
    temperature: float | None = None
    translate: bool = False
    hotwords: tuple[str, ...] = ()
    hotword_weight: float | None = None
    effort: Effort = "full"
    previous_language: str | None = None


SoundFormat = Literal["pcm16", "mulaw", "alaw", "ogg", "webm", "wav", "auto"]
"""How the sound of a live stream is encoded. `ogg` and `webm` have Opus; `auto`: the first bytes
say which container it is."""

LIVE_RATE = 16_000
"""Sample rate in Hz of what `Listen` gives: mono PCM16."""

LIVE_WINDOW = 512
"""Samples of a window for which `Listen` gives the probability of speech: 32 ms."""

LIVE_STEP_SECONDS = 60
"""The longest sound of one step of `Listen`, in seconds, whatever its bytes decode to."""

MAX_LISTEN_STATE = 160 * 1024
"""The largest state between two steps of `Listen`, in bytes; usually it has 3 KB."""


@dataclass(frozen=True, slots=True)
class Listened:
    """The result of `Listen`: the sound as mono PCM16 of `LIVE_RATE`, and where it has speech.

    `probabilities` has the probability of speech in each window that is complete now. A window has
    `LIVE_WINDOW` samples, counted from the start of the stream. `state` is for the next step.
    """

    pcm: bytes
    probabilities: tuple[float, ...]
    state: bytes


@dataclass(frozen=True, slots=True)
class Listen(Operation[Listened]):
    """One step of a live stream: decode the next bytes of its sound and find the speech in them.

    `state` is that of the step before, empty at the start; only workers know what is in it. So any
    worker can do any step, and the death of one costs a step. `sample_rate` is that of formats
    without a header, in Hz. `last`: no more sound comes, so the rest is given, too.
    """

    sound: bytes
    format: SoundFormat
    sample_rate: int = LIVE_RATE
    state: bytes = b""
    last: bool = False


AnyOperation = Speak | EncodeVoice | Transcribe | Listen
AnyResult = SpeechResult | VoiceResult | Transcript | Listened

RESULT_OF: dict[type[AnyOperation], type[AnyResult]] = {
    Speak: SpeechResult,
    EncodeVoice: VoiceResult,
    Transcribe: Transcript,
    Listen: Listened,
}
"""The type of each operation's result."""
