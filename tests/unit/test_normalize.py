"""What is said of a text: Markdown, numbers, signs, directions, odd characters."""

# ruff: noqa: E501 - a case stands on one line

from __future__ import annotations

import re
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from model_procs.speech.normalize.languages import LANGUAGES
from model_procs.speech.normalize.mapped import GROWTH, Mapped
from model_procs.speech.normalize.markdown import read_markdown
from model_procs.speech.normalize.speech import Sentence, spoken_sentences
from model_procs.speech.text import sentences


def parts(text: str, language: str = "en", *, normalize: bool = True) -> list[Sentence]:
    return list(spoken_sentences(text, language=language, normalize=normalize))


def said(text: str, language: str = "en") -> str:
    """The sentences with a bar between them."""
    return " | ".join(sentence.text for sentence in parts(text, language))


def as_written(text: str) -> str:
    return " ".join(sentence.text for sentence in parts(text, normalize=False))


DIRECTIONS = [
    ("He cast [Fireball] at dawn.", "He cast Fireball at dawn."),
    ("[Level Up]", "Level Up."),
    ("[laughs] Well, [sighs] hello.", "Well, hello."),
    ("Hi[laugh], you [clears throat].", "Hi, you."),
    ("[Whispers] Come [starts laughing harder] here! [applause]", "Come here!"),
    ("[strong French accent] Hello. [pause 500ms] Bye.", "Hello. | Bye."),
    ("[exhales sharply] So [short pause] this [happy gasp] is it. [music]", "So this is it."),
    ("Hallo [lacht]. Привет [смех]! 你好[笑]再见。", "Hallo. | Привет! | 你好 再见。"),
    ("[to be continued] and [the end]", "to be continued and the end."),
    ("Walk[ed] and [w]ent, see [x] there.", "Walked and went, see x there."),
    ("*sighs* Fine. *clears throat* I *really* **must** go.", "Fine. | I really must go."),
    ("*pause* Press *pause* now.", "Press pause now."),
    ("I am so *happy*, he said *softly*.", "I am so happy, he said softly."),
    ('Well <break time="1.5s" /> hello.', "Well hello."),
    ("Well.<break strength='weak'/>Hello.", "Well. | Hello."),
    ('A <phoneme alphabet="ipa" ph="ə">word</phoneme>.', "A word."),
    ('<speak><prosody rate="slow">Hello</prosody> there.</speak>', "Hello there."),
    ("Hello<br>there, <b>you</b> &amp; me.", "Hello, there, you and me."),
    ("I <3 you.", "I less than three you."),
    ("If a < b then b > a.", "If a less than b then b greater than a."),
    ("Dear <name>, a <b> c.", "Dear name, a b c."),
    ("Use `<br>` and `[laughs]`.", "Use br and laughs."),
]


@pytest.mark.parametrize(("text", "expected"), DIRECTIONS)
def test_only_directions_and_tags_are_left_out(text: str, expected: str) -> None:
    assert said(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Well [laughs] hello. *sighs* Bye.", "Well hello. Bye."),
        ("He cast [Fireball].", "He cast [Fireball]."),
        ('A <phoneme alphabet="ipa" ph="ə">word</phoneme>.', "A word."),
        ("# Title\n**5 %** of $3 <3 <b>x</b>", "# Title **5 %** of $3 <3 <b>x</b>"),
        ("Soft\u00adhy\u200bphen\ufeff \x00 and \ud83d half", "Softhyphen and half"),
    ],
)
def test_without_normalization_only_what_nobody_sees_is_left_out(text: str, expected: str) -> None:
    assert as_written(text) == expected


def test_an_engine_gets_the_directions_that_it_obeys() -> None:
    text = "Oh [Laugh] my [sigh]."
    for normalize in (True, False):
        (sentence,) = spoken_sentences(
            text, language="en", normalize=normalize, obeyed=frozenset(("laugh",))
        )
        assert sentence.text == "Oh [Laugh] my."


MARKDOWN = [
    ("# The Title\nText under it.", "The Title. | Text under it."),
    ("Title\n=====\nText", "Title. | Text."),
    ("This is **bold**, *it* and ***both***.", "This is bold, it and both."),
    ("__init__ and _emphasis_ and ~~gone~~.", "init and emphasis and gone."),
    ("- Milk\n- Eggs\n- Bread", "Milk, Eggs, Bread."),
    ("* Buy some milk at once\n* Call Bob again soon", "Buy some milk at once. | Call Bob again soon."),
    ("1. Wake up\n2. Go to work", "One, Wake up. | Two, Go to work."),
    ("- one\n  - two\n    - three", "one. | two. | three."),
    ("- [ ] Buy milk\n- [x] Call Bob", "Buy milk, Call Bob."),
    ("See [the docs](https://example.com/a_b) now.", "See the docs now."),
    ("![A cat](cat.png) sleeps.", "A cat sleeps."),
    ("Go to https://www.example.com/some/page-one?q=1#x.", "Go to example dot com slash some slash page one."),
    ("Mail me@example.com or see docs.python.org!", "Mail me at example dot com or see docs dot python dot org!"),
    ("<https://foo.org>", "foo dot org."),
    ("Call `os.path.join()` or `snake_case`.", "Call os dot path dot join or snake case."),
    ("```python\nx = 1\nprint(x)\n```\nDone.", "x equals one. | print(x). | Done."),
    ("| Name | Age |\n|---|---:|\n| Anna | 30 |\n| Ben | 25 |", "Name, Age. | Anna, thirty. | Ben, twenty-five."),
    ("> To be\n> or not", "To be, or not."),
    ("One.\n\n---\n\nTwo.", "One. | Two."),
    ("Great! 🎉 Really 👍🏽 good 👨‍👩‍👧 ✅", "Great! | Really good."),
    ("First\nSecond\nThird", "First. | Second. | Third."),
    ("Roses are red\nviolets are blue", "Roses are red, violets are blue."),
    ("Shopping:\n- Milk\n- Eggs", "Shopping: Milk, Eggs."),
    (
        "The quick brown fox jumps over the lazy dog and then it\nruns away from the dog.",
        "The quick brown fox jumps over the lazy dog and then it runs away from the dog.",
    ),
    ("\\*not emphasis\\* &lt;tag&gt; &copy;", "not emphasis tag copyright."),
    ("a | b", "a, b."),
    ("### 1. Overview\nHere:\n\n## 2. More", "One, Overview. | Here: | Two, More."),
    ("Run `./run.sh` or ../x.", "Run run dot sh or x."),
    ("<think>Hm</think>Hello", "Hm. | Hello."),
    (r"Then $y = mx^2 - \frac{a}{b}$ and \(\alpha \leq 5\).", "Then y equals mx squared minus a divided by b and alpha less than or equal to five."),
    ("It costs $5 or $6 now.", "It costs five dollars or six dollars now."),
    ("これは`コード`です。", "これはコードです。"),
    ("# Résumé – naïve café", "Résumé – naïve café."),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), MARKDOWN)
def test_markdown_is_read_as_a_person_reads_it(text: str, expected: str) -> None:
    assert said(text) == expected


PROSE = [
    "He said: it's a 'good' day, isn't it?",
    "Well-known state-of-the-art co-operation - or not.",
    "The U.S. economy grew, e.g. in the north, i.e. up there.",
    "Dr. Smith met Mr. Jones (and his wife) at noon.",
    '"Stop!" he cried; "why?" she asked.',
    "Wait... what? I waited… then he came.",
    "An – em — dash and a semicolon; all fine: yes.",
    "Ça va? Où est-il? L'été, naïf, œuvre.",
    "¿Cómo estás? ¡Muy bien!",
    "Größe, Maß und Übermut.",
    "Привет, мир. 你好，世界。",
]


@pytest.mark.parametrize("text", PROSE)
def test_prose_is_left_alone(text: str) -> None:
    assert " ".join(sentence.text for sentence in parts(text)).rstrip(".") == " ".join(
        sentences(text)
    ).rstrip(".")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("my_snake_case_name", "my snake case name."),
        ("2*3*4 = 24", "Two times three times four equals twenty-four."),
        ("a*b", "a times b."),
        ("un*frigging*believable", "un frigging believable."),
        ("5 * 3 and 2**3", "Five times three and two to the power of three."),
        ("See #5 and #winning.", "See number five and winning."),
        ("C# and C++ and R&D", "C sharp and C plus plus and R and D."),
        ("1986. A great year.", "Nineteen eighty-six, A great year."),
        ("The 1. and the # and the * sign", "The one. and the and the sign."),
        ("[Note]: this is important", "Note: this is important."),
        ("a_b c_d_ _e", "a b c d e."),
        ("if x:\n    y = 2", "if x: y equals two."),
        ("/usr/bin/python and/or he/she", "Slash usr slash bin slash python and or he she."),
        ("He said *no", "He said no."),
    ],
)
def test_signs_of_markdown_in_prose(text: str, expected: str) -> None:
    assert said(text) == expected


NUMBERS = [
    ("−5 °C and -5 degrees", "Minus five degrees Celsius and minus five degrees."),
    ("5 − 3 = 2, 10 - 3 = 7", "Five minus three equals two, ten minus three equals seven."),
    ("½ cup, 2½ cups, 1/2, 3/4, 2 1/2", "One half cup, two and a half cups, one half, three quarters, two and a half."),
    ("24/7 and 9/11", "Twenty-four seven and nine eleven."),
    ("x² + y³ = z⁴, 10⁻³, x^2, 10^6", "x squared plus y cubed equals z to the power of four, ten to the power of minus three, x squared, ten to the power of six."),
    ("H₂O and CO₂", "H two O and CO two."),
    ("$5, $1, $3.50, $0.99", "Five dollars, one dollar, three dollars and fifty cents, ninety-nine cents."),
    ("€1.5 million, $5M, £20, 5€, ¥500", "One point five million euros, five million dollars, twenty pounds, five euros, five hundred yen."),
    ("-$5 and $100-$200", "Minus five dollars and one hundred dollars to two hundred dollars."),
    ("$20/month, 5kg/day", "Twenty dollars per month, five kilograms per day."),
    ("USD 50 and 50 EUR", "Fifty dollars and fifty euros."),
    ("5%, 3.5 % and 2‰", "Five percent, three point five percent and two per mille."),
    ("10 km, 1 km, 5kg, 60 mph, 5 GB", "Ten kilometers, one kilometer, five kilograms, sixty miles per hour, five gigabytes."),
    ("100 km/h and 9.8 m/s²", "One hundred kilometers per hour and nine point eight meters per second squared."),
    ("50 µs, 50 μs, 10 kΩ", "Fifty microseconds, fifty microseconds, ten kiloohms."),
    ("20–25 °C", "Twenty to twenty-five degrees Celsius."),
    ("a 90° turn", "a ninety degrees turn."),
    ("3:05 pm, 10:00, 14:30, 5 p.m.", "Three oh five p m, ten o'clock, fourteen thirty, five p m."),
    ("It was 5 p.m. Then we left.", "It was five p m. Then we left."),
    ("2026-11-28, 11/28/2026, 28.11.2026", "November twenty-eighth twenty twenty-six, November twenty-eighth twenty twenty-six, November twenty-eighth twenty twenty-six."),
    ("Nov 5, May 3rd, 2 June 1999", "November fifth, May third, the second of June nineteen ninety-nine."),
    ("1984, 2005, 2026, the 1990s and the '80s", "Nineteen eighty-four, two thousand and five, twenty twenty-six, the nineteen nineties and the eighties."),
    ("2019–2023 and 1984-85", "Twenty nineteen to twenty twenty-three and nineteen eighty-four to eighty-five."),
    ("the 1st, 2nd, 3rd and 21st", "the first, second, third and twenty-first."),
    ("5-10 minutes, a 3-2 win", "Five to ten minutes, a three, two win."),
    ("1,234,567.89 and 1000", "One million two hundred and thirty-four thousand five hundred and sixty-seven point eight nine and one thousand."),
    ("0.5, .5, 007", "Zero point five, point five, zero zero seven."),
    ("v2.0.1 and 192.168.0.1", "v two dot zero dot one and one hundred and ninety-two dot one hundred and sixty-eight dot zero dot one."),
    ("Call 555-1234 or +1 (555) 123-4567", "Call five five five, one two three four or plus one, five five five, one two three, four five six seven."),
    ("ISBN 978-3-16-148410-0", "ISBN nine seven eight, three, one six, one four eight four one zero, zero."),
    ("16:9, 1920x1080, 3×4, 6÷2, ±3, ~5", "Sixteen to nine, nineteen twenty by one thousand and eighty, three by four, six divided by two, plus or minus three, about five."),
    ("x ≥ 5, y ≠ 6, a <= b, √2, ∞", "x greater than or equal to five, y is not equal to six, a less than or equal to b, the square root of two, infinity."),
    ("No. 5 is alive.", "Number five is alive."),
    ("5'10\" tall", "Five feet ten inches tall."),
    ("GPT-4o, mp3, B2B", "GPT-four o, mp three, B two B."),
    ("α and β, Δx, π, 5 Ω", "alpha and beta, delta x, pi, five ohms."),
    ("5 → 6, A -> B", "Five, six, A, B."),
    ("99¢ § 5 ©", "Ninety-nine cents section five copyright."),
    ("$5-10, $1k-$2k, 1.5-2 hours", "Five to ten dollars, one thousand dollars to two thousand dollars, one point five to two hours."),
    ("10%-20%, <5%, >10, ~$20, <= 3 km", "Ten percent to twenty percent, less than five percent, greater than ten, about twenty dollars, less than or equal to three kilometers."),
    ("$.99, i++, @anna, key a1b2c3", "Ninety-nine cents, i plus plus, at anna, key a one b two c three."),
    ("9:30 a.m.–11:45 p.m.", "Nine thirty a m to eleven forty-five p m."),
    ("(-1), x=-1, 5/6/24, 5 Jan 2024", "(Minus one), x equals minus one, May sixth twenty twenty-four, the fifth of January twenty twenty-four."),
    ("90s music, 10s delay", "Nineties music, tens delay."),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), NUMBERS)
def test_numbers_and_signs_are_words(text: str, expected: str) -> None:
    assert said(text) == expected


OTHER_LANGUAGES = [
    ("de", "Am 3. Mai 2024 um 14:30 Uhr.", "Am dritten Mai zweitausendvierundzwanzig um vierzehn Uhr dreißig."),
    ("de", "Der 2. Weltkrieg, am 05.11.1999.", "Der zweite Weltkrieg, am fünften November neunzehnhundertneunundneunzig."),
    ("de", "3,50 € und 1.234,5 km, 5 %, −5 °C", "Drei Euro und fünfzig Cent und eintausendzweihundertvierunddreißig Komma fünf Kilometer, fünf Prozent, minus fünf Grad Celsius."),
    ("de", "½ Liter, x², 1,5 Mio. €", "Ein halb Liter, x Quadrat, eins Komma fünf Millionen Euro."),
    ("fr", "Le 1er mai à 14h30", "Le premier mai à quatorze heures trente."),
    ("fr", "3,50 €, 1 234 km, 5 %, 20 °C", "Trois euros et cinquante centimes, mille deux cent trente-quatre kilomètres, cinq pour cent, vingt degrés Celsius."),
    ("es", "El 3 de mayo, 3,50 €, 10 km, 5 %", "El tres de mayo, tres euros y cincuenta céntimos, diez kilómetros, cinco por ciento."),
    ("it", "Il 3 maggio alle 14:30, 3,50 €, 10 km", "Il tre maggio alle quattordici e trenta, tre euro e cinquanta centesimi, dieci chilometri."),
    ("pt", "3 de maio, R$ 3,50, 10 km, 5 %", "Três de maio, três reais e cinquenta centavos, dez quilômetros, cinco por cento."),
    ("nl", "Op 3 mei om 14:30 uur, € 3,50, 5 %", "Op drie mei om veertien uur dertig, drie euro en vijftig cent, vijf procent."),
    ("zh", "# 标题\n**5** 个 $3 [Level]", "标题. | 5 个 3 Level."),
]  # fmt: skip


@pytest.mark.parametrize(("language", "text", "expected"), OTHER_LANGUAGES)
def test_other_languages_have_their_own_words(language: str, text: str, expected: str) -> None:
    assert said(text, language) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Soft\u00adhyphen, zero\u200bwidth, \ufeffBOM, left\u200eright", "Softhyphen, zerowidth, BOM, leftright."),
        ("don’t, donʼt, don`t, don´t, don＇t", "don't, don't, don't, don't, don't."),
        ("𝐇𝐞𝐥𝐥𝐨 ﬁne ｗｉｄｅ Ⅳ", "Hello fine wide IV."),
        ("① ㎞ ℃ №5", "One km °C number five."),
        ("e\u0301te\u0301 Z\u0336a\u0310l\u0324g\u0353o\u0320", "été Zalgo."),
        ("١٢٣ and ५", "One hundred and twenty-three and five."),
        ("non\u2011breaking hy\u2010phen", "non-breaking hy-phen."),
        ("a\u00a0b\u2003c\u3000d\u2028e", "a b c d, e."),
        ("half \ud83d pair, private \ue000, unassigned \u0378", "half pair, private, unassigned."),
        ("bell\x07 null\x00 escape\x1b", "bell null escape."),
        ("می\u200cخواهم", "می\u200cخواهم."),
    ],
)  # fmt: skip
def test_odd_characters(text: str, expected: str) -> None:
    assert said(text) == expected


@pytest.mark.parametrize(
    "text", ["...", "🎉", "- - -", "***", "[laughs]", "\u200b", "\n\n", "```\n```"]
)
def test_a_text_without_words_has_nothing_to_speak(text: str) -> None:
    assert not any(character.isalnum() for character in said(text))


ANY_TEXT = st.one_of(
    st.text(),
    st.text(alphabet="*_`#[]()<>!|~-+=$%^&/\\.,:;'\"0123456789aB \n", max_size=300),
    st.lists(
        st.sampled_from(
            (
                *(
                    "# ",
                    "**",
                    "`",
                    "```\n",
                    "- ",
                    "1. ",
                    "[",
                    "](",
                    ")",
                    "| a ",
                    "|---|\n",
                    "\n",
                    "> ",
                ),
                *(
                    "$5",
                    "½",
                    "x²",
                    "10:30",
                    "https://a.b/c",
                    "<b>",
                    "</b>",
                    "word ",
                    "é",
                    "🎉",
                    "α",
                ),
            )
        ),
        max_size=60,
    ).map("".join),
)


@given(ANY_TEXT, st.sampled_from([*LANGUAGES, "zh"]), st.booleans())
@example("[" * 100 + "]" * 100, "en", True)
@example("> " * 100 + "x", "en", True)
def test_no_text_fails_and_every_sentence_has_its_place(
    text: str, language: str, normalize: bool
) -> None:
    end = 0
    for sentence in parts(text, language, normalize=normalize):
        assert end <= sentence.start <= sentence.end <= len(text)
        end = sentence.end
        assert sentence.text == " ".join(sentence.text.split())
        sentence.text.encode()


WORD = st.text(
    st.sampled_from("abcdefghijklmnopqrstuvwxyzäéñABCDE"), min_size=3, max_size=9
).filter(lambda word: word[1:].islower())
JOINT = st.sampled_from(
    [" ", ", ", ". ", "; ", ": ", "\n", "\n\n", " - ", " – ", "... ", "! ", "? "]
)
DRESS = st.sampled_from(
    (
        *(
            "{}",
            "**{}**",
            "*{}*",
            "_{}_",
            "`{}`",
            "({})",
            '"{}"',
            "# {}",
            "\n- {}",
            "\n1) {}",
            "~~{}~~",
        ),
        *(
            "[{}](x.y)",
            "<i>{}</i>",
            "{}™",
            "| {} |",
            "\n> {}",
            "“{}”",
            "{}\n===",
            "\n```\n{}\n```\n",
        ),
    )
)


@given(st.lists(st.tuples(WORD, JOINT, DRESS), min_size=1, max_size=40))
def test_no_word_of_prose_is_lost(words: list[tuple[str, str, str]]) -> None:
    text = "".join(dress.format(word) + joint for word, joint, dress in words)
    spoken = re.findall(r"[^\W\d_]+", said(text))
    left = iter(spoken)
    for word, _, _ in words:
        assert any(word == other for other in left), (word, text, spoken)


@pytest.mark.parametrize("text", ["9" * 5000, "÷1" * 2500, "$5 " * 1500, "α " * 2500, "% " * 2500])
def test_expansions_are_bounded(text: str) -> None:
    spoken = parts(text)
    assert sum(len(sentence.text) for sentence in spoken) <= (GROWTH + 1) * len(text) + 3_000
    assert all(len(sentence.text) <= 2_100 for sentence in spoken)


def test_a_long_number_is_read_digit_by_digit() -> None:
    assert said("9" * 18) == (
        "Nine nine nine nine, nine nine nine nine, nine nine nine nine, nine nine nine nine, "
        "nine nine."
    )


REPEATED = {
    "prose": 'Dr. Smith met Mr. Jones at 3 p.m. on May 5 and paid $5. They "talked" a lot. ',
    "list": "- an item with *some* words\n",
    "table": "| a | b |\n",
    "brackets": "[",
    "open links": "[a](",
    "stars": "*a",
    "backticks": "`a",
    "fences": "```\n",
    "quotes": "> ",
    "tags": "<a ",
    "comments": "<!--",
    "directions": "[laughs ",
    "spaces": " ",
    "minus": "1-",
    "slashes": "a/",
    "mails": "a@b.c ",
    "addresses": "http://a",
    "digits": "1",
    "raised": "²",
    "accents": "e\u0301",
}


@pytest.mark.parametrize("name", REPEATED)
def test_a_long_text_takes_linear_time(name: str) -> None:
    def duration(size: int) -> float:
        text = (REPEATED[name] * size)[:size]
        started = time.perf_counter()
        parts(text)
        return time.perf_counter() - started

    for _ in range(5):
        short, long = duration(6_000), duration(48_000)
        if long < 8 * short * 4:  # quadratic time would be 64 times as long
            break
    else:
        pytest.fail(f"{short:.3f} s for an eighth of it, {long:.3f} s for all")


def test_speech_begins_before_a_long_text_has_been_read(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    def watched(text: Mapped) -> Mapped:
        read.append(len(text.text))
        return read_markdown(text)

    monkeypatch.setattr("model_procs.speech.normalize.speech.read_markdown", watched)
    text = "The first sentence of many. It goes on and on and on. " * 500
    first = next(spoken_sentences(text, language="en"))
    assert first.text == "The first sentence of many."
    assert sum(read) < 1_000
