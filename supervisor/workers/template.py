"""The template processes of one model, one after the other. Runs in the front."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ipc.channel import ControlSocket
from ipc.codec import FrameError
from ipc.engines import EngineInfo, Json
from ipc.messages import Exited, Failed, Fork, Forked, ForkFailed, Ready
from supervisor.events import Publish, TemplateDied, TemplateReady
from supervisor.memory.usage import to_mb
from supervisor.workers.backoff import Backoff
from supervisor.workers.child_log import open_log
from supervisor.workers.config import PoolConfig
from supervisor.workers.handle import Cause, WorkerHandle, cause_of
from supervisor.workers.launch import (
    CHILD_ENVIRONMENT,
    NO_RESOURCES,
    LaunchConfig,
    Launcher,
    LaunchError,
    SpawnLauncher,
    WorkerPipes,
)
from supervisor.workers.process import (
    LEAVE_SECONDS,
    Process,
    describe_exit,
    end,
    start_python,
)
from supervisor.workers.worker import Worker

_FORK_SECONDS = 10.0
"""How long a fork may take; it takes milliseconds on a healthy machine."""


class Template:
    """The front's handle on one template process; a `Launcher` that forks.

    `on_exit` is called when the template dies, whether or not it was ever READY.
    """

    def __init__(self, config: LaunchConfig, on_exit: Callable[[Template], None]) -> None:
        self._config = config
        self._on_exit = on_exit
        self.name = f"{config.model}-template"
        self.ready_timeout = config.warm_up_timeout
        self.process: Process | None = None
        self.info: EngineInfo | None = None
        self.baseline_rss = 0
        self.started = time.monotonic()
        self.ready = False
        self.closing = False
        self.killed = False
        """By an operator."""
        self._control: ControlSocket | None = None
        self._loaded: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
        self._forks: dict[str, asyncio.Future[Process]] = {}
        self._children: dict[int, Process] = {}

    async def start(self) -> None:
        """Start the process and wait until the model is loaded. Raises `LaunchError`."""
        try:
            await self._start()
        except asyncio.CancelledError:
            self._close_control()
            self.kill()  # it may load for long, and nobody waits for it any more
            raise

    async def _start(self) -> None:
        try:
            self.process = await self._start_process()
        except NO_RESOURCES as error:
            raise LaunchError(f"cannot start a process: {error}") from error
        self.process.exited.add_done_callback(self._on_process_exit)
        try:
            async with asyncio.timeout(self._config.load_timeout):
                loaded = await asyncio.shield(self._loaded)
        except TimeoutError:
            self.kill()
            raise LaunchError(
                f"the model did not load within {self._config.load_timeout:.0f} s; "
                "VOICE_ENGINE_LOAD_TIMEOUT sets the limit"
            ) from None
        except LaunchError:
            # It exits by itself, unless the model has started a thread that does not end.
            await end(self.process, ask=lambda: None, grace=LEAVE_SECONDS)
            raise
        if self.process.exited.done():  # `_on_process_exit` ran before `ready` was set
            raise self._death()
        self.info = loaded.info
        self.baseline_rss = loaded.rss
        self.ready = True

    async def _start_process(self) -> Process:
        ours, theirs = ControlSocket.pair()
        descriptor = theirs.socket.fileno()
        try:
            ours.socket.setblocking(False)
            log_fd = await open_log(self.name)
            try:
                process = await start_python(
                    "model_procs.template",
                    ["--control", str(descriptor), *self._config.arguments()],
                    pass_fds=(descriptor, self._config.lifeline),
                    log_fd=log_fd,
                    environment=CHILD_ENVIRONMENT,
                )
            finally:
                os.close(log_fd)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._control = ours
        asyncio.get_running_loop().add_reader(ours.socket, self._on_readable)
        return process

    async def launch(self, name: str, on_change: Callable[[WorkerHandle], None]) -> Worker:
        """Fork a worker. Raises `LaunchError` when the template is dead or does not respond."""
        pipes = await WorkerPipes.open(name)
        forked: asyncio.Future[Process] = asyncio.get_running_loop().create_future()
        self._forks[name] = forked
        try:
            if self._control is None:  # it has closed its end, so it is about to exit
                raise await self._end()
            self._control.send(Fork(name, self._config.worker_options), pipes.for_child())
            async with asyncio.timeout(_FORK_SECONDS):
                process = await forked
        except BaseException as error:
            pipes.close_own_ends()
            if isinstance(error, TimeoutError):
                self.kill()
                raise LaunchError("the template did not fork in time") from error
            if isinstance(error, OSError):
                raise await self._end() from error
            raise
        finally:
            del self._forks[name]
            pipes.close_child_ends()
        worker = Worker(name, process, on_change)
        await worker.open(pipes.replies, pipes.requests)
        return worker

    def kill(self) -> None:
        """Kill a template that does not work; its workers continue."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)

    async def close(self) -> None:
        """Ask the template to exit; its workers continue."""
        self.closing = True
        self._close_control()
        if self.process is not None:
            await end(self.process, ask=lambda: None, grace=LEAVE_SECONDS)

    @property
    def died(self) -> bool:
        """Whether it has ended without a call of `close`."""
        return self.process is not None and self.process.exited.done() and not self.closing

    @property
    def last_exit(self) -> str:
        """How the dead template ended."""
        if self.process is None or not self.process.exited.done():
            return "did not start"
        return describe_exit(self.process.exited.result())

    @property
    def cause(self) -> Cause:
        """The same in one of few words."""
        if self.killed:
            return Cause.OPERATOR
        if self.process is None or not self.process.exited.done():
            return Cause.EXIT
        return cause_of(
            self.process.exited.result(), killed_from_outside=self.process.killed_from_outside
        )

    async def _end(self) -> LaunchError:
        """Wait until it has exited, as it cannot be reached; the error tells how it ended."""
        assert self.process is not None
        await end(self.process, ask=lambda: None, grace=LEAVE_SECONDS)
        return self._death()

    def _death(self) -> LaunchError:
        """The error for those who need this template, which has died."""
        killed = self.process is not None and self.process.killed_from_outside
        return LaunchError(f"the template died: {self.last_exit}", killed=killed)

    def _on_readable(self) -> bool:
        """Handle one message; False when there is none."""
        if self._control is None:
            return False
        try:
            received = self._control.receive()
        except BlockingIOError:
            return False
        except (FrameError, OSError):
            self._close_control()
            self.kill()
            return False
        if received is None:
            self._close_control()
            return False
        message, descriptors = received
        match message:
            case Ready() if not self._loaded.done():
                self._loaded.set_result(message)
            case Failed() if not self._loaded.done():
                self._loaded.set_exception(LaunchError(message.message))
            case Forked() | ForkFailed() if forked := self._waiting_fork(message.name):
                self._on_forked(forked, message, descriptors)
            case Exited():
                if child := self._children.pop(message.pid, None):
                    child.relay_status(message.status)
            case _:
                self.kill()
        for descriptor in descriptors:
            os.close(descriptor)
        return True

    def _on_forked(
        self, forked: asyncio.Future[Process], message: Forked | ForkFailed, pidfds: list[int]
    ) -> None:
        """A worker runs, or cannot be forked; `forked` waits for it."""
        if isinstance(message, ForkFailed):
            forked.set_exception(LaunchError(message.message))
        elif not pidfds:  # dropped by the kernel, because there is no room for a descriptor
            # The worker exits when its pipes are closed.
            forked.set_exception(LaunchError("the front has no descriptor left for a worker"))
        else:
            # Registered at once, because the next message may be its exit status.
            process = self._children[message.pid] = Process(message.pid, pidfds.pop())
            forked.set_result(process)

    def _waiting_fork(self, name: str) -> asyncio.Future[Process] | None:
        forked = self._forks.get(name)
        return None if forked is None or forked.done() else forked

    def _close_control(self) -> None:
        if self._control is not None:
            asyncio.get_running_loop().remove_reader(self._control.socket)
            self._control.close()
            self._control = None

    def _on_process_exit(self, _: asyncio.Future[int | None]) -> None:
        while self._on_readable():  # its last messages, above all an error in loading
            pass
        self._close_control()
        self.ready = False
        for child in self._children.values():
            child.adopted()
        error = self._death()
        waiting: list[asyncio.Future[Any]] = [self._loaded, *self._forks.values()]
        for future in waiting:
            if not future.done():
                future.set_exception(error)
                future.exception()
        self._on_exit(self)


class Templates:
    """The current template of one model. It is loaded when it is needed.

    With the start method `spawn` there is no template. `on_death` is called when the template dies.
    `backoff` bounds how often one is loaded merely to have one, if it dies again and again.
    """

    def __init__(
        self,
        config: PoolConfig,
        backoff: Backoff,
        publish: Publish,
        on_death: Callable[[], None],
    ) -> None:
        self.current: Template | None = None
        self.loading: Template | None = None
        """One that is not READY yet."""
        self.restarts = 0
        """How many templates have died."""
        self.last_exit: str | None = None
        """How the last template that died ended."""
        self._config = config
        self._backoff = backoff
        self._not_before = 0.0
        self._publish = publish
        self._on_death = on_death
        self._chosen: Json = {}
        """The options that the last model has chosen when it was loaded."""
        self._spawner = SpawnLauncher(config.launch)
        self._lock = asyncio.Lock()

    @property
    def processes(self) -> list[tuple[Template, int]]:
        """The templates that live, with the ids of their processes."""
        living = (self.current, self.loading)
        return [(each, each.process.pid) for each in living if each and each.process]

    @property
    def pause(self) -> float:
        """Seconds for which the next template should not be loaded unless a worker is missing."""
        if self.current is not None or self._config.start_method == "spawn":
            return 0.0
        return max(0.0, self._not_before - time.monotonic())

    async def launcher(self) -> Launcher:
        """The launcher for new workers. Raises `LaunchError`."""
        if self._config.start_method == "spawn":
            return self._spawner
        if self.current is None:
            async with self._lock:  # later callers wait until it has loaded
                if self.current is None:
                    self.current = await self._load(self._config)
        return self.current

    async def reload(self, config: PoolConfig) -> Template | None:
        """Use `config` from now on. Returns the previous template, for the caller to close.

        Raises `LaunchError` when a new one cannot be loaded; then everything stays as it was.
        """
        if config.start_method == "spawn":
            self._spawner = SpawnLauncher(self._as_chosen(config))
            old, self.current = self.current, None
        else:
            async with self._lock:
                template = await self._load(config)
                old, self.current = self.current, template
        self._config = config
        return old

    def configure(self, config: PoolConfig) -> None:
        """Use `config` at the next load; nothing is loaded now."""
        self._config = config
        self._spawner = SpawnLauncher(self._as_chosen(config))

    def chose(self, options: Json) -> None:
        """A model has been loaded, and chose these options: later ones get the same.

        What it chooses may depend on the moment. But a request that began in one worker must have
        the same bits in the next.
        """
        self._chosen = options
        self._spawner.config = self._as_chosen(self._config)

    async def unload(self) -> None:
        """End the current template. The next one is loaded when it is needed."""
        async with self._lock:
            await self.close()
            self.current = None

    async def close(self) -> None:
        """Ask the current template to exit."""
        if self.current is not None:
            await self.current.close()

    def _as_chosen(self, config: PoolConfig) -> LaunchConfig:
        return replace(config.launch, options=config.launch.options | self._chosen)

    async def _load(self, config: PoolConfig) -> Template:
        template = self.loading = Template(self._as_chosen(config), self._on_exit)
        started = time.monotonic()
        try:
            await template.start()
        finally:
            self.loading = None
        assert template.process is not None
        self._publish(
            TemplateReady(
                model=config.model,
                child=template.name,
                pid=template.process.pid,
                engine=config.engine.name,
                rss_mb=to_mb(template.baseline_rss),
                seconds=round(time.monotonic() - started, 3),
            )
        )
        return template

    def _on_exit(self, template: Template) -> None:
        if template.closing or self.current is not template:
            return
        self.current = None
        if time.monotonic() - template.started > self._backoff.maximum:
            self._backoff.succeeded()  # the deaths before it say nothing about this one
        self._not_before = time.monotonic() + self._backoff.failed()
        self.restarts += 1
        self.last_exit = template.last_exit
        self._publish(
            TemplateDied(
                model=self._config.model,
                child=template.name,
                reason=template.last_exit,
                cause=template.cause.value,
            )
        )
        self._on_death()
