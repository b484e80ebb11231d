"""The files of the page at /, and its pictures in the documents."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from supervisor.http.routes.page import FILES, VENDOR
from tests.support.service import ROOT

FOLDER = ROOT / "supervisor" / "http" / "page"
LARGEST_PICTURE = 150_000

PICTURES = sorted((ROOT / "docs" / "page").glob("*.png"))
SCRIPTS = sorted(FOLDER.glob("*.js"))


def test_every_file_of_the_page_is_sent_and_no_other() -> None:
    own = {path.name for path in FOLDER.iterdir() if path.suffix in (".js", ".css")}
    assert own == set(FILES)
    assert {path.name for path in (FOLDER / "vendor").iterdir()} == set(VENDOR)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_says_what_it_is_for_and_sets_text_as_text(script: Path) -> None:
    text = script.read_text()
    assert text.startswith("// @ts-check\n/**\n * ")
    # A name of a voice or a line of a transcript must not become a part of the page.
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", text)
    imported = re.findall(r'from "\./([^"]+)"', text)
    assert set(imported) <= set(FILES)


def test_nothing_of_the_page_names_another_host() -> None:
    for path in [*SCRIPTS, FOLDER / "index.html", FOLDER / "style.css"]:
        hosts = set(re.findall(r"https?://([\w.-]+)", path.read_text()))
        assert hosts <= {"www.w3.org"}, path.name  # the name of a namespace


def test_pictures_are_small_and_of_every_tab() -> None:
    wanted = {
        f"{tab}-{scheme}{narrow}"
        for tab in ("speak", "listen", "voices", "health")
        for scheme in ("light", "dark")
        for narrow in ("", "-narrow")
    }
    assert {path.stem for path in PICTURES} == wanted
    assert {path.name for path in PICTURES if path.stat().st_size > LARGEST_PICTURE} == set()


def test_the_readme_begins_with_a_picture() -> None:
    title, _, picture, *_ = (ROOT / "README.md").read_text().splitlines()
    assert title.startswith("# ")
    found = re.fullmatch(r"!\[(.{20,})\]\((docs/page/[\w-]+\.png)\)", picture)
    assert found
    assert (ROOT / found[2]).is_file()
