"""`transcribe`: recordings to text, many at once, and again from where it stopped. In a command."""

from __future__ import annotations

import asyncio
import glob
import json
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import httpx
import typer
from rich.console import Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ipc.recordings import SUFFIXES
from supervisor.cli import show
from supervisor.cli.client import (
    DOWN,
    FAILED,
    USAGE,
    Address,
    CommandError,
    DownError,
    Json,
    RefusedError,
    connected,
    json_of,
    refusal,
)
from supervisor.cli.command import address, command
from supervisor.cli.files import replacing
from supervisor.cli.speech import PANEL

AUDIO_SUFFIXES = frozenset(SUFFIXES.values()) | {
    *(".aif", ".aifc", ".opus", ".oga", ".mp4", ".mov", ".3gp", ".mkv", ".mka", ".w64"),
}
"""What files with a recording end in. Others are sent too if they are named themselves."""

_PATIENCE = 600.0
"""Seconds for which a file waits for room in the service, at most."""

_RESTART = 30.0
"""The same while there is no service: as long as a restart may take."""

_LOOK = 1.0
"""Seconds between two looks for room, while nothing has ended."""

_PAUSE = 1.0
"""Seconds until the next try, if the service does not say how many."""

OutputFormat = Literal["txt", "srt", "vtt", "json"]

Pause = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Job:
    """A recording, and where its transcript goes."""

    source: Path
    target: Path

    @property
    def done(self) -> bool:
        """Whether the transcript is there, and newer than the recording."""
        try:
            return self.target.stat().st_mtime_ns >= self.source.stat().st_mtime_ns
        except FileNotFoundError:
            return False


@dataclass(slots=True)
class Outcome:
    """What has become of the jobs so far."""

    done: int = 0
    failed: list[tuple[Job, str]] = field(default_factory=list)
    down: str | None = None
    """Why the service is no longer there; the remaining jobs have not been tried."""


def add_to(app: typer.Typer) -> None:
    """Declare the command of this module."""
    command(
        app,
        "transcribe",
        "voice-engine transcribe me.wav -o -",
        "voice-engine transcribe interviews/ 'more/*.mp3' --format srt",
        panel=PANEL,
    )(transcribe)


def transcribe(
    context: typer.Context,
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...",
            help="Recordings, folders of them, patterns like 'more/*.mp3'; `-` is the input.",
        ),
    ],
    *,
    format: Annotated[
        OutputFormat, typer.Option("--format", "-f", help="srt and vtt are subtitles.")
    ] = "txt",
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PLACE",
            help="A folder for the transcripts; for one recording a file, or `-` for the output.",
        ),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Also those whose transcript is there already.")
    ] = False,
    language: Annotated[str | None, typer.Option(help="The language that is spoken.")] = None,
    model: Annotated[
        str | None, typer.Option(help="A model for transcription, else the default one.")
    ] = None,
    translate: Annotated[
        bool, typer.Option("--translate", help="To English; needs the model whisper.")
    ] = False,
    hotword: Annotated[
        list[str] | None,
        typer.Option(help="A word or phrase that is likelier than usual; may be repeated."),
    ] = None,
) -> None:
    """Transcribe recordings, each into a file beside it: NAME.txt.

    What is there already is left out, so the same command goes on where it was stopped. As many
    recordings are sent at once as the service has room for.
    """
    fields = _fields(format, language, model, translate=translate)
    if hotword:
        fields["hotwords"] = ",".join(hotword)
    where = address(context)
    if output == "-" or files == ["-"]:
        _to_output(where, files, output, fields)
        return
    jobs = plan(find(files), format, None if output is None else Path(output))
    left = [job for job in jobs if again or not job.done]
    console = show.messages()
    if len(left) < len(jobs):
        console.print(
            f"{len(jobs) - len(left)} of {len(jobs)} are done already; --again does them again",
            style="dim",
        )
    if not left:
        return
    with where.service() as service:
        service.health()  # tells at once that there is no service
    outcome = Outcome()
    try:
        with _terminable():
            asyncio.run(_run(where, left, fields, model, outcome))
    except KeyboardInterrupt:
        console.print(
            f"stopped: {outcome.done} of {len(left)} done; the same command does the others"
        )
        raise typer.Exit(130) from None
    _conclude(outcome, len(left))


def _conclude(outcome: Outcome, count: int) -> None:
    console = show.messages()
    for job, reason in outcome.failed:
        console.print(f"failed: {show.clean(job.source)}: {reason}", style="red", markup=False)
    if outcome.down is not None:
        raise CommandError(
            f"{outcome.done} of {count} are done; {outcome.down}, then run the same command again",
            DOWN,
        )
    if outcome.failed:
        raise CommandError(
            f"{outcome.done} of {count} are done, {len(outcome.failed)} failed; the same command "
            "tries them again",
            FAILED,
        )
    console.print(f"{count} of {count} are done")


def find(names: Sequence[str]) -> list[Path]:
    """The recordings that the arguments name. Raises `CommandError` for one that names none."""
    found: dict[Path, Path] = {}
    """By where they really are: the same recording may have several names."""
    for name in names:
        path = Path(name).expanduser()
        if path.is_dir():
            inside = sorted(each for each in path.rglob("*") if _is_recording(each))
        elif path.exists():
            inside = [path]
        else:
            matches = [Path(each) for each in sorted(glob.glob(str(path), recursive=True))]
            inside = [each for each in matches if each.is_file()]
        if not inside:
            what = "has no recordings" if path.is_dir() else "is no file, folder or pattern of any"
            raise CommandError(f"{show.clean(name)} {what}", USAGE)
        for each in inside:
            found.setdefault(each.resolve(), each)
    return list(found.values())


def _is_recording(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in AUDIO_SUFFIXES


def plan(sources: Sequence[Path], suffix: str, output: Path | None) -> list[Job]:
    """Where each transcript goes. Two that would be one file keep the whole name of theirs."""
    several = len(sources) > 1
    if output is not None and not output.is_dir():
        if several:
            raise CommandError(
                f"{show.clean(output)} is no folder, and these are {len(sources)} recordings; make "
                "it with mkdir, or leave -o out",
                USAGE,
            )
        return [Job(sources[0], output)]

    def beside(source: Path, name: str) -> Path:
        return (output or source.parent) / f"{name}.{suffix}"

    count = Counter(beside(source, source.stem) for source in sources)
    jobs = []
    for source in sources:
        target = beside(source, source.stem)
        jobs.append(Job(source, target if count[target] == 1 else beside(source, source.name)))
    if len({job.target for job in jobs}) < len(jobs):
        raise CommandError(
            f"several recordings of the same name cannot all go into {show.clean(output)}; leave "
            "-o out, or do one folder after the other",
            USAGE,
        )
    return jobs


def room(health: Json, model: str | None) -> tuple[int, int]:
    """How many recordings the model would take at once now, and how many if it had nothing."""
    for name, state in health["models"].items():
        if state.get("kind") == "stt" and model in (None, name, state.get("engine")):
            capacity = sum(
                child.get("capacity") or 0
                for child in health["children"]
                if child.get("model") == name and child.get("lifecycle") == "READY"
            )
            return int(state.get("free_slots") or 0), capacity
    return 0, 0


async def transcript(
    client: httpx.AsyncClient, source: Path, fields: dict[str, str], pause: Pause = asyncio.sleep
) -> bytes:
    """The transcript of a recording; waits while there is no room. Raises `CommandError`."""
    waited = 0.0
    while True:
        try:
            with connected(str(client.base_url)):
                return await _ask(client, source, fields)
        except RefusedError as error:
            wait = _PAUSE if error.retry_after is None else error.retry_after
            if error.status not in (429, 503) or waited + wait > _PATIENCE:
                raise
        except DownError:
            wait = _PAUSE
            if waited + wait > _RESTART:
                raise
        waited += wait
        await pause(wait)


async def _ask(client: httpx.AsyncClient, source: Path, fields: dict[str, str]) -> bytes:
    try:
        with source.open("rb") as recording:
            response = await client.post(
                "/v1/transcribe", data=fields, files={"file": (source.name, recording)}
            )
    except OSError as error:
        raise CommandError(f"it cannot be read: {error.strerror or error}") from error
    if not response.is_success:
        raise refusal(response)
    return _text_of(response, fields)


async def _run(
    where: Address, jobs: Sequence[Job], fields: dict[str, str], model: str | None, outcome: Outcome
) -> None:
    """Do the jobs, as many at once as there is room for."""
    waiting = list(reversed(jobs))
    running: dict[asyncio.Task[None], Job] = {}
    with Bar(len(jobs)) as bar:
        async with where.async_client() as client:
            try:
                while (waiting or running) and outcome.down is None:
                    for _ in range(min(len(waiting), await _starts(client, model, len(running)))):
                        job = waiting.pop()
                        running[asyncio.create_task(_do(client, job, fields, bar))] = job
                    # Others may have gone meanwhile, so there may be room for more.
                    finished, _ = await asyncio.wait(
                        running,
                        timeout=_LOOK if waiting else None,
                        return_when=asyncio.FIRST_COMPLETED,
                    )
                    for task in finished:
                        _note(running.pop(task), task, outcome, bar)
            finally:
                for task in running:
                    task.cancel()
                await asyncio.gather(*running, return_exceptions=True)


async def _starts(client: httpx.AsyncClient, model: str | None, running: int) -> int:
    """How many more recordings to send now; one is always on its way."""
    try:
        free, capacity = room(json_of(await client.get("/health")), model)
    except (httpx.RequestError, CommandError, KeyError):
        free = capacity = 0  # the next recording will say what is wrong
    return max(min(free, capacity - running), 0 if running else 1)


async def _do(client: httpx.AsyncClient, job: Job, fields: dict[str, str], bar: Bar) -> None:
    bar.begin(job)
    text = await transcript(client, job.source, fields)
    with replacing(job.target) as file:
        file.write(text)


def _note(job: Job, task: asyncio.Task[None], outcome: Outcome, bar: Bar) -> None:
    error = task.exception()
    if error is None:
        outcome.done += 1
    elif isinstance(error, DownError):
        outcome.down = str(error)
    elif isinstance(error, CommandError):
        outcome.failed.append((job, show.clean(error)))
    else:
        raise error
    bar.end(job, well=error is None)


class Bar:
    """How far it is: a bar and what runs in a terminal, otherwise a line for each recording."""

    def __init__(self, total: int) -> None:
        self._console = show.messages()
        self._all = Progress(
            TextColumn("transcribing"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=self._console,
        )
        self._each = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            console=self._console,
        )
        self._whole = self._all.add_task("", total=total)
        self._tasks: dict[Job, TaskID] = {}
        self._live = Live(Group(self._all, self._each), console=self._console)

    def __enter__(self) -> Bar:
        if self._console.is_terminal:
            self._live.start(refresh=True)
        return self

    def __exit__(self, *_: object) -> None:
        for task in self._tasks.values():
            self._each.remove_task(task)
        self._live.stop()

    def begin(self, job: Job) -> None:
        """A recording is on its way."""
        self._tasks[job] = self._each.add_task(show.clean(job.source.name)[:60], total=None)

    def end(self, job: Job, *, well: bool) -> None:
        """It has come back."""
        self._each.remove_task(self._tasks.pop(job))
        self._all.advance(self._whole)
        if not self._console.is_terminal:
            end = show.clean(job.target) if well else "failed"
            self._console.print(f"{show.clean(job.source)}: {end}", markup=False)


def _to_output(
    where: Address, names: Sequence[str], output: str | None, fields: dict[str, str]
) -> None:
    """One recording, from the input or a file, to the output or a file."""
    if names == ["-"]:
        content = sys.stdin.buffer.read()
        name = "recording"
    else:
        found = find(names)
        if len(found) > 1:
            raise CommandError(
                f"only one recording can go to the output, these are {len(found)}; leave -o out",
                USAGE,
            )
        content, name = found[0].read_bytes(), found[0].name
    with where.service() as service:
        options: Any = {"data": fields, "files": {"file": (name, content)}}
        with service.stream("POST", "/v1/transcribe", **options) as response:
            response.read()
            text = _text_of(response, fields)
    if output in (None, "-"):
        sys.stdout.buffer.write(text)
        sys.stdout.buffer.flush()
    else:
        with replacing(Path(str(output))) as file:
            file.write(text)


def _text_of(response: httpx.Response, fields: dict[str, str]) -> bytes:
    """What is written of a response, which has been read."""
    if fields["response_format"] == "json":
        return (json.dumps(json_of(response), indent=2, ensure_ascii=False) + "\n").encode()
    return response.content.rstrip(b"\n") + b"\n"


def _fields(
    suffix: OutputFormat, language: str | None, model: str | None, *, translate: bool
) -> dict[str, str]:
    fields: dict[str, str] = {"response_format": "text" if suffix == "txt" else suffix}
    if suffix == "json":
        fields["timestamps"] = "true"
    if language is not None:
        fields["language"] = language
    if model is not None:
        fields["model"] = model
    if translate:
        fields["task"] = "translate"
    return fields


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
