"""Ten plain English sentences for the tests that speak a text and read it back."""

from __future__ import annotations

SENTENCES = (
    "The weather was warm this morning, so we walked to the park.",
    "She bought three apples and a loaf of bread at the market.",
    "Please call me back before five o'clock this afternoon.",
    "My brother works in a large hospital near the river.",
    "They have been living in this house for twenty years.",
    "The children played in the garden until it was dark.",
    "I would like a cup of coffee and two pieces of cake.",
    "The train to the city leaves every fifteen minutes.",
    "He forgot his keys and had to wait outside in the rain.",
    "We are planning a long holiday by the sea next summer.",
)
