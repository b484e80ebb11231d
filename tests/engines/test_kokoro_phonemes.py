"""How Kokoro's texts are read: by espeak-ng, as the library does, and word by word."""

from __future__ import annotations

import pytest

from model_procs.engines.kokoro.phonemes import LANGUAGES, Reader

pytestmark = pytest.mark.neural


@pytest.fixture(scope="module")
def reader() -> Reader:
    from kokoro_onnx.config import DEFAULT_VOCAB

    return Reader(DEFAULT_VOCAB)


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en-us", "Hello of the world, it's 5.5 o'clock: on a (rainy) day. \"Yes!\" he said…"),
        ("en-gb", "I'd rather be in the garden, wouldn't you?"),
        ("es", "Hola, ¿qué tal estás? ¡Muy bien!"),
        ("fr", "Bonjour le monde, c'est l'été."),
        ("hi", "नमस्ते दुनिया"),
        ("it", "Ciao, come stai oggi?"),
        ("pt", "Olá, tudo bem com você?"),
    ],
)
def test_phonemes_are_those_of_the_library(reader: Reader, language: str, text: str) -> None:
    from kokoro_onnx.tokenizer import Tokenizer

    codes = {"fr": "fr-fr", "pt": "pt-br"}
    expected = Tokenizer().phonemize(text, codes.get(language, language))
    assert reader.read(text, language).phonemes == " ".join(expected.split())


def test_every_language_is_read(reader: Reader) -> None:
    assert all(reader.read("a 1", language).phonemes for language in LANGUAGES)


def test_a_foreign_word_brings_no_name_of_its_language(reader: Reader) -> None:
    read = reader.read("Bon weekend.", "fr").phonemes
    assert "(" not in read
    assert read.endswith("wiːkˈɛnd.")


def test_each_word_has_its_phonemes_also_where_they_are_joined(reader: Reader) -> None:
    text = "I am one of the 3 in the house."
    read = reader.read(text, "en-us")
    assert [
        (text[word.start : word.end], read.phonemes[word.first : word.last]) for word in read.words
    ] == [
        ("I", "aɪ"),
        ("am", "ɐm"),
        ("one", "wˈʌn"),
        ("of", "ʌv"),
        ("the", "ðə"),
        ("3", "θɹˈiː"),
        ("in", "ɪn"),
        ("the", "ðə"),
        ("house", "hˈaʊs"),
    ]


def test_a_text_without_words_has_no_phonemes(reader: Reader) -> None:
    assert reader.read(" - ", "en-us").words == ()
    assert reader.read("\0", "en-us").phonemes == ""


def test_japanese_vowels_are_kept(reader: Reader) -> None:
    assert reader.read("かさ。", "ja").phonemes.count("a") == 2
