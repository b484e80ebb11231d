"""The page at /, used by a real browser: what people hear, see, press and read there."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from supervisor.http.routes.page import FILES, VENDOR
from tests.support.browser import NET_MS, Scheme, Visit, browsing, drawn, grave_faults, visit
from tests.support.human import HUMAN, human_file
from tests.support.node import PACKAGE, compile_typescript, run
from tests.support.service import EMBEDDED, NET, ROOT, Gate, RunningService, read_wav, running
from tests.support.spoken import normal

KEY, ADMIN = "k-3d81", "admin-77aa"
TABS = ("speak", "listen", "voices", "health")
FOLDER = ROOT / "supervisor" / "http" / "page"

FLITE_AND_SCRIPT = {
    "VOICE_ENGINE_TTS_ENGINE": "flite,tests.support.script_engine:Script",
}
"""flite, because it has voices and takes recordings, and Script, which speaks when it is told."""

expect.set_options(timeout=NET_MS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing(human_file("beckett.wav")) as browser:
        yield browser


@pytest.fixture(scope="module")
def service() -> Iterator[RunningService]:
    with running(FLITE_AND_SCRIPT) as service:
        service.wait_ready()
        service.wait_until(lambda health: health["status"] == "ok")
        yield service


@pytest.fixture
def visitor(browser: Browser, service: RunningService) -> Iterator[Visit]:
    with visit(browser, service.url) as visited:
        yield visited


def say(page: Page, text: str, model: str = "") -> None:
    """Press Speak with this text; `model` is one of the list."""
    page.get_by_label("Text", exact=True).fill(text)
    if model:
        page.locator("#panel-speak").get_by_text("More options").click()
        page.locator("#speak-model").select_option(model)
    page.get_by_role("button", name="Speak", exact=True).click()


def number(locator: Locator, attribute: str) -> Callable[[], float]:
    return lambda: float(locator.get_attribute(attribute) or 0)


# Speak


def test_speech_is_heard_and_drawn_while_it_is_made(
    visitor: Visit, gate: Gate, service: RunningService
) -> None:
    page = visitor.open()
    say(page, f"say 100; wait {gate}; say 50", "Script")
    # Some has come and is heard, although the rest is not made yet.
    expect(page.locator("#speak-status")).to_contain_text("First sound after")
    heard = page.locator("#speak-wave")
    expect(heard).to_have_attribute("aria-valuenow", re.compile(r"0\.[3-9]|[1-9]\.\d"))
    assert int(page.locator("#panel-speak .player").get_attribute("data-pieces") or 0) > 0
    some = number(heard, "aria-valuemax")()
    assert 0 < some <= 2.1
    painted = drawn(page, "#speak-wave")
    assert painted > 0
    expect(page.locator("#speak-downloads button")).to_have_count(0)
    gate.open()
    expect(page.locator("#speak-downloads button")).to_have_count(6)
    assert number(heard, "aria-valuemax")() > some
    assert drawn(page, "#speak-wave") > painted
    service.wait_for("request", route="/v1/tts/stream", status=101)  # over a live session


def test_stop_cancels(visitor: Visit, gate: Gate, service: RunningService) -> None:
    page = visitor.open()
    say(page, f"say 50; wait {gate}; say 50", "Script")
    expect(page.locator("#speak-status")).to_contain_text("First sound after")
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(page.locator("#speak-status")).to_have_text("Stopped.")
    service.wait_until(lambda health: not any(m["in_flight"] for m in health["models"].values()))


def test_speech_can_be_downloaded_in_every_format(visitor: Visit) -> None:
    page = visitor.open()
    page.get_by_label("Voice", exact=True).select_option("slt")
    say(page, "Hello there.")
    expect(page.locator("#speak-downloads button")).to_have_count(6)
    begins = {
        "wav": b"RIFF",
        "mp3": b"\xff",
        "opus": b"OggS",
        "flac": b"fLaC",
        "aac": b"\xff",
        "pcm": b"",
    }
    for name, begin in begins.items():
        with page.expect_download() as download:
            page.get_by_role("button", name=name, exact=True).click()
        data = Path(download.value.path()).read_bytes()
        assert data.startswith(begin), name
        assert len(data) > 1000, name
        if name == "wav":
            rate, pcm = read_wav(data)
            assert rate == 16_000
    assert data == pcm  # what was heard, in both


def test_the_code_makes_the_same_call(
    visitor: Visit, service: RunningService, tmp_path: Path
) -> None:
    page = visitor.open()
    page.get_by_label("Text", exact=True).fill("It's 5 o'clock: \"tea\" and $HOME.")
    page.get_by_label("Voice", exact=True).select_option("slt")
    page.locator("#panel-speak").get_by_text("More options").click()
    page.get_by_label("Seed", exact=True).fill("7")
    page.get_by_text("This call in code").first.click()
    spoken = []
    languages = {
        "curl": ["bash", "-euc"],
        "Python": [sys.executable, "-c"],
        "TypeScript": ["node", "--input-type=module", "-e"],
    }
    for language, command in languages.items():
        page.locator("#speak-code").get_by_role("button", name=language, exact=True).click()
        page.locator("#speak-code").get_by_role("button", name="Copy").click()
        expect(page.locator("#speak-code").get_by_role("button", name="Copied")).to_be_visible()
        code: str = page.evaluate("navigator.clipboard.readText()")
        run([*command, code], {}, tmp_path)
        spoken.append((tmp_path / "speech.wav").read_bytes())
        (tmp_path / "speech.wav").unlink()
    assert len(spoken) == 3
    assert len(set(spoken)) == 1
    assert len(spoken[0]) > 10_000


def test_a_mistake_is_told_in_words(visitor: Visit) -> None:
    page = visitor.open()
    say(page, "  ")
    expect(page.locator("#speak-status")).to_have_text("Write a text to speak.")
    say(page, "…")
    expect(page.locator("#speak-status")).to_contain_text("word")
    visitor.expect_refusals(400)


def test_a_voice_from_a_file_speaks(visitor: Visit) -> None:
    page = visitor.open()
    page.get_by_label("Voice", exact=True).select_option(label="A recording of yours…")
    page.get_by_role("button", name="Speak", exact=True).click()
    expect(page.locator("#speak-status")).to_contain_text("Record the voice")
    page.locator("#speak-recording input[type=file]").set_input_files(human_file("beckett.wav"))
    with page.expect_request("**/v1/clone"):
        page.get_by_role("button", name="Speak", exact=True).click()
    expect(page.locator("#speak-downloads button")).to_have_count(6)


# Listen


def test_a_transcript_comes_segment_by_segment(visitor: Visit, gate: Gate, tmp_path: Path) -> None:
    recording = tmp_path / "talk.wav"
    recording.write_text(f"segment One thing.; wait {gate}; segment <b>Another</b> & more.")
    page = visitor.open("listen")
    page.locator("#listen-recording input[type=file]").set_input_files(recording)
    segments = page.locator("#listen-text li")
    expect(segments).to_have_count(1)
    expect(segments.first).to_contain_text("One thing.")
    expect(segments.first).to_contain_text("Neutral")
    gate.open()
    expect(segments).to_have_count(2)
    expect(segments.last).to_contain_text("<b>Another</b> & more.")
    expect(page.locator("#listen-labels")).to_contain_text("English")
    saved = {}
    for name in ("txt", "srt", "vtt", "json"):
        with page.expect_download() as download:
            page.locator("#listen-downloads").get_by_role("button", name=name, exact=True).click()
        assert download.value.suggested_filename == f"talk.{name}"
        saved[name] = Path(download.value.path()).read_text()
    assert saved["txt"] == "One thing. <b>Another</b> & more.\n"
    assert saved["srt"].startswith("1\n00:00:00,000 --> 00:00:01,000\nOne thing.\n\n2\n")
    assert "00:00:01.000 --> 00:00:02.000\n&lt;b&gt;Another&lt;/b&gt; &amp; more." in saved["vtt"]
    assert json.loads(saved["json"])["segments"][0]["emotion"] == "NEUTRAL"


def test_the_code_gets_the_same_transcript(visitor: Visit, tmp_path: Path) -> None:
    (tmp_path / "it's mine.wav").write_text("segment Hello there.")
    page = visitor.open("listen")
    page.locator("#listen-recording input[type=file]").set_input_files(tmp_path / "it's mine.wav")
    page.locator("#listen-code summary").click()
    code = {}
    for language in ("curl", "Python", "TypeScript"):
        page.locator("#listen-code").get_by_role("button", name=language, exact=True).click()
        code[language] = page.locator("#listen-code code").text_content() or ""
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "sample.ts").write_text(code["TypeScript"])
    config = {
        "extends": str(PACKAGE / "tsconfig.json"),
        "compilerOptions": {"typeRoots": [str(PACKAGE / "node_modules" / "@types")]},
        "files": ["sample.ts"],
    }
    (tmp_path / "tsconfig.json").write_text(json.dumps(config))
    compile_typescript(tmp_path / "tsconfig.json", tmp_path / "out")
    for command in (
        ["bash", "-euc", code["curl"]],
        [sys.executable, "-c", code["Python"]],
        ["node", str(tmp_path / "out" / "sample.js")],
    ):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert "transcript.text.done" in done.stdout
        assert "Hello there." in done.stdout


@pytest.fixture(scope="module")
def whisper(packaged_weights: Path) -> Iterator[RunningService]:
    settings = {
        "VOICE_ENGINE_TTS_ENGINE": "flite",
        "VOICE_ENGINE_STT_ENGINE": EMBEDDED["VOICE_ENGINE_STT_ENGINE"],
        "VOICE_ENGINE_CACHE_DIR": str(packaged_weights),
    }
    with running(settings) as service:
        service.wait_ready()
        yield service


@pytest.mark.neural
def test_a_recording_from_the_microphone_is_transcribed(
    browser: Browser, whisper: RunningService
) -> None:
    with visit(browser, whisper.url) as visitor:
        page = visitor.open("listen")
        page.get_by_role("button", name="Record what to transcribe").click()
        expect(page.locator("#listen-recording .time")).to_have_text("0:04")
        page.get_by_role("button", name="Stop recording").click()
        expect(page.locator("#listen-downloads button")).to_have_count(4)
        heard = normal(page.locator("#listen-text").inner_text())
        assert len(set(heard.split()) & set(normal(HUMAN["beckett.wav"]).split())) >= 2
        # A word has its place in the sound.
        words = page.locator("#listen-text .word")
        words.nth(1).click()
        place = re.compile(r"0\.[1-9]|[1-9]\.\d")
        expect(page.locator("#listen-wave")).to_have_attribute("aria-valuenow", place)
        assert drawn(page, "#listen-wave") > 0


LIVE = """async () => {
    const microphone = await navigator.mediaDevices.getUserMedia({ audio: true });
    const recorder = new MediaRecorder(microphone, { mimeType: "audio/webm;codecs=opus" });
    const socket = new WebSocket(`ws://${location.host}/v1/transcribe/stream`);
    const told = [];
    recorder.ondataavailable = (event) => socket.send(event.data);
    recorder.onstop = () => socket.send(JSON.stringify({ type: "end" }));
    socket.onopen = () => {
        socket.send(JSON.stringify({ type: "start", format: "auto" }));
        recorder.start(100);
    };
    socket.onmessage = (event) => {
        told.push(JSON.parse(event.data));
        const finals = told.filter((message) => message.type === "final");
        if (finals.length >= 3 && recorder.state === "recording") recorder.stop();
    };
    await new Promise((resolve) => (socket.onclose = resolve));
    return told;
}"""
"""What a page does that has a conversation; it returns all that it was told."""


@pytest.mark.neural
def test_what_a_browser_records_is_heard_while_it_is_said(
    browser: Browser, whisper: RunningService
) -> None:
    with visit(browser, whisper.url) as visitor:
        told = visitor.open("listen").evaluate(LIVE)
        assert told[0]["type"] == "started"
        assert told[-1] == {"type": "done"}
        finals = [message["text"] for message in told if message["type"] == "final"]
        heard = normal(" ".join(finals)).split()
        assert len(set(heard) & set(normal(HUMAN["beckett.wav"]).split())) >= 3


# Voices


def test_a_voice_is_registered_heard_and_deleted(visitor: Visit, service: RunningService) -> None:
    page = visitor.open("voices")
    page.locator("#register-recording input[type=file]").set_input_files(human_file("beckett.wav"))
    page.get_by_label("Name", exact=True).fill("Zoë <i>")
    expect(page.get_by_label("Id for requests")).to_have_value("zoe-i")
    page.get_by_label("Who agreed, when and how").fill("Zoë, today")
    status = page.locator("#register-status")
    page.get_by_role("button", name="Register").click()
    expect(status).to_have_text("Confirm that the person has agreed.")
    page.get_by_label("The person who speaks has agreed").check()
    page.get_by_role("button", name="Register").click()
    expect(status).to_have_text("Zoë <i> is registered.")
    row = page.locator("[data-voice='zoe-i']")
    expect(row).to_contain_text("agreed: Zoë, today")
    # The other panels know it at once.
    expect(page.locator("#speak-voice option[value='zoe-i']")).to_have_count(1)
    row.get_by_role("button", name="Hear").click()
    expect(page.locator("#voices-status")).to_have_text("Zoë <i> speaks.")
    row.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    expect(row).to_be_visible()
    row.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(row).to_have_count(0)
    with urllib.request.urlopen(f"{service.url}/v1/voices", timeout=NET) as response:
        assert "zoe-i" not in [voice["id"] for voice in json.load(response)["voices"]]


# Keys


def test_a_wrong_key_is_refused_and_the_right_one_kept_for_the_tab(browser: Browser) -> None:
    settings = {"VOICE_ENGINE_API_KEY": KEY, "VOICE_ENGINE_ADMIN_KEY": ADMIN}
    with running(settings) as service, visit(browser, service.url) as visitor:
        service.wait_ready()
        page = visitor.open()
        dialog = page.get_by_role("dialog")
        field = dialog.get_by_label("API key")
        expect(field).to_be_focused()
        field.fill("wrong")
        dialog.get_by_role("button", name="Use this key").click()
        expect(dialog.get_by_role("alert")).to_contain_text("does not know this key")
        field.fill(KEY)
        field.press("Enter")
        expect(dialog).to_have_count(0)
        say(page, "say 5")
        expect(page.locator("#speak-downloads button")).to_have_count(6)
        # Only the name of the variable is shown, and nothing keeps the key but the tab.
        code = page.locator("#speak-code code")
        expect(code).to_contain_text("$VOICE_ENGINE_API_KEY")
        assert KEY not in page.content()
        assert KEY not in page.evaluate("JSON.stringify(localStorage) + document.cookie")
        # Operators have a key of their own.
        page.get_by_role("tab", name="Health").click()
        expect(dialog).to_contain_text("operators’ key")
        field.fill(KEY)
        field.press("Enter")
        expect(dialog.get_by_role("alert")).to_contain_text("operators’ key")
        field.fill(ADMIN)
        field.press("Enter")
        expect(dialog).to_have_count(0)
        expect(page.locator("#events li").first).to_be_visible()
        page.reload()
        expect(page.locator("#events li").first).to_be_visible()
        page.get_by_role("button", name="Forget key").click()
        expect(dialog).to_be_visible()
        assert page.evaluate("sessionStorage.length") == 0
        visitor.expect_refusals(401, 403)


def test_operators_may_need_a_key_where_clients_need_none(browser: Browser) -> None:
    with (
        running({"VOICE_ENGINE_ADMIN_KEY": ADMIN}) as service,
        visit(browser, service.url) as visitor,
    ):
        service.wait_ready()
        page = visitor.open("voices")
        expect(page.locator("#speak-voice option")).not_to_have_count(0)
        page.get_by_role("tab", name="Health").click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_label("API key").fill("wrong")
        dialog.get_by_role("button", name="Use this key").click()
        expect(dialog.get_by_role("alert")).to_contain_text("does not know this key")
        dialog.get_by_role("button", name="Cancel").click()
        # What is open is shown all the same.
        expect(page.locator("#health-status")).to_contain_text("need the operators’ key")
        expect(page.locator("[data-model=tts] tr[data-child]").first).to_be_visible()
        visitor.expect_refusals(401)


# Health


def health_of(visitor: Visit) -> tuple[Page, Locator]:
    """The tab, and its part about the default model for speech."""
    page = visitor.open("health")
    card = page.locator("[data-model=tts]")
    expect(card.locator("tr[data-child]").first).to_be_visible()
    expect(card.locator(".plot canvas")).to_be_visible()
    return page, card


def test_a_recycle_is_a_mark_with_its_reason(visitor: Visit, service: RunningService) -> None:
    page, card = health_of(visitor)
    (worker,) = service.children(model="tts")
    before = card.locator(".marks li").count()
    card.get_by_role("button", name=f"Recycle {worker['name']}").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Reason").fill("to see it")
    dialog.get_by_role("button", name="Recycle").click()
    expect(card.locator(".status")).to_contain_text("recycling")
    expect(card.locator(".marks li")).to_have_count(before + 1)
    expect(card.locator(".marks li").last).to_contain_text(worker["name"])
    expect(card.locator(".marks li").last).to_contain_text("recycled")
    expect(page.locator("#events li[data-event=recycled]").first).to_contain_text(worker["name"])
    expect(page.locator("#events li[data-event=act]").first).to_contain_text("to see it")
    expect(card.locator(f"tr[data-pid='{worker['pid']}']")).to_have_count(0)
    assert drawn(page, "[data-model=tts] .plot canvas") > 0


def test_a_killed_worker_shows_and_comes_back(visitor: Visit, service: RunningService) -> None:
    page, card = health_of(visitor)
    (worker,) = service.children(model="tts")
    before = card.locator(".marks li").count()
    os.kill(worker["pid"], signal.SIGKILL)
    expect(card.locator(".marks li")).to_have_count(before + 1)
    expect(page.locator("#events li[data-event=worker_died]").first).to_contain_text(worker["name"])
    expect(card.locator(f"tr[data-pid='{worker['pid']}']")).to_have_count(0)
    service.wait_until(
        lambda health: any(
            child["name"] != worker["name"] and child["model"] == "tts" and child["state"] == "IDLE"
            for child in health["children"]
        )
    )
    (successor,) = service.children(model="tts")
    row = card.locator(f"tr[data-pid='{successor['pid']}']")
    expect(row).to_contain_text("idle")


def test_an_operator_kills_only_after_a_question(visitor: Visit, service: RunningService) -> None:
    page, card = health_of(visitor)
    (worker,) = service.children(model="tts")
    button = card.get_by_role("button", name=f"Kill {worker['name']}")
    button.click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    expect(button).to_be_focused()
    assert service.children(model="tts")[0]["pid"] == worker["pid"]
    button.click()
    page.get_by_role("dialog").get_by_role("button", name="Kill").click()
    expect(card.locator(f"tr[data-pid='{worker['pid']}']")).to_have_count(0)


def test_a_model_is_scaled_and_paused(visitor: Visit, service: RunningService) -> None:
    page, card = health_of(visitor)
    dialog = page.get_by_role("dialog")
    for workers in (2, 1):
        card.get_by_role("button", name="Scale").click()
        dialog.get_by_label("Workers").fill(str(workers))
        dialog.get_by_role("button", name="Scale").click()
        expect(card.get_by_role("button", name=re.compile("Recycle"))).to_have_count(workers)
    card.get_by_role("button", name="Pause").click()
    dialog.get_by_role("button", name="Pause").click()
    expect(card.locator(".pill").first).to_have_text("paused")
    card.get_by_role("button", name="Resume").click()
    dialog.get_by_role("button", name="Resume").click()
    expect(card.locator(".pill").first).to_have_text("serving")


def test_what_is_degraded_says_what_mends_it(browser: Browser) -> None:
    settings = {
        "VOICE_TEST_LOAD": "raise the weights are gone",
        "VOICE_ENGINE_FAILURES_MAX": "1",
        "VOICE_ENGINE_BACKOFF_MAX": "600",
    }
    with running(settings) as service, visit(browser, service.url) as visitor:
        service.wait_until(
            lambda health: health["models"]["tts"]["state"] == "FAILED" and health["asr_loaded"]
        )
        page = visitor.open("health")
        expect(page.locator("#health-summary")).to_contain_text("degraded")
        trouble = page.locator("[data-model=tts] .trouble")
        expect(trouble).to_contain_text("the weights are gone")
        expect(trouble).to_contain_text(service.health()["models"]["tts"]["hint"][:40])
        expect(page.locator("[data-model=stt] .trouble")).to_be_hidden()


# For everybody


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_grave_fault(
    browser: Browser, service: RunningService, scheme: Scheme
) -> None:
    with visit(browser, service.url, scheme=scheme) as visitor:
        for tab in TABS:
            page = visitor.open(tab)
            for more in page.locator(f"#panel-{tab} summary:visible").all():
                more.click()
            if tab == "speak":
                page.get_by_label("Voice", exact=True).select_option("slt")
                say(page, "Hello.")
                expect(page.locator("#speak-downloads button")).to_have_count(6)
            if tab == "health":
                expect(page.locator("[data-model=tts] .plot canvas")).to_be_visible()
                expect(page.locator("#events li").first).to_be_visible()
            assert grave_faults(page) == [], tab
        dialog = page.get_by_role("dialog")
        page.get_by_role("button", name=re.compile("^Kill")).first.click()
        expect(dialog).to_be_visible()
        assert grave_faults(page) == []


def test_tabs_are_reached_and_changed_with_the_keyboard(visitor: Visit) -> None:
    page = visitor.open()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("main")).to_be_focused()
    expect(page.get_by_role("tabpanel", name="Speak")).to_be_visible()
    for _ in range(10):
        page.keyboard.press("Shift+Tab")
        if page.evaluate("document.activeElement.role") == "tab":
            break
    expect(page.get_by_role("tab", name="Speak")).to_be_focused()
    order = ["Listen", "Voices", "Health", "Speak"]
    for name in order:
        page.keyboard.press("ArrowRight")
        tab = page.get_by_role("tab", name=name)
        expect(tab).to_be_focused()
        expect(tab).to_have_attribute("aria-selected", "true")
        expect(page.get_by_role("tabpanel", name=name)).to_be_visible()
        assert page.url.endswith(f"#{name.lower()}")
    page.keyboard.press("End")
    expect(page.get_by_role("tabpanel", name="Health")).to_be_visible()
    page.go_back()
    expect(page.get_by_role("tabpanel", name="Speak")).to_be_visible()
    page.get_by_label("Text", exact=True).focus()
    page.keyboard.press("Control+Enter")
    expect(page.locator("#speak-downloads button")).to_have_count(6)


@pytest.mark.parametrize("width", [320, 390])
def test_a_narrow_screen_needs_no_scrolling_sideways(
    browser: Browser, service: RunningService, width: int
) -> None:
    with visit(browser, service.url, width=width) as visitor:
        for tab in TABS:
            page = visitor.open(tab)
            for more in page.locator(f"#panel-{tab} summary:visible").all():
                more.click()
            if tab == "health":
                expect(page.locator("[data-model=tts] .plot canvas")).to_be_visible()
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, tab


def test_the_theme_is_the_systems_until_it_is_chosen(
    browser: Browser, service: RunningService
) -> None:
    with visit(browser, service.url, scheme="dark") as visitor:
        page = visitor.open()
        ground = "getComputedStyle(document.body).backgroundColor"
        dark = page.evaluate(ground)
        page.get_by_role("button", name="Use light colours").click()
        light = page.evaluate(ground)
        assert light != dark
        page.reload()
        assert page.evaluate(ground) == light


# What is sent


def get(url: str) -> tuple[int, dict[str, str], bytes]:
    try:
        with urllib.request.urlopen(url, timeout=NET) as response:
            return response.status, dict(response.headers), response.read()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read()


def test_only_the_files_of_the_page_are_sent(service: RunningService) -> None:
    sent = [f"page/{name}" for name in FILES] + [f"page/vendor/{name}" for name in VENDOR]
    for path in ("", *sent):
        status, headers, body = get(f"{service.url}/{path}")
        assert (status, bool(body)) == (200, True), path
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self'; style-src 'self';" in policy
        assert "unsafe" not in policy
    for path in ("page/index.html", "page/docs.html", "page/..%2fdocs.html", "page/vendor/app.js"):
        assert get(f"{service.url}/{path}")[0] == 404, path


def test_without_the_page_nothing_is_there() -> None:
    with running({"VOICE_ENGINE_PAGE": "off"}) as service:
        for path in ("/", "/page/app.js", "/page/vendor/uPlot.min.css"):
            assert get(f"{service.url}{path}")[0] == 404
        assert get(f"{service.url}/docs")[0] == 200


def test_the_library_is_unchanged() -> None:
    package = PACKAGE / "node_modules" / "uplot"
    for name in VENDOR:
        original = package / name if name == "LICENSE" else package / "dist" / name
        assert (FOLDER / "vendor" / name).read_bytes() == original.read_bytes()


def test_the_types_of_the_scripts_agree() -> None:
    compiler = str(PACKAGE / "node_modules" / ".bin" / "tsc")
    run([compiler, "-p", str(PACKAGE / "tsconfig.page.json")])
