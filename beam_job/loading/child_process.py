"""Child processes: messages over a `multiprocessing` connection, pixels in memory that both processes see.

A child is a fresh Python with this process's path, not a fork: TensorFlow and Beam have threads, and locks with them.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

_START_SECONDS = 60.0
_READY = "ready"


class ChildStartError(RuntimeError):
    """A child could not be started; the message is the last line that it printed."""


@dataclass(frozen=True)
class Child:
    """A running child.

    Attributes:
      process: its process.
      connection: to it; closing it ends the child.
      memory: uint8[N], shared with the child.
    """

    process: subprocess.Popen[bytes]
    connection: Connection
    memory: npt.NDArray[np.uint8]

    def ask(self, request: Any) -> Any:
        """Sends a request and returns the child's answer; bytes are sent as they are, for `Connection.recv_bytes`.

        Raises:
          TimeoutError: the child neither read nor wrote for as long as `start_child` was told.
          EOFError, OSError: the child has died.
        """
        try:
            if isinstance(request, bytes):
                self.connection.send_bytes(request)  # which makes no copy, as pickling does
            else:
                self.connection.send(request)
            return self.connection.recv()
        except BlockingIOError as error:  # what a socket with SO_RCVTIMEO or SO_SNDTIMEO raises
            raise TimeoutError("the child does not answer") from error

    def end(self) -> int:
        """Ends the child, killing it if it is busy; returns its exit code."""
        self.connection.close()
        try:
            return self.process.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def start_child(program: str, memory: int, answer_seconds: float, arguments: Iterable[object] = ()) -> Child:
    """Starts a child and waits until it is ready.

    Args:
      program: Python code that calls `join_parent`.
      memory: bytes that both processes share.
      answer_seconds: the longest silence of the child before `Child.ask` gives it up.
      arguments: what `join_parent` returns in the child, as text.

    Raises:
      ChildStartError: it could not be started, ended, or was not ready within a minute.
    """
    # Isolated, with this process's path: a file in the user's working folder must not be taken for a module.
    code = f"import sys; sys.path[:] = {sys.path!r}; {program}"
    with tempfile.TemporaryFile() as output, _nameless_file() as shared:
        shared.truncate(memory)
        command = [sys.executable, "-I", "-c", code, str(shared.fileno()), str(memory), *map(str, arguments)]
        try:
            process, ours = _start(command, output, shared.fileno())
        except OSError as error:
            raise ChildStartError(str(error)) from error
        _set_timeout(ours, _START_SECONDS)
        child = Child(process, Connection(os.dup(ours.fileno())), _map(shared.fileno(), memory))
        with ours:
            try:
                child.connection.recv()
                _set_timeout(ours, answer_seconds)
            except (OSError, EOFError) as error:
                child.end()
                output.seek(0)
                printed = output.read().decode("utf-8", "replace").strip().splitlines()
                reason = "it was not ready in time" if isinstance(error, BlockingIOError) else "it ended"
                raise ChildStartError(printed[-1] if printed else reason) from error
    return child


def _start(command: list[str], output: BinaryIO, shared: int) -> tuple[subprocess.Popen[bytes], socket.socket]:
    ours, theirs = socket.socketpair()
    with theirs:  # closed here, so that the end of the process is the end of its messages
        # Beam sets a default timeout once it has logged in to Google; sockets made under it never block.
        ours.setblocking(True)
        theirs.setblocking(True)
        try:
            process = subprocess.Popen(
                command,
                stdin=theirs.fileno(),
                stdout=output,
                stderr=output,
                pass_fds=[shared],
                start_new_session=True,  # Ctrl-C at the terminal is for this process, which then closes the connection
            )
        except OSError:
            ours.close()
            raise
    return process, ours


def _set_timeout(connection: socket.socket, seconds: float) -> None:
    """Bounds each read and write; `Connection`, which reads and writes the descriptor itself, has no timeout."""
    whole = int(seconds)
    value = struct.pack("@ll", whole, int((seconds - whole) * 1e6))  # struct timeval
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        connection.setsockopt(socket.SOL_SOCKET, option, value)


def format_exit_code(code: int) -> str:
    """`exit code 3`, or `signal 9, SIGKILL`."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {-code}, {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"


def was_killed(code: int) -> bool:
    """Whether an exit code says that somebody else ended the process, as the system does where memory is short."""
    return code in (-signal.SIGKILL, -signal.SIGTERM)


def join_parent() -> tuple[Connection, npt.NDArray[np.uint8], list[str]]:
    """In the child: its connection, the shared memory, and its arguments. Its standard streams are closed."""
    descriptor, memory, *arguments = sys.argv[1:]
    shared = _map(int(descriptor), int(memory))
    os.close(int(descriptor))
    connection = Connection(os.dup(0))
    # C libraries print to descriptors 1 and 2, each about its own image; nobody reads that.
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nowhere, number)
    return connection, shared, arguments


def report_ready(connection: Connection) -> None:
    """In the child: tells the parent that requests may come."""
    connection.send(_READY)


def _map(descriptor: int, size: int) -> npt.NDArray[np.uint8]:
    return np.frombuffer(mmap.mmap(descriptor, size), np.uint8)


def _nameless_file() -> contextlib.AbstractContextManager[BinaryIO]:
    """In memory where the system has such files; it leaves nothing behind when the process is killed."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("pixels"), "r+b")
    return tempfile.TemporaryFile()
