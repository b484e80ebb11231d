"""Directions for an actor in a text ("[laughs]", "*sighs*") and SSML: what is never spoken.

Used in speech workers. The words are a closed list, ElevenLabs' audio tags among them (their guide
to prompting Eleven v3); all other words in brackets are part of the text. A direction may have
several words ("[starts laughing harder]"): each must be in the lists, and one in `_CORES`.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from model_procs.speech.normalize.mapped import Mapped


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ACTIONS = _words(
    """
    laughs laughing chuckles chuckling giggles giggling snickers snickering cackles cackling
    snorts snorting sighs sighing exhales exhaling inhales inhaling breathes breathing gasps
    gasping wheezes wheezing pants panting yawns yawning coughs coughing sneezes sneezing sniffs
    sniffing sniffles sniffling hiccups burps gulps gulping swallows swallowing groans groaning
    moans moaning grunts grunting hums humming whistles whistling cries crying sobs sobbing
    weeps weeping screams screaming shrieks whispers whispering shouts shouting yells yelling
    mutters muttering mumbles mumbling murmurs stammers stammering stutters stuttering sings
    singing pauses pausing hesitates hesitating applauds applauding claps clapping cheers
    cheering lacht kichert seufzt flüstert hustet weint schreit stöhnt gähnt lachend flüsternd
    rient soupire chuchote tousse pleure ríe ríen suspira susurra susurrando tose llora ridono
    sospira sussurra sussurrando tossisce piange zucht fluistert fluisterend hoest huilt смеётся
    смеется вздыхает шепчет кашляет плачет
    """
)
"""What somebody does; also between asterisks."""
_SOUNDS = _words(
    """
    laugh laughter lol chuckle giggle cackle snort sigh exhale inhale breath breaths gasp wheeze
    yawn cough sneeze sniff sniffle hiccup burp gulp swallow groan moan grunt cry sob scream
    shriek whisper shout yell pause silence beat music applause gunshot gunshots explosion
    explosions fart farts woo lachen musik applaus seufzen rire rires soupir soupirs musique
    applaudissements risa risas suspiro pausa música aplausos risata risate sospiro musica
    applausi risos pauze muziek смех вздох шёпот шепот кашель музыка пауза аплодисменты 笑 笑声 大笑
    叹气 咳嗽 低语 哭 音乐 掌声 停顿 鼓掌 ため息 拍手 音楽 笑い 咳 웃음 한숨 기침 음악 박수 속삭임
    """
)
"""What is heard; between asterisks only where no word stands before: "press *pause*" is text."""
_MOODS = _words(
    """
    sarcastic sarcastically curious curiously excited excitedly mischievously mischievous
    laughed whispered shouted happy happily sad sadly angry angrily annoyed appalled thoughtful
    thoughtfully surprised nervous nervously frustrated sorrowful calm calmly cheerful
    cheerfully warmly gently softly quietly loudly dramatically deadpan flatly sympathetic
    reassuring reassuringly quizzically elated delighted delightedly impressed amazed cautiously
    timidly hesitant hesitantly regretful resigned playfully wistful amused interrupting rushed
    deliberate rapid-fire sing-song drawn-out
    """
)
"""How something is said; in square brackets only."""
_MODIFIERS = _words(
    """
    a an the with in and of to softly gently quietly loudly nervously sadly happily bitterly
    deeply heavily slowly quickly sharply slightly awkwardly hysterically uncontrollably harder
    hard again briefly evilly start starts starting begin begins continue continues continuing
    stop stops trying short long brief small big deep heavy soft quiet loud nervous awkward
    happy sad evil frustrated bitter light slight strong thick crowd audience background upbeat
    dramatic playing plays fades tone voice sound sounds effect under her his their accent
    american australian british canadian english french german indian irish italian japanese
    mexican russian scottish southern spanish us uk new york texan leise laut kurz kurze lange
    tief leicht doucement fort court longue suavemente fuerte bajo corta larga piano forte breve
    lunga тихо громко
    """
)
_PHRASES = frozenset(
    phrase.strip()
    for phrase in """
    clears throat|clearing throat|clears his throat|clears her throat|throat clearing|jumping in
    drawn out|slows down|speeds up|in awe|räuspert sich|sich räuspernd|sing song|speaks softly
    speaking softly|holds breath|catches breath|takes a breath|takes a deep breath|deep breath
    voice breaking|voice trembling|trails off
    """.replace("\n", "|").split("|")
    if phrase.strip()
)
_CORES = _ACTIONS | _SOUNDS | _MOODS
_MOST_WORDS = 5
_PAUSE = re.compile(r"(?:pause|break|wait|silence)[ :=]*\d+(?:\.\d+)? ?(?:ms|s|sec|seconds?)?")

_CODE = r"(?P<code>```.*?```|`[^`\n]+`)"
_WORDS = r"[^\W\d_][^\[\]*<>\n]{0,39}"
_TAG = re.compile(
    rf"{_CODE}| ?(?:\[ ?(?P<square>{_WORDS}?) ?\]"
    rf"|(?<![*\w\\])(?P<stars>\*{{1,2}})(?P<star>{_WORDS}?)(?P=stars)(?![*\w]))",
    re.DOTALL,
)
_SSML = (
    "speak|break|phoneme|prosody|emphasis|say-as|sub|voice|audio|mark|lexicon|lang|p|s|w"
    "|amazon:[a-z-]+|mstts:[a-z-]+|google:[a-z-]+"
)
_HTML = (
    "br|hr|b|i|u|em|strong|span|div|code|pre|ul|ol|li|a|h[1-6]|table|thead|tbody|tr|td|th|small|sup"
    "|font|center|img|blockquote|details|summary|think"
)
_REST = r"(?P<rest>\s[^<>]{0,300}|\s?/)?>"
_SSML_TAG = re.compile(rf"{_CODE}|</?(?P<name>{_SSML}){_REST}", re.IGNORECASE | re.DOTALL)
_ANY_TAG = re.compile(
    rf"{_CODE}|<!--.{{0,2000}}?-->|</?(?P<name>{_SSML}|{_HTML}){_REST}", re.IGNORECASE | re.DOTALL
)
_CLOSED = re.compile(r"</([a-z][a-z0-9:-]*)\s?>", re.IGNORECASE)
_ALONE = frozenset(("break", "br", "hr"))
"""Tags that need no end; all others need one, an attribute or a slash: "a <b> c" is no tag."""
_BLOCKS = frozenset(
    (
        *("br", "hr", "p", "div", "li", "ul", "ol", "table", "tr", "pre", "blockquote"),
        *("h1", "h2", "h3", "h4", "h5", "h6", "details", "summary", "think"),
    )
)


def is_direction(words: str) -> bool:
    """Whether these words, found in square brackets, direct the voice."""
    words = _plain(words)
    parts = words.replace(",", " ").split()
    accent = parts[-1:] == ["accent"] and len(parts) > 1
    return bool(
        words in _PHRASES
        or _PAUSE.fullmatch(words)
        or (
            len(parts) <= _MOST_WORDS
            and (accent or any(part in _CORES for part in parts))
            and all(part in _CORES or part in _MODIFIERS for part in parts)
        )
    )


def _is_stage_direction(words: str, *, after_word: bool) -> bool:
    """The same for words between asterisks, which may be stressed words as well."""
    if not is_direction(words):
        return False
    parts = _plain(words).replace(",", " ").split()
    return (
        _plain(words) in _PHRASES
        or any(part in _ACTIONS for part in parts)
        or (not after_word and any(part in _SOUNDS for part in parts))
    )


def _plain(words: str) -> str:
    return " ".join(words.lower().replace("’", "'").split()).rstrip(".!…,")


_KEPT_TAGS = str.maketrans("[]", "\ue000\ue001")
TAGS_AGAIN = str.maketrans("\ue000\ue001", "[]")
"""Brackets of directions that an engine obeys look different until all others are gone."""


def leave_out_directions(text: Mapped, obeyed: Collection[str] = ()) -> None:
    """Remove directions from `text`, except those in `obeyed` (lower case) and in code."""

    def without(match: re.Match[str]) -> str | None:
        if match.group("code") is not None:
            return None
        square = match.group("square")
        words = square if square is not None else match.group("star")
        if square is not None and words.lower().strip() in obeyed:
            return match.group().translate(_KEPT_TAGS)
        after = match.string[match.end() : match.end() + 1]
        before = match.string[max(0, match.start() - 9) : match.start()].rstrip()[-1:]
        if square is None:
            said = not _is_stage_direction(words, after_word=before.isalnum())
        else:
            said = after == "(" or not is_direction(words)
        if said:
            return None
        return "" if after and after in ".,;:!?" else " "

    if "[" in text.text or "*" in text.text:
        text.replace(_TAG, without)


def leave_out_tags(text: Mapped, *, html: bool) -> None:
    """Remove the tags of SSML from `text`, with `html` also those of HTML, but not in code.

    What else stands between angle brackets is text: "<3", "a < b", "<name>".
    """
    if "<" not in text.text:
        return
    closed = {name.lower() for name in _CLOSED.findall(text.text)}

    def without(match: re.Match[str]) -> str | None:
        name = (match.group("name") or "").lower()
        rest = match.group("rest") or ""
        if match.group("code") is not None:
            return None
        if not name:
            return " "  # a comment
        if not (name in _ALONE or name in closed or "=" in rest or rest.endswith("/")):
            return None
        return "\n" if name in _BLOCKS else " " if name in ("break", "td", "th", "img") else ""

    text.replace(_ANY_TAG if html else _SSML_TAG, without)
