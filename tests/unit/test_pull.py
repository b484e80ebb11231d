"""Pulls of weights from both hubs, on this machine, with the hubs' real libraries."""

from __future__ import annotations

import errno
import io
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest

from ipc.engines import ENGINES, PULLABLE
from ipc.errors import ServiceError
from ipc.variants import find_variants
from model_procs.weights import manifest, place
from model_procs.weights.hubs.huggingface import HuggingFace
from model_procs.weights.hubs.modelscope import ModelScope
from model_procs.weights.progress import progress
from model_procs.weights.published import (
    PRODUCTION,
    PUBLISHED,
    Published,
    all_published,
    pocket_variants,
)
from model_procs.weights.pull import LaterError, PullError, WeightsPresentError, World, pull
from model_procs.weights.synthetic import NOTE_FILE
from model_procs.weights.verify import as_pulled
from tests.support.hubs import Fault, Hubs, running_hubs
from tests.support.pulling import CLONING, FRENCH, OPEN, SENSEVOICE, publish, table

_COMMIT = re.compile("[0-9a-f]{40}")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder in which only the names are right; do not write to it."""
    folder = tmp_path_factory.mktemp("published")
    sizes = {
        "pocket-tts/model.safetensors": 1_700_000,
        "pocket-tts/tokenizer.json": 190_000,
        "pocket-tts/voices/alba.safetensors": 65_000,
        "pocket-tts/voices/marius.safetensors": 65_000,
        "SenseVoiceSmall/model.pt": 5_400_000,
        "SenseVoiceSmall/am.mvn": 11_000,
        "SenseVoiceSmall/chn_jpn_yue_eng_ko_spectok.bpe.model": 370_000,
        "SenseVoiceSmall/config.yaml": 1_800,
    }
    random = Random(0)
    for name, size in sizes.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random.randbytes(size))
    (folder / "pocket-tts" / "config.yaml").write_text("flow_lm: {lookup_table: {}}\n")
    for name in ("pocket-tts", "SenseVoiceSmall"):
        (folder / name / NOTE_FILE).write_text("random weights")
    return folder


@pytest.fixture(scope="module")
def published(models: Path) -> Iterator[Hubs]:
    """Both hubs, with those files; a test leaves them as they were."""
    with running_hubs() as hubs:
        publish(hubs, models)
        yield hubs


@pytest.fixture
def hubs(published: Hubs) -> Iterator[Hubs]:
    """The same, without faults and memories."""
    files = {name: dict(contents) for name, contents in published.files.items()}
    published.asked.clear()
    published.heads.clear()
    yield published
    published.files, published.gated = files, {CLONING}
    published.faults.clear()
    published.head_faults.clear()
    published.ranges, published.unlisted = True, False


class Pulls:
    """What a test pulls with, and what it was told."""

    def __init__(self, hubs: Hubs, models: Path, folder: Path) -> None:
        self.folder = folder
        self.told: list[str] = []
        self.waits: list[float] = []
        self.world = World(
            hubs={"huggingface": HuggingFace(hubs.url), "modelscope": ModelScope(hubs.url)},
            published=table(models),
            sleep=self.waits.append,
            say=self.told.append,
        )

    def pull(self, *engines: str, force: bool = False) -> list[str]:
        """Pull them."""
        return pull(self.folder, engines, force=force, world=self.world)

    @property
    def text(self) -> str:
        """All that was said."""
        return "\n".join(self.told)


@pytest.fixture
def pulls(
    hubs: Hubs, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Pulls]:
    """Pulls from there, whose libraries do not wait but note for how long they would."""
    from huggingface_hub import close_session, constants
    from modelscope_hub._download_control import _DownloadControl

    made = Pulls(hubs, models, tmp_path / "models")
    clock = SimpleNamespace(sleep=made.waits.append, monotonic=time.monotonic, time=time.time)
    monkeypatch.setattr("huggingface_hub.utils._http.time", clock)
    monkeypatch.setattr("huggingface_hub.file_download.time", clock)
    monkeypatch.setattr(_DownloadControl, "sleep", lambda _, seconds: made.waits.append(seconds))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # engines set it in their processes
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "MODELSCOPE_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name in ("platform", "processor"):  # they would start a program
        monkeypatch.setattr(f"platform.{name}", lambda: "")
    monkeypatch.setenv("MODELSCOPE_HOME", str(tmp_path / "modelscope"))
    yield made
    close_session()


@pytest.fixture
def accepted(pulls: Pulls, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token of somebody who has accepted Kyutai's terms."""
    monkeypatch.setenv("HF_TOKEN", "good")


def starts(hubs: Hubs, path: str) -> list[int]:
    """At which byte each request for a file's bytes began."""
    return [asked.start for asked in hubs.asked if asked.path.endswith(path)]


def files_of(folder: Path) -> dict[str, bytes]:
    """All files below, by name."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# The table


def test_the_table_has_every_engine_whose_weights_may_be_files() -> None:
    assert tuple(PUBLISHED) == PULLABLE
    assert PRODUCTION == ("pocket", "sensevoice")


@pytest.mark.parametrize("engine", PUBLISHED)
def test_a_release_is_pinned_and_has_all_that_the_engine_wants(engine: str, tmp_path: Path) -> None:
    published = PUBLISHED[engine]()
    assert published.engine == engine
    for release in published.releases:
        names = [file.name for file in release.files] + [name for name, _ in release.written]
        assert len(set(names)) == len(names)
        for name in names:
            path = tmp_path / release.label / published.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        assert all(any((tmp_path / release.label).glob(each)) for each in ENGINES[engine].files)
        for file in release.files:
            assert _COMMIT.fullmatch(file.revision) or file.sha256, file


def test_pocket_is_what_the_library_would_take() -> None:
    best, open_one = PUBLISHED["pocket"]().releases
    assert {file.repository for file in best.files} == {CLONING, OPEN}
    assert {file.repository for file in open_one.files} == {OPEN}
    assert "voices/alba.safetensors" in {file.name for file in open_one.files}
    assert "weights_path: model.safetensors" in dict(best.written)["config.yaml"]
    config = dict(open_one.written)["config.yaml"]
    assert "weights_path_without_voice_cloning: model.safetensors" in config
    assert "hf://" not in config


@pytest.mark.parametrize("variant", pocket_variants())
def test_languages_and_sizes_of_pocket_are_published_too(variant: str) -> None:
    published = all_published()[f"pocket-{variant}"]()
    assert published.folder == f"pocket-tts/{variant}"
    best, open_one = published.releases
    assert best.terms is not None
    assert f"models pull pocket-{variant}`" in best.terms
    voices = {Path(file.name).stem for file in open_one.files if file.name.startswith("voices/")}
    assert "alba" in voices
    language = variant.partition("_")[0]
    assert ("estelle" in voices, "daan" in voices) == (language == "french", language == "dutch")
    for file in open_one.files:
        assert file.optional == file.name.startswith("voices/")
        assert file.revision != "main" or not file.name.startswith("voices/")


def test_what_is_not_published_is_said_and_what_is(pulls: Pulls) -> None:
    with pytest.raises(PullError, match=r"no engine pocket-welsh .* sensevoice, pocket-french"):
        pulls.pull("sensevoice", "pocket-welsh")
    assert not pulls.folder.exists()


# What works


@pytest.mark.usefixtures("accepted")
def test_a_language_of_pocket_is_another_model_and_stays_beside_the_default_one(
    hubs: Hubs, pulls: Pulls
) -> None:
    assert pulls.pull(FRENCH) == [FRENCH]
    place = pulls.folder / "pocket-tts/french"
    french = files_of(place)
    assert "voices/alba.safetensors" in french
    assert "voices/nobody.safetensors" not in french
    assert [spec.name for spec in find_variants(pulls.folder)] == [FRENCH]
    for force in (False, True):  # in a folder with that alone, then over a model
        assert pulls.pull("pocket", force=force) == ["pocket"]
        assert files_of(place) == french
        assert ENGINES["pocket"].installed(pulls.folder)
    hubs.asked.clear()
    assert pulls.pull("pocket", FRENCH) == []
    assert hubs.asked == []
    assert pulls.pull(FRENCH, force=True) == [FRENCH]
    assert files_of(place) == french


@pytest.mark.usefixtures("accepted")
def test_what_was_published_is_there_in_the_end_and_nothing_else(
    hubs: Hubs, pulls: Pulls, models: Path
) -> None:
    assert pulls.pull("pocket", "sensevoice") == ["pocket", "sensevoice"]
    assert sorted(path.name for path in pulls.folder.iterdir()) == ["SenseVoiceSmall", "pocket-tts"]
    random = files_of(models)
    pulled = files_of(pulls.folder)
    for name in ("pocket-tts/model.safetensors", "pocket-tts/voices/alba.safetensors"):
        assert pulled[name] == random[name]
    assert pulled["SenseVoiceSmall/model.pt"] == random["SenseVoiceSmall/model.pt"]
    assert "SenseVoiceSmall/README.md" not in pulled
    assert {oct(path.stat().st_mode & 0o777) for path in pulls.folder.rglob("*")} == {
        "0o755",
        "0o644",
    }
    told = manifest.read(pulls.folder / "pocket-tts")
    assert told is not None
    assert told.files["model.safetensors"].source.startswith(f"{CLONING}/languages/english/")
    assert manifest.damage(pulls.folder / "pocket-tts", told) == []
    hubs.asked.clear()
    assert pulls.pull("pocket", "sensevoice") == []
    assert "already there" in pulls.text
    assert hubs.asked == []


def test_damage_is_found_by_the_hashes_that_were_noted(pulls: Pulls) -> None:
    pulls.pull("sensevoice")
    folder = pulls.folder / "SenseVoiceSmall"
    told = manifest.read(folder)
    assert told is not None
    (line,) = as_pulled(ENGINES["sensevoice"], pulls.folder)
    assert line == "5 files as they were pulled (SenseVoiceSmall from ModelScope)"
    (folder / "config.yaml").unlink()
    (folder / "am.mvn").write_bytes(b"short")
    model = folder / "model.pt"
    model.write_bytes(b"\0" + model.read_bytes()[1:])
    assert manifest.damage(folder, told) == [
        "model.pt is another file: its SHA-256 has changed",
        f"am.mvn has 5 bytes instead of {told.files['am.mvn'].size}",
        "config.yaml is missing",
    ]
    with pytest.raises(ServiceError, match=r"am\.mvn has 5 bytes.*pull sensevoice .* --force"):
        as_pulled(ENGINES["sensevoice"], pulls.folder)
    (folder / manifest.MANIFEST).write_text("{}")
    with pytest.raises(ValueError, match="damaged"):
        manifest.read(folder)
    with pytest.raises(WeightsPresentError, match="already exists"):
        pulls.pull("sensevoice")
    pulls.pull("sensevoice", force=True)
    again = manifest.read(folder)
    assert again is not None
    assert manifest.damage(folder, again) == []


# Broken connections


@pytest.mark.parametrize("reset", [False, True], ids=["end", "reset"])
def test_a_broken_connection_costs_what_was_not_on_the_disk(
    hubs: Hubs, pulls: Pulls, *, reset: bool
) -> None:
    size = len(hubs.files[OPEN]["languages/english/model.safetensors"])
    hubs.faults += [
        Fault("model.safetensors", cut_after=size // 2, reset=reset),
        Fault("model.pt", cut_after=size, reset=reset),
        Fault("model.pt", cut_after=size, reset=reset),
    ]
    pulls.pull("pocket", "sensevoice")
    for path, count in (("model.safetensors", 2), ("model.pt", 3)):
        begun = starts(hubs, path)
        assert len(begun) == count
        if not reset:  # a reset throws away what the client has not read yet
            assert begun == sorted(set(begun)), path
    for folder in ("pocket-tts", "SenseVoiceSmall"):
        told = manifest.read(pulls.folder / folder)
        assert told is not None
        assert manifest.damage(pulls.folder / folder, told) == []


def test_a_server_without_ranges_sends_all_again(hubs: Hubs, pulls: Pulls) -> None:
    hubs.ranges = False
    hubs.faults += [
        Fault("model.safetensors", cut_after=600_000),
        Fault("model.pt", cut_after=600_000),
    ]
    assert pulls.pull("pocket", "sensevoice") == ["pocket", "sensevoice"]


def test_the_next_run_goes_on_where_the_last_one_had_to_end(hubs: Hubs, pulls: Pulls) -> None:
    cuts = [Fault("model.safetensors", cut_after=600_000)]
    cuts += [Fault("model.safetensors", cut_after=0) for _ in range(60)]
    hubs.faults += cuts
    with pytest.raises(LaterError, match="run the same command again"):
        pulls.pull("pocket")
    assert not (pulls.folder / "pocket-tts").exists()
    assert max(starts(hubs, "model.safetensors")) >= 500_000
    hubs.faults.clear()
    hubs.asked.clear()
    pulls.pull("pocket")
    assert starts(hubs, "model.safetensors")[0] >= 500_000
    assert [path.name for path in pulls.folder.iterdir()] == ["pocket-tts"]


@pytest.mark.parametrize("engine", ["pocket", "sensevoice"])
def test_a_hub_that_is_busy_is_asked_again_when_it_says(
    hubs: Hubs, pulls: Pulls, engine: str
) -> None:
    name = {"pocket": "model.safetensors", "sensevoice": "model.pt"}[engine]
    hubs.faults.append(Fault(name, status=429, retry_after="7"))
    hubs.head_faults.append(Fault("tokenizer.json", status=429, retry_after="7"))
    assert pulls.pull(engine) == [engine]
    # One library waits a second longer.
    assert [wait for wait in pulls.waits if wait >= 7] in ([8.0, 8.0], [7])


def test_a_hub_that_fails_is_asked_later(hubs: Hubs, pulls: Pulls) -> None:
    hubs.head_faults += [Fault("", status=503) for _ in range(60)]
    with pytest.raises(LaterError, match="503"):
        pulls.pull("pocket")


# Hashes


@pytest.mark.parametrize(
    ("engine", "name"), [("pocket", "model.safetensors"), ("sensevoice", "model.pt")]
)
def test_what_has_not_its_hash_is_thrown_away(
    hubs: Hubs, pulls: Pulls, engine: str, name: str
) -> None:
    hubs.faults.append(Fault(name, spoil=True))
    assert pulls.pull(engine) == [engine]  # the second time it was right
    hubs.faults += [Fault(name, spoil=True) for _ in range(10)]
    place = pulls.folder / pulls.world.published[engine]().folder
    before = files_of(place)
    with pytest.raises(PullError, match=r"twice|[Hh]ash"):
        pulls.pull(engine, force=True)
    assert files_of(place) == before
    assert not list(pulls.folder.rglob(f".pull*/{name}"))


def test_a_file_in_git_is_compared_as_well(hubs: Hubs, pulls: Pulls) -> None:
    hubs.unlisted = True  # so Hugging Face serves
    hubs.faults += [Fault("config.yaml", spoil=True) for _ in range(3)]
    with pytest.raises(PullError, match=r"config\.yaml"):
        pulls.pull("sensevoice")
    hubs.faults.clear()
    assert pulls.pull("sensevoice") == ["sensevoice"]


def test_other_content_than_the_pinned_one_is_not_even_downloaded(hubs: Hubs, pulls: Pulls) -> None:
    world = replace(pulls.world, published={"sensevoice": PUBLISHED["sensevoice"]})
    with pytest.raises(PullError, match="not the file that is known here"):
        pull(pulls.folder, ["sensevoice"], world=world)
    assert hubs.asked == []


# Access


def test_without_access_the_open_weights_are_taken_and_access_is_explained(
    pulls: Pulls, monkeypatch: pytest.MonkeyPatch
) -> None:
    pulls.pull("pocket")
    for words in ("401", "https://huggingface.co/kyutai/pocket-tts", "HF_TOKEN", "hf auth login"):
        assert words in pulls.text
    told = manifest.read(pulls.folder / "pocket-tts")
    assert told is not None
    assert told.label == "Pocket TTS without voice cloning"
    pulls.told.clear()
    monkeypatch.setenv("HF_TOKEN", "another")  # known, but has not accepted
    assert pulls.pull("pocket") == []
    assert "403" in pulls.text
    assert "already there" in pulls.text
    assert "cannot clone" in pulls.text
    monkeypatch.setenv("HF_TOKEN", "good")
    assert pulls.pull("pocket") == ["pocket"]
    told = manifest.read(pulls.folder / "pocket-tts")
    assert told is not None
    assert told.label == "Pocket TTS with voice cloning"
    monkeypatch.delenv("HF_TOKEN")
    assert pulls.pull("pocket") == []


def test_without_any_access_it_says_what_to_do(hubs: Hubs, pulls: Pulls) -> None:
    hubs.gated.add(OPEN)
    with pytest.raises(PullError, match=r"401.*accept them there") as raised:
        pulls.pull("pocket")
    assert not isinstance(raised.value, LaterError)


def test_the_other_hub_is_asked_when_one_has_nothing(hubs: Hubs, pulls: Pulls) -> None:
    hubs.unlisted = True
    assert pulls.pull("sensevoice") == ["sensevoice"]
    assert "SenseVoiceSmall from ModelScope cannot be had" in pulls.text
    told = manifest.read(pulls.folder / "SenseVoiceSmall")
    assert told is not None
    assert told.files["model.pt"].source.startswith(SENSEVOICE[1])


# The disk


def test_too_little_space_is_told_before_anything_is_downloaded(hubs: Hubs, pulls: Pulls) -> None:
    pulls.world = replace(pulls.world, free=lambda _: 70_000_000)
    with pytest.raises(PullError, match=r"75 MB are needed in .*models .* and 70 MB are free"):
        pulls.pull("pocket", "sensevoice")
    assert hubs.asked == []
    pulls.world = replace(pulls.world, free=lambda _: 80_000_000)
    pulls.pull("pocket", "sensevoice")


def test_two_pulls_at_once_would_spoil_each_other(pulls: Pulls, tmp_path: Path) -> None:
    import fcntl

    pulls.folder.mkdir()
    other = os.open(pulls.folder, os.O_RDONLY)
    try:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(LaterError, match="another pull is running"):
            pulls.pull("pocket")
    finally:
        os.close(other)


def test_weights_that_nobody_pulled_stay(pulls: Pulls, models: Path) -> None:
    shutil.copytree(models, pulls.folder)
    with pytest.raises(WeightsPresentError, match="random weights"):
        pulls.pull("pocket")
    (pulls.folder / "pocket-tts" / "SYNTHETIC.txt").unlink()
    assert pulls.pull("pocket") == []
    (pulls.folder / "pocket-tts" / "config.yaml").unlink()
    with pytest.raises(WeightsPresentError, match="already exists"):
        pulls.pull("pocket")


@pytest.mark.parametrize("exchange", [True, False], ids=["in one step", "in three"])
def test_a_folder_goes_to_its_place_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, exchange: bool
) -> None:
    fresh, there = tmp_path / "fresh", tmp_path / "deep" / "there"
    fresh.mkdir()
    (fresh / "file").write_text("new")
    place.put(fresh, there)
    assert not fresh.exists()
    fresh.mkdir()
    (fresh / "file").write_text("newer")
    if not exchange:

        def refuse(*_: Path) -> None:
            raise OSError(errno.EINVAL, "no")

        monkeypatch.setattr(place, "_exchange", refuse)
    place.put(fresh, there)
    assert [(path / "file").read_text() for path in (there, fresh)] == ["newer", "new"]


def test_a_revision_that_is_no_longer_the_pinned_one_is_told(pulls: Pulls, models: Path) -> None:
    pulls.pull("sensevoice")

    def later() -> Published:
        found = table(models)["sensevoice"]()
        releases = tuple(
            replace(
                release, files=tuple(replace(file, revision="1" * 40) for file in release.files)
            )
            for release in found.releases
        )
        return replace(found, releases=releases)

    pulls.world = replace(pulls.world, published={"sensevoice": later})
    assert pulls.pull("sensevoice") == []
    assert "another revision" in pulls.text
    assert pulls.pull("sensevoice", force=True) == ["sensevoice"]


# What is shown


def test_a_log_gets_a_line_for_each_tenth() -> None:
    output = io.StringIO()
    with progress("pocket", 1000, 100, output) as shown:
        for count in (50, 60, 5, 400, -300, 685):
            shown.add(count)
        shown.say("done")
    assert output.getvalue().splitlines() == [
        "pocket: 21 %, 0.0 MB of 0.0 MB",
        "pocket: 61 %, 0.0 MB of 0.0 MB",
        "pocket: 100 %, 0.0 MB of 0.0 MB",
        "pocket: done",
    ]


def test_a_terminal_gets_a_bar() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    output = Terminal()
    with progress("pocket", 2_000_000, 0, output) as shown:
        shown.add(2_000_000)
        shown.say("done")
    assert "2.0/2.0 MB" in output.getvalue()
    assert "pocket: done" in output.getvalue()
