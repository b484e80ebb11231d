"""A real browser for tests of the page: Chromium, with a file for its microphone.

Its console and its requests are watched: a page must not report an error, nor call another host.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Error, Page, Request, sync_playwright

from tests.support.node import PACKAGE

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_AXE = PACKAGE / "node_modules" / "axe-core" / "axe.min.js"
_OWN = ("blob", "data", "about")
"""Schemes of addresses that lead to no host."""

NET_MS = 20_000
"""Milliseconds after which a wait for something on the page gives up."""

Scheme = Literal["light", "dark"]


def chromium() -> str | None:
    """The path of Chromium, if there is one."""
    return next((path for name in _NAMES if (path := shutil.which(name))), None)


@contextlib.contextmanager
def browsing(microphone: Path) -> Iterator[Browser]:
    """A browser that hears `microphone`, a WAV.

    Without Chromium the test is skipped; where CI=true says that all must run, it fails.
    """
    path = chromium()
    if path is None:
        reason = f"needs Chromium as one of {', '.join(_NAMES)}: apt-get install chromium"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    arguments = [
        "--no-sandbox",
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={microphone}",
        "--autoplay-policy=no-user-gesture-required",
    ]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Visit:
    """One visit to the page of a service, with all that the browser had to say about it."""

    page: Page
    url: str
    hosts: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)

    def open(self, tab: str = "speak") -> Page:
        """Go to a tab, as by its address."""
        self.page.goto(f"{self.url}/#{tab}")
        self.page.locator(f"#panel-{tab}").wait_for()
        return self.page

    def expect_refusals(self, *statuses: int) -> None:
        """The browser has reported responses of these statuses, and nothing else."""
        assert self.problems
        for problem in self.problems:
            told = [f"the server responded with a status of {each}" for each in statuses]
            assert any(each in problem for each in told), problem
        self.problems.clear()

    def note_request(self, request: Request) -> None:
        """Keep the host of a request."""
        address = urlsplit(request.url)
        if address.scheme not in _OWN:
            self.hosts.add(address.netloc)

    def note_message(self, message: ConsoleMessage) -> None:
        """Keep what is an error or a warning."""
        if message.type in ("error", "warning"):
            self.problems.append(message.text)

    def note_error(self, error: Error) -> None:
        """Keep an exception of a script."""
        self.problems.append(f"{error.name}: {error.message}")


@contextlib.contextmanager
def visit(
    browser: Browser, url: str, *, scheme: Scheme = "light", width: int = 1100
) -> Iterator[Visit]:
    """A fresh visitor, without memory of earlier ones; at the end nothing may have gone wrong."""
    context = browser.new_context(
        color_scheme=scheme,
        viewport={"width": width, "height": 900},
        permissions=["microphone", "clipboard-read", "clipboard-write"],
        accept_downloads=True,
    )
    try:
        context.set_default_timeout(NET_MS)
        visited = Visit(context.new_page(), url)
        visited.page.on("request", visited.note_request)
        visited.page.on("console", visited.note_message)
        visited.page.on("pageerror", visited.note_error)
        yield visited
    finally:
        context.close()
    assert not visited.problems, visited.problems
    assert visited.hosts == {urlsplit(url).netloc}


def grave_faults(page: Page) -> list[str]:
    """What axe-core finds on the page that is serious or critical."""
    page.evaluate(_AXE.read_text())
    found: dict[str, Any] = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    assert found["passes"], "axe has looked at nothing"
    return [
        f"{each['id']}: {node['html'][:120]} {node['failureSummary']}"
        for each in found["violations"]
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]


def drawn(page: Page, canvas: str) -> int:
    """How many pixels of a canvas are painted."""
    count: int = page.locator(canvas).evaluate(
        """canvas => {
            if (!canvas.width || !canvas.height) return 0;
            // A copy: Chromium warns of a canvas that is read more than once.
            const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d");
            copy.drawImage(canvas, 0, 0);
            const all = copy.getImageData(0, 0, canvas.width, canvas.height);
            return all.data.filter((value, i) => i % 4 === 3 && value > 0).length;
        }"""
    )
    return count
