"""The best path of a CTC model if some words and phrases are likelier than usual. Runs in workers.

A path has one token for each frame. The best path without hotwords takes the likeliest token of
each frame. With hotwords the score of a path is the sum of its tokens' logarithms, and a bonus for
each hotword in the text that the path spells. `best_path` finds the path with the highest score,
so a hotword wins where it was heard nearly as well as what is written otherwise, and where none was
the path is the same as without.

A decoder's library would be of little use here: those for CTC want the scores of all 25,000 tokens
of each frame, words between blanks, which Chinese and Japanese do not have, and give the text
without its path, from which the times of words come.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

from ipc.spacing import spaceless

DEFAULT_WEIGHT = 2.0
"""The bonus for each token of a hotword, as a logarithm: so much less likely its sound may be."""

CANDIDATES = 8
"""How many of the likeliest tokens of a frame may be on the path."""

BEAM = 32
"""How many paths, the best of each kind, are followed from frame to frame."""

_TURN_FRAMES = 32
"""After so many frames other work may have a turn."""

_ROOT = 0


@dataclass(frozen=True, slots=True)
class Frame:
    """The likeliest tokens of a frame, the best first, and their probabilities' logarithms."""

    tokens: Sequence[int]
    scores: Sequence[float]


def letters(text: str, *, inside: bool = False) -> tuple[list[str], bool]:
    """What hotwords compare of `text`: its letters in lower case, and " " before each word.

    `inside`: the text begins within a word. Returns also whether it ends within one. Chinese and
    Japanese have no words, so that nothing stands before their letters; punctuation only ends a
    word.
    """
    found: list[str] = []
    for letter in unicodedata.normalize("NFKC", text).casefold():
        if not letter.isalnum() and not unicodedata.combining(letter):
            inside = False
        elif spaceless(letter):
            found.append(letter)
            inside = False
        else:
            found += [letter] if inside else [" ", letter]
            inside = True
    return found, inside


class Hotwords:
    """The hotwords of a request: which of them a text has, letter by letter.

    `spell` is the text of a token, with a space in front where it begins a word; None for a tag or
    a part of a character. `count` is of how many tokens the model makes a text.

    The letters of all hotwords are a trie. A node stands for the letters that a text ends with; the
    next letter leads to the node for the longest ending that begins a hotword (Aho and Corasick).
    """

    def __init__(
        self,
        words: Sequence[str],
        weight: float,
        spell: Callable[[int], str | None],
        count: Callable[[str], int],
    ) -> None:
        self._spell = spell
        self._steps: dict[tuple[int, bool, int], tuple[int, bool, float]] = {}
        self._next: list[dict[str, int]] = [{}]
        self._bonus = [0.0]
        """Of the hotword that ends in a node."""
        self._hope = [0.0]
        """The part that a text has of the bonus of a hotword that it has begun."""
        self.largest = 0.0
        """The largest bonus of a hotword."""
        for word in words:
            self._add(letters(word)[0], weight * max(1, count(word)))
        self._suffix = [_ROOT] * len(self._next)
        self._worth = [0.0] * len(self._next)
        """The bonuses of the hotwords in the letters of a node."""
        self._link()

    def _add(self, word: list[str], bonus: float) -> None:
        node = _ROOT
        for number, letter in enumerate(word, 1):
            if letter not in self._next[node]:
                self._next[node][letter] = len(self._next)
                self._next.append({})
                self._bonus.append(0.0)
                self._hope.append(0.0)
            node = self._next[node][letter]
            self._hope[node] = max(self._hope[node], bonus * number / len(word))
        if word:
            self._bonus[node] = max(self._bonus[node], bonus)
            self.largest = max(self.largest, bonus)

    def _link(self) -> None:
        """Find each node's longest ending that is a node too, and what its letters are worth.

        A hotword within a longer one in the text has no bonus of its own.
        """
        longest: list[tuple[int, float]] = [(0, 0.0)] * len(self._next)
        """The length of the longest hotword at a node's end, and its bonus."""
        inside: list[list[tuple[int, int, float]]] = [[]] * len(self._next)
        """The hotwords in a node's letters that are in no longer one: start, end, bonus."""
        waiting = [(_ROOT, letter, node, 1) for letter, node in self._next[_ROOT].items()]
        for parent, letter, node, depth in waiting:  # grows: breadth first
            if parent != _ROOT:
                self._suffix[node] = self._follow(self._suffix[parent], letter)
            longest[node] = (
                (depth, self._bonus[node]) if self._bonus[node] else longest[self._suffix[node]]
            )
            size, bonus = longest[node]
            inside[node] = inside[parent]
            if size:
                start = depth - size
                inside[node] = [each for each in inside[parent] if each[0] < start]
                inside[node].append((start, depth, bonus))
            self._worth[node] = sum(bonus for _, _, bonus in inside[node])
            waiting += [
                (node, after, child, depth + 1) for after, child in self._next[node].items()
            ]

    def _follow(self, node: int, letter: str) -> int:
        while letter not in self._next[node] and node != _ROOT:
            node = self._suffix[node]
        return self._next[node].get(letter, _ROOT)

    def hope(self, node: int) -> float:
        """What the hotword that ends with this node's text, or goes on after it, has earned."""
        return max(0.0, self._hope[node] - self._worth[node])

    def step(self, node: int, inside: bool, token: int) -> tuple[int, bool, float]:
        """Where `token` leads from a node, whether within a word, and the bonus that this earns."""
        key = (node, inside, token)
        found = self._steps.get(key)
        if found is None:
            found = self._steps[key] = self._step(node, inside, self._spell(token))
        return found

    def _step(self, node: int, inside: bool, text: str | None) -> tuple[int, bool, float]:
        if text is None:
            return _ROOT, False, 0.0
        gained = 0.0
        added, inside = letters(text, inside=inside)
        for letter in added:
            while letter not in self._next[node] and node != _ROOT:
                node = self._suffix[node]
            after = self._next[node].get(letter, _ROOT)
            if after != _ROOT:
                gained += self._worth[after] - self._worth[node]
            node = after
        return node, inside, gained


_State = tuple[int, bool, int]
"""All that matters for what comes after a frame: node, whether within a word, the last token."""


def best_path(
    frames: Sequence[Frame], hotwords: Hotwords, *, blank: int = 0, beam: int = BEAM
) -> Generator[None, None, tuple[list[int], list[float]]]:
    """The path with the highest score, and the logarithms of its tokens' probabilities.

    Of all paths that lead to the same state only the best one can become the best of all. So with
    an unlimited `beam` the result is exact. A token that is less likely than the best of its frame
    by more than any bonus is not tried. Yields often.
    """
    scores: dict[_State, float] = {(_ROOT, False, blank): 0.0}
    came: list[dict[_State, tuple[_State, float]]] = []
    for number, frame in enumerate(frames):
        if number % _TURN_FRAMES == 0:
            yield
        least = frame.scores[0] - hotwords.largest
        tried = [one for one in zip(frame.tokens, frame.scores, strict=True) if one[1] >= least]
        reached: dict[_State, float] = {}
        origins: dict[_State, tuple[_State, float]] = {}
        for state, score in scores.items():
            node, inside, last = state
            for token, chance in tried:
                total = score + chance
                if token in (blank, last):
                    after = (node, inside, token)
                else:
                    there, within, gained = hotwords.step(node, inside, token)
                    after = (there, within, token)
                    total += gained
                if after not in reached or total > reached[after]:
                    reached[after] = total
                    origins[after] = (state, chance)
        if len(reached) > beam:
            best = sorted(
                reached, key=lambda each: reached[each] + hotwords.hope(each[0]), reverse=True
            )
            reached = {state: reached[state] for state in best[:beam]}
        scores = reached
        came.append(origins)
    path: list[int] = []
    chances: list[float] = []
    state = max(scores, key=scores.__getitem__)
    for origins in reversed(came):
        path.append(state[2])
        state, chance = origins[state]
        chances.append(chance)
    return path[::-1], chances[::-1]
