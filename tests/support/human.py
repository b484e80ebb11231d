"""Recordings of people, which come with the package moonshine-voice, and what they say.

Used in tests of transcription. The texts are Beckett's and Dickens'; what is said in the last one
was written down from several transcripts that agree in all but one word.
"""

from __future__ import annotations

from pathlib import Path

from model_procs.weights.packages import package_folder
from tests.support.spoken import word_error_rate

HUMAN = {
    "beckett.wav": "Ever tried. Ever failed. No matter. Try again. Fail again. Fail better.",
    "two_cities.wav": (
        "It was the best of times, it was the worst of times, it was the age of wisdom, it was the "
        "age of foolishness, it was the epoch of belief, it was the epoch of incredulity, it was "
        "the season of light, it was the season of darkness, it was the spring of hope, it was the "
        "winter of despair, we had everything before us, we had nothing before us, we were all "
        "going direct to heaven, we were all going direct the other way. In short, the period was "
        "so far like the present period, that some of its noisiest authorities insisted on its "
        "being received, for good or for evil, in the superlative degree of comparison only."
    ),
    "endgame_nagg_nell.wav": (
        "Do you hear me? Yes. Do you hear me? Yes. We laugh less heartily, so we have still that "
        "resource. Laugh less heartily, so we have still that resource. No, not heartily, just "
        "less heartily. Ah, that's a good story. Ah, that's a good story. What are you talking "
        "about? Laughing. You thought you were in pain. Not now. Do you remember the day I went "
        "and fetched you from that ditch? No."
    ),
}
"""Names of files, and the text of each."""


def human_file(name: str) -> Path:
    """The recording of this name: a WAV."""
    return package_folder("moonshine_voice") / "assets" / name


def human(name: str) -> bytes:
    """The recording of this name."""
    return human_file(name).read_bytes()


def word_errors(heard: str, name: str) -> float:
    """The word error rate of a transcript of this recording."""
    return word_error_rate([HUMAN[name]], [heard])
