"""Language codes and names that clients use, and the engines' codes. Runs in the front."""

from __future__ import annotations

import re

from aiohttp import web

from ipc.operations import AUTO_LANGUAGE
from supervisor.http.context import warn

_TABLE = (
    "en english eng, zh chinese zho, de german deu, es spanish spa, ru russian rus, "
    "ko korean kor, fr french fra, ja japanese jpn, pt portuguese por, tr turkish tur, "
    "pl polish pol, ca catalan cat, nl dutch nld, ar arabic ara, sv swedish swe, "
    "it italian ita, id indonesian ind, hi hindi hin, fi finnish fin, vi vietnamese vie, "
    "he hebrew heb, uk ukrainian ukr, el greek ell, ms malay msa, cs czech ces, "
    "ro romanian ron, da danish dan, hu hungarian hun, ta tamil tam, no norwegian nor, "
    "th thai tha, ur urdu urd, hr croatian hrv, bg bulgarian bul, lt lithuanian lit, "
    "la latin lat, mi maori mri, ml malayalam mal, cy welsh cym, sk slovak slk, "
    "te telugu tel, fa persian fas, lv latvian lav, bn bengali ben, sr serbian srp, "
    "az azerbaijani aze, sl slovenian slv, kn kannada kan, et estonian est, "
    "mk macedonian mkd, br breton bre, eu basque eus, is icelandic isl, hy armenian hye, "
    "ne nepali nep, mn mongolian mon, bs bosnian bos, kk kazakh kaz, sq albanian sqi, "
    "sw swahili swa, gl galician glg, mr marathi mar, pa punjabi pan, si sinhala sin, "
    "km khmer khm, sn shona sna, yo yoruba yor, so somali som, af afrikaans afr, "
    "oc occitan oci, ka georgian kat, be belarusian bel, tg tajik tgk, sd sindhi snd, "
    "gu gujarati guj, am amharic amh, yi yiddish yid, lo lao lao, uz uzbek uzb, "
    "fo faroese fao, ht haitian_creole hat, ps pashto pus, tk turkmen tuk, nn nynorsk nno, "
    "mt maltese mlt, sa sanskrit san, lb luxembourgish ltz, my myanmar mya, bo tibetan bod, "
    "tl tagalog tgl, mg malagasy mlg, as assamese asm, tt tatar tat, haw hawaiian haw, "
    "ln lingala lin, ha hausa hau, ba bashkir bak, jw javanese jav, su sundanese sun, "
    "yue cantonese yue"
)
"""The engines' codes, OpenAI's names for them, and those of ISO 639-3; as Whisper lists them."""

_LANGUAGES = [entry.split() for entry in _TABLE.split(", ")]

ENGLISH_NAMES = {code: name.replace("_", " ") for code, name, _ in _LANGUAGES}
"""The engines' codes, and OpenAI's names for them."""

ISO_639_3 = {code: iso for code, _, iso in _LANGUAGES} | {"nospeech": "zxx"}
"""The engines' codes, and ElevenLabs' codes for them. zxx means "no linguistic content"."""

_CODES = (
    {name: code for code, name in ENGLISH_NAMES.items()}
    | {name: code for code, name in ISO_639_3.items()}
    | {"cmn": "zh", "chi": "zh", "mandarin": "zh", "中文": "zh", "汉语": "zh", "普通话": "zh"}
    | {"zh-hk": "yue", "zh-mo": "yue", "zh-yue": "yue", "粤语": "yue", "廣東話": "yue"}
    | {"日本語": "ja", "한국어": "ko"}
    | {"ger": "de", "fre": "fr", "dut": "nl", "cze": "cs", "gre": "el", "rum": "ro", "per": "fa"}
    | {"nb": "no", "nob": "no", "fil": "tl", "jv": "jw", "iw": "he", "farsi": "fa"}
    | {"castilian": "es", "flemish": "nl", "burmese": "my", "haitian": "ht", "moldovan": "ro"}
    | {"deutsch": "de", "français": "fr", "español": "es", "italiano": "it", "português": "pt"}
)

_MISTAKEN = {"jp": "ja", "jap": "ja", "cn": "zh", "kr": "ko", "hk": "yue", "us": "en", "gb": "en"}
"""Codes of countries, and others that are no code of a language, where only one can be meant."""

_NOT_KNOWN = frozenset(
    (
        *("undefined", "null", "none", "nan", "nil", "unknown", "und", "mul", "multi"),
        *("detect", "auto-detect", "autodetect", "automatic", "default", "any", "all"),
    )
)
"""What clients send when they know no language."""


def language_code(given: str | None) -> str:
    """The engines' code for a client's language; `auto` when the client sends none.

    Clients send codes of two or three letters, codes with a region (en-US), and names (english). An
    unknown language is returned unchanged, and the engine rejects it.
    """
    name = (given or "").strip().lower().replace("_", "-")
    if name in _NOT_KNOWN:
        return AUTO_LANGUAGE
    first = re.split(r"[-\s(]", name, maxsplit=1)[0]
    return _CODES.get(name) or _CODES.get(first) or _MISTAKEN.get(first) or first or AUTO_LANGUAGE


def language_hint(request: web.Request, given: str | None) -> str:
    """`language_code`; warns the client if its value is no language."""
    name = (given or "").strip().lower()
    code = language_code(given)
    if name in _NOT_KNOWN or re.split(r"[-_\s(]", name, maxsplit=1)[0] in _MISTAKEN:
        warn(request, f"the language {name} was taken for {code}")
    return code
