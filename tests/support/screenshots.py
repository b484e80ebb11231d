"""Pictures of the page for the documents: `python -m tests.support.screenshots [FOLDER]`.

A service with the embedded engines is used a little, so that there is something to see, and each
tab is taken in light and dark, wide and narrow. FOLDER is docs/page unless it is named.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import get_args

from PIL import Image
from playwright.sync_api import Page

from tests.support.browser import Scheme, Visit, browsing, visit
from tests.support.human import human_file
from tests.support.service import EMBEDDED, NET, ROOT, RunningService, running

FOLDER = ROOT / "docs" / "page"
LARGEST = 150_000
"""Bytes of a picture, at most."""

TABS = ("speak", "listen", "voices", "health")
WIDTHS = {"": 1000, "-narrow": 390}
_TALL = {"": 1240, "-narrow": 1500}
"""Pixels after which a picture is cut off."""

_SENTENCES = (
    "The train leaves at a quarter to eight from platform nine.",
    "Although the weather was terrible, the players finished the match and thanked the audience, "
    "and everybody went home late, and tired, and happy.",
    "There is some milk in the fridge, but the bread is gone.",
)


def main() -> None:
    """Take all pictures."""
    folder = Path(sys.argv[1]) if sys.argv[1:] else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        **EMBEDDED,
        "VOICE_ENGINE_TTS_SOFT_LIMIT_MB": "+110",
        "VOICE_ENGINE_TTS_HARD_LIMIT_MB": "+500",
        "VOICE_ENGINE_PING_INTERVAL": "0.5",
    }
    with running(settings) as service, browsing(human_file("two_cities.wav")) as browser:
        service.wait_until(lambda health: health["status"] == "ok")
        _register(service)
        _use(service)
        for scheme in get_args(Scheme):
            for ending, width in WIDTHS.items():
                for tab in TABS:
                    with visit(browser, service.url, scheme=scheme, width=width) as visitor:
                        picture = _taken(visitor, tab, _TALL[ending])
                    path = folder / f"{tab}-{scheme}{ending}.png"
                    path.write_bytes(picture)
                    print(f"{path}: {len(picture) // 1000} kB")


def _register(service: RunningService) -> None:
    """Two voices of people."""
    for voice, name, recording in (
        ("sam", "Sam", "beckett.wav"),
        ("charles", "Charles", "two_cities.wav"),
    ):
        subprocess.run(
            [
                *(
                    "curl",
                    "-fsS",
                    "-o",
                    "/dev/null",
                    "-F",
                    f"voice_id={voice}",
                    "-F",
                    f"name={name}",
                ),
                *("-F", f"consent={name}, 1 November, by mail"),
                *("-F", f"audio=@{human_file(recording)}", f"{service.url}/v1/voices/register"),
            ],
            check=True,
        )


def _use(service: RunningService) -> None:
    """Speech, until its memory has had two workers replaced."""
    while sum(service.health()["models"]["tts"]["recycles"].values()) < 2:
        for text in _SENTENCES:
            body = json.dumps({"text": text}).encode()
            headers = {"Content-Type": "application/json"}
            request = urllib.request.Request(f"{service.url}/v1/tts", body, headers)
            with urllib.request.urlopen(request, timeout=NET) as response:
                response.read()


def _taken(visitor: Visit, tab: str, tallest: int) -> bytes:
    page = visitor.open(tab)
    _prepare(page, tab)
    size = page.viewport_size
    assert size
    height = min(page.evaluate("document.documentElement.scrollHeight"), tallest)
    page.set_viewport_size({"width": size["width"], "height": height})
    page.evaluate("scrollTo(0, 0)")
    page.mouse.move(0, 0)
    return _small(page.screenshot())


def _prepare(page: Page, tab: str) -> None:
    """Bring a tab to a state that is worth a picture."""
    match tab:
        case "speak":
            page.get_by_role("button", name="Speak", exact=True).click()
            page.locator("#speak-downloads button").first.wait_for()
            page.get_by_text("This call in code").first.click()
            page.locator("#speak-time", has_text="0:03 /").wait_for()
        case "listen":
            page.locator("#listen-recording input").set_input_files(human_file("two_cities.wav"))
            page.locator("#listen-downloads button").first.wait_for()
            page.locator("#listen-text .word").nth(30).click()
            page.locator("#listen-text .word.heard").nth(0).wait_for()
        case "voices":
            page.locator("[data-voice=sam]").wait_for()
        case "health":
            page.locator("[data-model=tts] .marks li").nth(1).wait_for()
            page.locator("#events li").first.wait_for()


def _small(picture: bytes) -> bytes:
    """The picture with a palette, which is exact enough for a page of few colours."""
    for colours in (256, 128, 64):
        out = io.BytesIO()
        image = Image.open(io.BytesIO(picture)).convert("RGB")
        image.quantize(colours, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
        if out.tell() <= LARGEST:
            break
    return out.getvalue()


if __name__ == "__main__":
    main()
