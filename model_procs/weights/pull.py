"""Download published weights into the models folder. Runs in `voice-engine models pull`.

    table --describe--> size and hash of each file --space?--> .pull-NAME/ --hashes?--> its place

All is received in a folder of its own beside the models, which stays after a failure: the same
command goes on there. When each file has its hash, the folder goes to its place in one step, so a
service that looks finds the old weights or the new ones.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from model_procs.weights import manifest
from model_procs.weights.hubs.hub import (
    AccessError,
    ChecksumError,
    Hub,
    HubError,
    RemoteFile,
    UnreachableError,
)
from model_procs.weights.hubs.huggingface import HuggingFace
from model_procs.weights.hubs.modelscope import ModelScope
from model_procs.weights.locate import notes
from model_procs.weights.manifest import Manifest, PulledFile
from model_procs.weights.place import nested_models, put
from model_procs.weights.progress import Progress, mb, progress
from model_procs.weights.published import HubName, Published, Release, all_published

_TRIES = 5
"""How often a broken connection is tried again that brings nothing."""
_LONGEST_PAUSE = 30.0
_SPARE = 64 << 20
"""Bytes that stay free on the disk of the models folder."""


class PullError(Exception):
    """A pull cannot go on until somebody has done what the message says."""


class WeightsPresentError(PullError):
    """The models folder already contains the model that is about to be written."""


class LaterError(PullError):
    """A pull cannot go on now; the same command may work later."""


@dataclass(frozen=True, slots=True)
class World:
    """What a pull needs from outside; tests have other ones."""

    hubs: Mapping[HubName, Hub] = field(
        default_factory=lambda: {"huggingface": HuggingFace(), "modelscope": ModelScope()}
    )
    published: Mapping[str, Callable[[], Published]] = field(default_factory=all_published)
    free: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free
    sleep: Callable[[float], None] = time.sleep
    say: Callable[[str], None] = lambda line: print(line, flush=True)


@dataclass(frozen=True, slots=True)
class Plan:
    """A set of weights that is to be brought, as its hub has described it."""

    published: Published
    release: Release
    files: Sequence[RemoteFile]
    staging: Path
    """Where it is received."""
    place: Path

    @property
    def total(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def there(self) -> int:
        """Bytes that have been received already."""
        return min(self.total, _bytes_in(self.staging))


def pull(
    models_dir: Path, engines: Sequence[str], *, force: bool = False, world: World | None = None
) -> list[str]:
    """Bring the weights of `engines` into `models_dir`; those of whom new ones came.

    Weights that are there stay, unless `force`. First all hubs are asked, then the space on the
    disk is looked at, and then it begins. Raises `PullError` and `OSError`.
    """
    world = world or World()
    for engine in engines:
        if engine not in world.published:
            known = ", ".join(world.published)
            raise PullError(f"there is no engine {engine} to pull; use some of {known}")
    models_dir.mkdir(parents=True, exist_ok=True)
    with _alone(models_dir):
        plans = [
            plan
            for engine in engines
            if (plan := _plan(engine, models_dir, world, force=force)) is not None
        ]
        _check_space(plans, models_dir, world)
        for plan in plans:
            _carry_out(plan, world)
    return [plan.published.engine for plan in plans]


# Before the download


def _plan(engine: str, models_dir: Path, world: World, *, force: bool) -> Plan | None:
    """What to bring; None if it is there."""
    published = world.published[engine]()
    place = models_dir / published.folder
    best = published.releases[0]
    present = None
    if not force:
        present = _present(published, models_dir)
        if present is not None and (best.terms is None or present.label in ("", best.label)):
            world.say(f"{engine}: already there, in {place}{present.remark}")
            return None
    refused = []
    for release in published.releases:
        if present is not None and release.label == present.label:
            world.say(f"{engine}: already there, in {place}")
            world.say(f"{engine}: {release.lacks}")
            return None
        try:
            files = _describe(release, world)
        except HubError as error:
            refused.append((release, error))
            if release is not published.releases[-1]:
                world.say(f"{engine}: {_reason(release, error)}")
            continue
        if release.lacks:
            world.say(f"{engine}: taking {release.label}: {release.lacks}")
        staging = models_dir / f".pull-{published.folder.replace('/', '-')}"
        return Plan(published, release, files, staging, place)
    raise _worst(engine, refused)


@dataclass(frozen=True, slots=True)
class _Present:
    """Weights that are in their place; `label` is "" when no pull has brought them."""

    label: str
    remark: str = ""


def _present(published: Published, models_dir: Path) -> _Present | None:
    """The weights that are there; None without. Raises `WeightsPresentError` for other files."""
    place = models_dir / published.folder
    complete = all(
        any(path.is_file() for path in models_dir.glob(pattern)) for pattern in published.needed
    )
    if place.exists() and set(place.iterdir()) == set(nested_models(place)):
        return None  # other languages and sizes, which stay
    if place.exists() and (notes(place) or not complete):
        raise present_error(place)
    if not complete:
        return None
    try:
        pulled = manifest.read(place)
    except ValueError as error:
        raise WeightsPresentError(f"{error}; add --force to replace the weights") from error
    for release in published.releases:
        if pulled is not None and pulled.label == release.label:
            return _Present(release.label, _age(pulled, release))
    return _Present("")


def _age(pulled: Manifest, release: Release) -> str:
    """What to say about weights that were pulled when the table had other revisions."""
    for file in release.files:
        known = pulled.files.get(file.name)
        source = f"{file.repository}/{file.path}@{file.revision}"
        if file.revision != "main" and (known is None or known.source != source):
            return ", in another revision than the pinned one; --force brings that"
    return ""


def present_error(place: Path) -> WeightsPresentError:
    """The error for weights, or something else, where others should go."""
    what = "".join(f" ({note})" for note in notes(place))
    return WeightsPresentError(
        f"{place} already exists{what}; choose another folder, or add --force to replace it"
    )


def _describe(release: Release, world: World) -> list[RemoteFile]:
    """Ask the hub, and compare what it says with what is known. Raises `HubError`."""
    files = world.hubs[release.hub].describe(release.files)
    for file in files:
        known = file.published
        other = file.digest.kind == "sha256" and known.sha256 not in (None, file.digest.value)
        if other or known.size not in (None, file.size):
            raise ChecksumError(
                f"{file.source} is not the file that is known here: the hub has other content "
                "under this name"
            )
    return files


def _reason(release: Release, error: HubError) -> str:
    if isinstance(error, AccessError) and release.terms:
        return f"no access to {release.label} ({error})"
    return f"{release.label} cannot be had: {error}"


def _worst(engine: str, refused: Sequence[tuple[Release, HubError]]) -> PullError:
    """The error of an engine none of whose releases can be had."""
    terms = [
        release.terms
        for release, error in refused
        if isinstance(error, AccessError) and release.terms
    ]
    told = "; ".join(str(error) for _, error in refused)
    if any(isinstance(error, UnreachableError) for _, error in refused):
        return LaterError(f"{engine}: {told}; run the same command again later")
    advice = f". {terms[0]}" if terms else ""
    if any(isinstance(error, AccessError) for _, error in refused) and not terms:
        advice = ". If HF_TOKEN is set, or you are logged in, the token may have ended"
    return PullError(f"{engine}: {told}{advice}")


def _check_space(plans: Sequence[Plan], models_dir: Path, world: World) -> None:
    needed = sum(plan.total - plan.there for plan in plans)
    free = world.free(models_dir)
    if needed and needed + _SPARE > free:
        names = ", ".join(
            f"{plan.published.engine} {mb(plan.total - plan.there)}" for plan in plans
        )
        raise PullError(
            f"too little space: {mb(needed + _SPARE)} are needed in {models_dir} ({names}, and "
            f"{mb(_SPARE)} to spare), and {mb(free)} are free; make room, or name another folder"
        )


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


# The download


def _carry_out(plan: Plan, world: World) -> None:
    engine, hub = plan.published.engine, world.hubs[plan.release.hub]
    plan.staging.mkdir(parents=True, exist_ok=True)
    world.say(
        f"{engine}: {plan.release.label}, {len(plan.files)} files, {mb(plan.total)}, from "
        f"{hub.title}"
    )
    _remove_stale(plan)
    with progress(engine, plan.total, plan.there) as shown:
        pulled = _receive(plan, hub, shown, world)
    for name, content in plan.release.written:
        path = plan.staging / name
        path.write_text(content, "utf-8")
        pulled[name] = PulledFile(
            path.stat().st_size, manifest.sha256_of(path), "written by voice-engine"
        )
    _remove_others(plan.staging, keep=set(pulled))
    Manifest(engine, plan.release.label, pulled).write(plan.staging)
    put(plan.staging, plan.place)
    shutil.rmtree(plan.staging, ignore_errors=True)
    world.say(f"{engine}: complete, in {plan.place}")


def _receive(plan: Plan, hub: Hub, shown: Progress, world: World) -> dict[str, PulledFile]:
    """Download all files, and those again that are broken; go on after a broken connection."""
    engine = plan.published.engine
    tries, spoilt = 0, False
    while True:
        before = plan.there
        try:
            hub.download(plan.files, plan.staging, shown.add)
            return _check(plan)
        except UnreachableError as error:
            tries = 0 if plan.there > before else tries + 1
            if tries >= _TRIES:
                raise LaterError(
                    f"{engine}: {error}; {mb(plan.there)} of {mb(plan.total)} are there: run the "
                    "same command again, and it goes on from there"
                ) from error
            pause = min(2.0**tries, _LONGEST_PAUSE)
            shown.say(f"{error}; going on in {pause:.0f} s")
            world.sleep(pause)
        except ChecksumError as error:
            if spoilt:
                raise PullError(
                    f"{engine}: {error}. It came so twice, and was thrown away: a proxy or a "
                    "mirror may change it. Run the command again, or over another network"
                ) from error
            spoilt = True
            shown.say(f"{error}; once more")
        except HubError as error:
            raise PullError(f"{engine}: {error}") from error


def _check(plan: Plan) -> dict[str, PulledFile]:
    """All files for the manifest. Throws away those without their hash: raises `ChecksumError`."""
    found, wrong = {}, []
    for file in plan.files:
        path = plan.staging / file.published.name
        sha256 = manifest.sha256_of(path)
        digest = manifest.git_hash_of(path) if file.digest.kind == "git" else sha256
        if digest == file.digest.value and file.published.sha256 in (None, sha256):
            found[file.published.name] = PulledFile(file.size, sha256, file.source)
        else:
            path.unlink()
            wrong.append(file.source)
    if wrong:
        raise ChecksumError(f"what came as {', '.join(wrong)} does not have the published hash")
    return found


def _remove_stale(plan: Plan) -> None:
    """Remove files of another set of weights, which an earlier pull has left."""
    for file in plan.files:
        path = plan.staging / file.published.name
        if path.is_file() and path.stat().st_size != file.size:
            path.unlink()


def _remove_others(folder: Path, keep: set[str]) -> None:
    """Remove what libraries, and pulls of other revisions, have left."""
    for path in folder.rglob("*"):
        if path.is_file() and str(path.relative_to(folder)) not in keep:
            path.unlink()
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


@contextmanager
def _alone(models_dir: Path) -> Iterator[None]:
    """Let only one pull write in a models folder."""
    handle = os.open(models_dir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LaterError(f"another pull is running in {models_dir}; wait for its end") from None
        yield
    finally:
        os.close(handle)
