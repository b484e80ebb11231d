"""A template: loads one model, never serves, forks workers when the front asks.

Runs in the template process, one per model. It stays single-threaded so that a fork is safe: a fork
copies only one thread, and a lock that another thread holds would stay locked in the worker.

    front --Fork + pipes--> template --fork--> worker
    front <--Forked + pidfd, ForkFailed, Exited-- template
"""

from __future__ import annotations

import argparse
import errno
import gc
import os
import selectors
import signal
import socket
import sys

from ipc.channel import BlockingChannel, ControlSocket
from ipc.codec import FrameError
from ipc.messages import Exited, Fork, Forked, ForkFailed, Ready
from model_procs import bootstrap, lifeline, worker
from model_procs.engine import Engine
from model_procs.sandbox import Sandbox


def main(argv: list[str] | None = None) -> int:
    """Load the model, report READY, and fork workers until the front closes the control socket."""
    parser = argparse.ArgumentParser(description="Template of one model; started by the front.")
    parser.add_argument("--control", type=int, required=True)
    args = bootstrap.start(parser, argv)
    control = ControlSocket(socket.socket(fileno=args.control))
    try:
        engine = bootstrap.load(args.config)
        _check_single_threaded()
        sandbox = Sandbox(engine, args.config.engine, args.config.worker_options)
    except Exception as error:
        control.send(bootstrap.failure(error))
        raise
    gc.collect()
    # Otherwise a collection in a worker would write to every page of the model, and so copy it.
    gc.freeze()
    control.send(Ready(engine.info(), bootstrap.resident_bytes()))
    return _serve_forks(control, engine, sandbox, args.lifeline)


def _check_single_threaded() -> None:
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        raise RuntimeError(
            f"the engine has {threads} threads after loading, so its process cannot be forked; "
            "set VOICE_ENGINE_START_METHOD=spawn"
        )


def _serve_forks(control: ControlSocket, engine: Engine, sandbox: Sandbox, lifeline_fd: int) -> int:
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_read, False)
    os.set_blocking(wake_write, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # the wake-up descriptor needs a handler
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    with selectors.DefaultSelector() as selector:
        selector.register(control.socket, selectors.EVENT_READ)
        selector.register(wake_read, selectors.EVENT_READ)
        while True:
            ready = {key.fd for key, _ in selector.select()}
            if wake_read in ready:
                os.read(wake_read, 4096)
                _relay_exits(control)
            if control.socket.fileno() in ready:
                received = control.receive()
                if received is None:
                    return 0
                message, descriptors = received
                if not isinstance(message, Fork):
                    raise FrameError(f"a template cannot handle {message!r}")
                try:
                    if len(descriptors) != 3:  # the kernel drops those for which there is no room
                        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
                    pid = os.fork()
                    if pid == 0:
                        selector.close()
                        inherited = (control.socket.fileno(), wake_read, wake_write)
                        _become_worker(
                            *(engine, sandbox, message, descriptors),
                            lifeline_fd=lifeline_fd,
                            inherited=inherited,
                        )
                    _report(control, message.name, pid)
                except OSError as error:
                    control.send(ForkFailed(message.name, f"a worker cannot be forked: {error}"))
                finally:
                    for descriptor in descriptors:
                        os.close(descriptor)


def _report(control: ControlSocket, name: str, pid: int) -> None:
    """Tell the front of the worker `pid`. Raises `OSError` when there is no descriptor for it."""
    try:
        # Opened before the worker can be reaped, so the pid cannot mean another process.
        pidfd = os.pidfd_open(pid)
    except OSError:
        os.kill(pid, signal.SIGKILL)
        raise
    control.send(Forked(name, pid), [pidfd])
    os.close(pidfd)


def _relay_exits(control: ControlSocket) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        control.send(Exited(pid, os.waitstatus_to_exitcode(status)))


def _become_worker(
    engine: Engine,
    sandbox: Sandbox,
    fork: Fork,
    descriptors: list[int],
    *,
    lifeline_fd: int,
    inherited: tuple[int, ...],
) -> None:
    """The child's side of the fork; never returns, also not by an error."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        lifeline.arm(lifeline_fd)
        for descriptor in inherited:
            os.close(descriptor)
        requests, replies, log = descriptors
        bootstrap.redirect_output(log)
        os.close(log)
        worker.serve(engine, BlockingChannel(requests, replies), fork.options, sandbox)
        status = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    sys.exit(main())
