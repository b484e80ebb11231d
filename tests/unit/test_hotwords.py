"""Hotwords in CTC decoding: against all paths of tiny inputs, and what counts as a hotword."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Generator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_procs.audio.turns import result_of
from model_procs.listening import ctc
from model_procs.listening.hotwords import DEFAULT_WEIGHT, Frame, Hotwords, best_path, letters

TOKENS: tuple[str | None, ...] = ("", " a", "b", "ab", "中", "国", ",", None)
"""The texts of tiny tokens; the first one is blank, the last one is a tag."""

Chances = Sequence[Sequence[float]]


def hotwords(words: Sequence[str], weight: float = DEFAULT_WEIGHT) -> Hotwords:
    return Hotwords(words, weight, TOKENS.__getitem__, len)


def frames(chances: Chances) -> list[Frame]:
    """All tokens of each frame, the likeliest first."""
    found = []
    for row in chances:
        order = sorted(range(len(row)), key=lambda token: -row[token])
        found.append(Frame(order, [row[token] for token in order]))
    return found


def decoded(chances: Chances, words: Hotwords, **options: int) -> tuple[list[int], list[float]]:
    return result_of(best_path(frames(chances), words, **options))


def worth(text: str, words: Sequence[str], weight: float) -> float:
    """What the hotwords in `text` earn, by looking for each of them at each place.

    `text` has a bar where a tag was.
    """
    compared = "|".join("".join(letters(part)[0]) for part in text.split("|"))
    spans: dict[tuple[int, int], float] = {}
    for word in words:
        pattern = "".join(letters(word)[0])
        for start in range(len(compared)):
            if compared.startswith(pattern, start):
                spans[start, start + len(pattern)] = weight * len(word)
    return sum(
        bonus
        for (start, end), bonus in spans.items()
        if not any(
            (start, end) != (first, last) and first <= start and end <= last
            for first, last in spans
        )
    )


def spelled(path: Sequence[int]) -> str:
    texts = [TOKENS[token] for token, _, _ in ctc.tokens(path)]
    return "".join("|" if text is None else text for text in texts)


def best_of_all(chances: Chances, words: Sequence[str], weight: float) -> float:
    """The highest score of any path."""
    return max(
        sum(row[token] for row, token in zip(chances, path, strict=True))
        + worth(spelled(path), words, weight)
        for path in itertools.product(range(len(TOKENS)), repeat=len(chances))
    )


def some_chances(seed: int, count: int) -> Chances:
    drawn = random.Random(seed)
    rows = []
    for _ in range(count):
        weights = [drawn.expovariate(1) ** 3 + 1e-9 for _ in TOKENS]
        rows.append([math.log(weight / sum(weights)) for weight in weights])
    return rows


WORDS = ("ab", "a", "b", "bab", "a ab", "中国", "国", "ab中", "abab")


@pytest.mark.parametrize("weight", [0.05, 0.5, 2.0])
@pytest.mark.parametrize("seed", range(25))
def test_the_best_path_is_the_best_of_all(seed: int, weight: float) -> None:
    drawn = random.Random(seed)
    words = drawn.sample(WORDS, drawn.randint(1, 4))
    chances = some_chances(seed, 4)
    # Bonuses may be sums of several: all tokens are tried, however unlikely.
    found = hotwords(words, weight)
    found.largest = math.inf
    path, scores = decoded(chances, found, beam=10_000)
    assert scores == [row[token] for row, token in zip(chances, path, strict=True)]
    score = sum(scores) + worth(spelled(path), words, weight)
    assert score == pytest.approx(best_of_all(chances, words, weight), abs=1e-9)


@given(st.integers(0, 10**6), st.lists(st.sampled_from(WORDS), min_size=1, max_size=4))
def test_a_beam_finds_about_the_same(seed: int, words: list[str]) -> None:
    chances = some_chances(seed, 5)
    exact = hotwords(words)
    exact.largest = math.inf

    def score(found: tuple[list[int], list[float]]) -> float:
        return sum(found[1]) + worth(spelled(found[0]), words, DEFAULT_WEIGHT)

    best = score(decoded(chances, exact, beam=10_000))
    assert score(decoded(chances, exact, beam=64)) == pytest.approx(best)
    assert score(decoded(chances, exact, beam=3)) <= best + 1e-9


@given(st.integers(0, 10**6), st.integers(0, 12))
def test_hotwords_that_were_not_heard_change_nothing(seed: int, count: int) -> None:
    chances = some_chances(seed, count)
    path, scores = decoded(chances, hotwords(["xyz", "日本"]))
    greedy = [max(range(len(row)), key=row.__getitem__) for row in chances]
    assert path == greedy
    assert scores == [max(row) for row in chances]


def chance(**tokens: float) -> list[float]:
    """A frame by the texts of tokens; `_` is blank. What is not named is very unlikely."""
    names = {"_": "", "a": " a"}
    row = [1e-9] * len(TOKENS)
    for name, value in tokens.items():
        row[TOKENS.index(names.get(name, name))] = value
    return [math.log(value) for value in row]


def test_a_hotword_wins_where_it_was_heard_nearly_as_well() -> None:
    heard = [chance(a=0.9, _=0.1), chance(b=0.2, 中=0.8), chance(_=1.0)]
    assert spelled(decoded(heard, hotwords(["zzz"]))[0]) == " a中"
    assert spelled(decoded(heard, hotwords(["ab"]))[0]) == " ab"
    assert spelled(decoded(heard, hotwords(["AB"]))[0]) == " ab"  # whatever the case
    assert spelled(decoded(heard, hotwords(["ab"], 0.1))[0]) == " a中"
    # A blank parts two tokens that are the same; without it they are one.
    twice = [chance(中=1.0), chance(_=0.4, 中=0.6), chance(中=1.0)]
    assert spelled(decoded(twice, hotwords(["zzz"]))[0]) == "中"
    assert spelled(decoded(twice, hotwords(["中中"]))[0]) == "中中"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello World", " hello world"),
        ("O'Brien-Smith", " o brien smith"),
        ("  AI模型, 中国 人", " ai模型中国人"),
        ("ＡＢＣ１２", " abc12"),
        ("안녕 하세요", " 안녕 하세요"),
        ("東京タワーTower", "東京タワー tower"),
        ("...", ""),
        ("Straße é", " strasse é"),
    ],
)
def test_letters_of_a_text(text: str, expected: str) -> None:
    assert "".join(letters(text)[0]) == expected


@given(st.text(alphabet=" aB,中国ー안'1|", max_size=12), st.integers(0, 12))
def test_letters_are_the_same_in_parts(text: str, cut: int) -> None:
    first, inside = letters(text[:cut])
    rest, _ = letters(text[cut:], inside=inside)
    assert first + rest == letters(text)[0]


def test_a_hotword_begins_where_a_word_does() -> None:
    words = hotwords(["b"])
    assert words.step(0, True, TOKENS.index("b"))[2] == 0  # as in "ab"
    assert words.step(0, False, TOKENS.index("b"))[2] == DEFAULT_WEIGHT
    node, inside, gained = words.step(0, False, TOKENS.index(None))
    assert (node, inside, gained) == (0, False, 0)


def test_many_long_hotwords_take_little() -> None:
    drawn = random.Random(0)
    words = ["".join(drawn.choices("abc ", k=50)) for _ in range(100)]
    many = hotwords(words)
    path, _ = decoded(some_chances(1, 200), many)
    assert len(path) == 200


def test_work_can_be_interrupted() -> None:
    work: Generator[None, None, object] = best_path(frames(some_chances(0, 100)), hotwords(["ab"]))
    assert sum(1 for _ in work) == 4
