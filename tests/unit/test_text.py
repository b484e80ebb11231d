"""How a text is split: sentences in many languages, nothing lost."""

from __future__ import annotations

import time

import pytest
import sentencex
from hypothesis import given
from hypothesis import strategies as st

from model_procs.speech.text import LONG, sentences

SPLIT = [
    "Hello world. | How are you? | Fine!",
    "Really?! | Yes. | No!!! | Why???",
    "hello there. | how are you doing? | i am fine! | thanks.",
    "Dr. Smith met Mr. Jones at 3 p.m. on Jan. 5. | They talked.",
    "J. R. R. Tolkien wrote it. | He was English.",
    "Pi is 3.14159 and e is 2.718. | Both are irrational.",
    "The U.S. economy grew by 2.5% in Q3, approx. $1,000.50 each. | Inflation fell.",
    "See https://example.com/a.b?c=d. | Version 2.0.1 is out, says me@example.com today. | Bye.",
    "e.g. this one, i.e. that one, etc. are fine. | Next.",
    "Wait... what? | I waited... | Then he came.",
    '"Stop!" he cried. | "Why?" she asked.',
    "He said “Go away.” | Then he left.",
    'She said "Hello." and left. | Then came back.',
    "I said no. | It was so. | Give it to me. | We won in 2019. | Then we lost.",
    "No. 5 is alive.",
    "1. First item.\n | 2. Second item.",
    "A heading\n\n | Text under it.",
    "Am 3. Mai kam Herr Dr. Müller, d. h. spät, usw. und so fort. | Gut, ca. 30 Stück.",
    "Nr. 5 lebt. | Es kam bzw. Es ging.",
    "M. Dupont est là. | Mme. Martin aussi. | P. ex. ceci. | Ça va ?",
    "¿Cómo estás? | ¡Muy bien! | El Sr. García y la Sra. López vinieron.",
    "Il dott. Rossi e il sig. Bianchi. | L'avv. Verdi.",
    "De heer dhr. Jansen en mevr. de Vries. | Klaar.",
    "O Sr. Silva e a Sra. Costa. | Fim.",
    "Он жил в г. Москве. | А. С. Пушкин — поэт. | Да!",
    "Τι κάνεις; | Είμαι καλά.",
    "你好。 | 你叫什么名字？ | 我叫小明！ | 圆周率是3.14。",
    "こんにちは。 | 「元気ですか？」 | はい！",
    "안녕하세요. | 잘 지내세요? | 네!",
    "مرحبا. | كيف حالك؟ | أنا بخير!",
    "یہ ایک جملہ ہے۔ | یہ دوسرا ہے۔",
    "यह एक वाक्य है। | यह दूसरा है। | क्या यह तीसरा है?",
    "ሰላም። | እንዴት ነህ፧ | ደህና ነኝ።",
    "Բարեւ։ | Ինչպես եք։",
    "ဒါက စာကြောင်း။ | ဒုတိယ။",
]


@pytest.mark.parametrize("case", SPLIT)
def test_a_text_is_split_at_its_sentences(case: str) -> None:
    expected = [" ".join(sentence.split()) for sentence in case.split("|")]
    separator = "" if case[0] in "你こ" else " "
    text = separator.join(sentence.strip(" ") for sentence in case.split("|"))
    assert list(sentences(text)) == expected


@pytest.mark.parametrize(
    "word",
    [
        *("Mr.", "Mrs.", "Ms.", "Dr.", "Prof.", "St.", "Sr.", "Jr.", "Gen.", "Col.", "Sgt."),
        *("Capt.", "Lt.", "Rev.", "vs.", "Vol.", "Inc.", "Ltd.", "Dept.", "est.", "approx."),
        *("e.g.", "i.e.", "Jan.", "Feb.", "Aug."),
    ],
)
def test_an_abbreviation_ends_no_sentence(word: str) -> None:
    text = f"They saw {word} Smith there."
    assert list(sentences(text)) == [text]


def squeezed(text: str) -> str:
    return "".join(text.split())


TEXTS = st.one_of(
    st.text(),
    st.text(alphabet=" \n\t.!?。？۔।…,;:\"'“”()[]「」aA1zZéß你好अ-@/", max_size=400),
    st.lists(st.sampled_from(["Dr. ", "word ", '"', "end. ", "3.14 ", "(", "\n\n", "好。"])).map(
        "".join
    ),
)


@given(TEXTS, st.integers(1, 60))
def test_nothing_is_lost_and_nothing_said_twice(text: str, times: int) -> None:
    for whole in (text, text * times):
        parts = list(sentences(whole))
        assert squeezed("".join(parts)) == squeezed(whole)
        assert all(part and part == " ".join(part.split()) for part in parts)


@given(TEXTS)
def test_every_sentence_can_be_spoken(text: str) -> None:
    parts = list(sentences(text))
    assert all(any(c.isalnum() for c in part) for part in parts) or len(parts) == 1


LONG_TEXTS = {
    "prose": 'Dr. Smith met Mr. Jones at 3 p.m. They talked "a lot" (really). ',
    "no marks": "word ",
    "one word": "a",
    "dots": ".",
    "open quotations": '" a. B ',
    "brackets": "(a. B ",
    "line ends": "\n",
    "Chinese": "你好。",
    "Japanese quotations": "「你好。",
    "addresses": "a@b.c ",
    "spaces": " ",
}


@pytest.mark.parametrize("name", LONG_TEXTS)
def test_a_long_text_takes_linear_time_and_no_sentence_is_endless(name: str) -> None:
    def split(size: int) -> tuple[float, str, list[str]]:
        text = (LONG_TEXTS[name] * size)[:size]
        started = time.process_time()
        parts = list(sentences(text))
        return time.process_time() - started, text, parts

    for _ in range(5):
        short, _, _ = split(25_000)
        long, text, parts = split(200_000)
        if long < 8 * short * 4:  # quadratic time would be 64 times as long
            break
    else:
        pytest.fail(f"{short:.3f} s for an eighth of it, {long:.3f} s for all")
    assert squeezed("".join(parts)) == squeezed(text)
    assert all(len(part) <= 2_100 for part in parts if squeezed(part).strip('."'))


def test_the_first_sentence_of_a_long_text_comes_before_the_rest_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked_at: list[str] = []
    segment = sentencex.segment

    def watched(language: str, text: str) -> list[str]:
        looked_at.append(text)
        return list(segment(language, text))

    monkeypatch.setattr(sentencex, "segment", watched)
    text = "The first sentence. " + "你好。" * 60_000
    assert next(sentences(text)) == "The first sentence."
    assert looked_at
    assert sum(map(len, looked_at)) < len(text) / 4  # by all languages together


def test_a_long_quotation_is_split_like_other_text() -> None:
    quotation = "I went to Dr. Brown. He was out. " * 20
    parts = list(sentences(f'He said: "{quotation}" And that was all.'))
    assert max(map(len, parts)) < LONG
    assert parts[1] == "He was out."
    assert parts[-1] == "And that was all."
