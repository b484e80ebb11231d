"""Segments and words of transcripts: where they are cut, and whether their times are true."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ipc.errors import ErrorCode, ServiceError
from ipc.operations import (
    Paralinguistics,
    Recording,
    Sampling,
    Segment,
    Transcribe,
    Transcript,
    Word,
)
from ipc.spacing import join
from ipc.wav_header import wav_header
from model_procs.audio.pcm import Samples, pcm16
from model_procs.engine import Cancelled, EngineConfig, alone
from model_procs.engines.flite import VOICES, FliteEngine, FliteVoice
from model_procs.engines.sensevoice.engine import PIECE_SECONDS, SenseVoiceEngine
from model_procs.engines.sphinx import SphinxEngine
from model_procs.engines.whisper.engine import WhisperEngine
from model_procs.listening import ctc, vad
from model_procs.listening.base import RATE, TranscriptionEngine, finished
from model_procs.listening.transcript import LONG_SECONDS, Piece, TimedWord, divide, spell
from tests.support.outputs import collected, transcript
from tests.support.sentences import SENTENCES

TAGS = ["<|en|>", "<|NEUTRAL|>", "<|Speech|>", "<|withitn|>"]
PLAIN = Transcribe(Recording(key=""))


@pytest.fixture(scope="module")
def flite() -> FliteEngine:
    engine = FliteEngine(EngineConfig(Path("/nonexistent")))
    engine.load()
    return engine


@pytest.fixture(scope="module", params=["sphinx", "sensevoice"])
def ears(request: pytest.FixtureRequest) -> TranscriptionEngine:
    engine: TranscriptionEngine = request.getfixturevalue(request.param)
    return engine


@pytest.fixture(scope="module")
def sentence(flite: FliteEngine) -> Callable[[int], Samples]:
    """A sentence of `SENTENCES` as sound, without the silence around it."""

    def speak(index: int) -> Samples:
        voice = FliteVoice("slt", VOICES["slt"])
        pieces = flite.synthesize(SENTENCES[index], voice, Sampling(seed=0), threading.Event())
        spoken = np.concatenate(list(pieces))
        loud = np.flatnonzero(np.abs(spoken) > 0.02)
        return spoken[loud[0] : loud[-1]]

    return speak


def lay_out(
    parts: list[tuple[float, Samples]], tail: float = 1.0
) -> tuple[Samples, list[tuple[float, float]]]:
    """Sounds, each behind so many seconds of silence; and from when to when each is heard."""
    sound: list[Samples] = []
    times = []
    length = 0
    for pause, part in parts:
        sound += [np.zeros(int(pause * RATE), np.float32), part]
        length += len(sound[-2])
        times.append((length / RATE, (length + len(part)) / RATE))
        length += len(part)
    return np.concatenate([*sound, np.zeros(int(tail * RATE), np.float32)]), times


def noise(seconds: float) -> Samples:
    return (np.random.default_rng(0).standard_normal(int(seconds * RATE)) * 0.1).astype("f4")


def hear(ears: TranscriptionEngine, samples: Samples, *, language: str = "auto") -> Transcript:
    operation = replace(PLAIN, language=language, words=True)
    return finished(ears, ears.transcribe(samples, operation, threading.Event()))


def words_of(segment: Segment) -> tuple[Word, ...]:
    """The words of a segment, which has some."""
    assert segment.words
    return segment.words


def check(result: Transcript) -> None:
    """What every transcript's segments and words fulfil."""
    segments = result.segments
    words = [word for segment in segments for word in words_of(segment)]
    assert [segment.id for segment in segments] == list(range(len(segments)))
    everything: tuple[list[Segment | Word], ...] = ([*segments], [*words])
    for told in everything:
        assert all(0 <= one.start <= one.end <= result.duration for one in told)
        assert all(one.end <= two.start for one, two in itertools.pairwise(told))
        assert all(round(time, 3) == time for one in told for time in (one.start, one.end))
    for segment in segments:
        own = words_of(segment)
        assert (own[0].start, own[-1].end) == (segment.start, segment.end)
        assert "".join(segment.text.split()) == "".join("".join(word.word.split()) for word in own)
        assert segment.text == segment.text.strip() != ""
    assert join(segment.text for segment in segments) == result.text


# The words of a path


def path(*frames: str) -> tuple[list[int], Callable[[list[int]], list[str]]]:
    """Ids of `frames` ("" is blank) behind those of the tags, and what spells them."""
    names = ["", *dict.fromkeys([*TAGS, *(frame for frame in frames if frame)])]
    ids = [names.index(frame) for frame in [*TAGS, *frames]]
    return ids, lambda tokens: [names[token] for token in tokens]


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ([], []),
        (["", "", ""], []),
        # Frame k is the time around 60 k ms; a token is held for three more, or until the next.
        (["", " yes", "", "", "", "", ""], [("yes", 0.03, 0.27)]),
        (["", " yes"], [("yes", 0.03, 0.1)]),
        ([" a", " b", "", " c"], [("a", 0, 0.03), ("b", 0.03, 0.15), ("c", 0.15, 0.2)]),
        # Equal tokens in a row are one, equal tokens with a blank between them are two.
        ([" ha", " ha", "", " ha", "", "ha"], [("ha", 0, 0.15), ("haha", 0.15, 0.35)]),
        ([" hel", "", "lo", "", "", "", "", " you"], [("hello", 0, 0.33), ("you", 0.39, 0.5)]),
        # Punctuation belongs to the word before it and takes no time.
        ([" well", "", "", "", "", "", "", ".", " So"], [("well.", 0, 0.21), ("So", 0.45, 0.55)]),
        ([" don", "'", "t", "", "!"], [("don't!", 0, 0.3)]),
        ([" 3", ".", "14", " –", " pi"], [("3.14 –", 0, 0.21), ("pi", 0.21, 0.3)]),
        # Opening punctuation belongs to the word behind it.
        ([" (", "so", ")", ' "', "it"], [("(so)", 0.03, 0.21), ('"it', 0.21, 0.3)]),
        (["《", "三", "国", "》", "。"], [("《三", 0.03, 0.09), ("国》。", 0.09, 0.3)]),
        # In scripts without blanks every token is a word; Latin words among them stay whole.
        (["你", "好", "，", "i", "Phone", "手机"],
         [("你", 0, 0.03), ("好，", 0.03, 0.15), ("iPhone", 0.15, 0.27), ("手机", 0.27, 0.4)]),
        (["こん", "にちは", "。"], [("こん", 0, 0.03), ("にちは。", 0.03, 0.2)]),
        ([" 안녕", "하세요", " 네"], [("안녕하세요", 0, 0.09), ("네", 0.09, 0.2)]),
        # A blank of its own, a tag in the middle, punctuation alone.
        ([" ", "a", "b", " ", "c"], [("ab", 0.03, 0.21), ("c", 0.21, 0.3)]),
        (["a", "<|BGM|>", "b"], [("a", 0, 0.09), ("b", 0.09, 0.2)]),
        ([".", "a"], [(".a", 0.03, 0.1)]),
        (["", "。"], [("。", 0.03, 0.1)]),
    ],
)  # fmt: skip
def test_words_come_from_the_best_path(
    frames: list[str], expected: list[tuple[str, float, float]]
) -> None:
    ids, spelling = path(*frames)
    seconds = round(0.05 * len(frames), 3)  # the last frames reach over the end
    for offset in (0.0, 600.0):
        words = ctc.align(ids, spelling, seconds, offset)
        found = [
            (word.text, round(word.start - offset, 3), round(word.end - offset, 3))
            for word in words
        ]
        assert found == [
            (text, min(start, seconds), min(end, seconds)) for text, start, end in expected
        ]


def test_a_word_has_the_scores_of_its_tokens() -> None:
    ids, spelling = path(" hel", " hel", "lo", "", ".", " you", "")
    scores = [-9.0] * len(TAGS) + [-0.5, -0.1, -0.2, -0.01, -0.3, -1.0, -0.02]
    words = ctc.align(ids, spelling, 1.0, scores=scores)
    assert [(word.text, word.logprobs) for word in words] == [
        ("hello.", (-0.1, -0.2, -0.3)),
        ("you", (-1.0,)),
    ]
    piece = Piece(1.0, "hello. you", words=tuple(words), no_speech=0.12345)
    (segment,) = piece.segments(0, words=True)
    assert segment.avg_logprob == pytest.approx(-1.6 / 4)
    assert segment.no_speech == 0.1235
    assert [word.logprob for word in words_of(segment)] == [-0.6, -1.0]
    bare = ctc.align(ids, spelling, 1.0)
    (segment,) = Piece(1.0, "hello. you", words=tuple(bare)).segments(0, words=True)
    assert segment.avg_logprob is segment.no_speech is words_of(segment)[0].logprob is None


PARTS = [
    "",
    " go",
    "ing",
    " ",
    " (",
    ")",
    ".",
    ",",
    " –",
    "你",
    "好",
    "。",
    "《",
    " 네",
    "요",
    "ー",
]
PARTS += ["<|BGM|>", ' "', '"', "…", "é", " 5", "%"]


@given(st.lists(st.sampled_from(PARTS), max_size=40))
def test_words_and_segments_are_the_text(frames: list[str]) -> None:
    ids, spelling = path(*frames)
    text = "".join(spelling([token for token, _, _ in ctc.tokens(ids)]))
    words = ctc.align(ids, spelling, 60.0)
    piece = Piece(60.0, text, words=tuple(words))
    assume(piece.text)  # else nobody said a word
    assert spell(words) == piece.text
    assert all(one.end <= two.start for one, two in itertools.pairwise(words))
    assert all(word.start <= word.end for word in words)
    assert join(segment.text for segment in piece.segments(0, words=False)) == piece.text


# Where segments are cut


def say(text: str, *, word: float = 0.4, pauses: dict[int, float] | None = None) -> list[TimedWord]:
    """The words of `text`, each `word` seconds long, some with a pause behind them."""
    parts = text.split()
    words = []
    now = 0.0
    for index, part in enumerate(parts):
        words.append(TimedWord(part, now, now + word))
        now += word + (pauses or {}).get(index, 0.0)
    return words


def cut(words: list[TimedWord]) -> list[str]:
    return [spell(group) for group in divide(words)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello world. How are you? Fine!", ["Hello world.", "How are you?", "Fine!"]),
        ('He said "No." Then he left...', ['He said "No."', "Then he left..."]),
        ("Dr. Smith met J. Brown, i.e. me. OK.", ["Dr. Smith met J. Brown, i.e. me.", "OK."]),
        ("It is 3.14 today", ["It is 3.14 today"]),
    ],
)
def test_a_sentence_is_a_segment(text: str, expected: list[str]) -> None:
    assert cut(say(text)) == expected


def test_a_chinese_sentence_is_a_segment() -> None:
    parts = ["你", "好。", "你", "是", "谁？"]
    words = [TimedWord(part, index, index + 1, spaced=False) for index, part in enumerate(parts)]
    assert cut(words) == ["你好。", "你是谁？"]


def test_a_long_pause_ends_a_segment() -> None:
    text = "one two three four"
    assert cut(say(text, pauses={1: 0.81})) == ["one two", "three four"]
    assert cut(say(text, pauses={1: 0.79})) == [text]


def test_a_long_sentence_is_divided_at_clauses_and_short_pauses() -> None:
    words = [f"word{index}" for index in range(60)]
    for index in (10, 29, 31, 45):
        words[index] += ","
    text = " ".join(words)
    assert [len(group) for group in divide(say(text))] == [11, 19, 16, 14]
    assert max(group[-1].end - group[0].start for group in divide(say(text))) <= LONG_SECONDS
    plain = text.replace(",", "")
    assert [len(group) for group in divide(say(plain, pauses={39: 0.25}))] == [40, 20]
    assert cut(say(plain)) == [plain]
    assert [len(group) for group in divide(say(text, word=0.1))] == [60]


def test_no_cut_changes_the_text() -> None:
    # A client puts Chinese together without blanks: this one would be lost.
    words = [TimedWord("你好。", 0, 1), TimedWord("世界", 3, 4), TimedWord("OK", 6, 7)]
    assert cut(words) == ["你好。 世界", "OK"]
    assert join(cut(words)) == "你好。 世界 OK"


def test_a_pieces_segments_are_counted_on_and_have_its_tags() -> None:
    raw = "<|en|><|HAPPY|><|Speech|><|BGM|><|withitn|>Hello world. How are you?"
    words = [TimedWord(part, index, index + 0.41239) for index, part in enumerate(raw.split())]
    words[0] = replace(words[0], text="Hello")
    piece = Piece(
        9.0,
        raw,
        {"zh": 0.08, "en": 0.91236, "nospeech": 0.00764},
        {"NEUTRAL": 0.1995, "HAPPY": 0.8, "SAD": 0.0005},
        {"BGM": 0.3, "Speech": 0.7},
        tuple(words),
    )
    told = Paralinguistics(
        "en",
        "HAPPY",
        ("Speech", "BGM"),
        0.9124,
        0.8,
        0.7,
        {"en": 0.9124, "zh": 0.08, "nospeech": 0.0076},
        {"HAPPY": 0.8, "NEUTRAL": 0.1995},
        {"Speech": 0.7, "BGM": 0.3},
    )
    assert list(piece.segments(5, words=True)) == [
        Segment(
            5, 0, 1.412, "Hello world.", told, (Word("Hello", 0, 0.412), Word("world.", 1, 1.412))
        ),
        Segment(
            6,
            2,
            4.412,
            "How are you?",
            told,
            (Word("How", 2, 2.412), Word("are", 3, 3.412), Word("you?", 4, 4.412)),
        ),
    ]
    bare = list(piece.segments(5, words=False))
    assert bare == [replace(one, words=None) for one in piece.segments(5, words=True)]


# Recordings


def test_times_of_sentences_and_words_are_true(
    sphinx: SphinxEngine, sentence: Callable[[int], Samples]
) -> None:
    order = [5, 1, 8, 3]
    samples, times = lay_out(
        [(pause, sentence(index)) for pause, index in zip([0.9, 2.5, 1.2, 7.0], order, strict=True)]
    )
    result = hear(sphinx, samples)
    check(result)
    assert len(result.segments) == len(order)
    for segment, index, (start, end) in zip(result.segments, order, times, strict=True):
        assert jiwer.wer(SENTENCES[index].lower().strip(".").replace(",", ""), segment.text) < 0.4
        assert segment.start == pytest.approx(start, abs=0.3)
        assert segment.end == pytest.approx(end, abs=0.3)
        told = segment.paralinguistics
        assert told.language_probability is None
        assert told.emotion_probability is told.event_probability is None
        assert told.emotions is told.language_probabilities is told.event_probabilities is None
    assert all("(" not in word.word for one in result.segments for word in words_of(one))


def test_a_word_is_where_it_was_said(
    sphinx: SphinxEngine, sentence: Callable[[int], Samples]
) -> None:
    alone = hear(sphinx, lay_out([(0.5, sentence(5))])[0])
    later = hear(sphinx, lay_out([(0.5, sentence(1)), (3.0, sentence(5))])[0])
    shift = 3.0 + len(sentence(1)) / RATE
    told = {word.word: word.start for one in alone.segments for word in words_of(one)}
    again = {word.word: word.start for word in words_of(later.segments[-1])}
    for name in ("children", "garden", "dark"):
        assert again[name] - told[name] == pytest.approx(shift, abs=0.05)
    length = len(sentence(5)) / RATE
    assert 0 < (told["children"] - 0.5) / length < 0.25
    assert 0.4 < (told["garden"] - 0.5) / length < 0.7
    assert 0.8 < (told["dark"] - 0.5) / length < 1


def test_a_sentence_late_in_a_long_recording_has_its_time(
    sphinx: SphinxEngine, sentence: Callable[[int], Samples]
) -> None:
    samples, times = lay_out([(0.5, sentence(1)), (700.0, sentence(5))], tail=9.0)
    assert 710 < len(samples) / RATE <= 720
    result = hear(sphinx, samples)
    check(result)
    for segment, (start, end) in zip(result.segments, times, strict=True):
        assert segment.start == pytest.approx(start, abs=0.3)
        assert segment.end == pytest.approx(end, abs=0.3)


def test_twelve_minutes_are_heard_in_pieces_at_their_times(
    sensevoice: SenseVoiceEngine, sentence: Callable[[int], Samples]
) -> None:
    once = lay_out([(0.4, sentence(index)) for index in (5, 1, 8, 3)], tail=0.0)[0]
    samples = np.resize(once, 720 * RATE)
    result = hear(sensevoice, samples)
    check(result)
    ranges = vad.clips(vad.speech_probabilities(samples), len(samples), PIECE_SECONDS)
    assert len(result.segments) >= len(ranges) > 23
    first, last = ranges[-1]
    late = hear(sensevoice, samples[first:last]).segments
    found = result.segments[-len(late) :]
    assert [segment.text for segment in found] == [segment.text for segment in late]
    for one, two in zip(found, late, strict=True):
        for word, again in zip(words_of(one), words_of(two), strict=True):
            assert word.start == pytest.approx(again.start + first / RATE, abs=0.0011)
    # All sound is nonsense to random weights from its beginning to its end.
    assert result.segments[0].start < 1
    assert result.segments[-1].end > 719


def test_long_pauses_are_not_heard(
    sensevoice: SenseVoiceEngine, sentence: Callable[[int], Samples]
) -> None:
    samples, times = lay_out([(20.0, sentence(5)), (40.0, sentence(1))], tail=30.0)
    result = hear(sensevoice, samples)
    check(result)
    assert result.raw.count("<|withitn|>") == 2
    assert result.duration == round(len(samples) / RATE, 3)
    for segment in result.segments:
        assert any(start - 0.5 < segment.start < end + 0.5 for start, end in times)
        assert any(start - 0.5 < segment.end < end + 0.5 for start, end in times)


def test_a_long_recording_without_speech_is_heard_once(sensevoice: SenseVoiceEngine) -> None:
    assert hear(sensevoice, noise(40)).raw == hear(sensevoice, noise(40)[: 30 * RATE]).raw


@pytest.mark.parametrize("language", ["zh", "en", "ko", "nospeech"])
@pytest.mark.parametrize("seconds", [0.0001, 0.05, 3, 30])
def test_segments_have_the_pieces_tags(
    sensevoice: SenseVoiceEngine, language: str, seconds: float
) -> None:
    result = hear(sensevoice, noise(seconds), language=language)
    check(result)
    assert result.raw.count("<|withitn|>") == 1  # one piece
    assert result.segments
    whole = result.paralinguistics
    for segment in result.segments:
        told = segment.paralinguistics
        assert told.language == whole.language == language
        assert told.language_probability == whole.language_probability
        assert told.emotion == whole.emotion
        assert told.emotion_probability == whole.emotion_probability
        assert told.events == whole.events
        assert segment.avg_logprob is not None
        assert segment.avg_logprob < 0
        logprobs = [word.logprob for word in words_of(segment)]
        assert all(logprob is not None and logprob < 0 for logprob in logprobs)
        assert segment.no_speech is not None
        assert 0 <= segment.no_speech <= 1
        # The best tag of the first frame is that of the language.
        if language == "nospeech":
            assert segment.no_speech == told.language_probability
        else:
            assert told.language_probability is not None
            assert segment.no_speech <= told.language_probability
        assert told.event_probability is not None
        assert 0 < told.event_probability <= 1
        check_distributions(told)
        assert told.emotions == whole.emotions
        assert told.language_probabilities == whole.language_probabilities
        assert told.event_probabilities == whole.event_probabilities


def check_distributions(told: Paralinguistics) -> None:
    """All three are there, are complete but for what is rounded, and agree with the tags."""
    for distribution, tag, probability in (
        (told.language_probabilities, told.language, told.language_probability),
        (told.emotions, told.emotion, told.emotion_probability),
        (told.event_probabilities, told.events[0], told.event_probability),
    ):
        assert distribution is not None
        assert sum(distribution.values()) == pytest.approx(1, abs=0.001 * 12)
        assert distribution[tag] == probability == max(distribution.values())
        assert list(distribution.values()) == sorted(distribution.values(), reverse=True)
        assert all(value >= 0.001 and value == round(value, 4) for value in distribution.values())


def test_silence_has_no_segments(sphinx: SphinxEngine) -> None:
    result = hear(sphinx, np.zeros(RATE, np.float32))
    assert (result.text, result.segments, result.duration) == ("", (), 1.0)


# Requests


def answer(
    ears: TranscriptionEngine, samples: Samples, *, streamed: bool = False, words: bool = False
) -> tuple[list[Any], Transcript]:
    upload = Recording("recording", wav_header(RATE, len(samples)) + pcm16(samples))
    return transcript(
        ears.run(Transcribe(upload, words=words, streamed=streamed), threading.Event()), ears
    )


@pytest.fixture(scope="module")
def two_sentences(sentence: Callable[[int], Samples]) -> Samples:
    """Long enough for two pieces of SenseVoice's."""
    return lay_out([(0.5, sentence(5)), (25.0, sentence(1))], tail=4.0)[0]


@pytest.mark.parametrize(
    "options", [{"hotwords": ("Anna",)}, {"hotword_weight": 1.0}], ids=["words", "weight"]
)
def test_hotwords_are_refused_by_who_cannot(
    sphinx: SphinxEngine, whisper: WhisperEngine, options: dict[str, Any]
) -> None:
    for engine in (sphinx, whisper):
        if engine is whisper and "hotwords" in options:
            continue
        upload = Recording("recording", wav_header(RATE, 0))
        with pytest.raises(ServiceError, match="use the engine sensevoice") as caught:
            next(engine.run(Transcribe(upload, **options), threading.Event()))
        assert caught.value.code is ErrorCode.invalid_option


def test_segments_are_streamed_one_by_one(
    ears: TranscriptionEngine, two_sentences: Samples
) -> None:
    sent, result = answer(ears, two_sentences, streamed=True, words=True)
    assert len(sent) >= 2
    assert all(isinstance(segment, Segment) for segment in sent)
    assert tuple(sent) == result.segments
    assert (sent, result) == answer(ears, two_sentences, streamed=True, words=True)
    check(result)


def test_words_and_a_stream_come_only_when_wanted(
    ears: TranscriptionEngine, two_sentences: Samples
) -> None:
    sent, result = answer(ears, two_sentences)
    assert sent == []
    assert len(result.segments) >= 2
    assert all(segment.words is None for segment in result.segments)
    _, with_words = answer(ears, two_sentences, words=True)
    assert all(segment.words for segment in with_words.segments)
    without = tuple(replace(segment, words=None) for segment in with_words.segments)
    assert replace(with_words, segments=without) == result


def test_a_segment_is_known_before_the_rest_is_heard(
    ears: TranscriptionEngine, two_sentences: Samples, sentence: Callable[[int], Samples]
) -> None:
    samples = two_sentences
    if ears.name == "sensevoice":  # short pieces are heard together
        samples = np.resize(lay_out([(0.3, sentence(5))], tail=0.0)[0], 50 * RATE)
    stop = threading.Event()
    before = time.thread_time()
    finished(ears, ears.transcribe(samples, PLAIN, stop))
    whole = time.thread_time() - before
    following = alone(ears, ears.transcribe(samples, PLAIN, stop))
    first = next(following)
    assert first is not None
    assert first.id == 0
    stop.set()
    before = time.thread_time()
    with pytest.raises(Cancelled):
        list(following)
    assert time.thread_time() - before < whole / 2


def test_a_piece_may_wait_for_steps_of_a_batch() -> None:
    class Waiting(TranscriptionEngine):
        name = "waiting"

        def recognize(
            self, samples: Samples, options: Transcribe, stop: threading.Event
        ) -> Iterator[Piece | None]:
            for second in range(2):
                yield None
                word = TimedWord("yes.", second, second + 0.5)
                yield Piece(1.0, "<|en|><|NEUTRAL|><|Speech|><|woitn|>yes.", words=(word,))

    samples = np.zeros(2 * RATE, np.float32)
    sent, result = collected(Waiting().transcribe(samples, PLAIN, threading.Event()))
    assert sent == [None, result.segments[0], None, result.segments[1]]
    assert [segment.id for segment in result.segments] == [0, 1]
    assert (result.text, result.duration) == ("yes. yes.", 2.0)
