"""Fifty varied English sentences to speak and to read back, and the word error rate."""

from __future__ import annotations

from collections.abc import Sequence

import jiwer
from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

SENTENCES = (
    # Everyday.
    "The quick brown fox jumps over the lazy dog.",
    "Could you please close the window before it starts to rain?",
    "I have never seen such a beautiful garden in my whole life.",
    "She put the keys on the table and forgot about them.",
    "We are going to be late if you do not hurry up!",
    "My brother plays the guitar, and my sister sings in a choir.",
    "There is some milk in the fridge, but the bread is gone.",
    "What would you like to drink with your dinner tonight?",
    "The children were laughing loudly in the playground.",
    "Please remember to lock the door when you leave the house.",
    # Numbers and amounts.
    "The train leaves at 7:45 in the morning from platform 9.",
    "There are 365 days in a year, and 366 in a leap year.",
    "The new laptop costs $1,299, which is 15% less than before.",
    "About 2.5 million people live in this city.",
    "He ran 42 kilometers in three hours and twenty minutes.",
    "The temperature fell to minus 12 degrees last night.",
    "Our office is on the 21st floor of the building.",
    "She scored 98 out of 100 points in the final test.",
    "The recipe needs 250 grams of sugar and four eggs.",
    "Twelve of the seventeen students passed the exam.",
    # Dates.
    "The meeting was moved to Monday, March 3rd, 2025.",
    "She was born on July 14, 1989, in a small village.",
    "The contract ends on the 31st of December.",
    "In 1969, two men walked on the moon for the first time.",
    "Our summer holidays begin on June 21st this year.",
    "The old bridge was built in 1874 and repaired in 1952.",
    "On Thursday afternoon the shop closes at five o'clock.",
    "The next election will be held in November 2028.",
    # Names of people and places.
    "Doctor Smith will see you now, Mrs. Johnson.",
    "William Shakespeare was born in Stratford, in England.",
    "Emily and Oliver are travelling from Berlin to Paris.",
    "The Pacific Ocean is larger than the Atlantic Ocean.",
    "Albert Einstein received the Nobel Prize in Physics.",
    "The flight from New York to London takes seven hours.",
    "Queen Victoria ruled the British Empire for a long time.",
    "Robert moved from Chicago to San Francisco last autumn.",
    "The river Thames flows through the city of London.",
    "Michael Jackson and David Bowie were famous singers.",
    # Longer, and about something.
    "Although the weather was terrible, the players finished the match and thanked the audience.",
    "If you press the green button twice, the machine will stop and the red light will turn off.",
    "The company announced on Tuesday that it would open three new factories in southern Spain.",
    "Scientists have discovered a new species of frog in the rain forests of Brazil.",
    "A good teacher explains difficult things in simple words and never loses patience.",
    "The museum shows paintings, old maps, and a large collection of musical instruments.",
    "He opened the letter slowly, read it twice, and put it back into the envelope.",
    "Most birds can fly, but penguins and ostriches cannot.",
    "Electric cars are quieter than cars with a petrol engine.",
    "You should drink at least two liters of water every day.",
    "The doctor told him to stay in bed and to take the medicine after every meal.",
    "Thank you very much for your help; I could not have done it without you.",
)

_normalize = EnglishTextNormalizer({})  # type: ignore[no-untyped-call]


def normal(text: str) -> str:
    """`text` in lower case, without punctuation, numbers in digits: what word errors count."""
    return str(_normalize(text))


def word_error_rate(said: Sequence[str], heard: Sequence[str]) -> float:
    """Wrong, missing and additional words of all texts together, per word that was said."""
    return float(jiwer.wer([*map(normal, said)], [*map(normal, heard)]))
