"""docs/operations.md: its sizes, its links, and its commands for backups and upgrades."""

from __future__ import annotations

import asyncio
import io
import re
import shlex
import subprocess
from pathlib import Path

import aiohttp
import numpy as np
import soundfile

from tests.support.programs import needs_program
from tests.support.service import ROOT, running
from tests.support.sizing import DOCUMENT, in_document, sizing_table

HUM = {"VOICE_ENGINE_TTS_ENGINE": "tests.support.listening_engines:Hum"}
"""A tiny engine that hums as loudly as the reference is."""


def test_the_sizes_are_those_of_the_plan() -> None:
    assert in_document() == sizing_table(), "run: python -m tests.support.sizing --write"


def test_every_link_leads_somewhere() -> None:
    for page, anchor in re.findall(r"\]\(([\w./-]*)(?:#([\w-]+))?\)", DOCUMENT.read_text()):
        target = DOCUMENT.parent / page if page else DOCUMENT
        assert target.is_file(), page
        headings = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", each).lower().replace(" ", "-") for each in headings}
        assert not anchor or anchor in anchors, f"{page}#{anchor}"


def commands(heading: str) -> list[str]:
    """The commands below a heading, each on one line."""
    section = re.split(rf"^#+ {heading}\n", DOCUMENT.read_text(), flags=re.MULTILINE)[1]
    section = re.split(r"^#", section, flags=re.MULTILINE)[0]
    lines = re.findall(r"(?:^ {4,}.+\n)+", section, re.MULTILINE)
    return "".join(lines).replace("\\\n", "").splitlines()


def _recording() -> bytes:
    time = np.arange(16_000) / 16_000
    file = io.BytesIO()
    soundfile.write(file, 0.3 * np.sin(2 * np.pi * 170 * time), 16_000, format="WAV")
    return file.getvalue()


async def test_voices_come_back_from_a_backup(tmp_path: Path) -> None:
    """With the page's own commands, and another folder for /var/lib/voice-engine."""
    old, new, archive = tmp_path / "old", tmp_path / "new", tmp_path / "voices.tar.gz"
    pack, unpack = (line.strip() for line in commands("Backup and restore"))

    def run(command: str, folder: Path) -> None:
        command = command.partition(" && chown")[0]
        command = command.replace("/var/lib/voice-engine", str(folder))
        subprocess.run(
            [part.replace("voices.tar.gz", str(archive)) for part in shlex.split(command)],
            check=True,
        )

    async def speak(client: aiohttp.ClientSession) -> bytes:
        order = {"text": "I am back.", "voice_id": "anna", "seed": 7}
        async with client.post("/v1/tts", json=order) as response:
            assert response.status == 200, await response.text()
            return await response.read()

    old.mkdir()
    new.mkdir()
    with running(HUM | {"VOICES_DIR": str(old / "voices")}) as service:
        service.wait_ready()
        form = aiohttp.FormData({"voice_id": "anna", "name": "Anna"})
        form.add_field("audio", io.BytesIO(_recording()), filename="anna.wav")
        async with aiohttp.ClientSession(service.url) as client:
            async with client.post("/v1/voices/register", data=form) as response:
                assert response.status == 200, await response.text()
            said = await speak(client)
        # While it runs.
        await asyncio.to_thread(run, pack, old)
    await asyncio.to_thread(run, unpack, new)
    names = {path.name for path in (new / "voices").iterdir()}
    assert "anna.json" in names
    assert not any(name.startswith(".") for name in names)
    with running(HUM | {"VOICES_DIR": str(new / "voices")}) as service:
        service.wait_ready()
        async with aiohttp.ClientSession(service.url) as client:
            assert await speak(client) == said


@needs_program("systemd-analyze")
def test_the_second_unit_of_an_upgrade_is_one(tmp_path: Path) -> None:
    """What the page makes of the unit differs in its places alone, all of which do."""
    lines = commands("Upgrade and rollback")
    (sed,) = [line for line in lines if "voice-engine.service" in line and "sed" in line]
    unit = tmp_path / "voice-engine-next.service"
    sed = sed.replace("/etc/systemd/system/voice-engine-next.service", str(unit))
    subprocess.run(["sh", "-c", sed], cwd=ROOT, check=True)
    before = (ROOT / "ops" / "voice-engine.service").read_text().splitlines()
    after = unit.read_text().splitlines()
    changed = [new for old, new in zip(before, after, strict=True) if old != new]
    assert changed
    assert all("/opt/voice-engine-next" in line for line in changed)
    (start,) = [line for line in after if line.startswith("ExecStart=")]
    assert start == (
        "ExecStart=/opt/voice-engine-next/.venv/bin/voice-engine serve "
        "--env-file /etc/voice-engine-next.env"
    )
    (folders,) = [line for line in after if line.startswith("StateDirectory=")]
    assert "next" not in folders  # the voices are those of the old one
