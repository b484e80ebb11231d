"""Send and receive messages over file descriptors. Used in the front and its children.

The front uses asyncio, the children use blocking calls.

PipeChannel      front            two non-blocking pipes to one worker, callbacks on the loop
BlockingChannel  worker           the other end of these pipes
ControlSocket    front, template  one packet per message, with file descriptors
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import threading
from collections.abc import Callable, Sequence

from ipc.codec import Decoder, FrameError, encode, encode_parts
from ipc.messages import Message

PIPE_SIZE = 1024 * 1024
"""Capacity of a pipe in bytes, Linux's usual maximum. The default of 64 KiB splits large frames."""

_READ_SIZE = 260 * 1024
"""Room for a worker's largest chunk, 256 KiB, with its frame. Each channel reuses one read buffer:
with our malloc settings, a new buffer for each read would be mapped and unmapped every time."""

_MAX_PACKET = 64 * 1024
"""Control messages are short. A longer packet arrives truncated, which is a FrameError."""

_MAX_DESCRIPTORS = 8


def make_pipe() -> tuple[int, int]:
    """A pipe for large frames: (read end, write end). Both are closed on exec."""
    read_fd, write_fd = os.pipe()
    with contextlib.suppress(OSError):  # over the user's quota: a smaller pipe is only slower
        fcntl.fcntl(write_fd, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
    return read_fd, write_fd


class PipeChannel:
    """The front's end of a worker's two pipes.

    `on_message` is called with each message. `on_close` is called once: with the `FrameError` or
    `OSError` that ended the connection, or with None at EOF.
    """

    def __init__(
        self,
        on_message: Callable[[Message], None],
        on_close: Callable[[Exception | None], None],
    ) -> None:
        self._on_message = on_message
        self._on_close = on_close
        self._decoder = Decoder()
        self._buffer = bytearray(_READ_SIZE)
        self._writer: asyncio.WriteTransport | None = None
        self._closed = False
        self._read_fd = -1

    async def open(self, read_fd: int, write_fd: int) -> None:
        """Take ownership of both descriptors. `close` closes them."""
        loop = asyncio.get_running_loop()
        os.set_blocking(read_fd, False)
        self._read_fd = read_fd
        self._writer, _ = await loop.connect_write_pipe(
            lambda: _WriterProtocol(self._on_writer_lost), os.fdopen(write_fd, "wb", buffering=0)
        )
        if self._closed:  # the worker has ended in the meantime
            self._writer.abort()
        else:
            loop.add_reader(read_fd, self._read)

    @property
    def closed(self) -> bool:
        """Whether either side has closed the connection."""
        return self._closed

    def send(self, message: Message) -> None:
        """Queue `message`. It is dropped when the connection is closed."""
        frame = encode(message)
        if self._writer is not None and not self._closed:
            self._writer.write(frame)

    def read_rest(self) -> None:
        """Handle messages that are still in the pipe after the worker has ended."""
        while not self._closed and self._read():
            pass

    def close(self) -> None:
        """Close the connection; the worker reads EOF and exits. `on_close` is not called."""
        self._closed = True
        # A reference cycle may keep the channel alive longer than its worker.
        self._buffer = bytearray()
        if self._read_fd >= 0:
            asyncio.get_running_loop().remove_reader(self._read_fd)
            os.close(self._read_fd)
            self._read_fd = -1
        if self._writer is not None and not self._writer.is_closing():
            self._writer.abort()

    def _read(self) -> bool:
        """Read once and handle the messages; False when there was nothing to read."""
        try:
            size = os.readv(self._read_fd, [self._buffer])
            for message in self._decoder.feed(memoryview(self._buffer)[:size]):
                self._on_message(message)
            if size == 0:
                self._decoder.end()
                self._end(None)
        except BlockingIOError:
            return False
        except (FrameError, OSError) as error:
            self._end(error)
        return not self._closed

    def _on_writer_lost(self, error: Exception | None) -> None:
        # A broken pipe means that the worker has ended. Handle first what it wrote before.
        self.read_rest()
        self._end(None if isinstance(error, BrokenPipeError) else error)

    def _end(self, error: Exception | None) -> None:
        if not self._closed:
            self.close()
            self._on_close(error)


class _WriterProtocol(asyncio.BaseProtocol):
    """Notifies the channel when the worker closes the pipe that the front writes to."""

    def __init__(self, on_lost: Callable[[Exception | None], None]) -> None:
        self._on_lost = on_lost

    def connection_lost(self, exc: Exception | None) -> None:
        self._on_lost(exc)


class BlockingChannel:
    """A worker's end: call `receive` from one thread only, `send` from any thread."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self._read_fd = read_fd
        self._write_fd = write_fd
        self._decoder = Decoder()
        self._buffer = bytearray(_READ_SIZE)
        self._received: list[Message] = []
        self._lock = threading.Lock()

    def receive(self) -> Message | None:
        """The next message; None at EOF. Raises `FrameError`."""
        while not self._received:
            size = os.readv(self._read_fd, [self._buffer])
            if size == 0:
                self._decoder.end()
                return None
            self._received = self._decoder.feed(memoryview(self._buffer)[:size])
        return self._received.pop(0)

    def send(self, message: Message) -> None:
        """Write the whole frame. Raises `OSError` when the front has closed the pipe."""
        head, data = encode_parts(message)
        with self._lock:
            written = os.writev(self._write_fd, [head, data])
            # Less is written when a signal interrupts the write while the pipe is full.
            if written < len(head) + len(data):
                rest = memoryview(head + data)[written:]
                while rest:
                    rest = rest[os.write(self._write_fd, rest) :]


class ControlSocket:
    """A socket between front and template. One packet is one frame with its file descriptors."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock

    @classmethod
    def pair(cls) -> tuple[ControlSocket, ControlSocket]:
        """Two connected sockets."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(ours), cls(theirs)

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Send `message`; the peer receives duplicates of `descriptors`. Raises `OSError`."""
        if descriptors:
            socket.send_fds(self.socket, [encode(message)], list(descriptors))
        else:
            self.socket.send(encode(message))

    def receive(self) -> tuple[Message, list[int]] | None:
        """The next message with its descriptors, which the caller must close; None at EOF.

        Raises `FrameError`, and `BlockingIOError` on a non-blocking socket with nothing to read.
        """
        packet, descriptors, _, _ = socket.recv_fds(self.socket, _MAX_PACKET, _MAX_DESCRIPTORS)
        try:
            if not packet:
                return None
            decoder = Decoder()
            decoded = decoder.feed(packet)
            decoder.end()
            if len(decoded) != 1:
                raise FrameError(f"{len(decoded)} messages in one packet")
        except FrameError:
            for descriptor in descriptors:
                os.close(descriptor)
            raise
        return decoded[0], descriptors

    def close(self) -> None:
        """Close this end; the peer reads EOF."""
        self.socket.close()
