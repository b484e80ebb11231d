"""A command in a real terminal, whose screen a test can read."""

from __future__ import annotations

import signal
import sys
import termios
import threading
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import pexpect
import pyte

from tests.support.service import NET

DOWN, INTERRUPT = "\x1b[B", "\x03"


def take_interrupts() -> None:
    """Let Ctrl-C end the command. What a shell starts in the background ignores it: the tests."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Terminal:
    """`voice-engine` with its arguments, on a screen of 24 lines.

    A thread takes what the command writes, as a terminal does: a command whose output nobody takes
    would stop, while a test waits for something else.
    """

    def __init__(
        self, arguments: list[str], environment: Mapping[str, str], folder: Path, columns: int = 80
    ) -> None:
        self._screen = pyte.Screen(columns, 24)
        self._stream = pyte.ByteStream(self._screen)
        self._changed = threading.Condition(threading.RLock())
        self._ended = False
        self.output = b""
        """All that was sent to the terminal."""
        self.cooked = False
        """Whether the command left the terminal as a shell wants it."""
        with warnings.catch_warnings():
            # The child becomes another program at once, so the threads of this one do not matter.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.process: pexpect.spawn[bytes] = pexpect.spawn(
                sys.executable,
                ["-m", "supervisor.cli", *arguments],
                env={**environment, "TERM": "xterm-256color"},
                cwd=str(folder),
                dimensions=(24, columns),
                timeout=NET,
                preexec_fn=take_interrupts,
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def text(self) -> str:
        """The screen as text, without spaces at the ends of its lines."""
        with self._changed:
            return "\n".join(line.rstrip() for line in self._screen.display).rstrip()

    def wait_for(self, condition: str | Callable[[str], bool]) -> str:
        """The screen as soon as it has that text, or is as `condition` wants."""

        def met() -> bool:
            return condition in self.text if isinstance(condition, str) else condition(self.text)

        with self._changed:
            self._changed.wait_for(lambda: self._ended or met(), NET)
            assert met(), f"the screen never came to that; it is:\n{self.text}"
            return self.text

    def is_cooked(self) -> bool:
        """Whether the terminal hands over whole lines and shows what is typed, as for a shell."""
        flags = termios.tcgetattr(self.process.child_fd)[3]
        return bool(flags & termios.ICANON and flags & termios.ECHO)

    def press(self, keys: str) -> None:
        """Type."""
        self.process.send(keys)

    def end(self) -> int:
        """Wait for the end of the command; its exit code, or minus the signal."""
        self._reader.join(NET)
        self.cooked = self.is_cooked()
        self.process.close()
        code, number = self.process.exitstatus, self.process.signalstatus
        return -int(number or 0) if code is None else int(code)

    def _read(self) -> None:
        while True:
            try:
                piece: bytes = self.process.read_nonblocking(65_536, timeout=NET)
            except pexpect.EOF:
                break
            with self._changed:
                self.output += piece
                self._stream.feed(piece)
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()
