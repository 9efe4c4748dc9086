"""Processes that work for this one: a socket for messages, and memory for pixels that both see.

A child is a fresh Python with this process's path, not a fork: TensorFlow and Beam have threads, and locks with them.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

_START_SECONDS = 60.0
_READY = b"!"


class ChildStartError(RuntimeError):
    """A child could not be started; the message is the last line that it said."""


@dataclass(frozen=True)
class Child:
    """A running child.

    Attributes:
      process: it.
      socket: to it; its end is the child's.
      memory: uint8[N], the same as the child's.
    """

    process: subprocess.Popen[bytes]
    socket: socket.socket
    memory: npt.NDArray[np.uint8]

    def end(self) -> int:
        """Ends it, at once where it is busy; its exit code."""
        self.socket.close()
        try:
            return self.process.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def start_child(program: str, memory: int, arguments: Iterable[object] = ()) -> Child:
    """Starts a child and waits until it is ready.

    Args:
      program: in Python; it calls `join_parent`.
      memory: bytes that both see.
      arguments: what `join_parent` returns there, as text.

    Raises:
      ChildStartError: it could not be started, ended, or was not ready in a minute.
    """
    # Isolated, with this process's path: a file of the user's working folder must not be taken for a module.
    code = f"import sys; sys.path[:] = {sys.path!r}; {program}"
    with tempfile.TemporaryFile() as said, _nameless_file() as shared:
        shared.truncate(memory)
        command = [sys.executable, "-I", "-c", code, str(shared.fileno()), str(memory), *map(str, arguments)]
        try:
            process, connection = _start(command, said, shared.fileno())
        except OSError as error:
            raise ChildStartError(str(error)) from error
        child = Child(process, connection, _map(shared.fileno(), memory))
        try:
            connection.settimeout(_START_SECONDS)
            if not connection.recv(len(_READY)):
                raise EOFError("it ended")
        except (OSError, EOFError) as error:
            child.end()
            said.seek(0)
            lines = said.read().decode("utf-8", "replace").strip().splitlines() or [str(error)]
            raise ChildStartError(lines[-1]) from error
    return child


def _start(command: list[str], said: BinaryIO, shared: int) -> tuple[subprocess.Popen[bytes], socket.socket]:
    ours, theirs = socket.socketpair()
    with theirs:  # closed then, so that the end of the process is seen as the end of its messages
        # Beam sets a default timeout once it has logged in to Google, and a process that inherits a socket with a
        # timeout has one that does not wait at all.
        theirs.setblocking(True)
        try:
            process = subprocess.Popen(
                command,
                stdin=theirs.fileno(),
                stdout=said,
                stderr=said,
                pass_fds=[shared],
                start_new_session=True,  # Ctrl-C at the terminal is for this process, which then closes the socket
            )
        except OSError:
            ours.close()
            raise
    return process, ours


def exit_told(code: int) -> str:
    """An exit code, for people."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {-code}, {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"


def join_parent() -> tuple[socket.socket, npt.NDArray[np.uint8], list[str]]:
    """In the child: its socket, the memory, and its arguments. Its standard streams are closed."""
    descriptor, memory, *arguments = sys.argv[1:]
    shared = _map(int(descriptor), int(memory))
    os.close(int(descriptor))
    connection = socket.socket(fileno=os.dup(0))
    # C libraries print to descriptors 1 and 2, each about its own image; nobody reads that.
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nowhere, number)
    return connection, shared, arguments


def tell_ready(connection: socket.socket) -> None:
    """In the child: tells the parent that it is."""
    connection.sendall(_READY)


def _map(descriptor: int, size: int) -> npt.NDArray[np.uint8]:
    return np.frombuffer(mmap.mmap(descriptor, size), np.uint8)


def _nameless_file() -> contextlib.AbstractContextManager[BinaryIO]:
    """Where the system has that, in memory."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("pixels"), "r+b")
    return tempfile.TemporaryFile()
