"""Forks replicas and other commands of tests from a process that has loaded the dispatcher already.

Loading takes nine tenths of what a start costs: 0.85 s of CPU, three hundred times in the whole suite. A fork is a
process like any other, with its own id, exit code, descriptors, environment and working folder; it runs the command
line from its beginning, and ends through the interpreter. What it does not go through is the loading itself, so what is
about that starts a command (`Replica`, `fresh`).

The process that forks has one thread, and no client of Kafka and no event loop has run in it. It dies with the process
that asks, and its forks with it.
"""

import atexit
import ctypes
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from testbed.broker import leash

VARIABLE = "TESTBED_FORKS"
"""With ``0`` every replica starts as a command."""

MEASURED = ("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG")
"""Variables by which coverage measures processes from their start; a fork has begun before."""

LOADED = (
    "dispatcher.command.main",
    "dispatcher.command.with_settings",
    "dispatcher.command.overview",
    "dispatcher.command.tail",
    "dispatcher.supervisor",
)
"""What ``dispatcher serve`` loads, one way or another."""

RUN = "from dispatcher.command.main import main\nmain()"
"""How a replica runs the command line, forked or not."""

UNBUFFERED = {"PYTHONUNBUFFERED": "1"}
"""What replicas have in their environment beside what tests have."""

MAX_BYTES = 1 << 20
ROOT = Path(__file__).parent.parent

_is_allowed = False


def allow() -> None:
    """Let replicas that this process starts be forks, unless the environment says otherwise."""
    global _is_allowed  # noqa: PLW0603 - tests do it once, before all; what measures replicas does not
    _is_allowed = os.environ.get(VARIABLE, "1") != "0" and not any(name in os.environ for name in MEASURED)


def is_allowed() -> bool:
    """Whether replicas may be forks."""
    return _is_allowed


class Fork:
    """A process that `Forks` has started; it has what tests use of `subprocess.Popen`. *Thread*: any."""

    def __init__(self, forks: "Forks", pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._forks = forks
        # Nobody has waited for the process yet, so the id is still its own.
        self._ended = os.pidfd_open(pid)
        self._lock = threading.Lock()

    def fileno(self) -> int:
        """A descriptor that can be read as soon as the process has ended; `poll` closes it then."""
        return self._ended

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        with self._lock:
            if self.returncode is None and _has_ended(self._ended):
                self.returncode = self._forks.reap(self.pid)
                os.close(self._ended)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the exit code.

        Raises:
            subprocess.TimeoutExpired: it still runs after that many seconds.
        """
        deadline = float("inf") if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(f"replica with process id {self.pid}", timeout or 0)
            time.sleep(0.01)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        with self._lock:
            if self.returncode is None:
                signal.pidfd_send_signal(self._ended, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def __del__(self) -> None:
        if self.returncode is None:
            warnings.warn(f"replica with process id {self.pid} still runs", ResourceWarning, source=self, stacklevel=2)


class Forks:
    """The process that forks, started with this object. *Thread*: any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # No fork outlives the process that forks, and that one not the thread that started it (`leash`).
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="forks-starter")
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            code = f"from testbed.forking import become_fork\nbecome_fork({theirs.fileno()})\n{RUN}"
            leashed = [sys.executable, "-I", "-S", leash.__file__, str(os.getpid())]
            self._process = self._starter.submit(
                subprocess.Popen,
                [*leashed, sys.executable, "-c", code],
                cwd=ROOT,
                pass_fds=[theirs.fileno()],
                env={**os.environ, **UNBUFFERED},
            ).result()
        atexit.register(self.close)

    def start(self, arguments: Sequence[str], output: int, errors: int, code: str = "") -> Fork:
        """Run the command line in a fork, with the environment and the folder of this process.

        Args:
            arguments: What follows the name of the program.
            output: The descriptor that standard output goes to.
            errors: The same for standard error.
            code: Python to run before that.
        """
        request = {
            "arguments": list(arguments),
            "environment": {**os.environ, **UNBUFFERED},
            "folder": str(Path.cwd()),
            "code": code,
        }
        with self._lock:
            return Fork(self, self._ask(request, output, errors))

    def reap(self, pid: int) -> int:
        """The exit code of a fork that has ended."""
        with self._lock:
            return self._ask({"reap": pid})

    def close(self) -> None:
        """End the process, and all forks that still run."""
        self._socket.close()
        self._process.wait()

    def _ask(self, request: dict[str, Any], *descriptors: int) -> int:
        socket.send_fds(self._socket, [json.dumps(request).encode()], descriptors)
        if not (answer := self._socket.recv(MAX_BYTES)):
            raise RuntimeError(f"the process that replicas are forked from ended with {self._process.wait()}")
        return int(json.loads(answer))


_forks: Forks | None = None
_making = threading.Lock()


def start(arguments: Sequence[str], output: int, errors: int, code: str = "") -> Fork:
    """`Forks.start`, in the one object of this process. *Thread*: any."""
    global _forks  # noqa: PLW0603 - it lives as long as the process
    with _making:
        _forks = _forks or Forks()
    return _forks.start(arguments, output, errors, code)


def become_fork(descriptor: int) -> None:
    """Load the dispatcher, and fork on request; returns in forks only.

    Args:
        descriptor: The socket that requests come from; at its end this process ends.
    """
    from dispatcher.command.loading import loading  # noqa: PLC0415 - the process that asks does without it

    with loading():
        for name in LOADED:
            importlib.import_module(name)
    with socket.socket(fileno=descriptor) as requests:
        while (received := _receive(requests)) is not None:
            request, descriptors = received
            if "reap" in request:
                answer = os.waitstatus_to_exitcode(os.waitpid(request["reap"], 0)[1])
            elif (answer := _fork()) == 0:
                requests.close()
                _take_over(request, *descriptors)
                return
            for one in descriptors:
                os.close(one)
            requests.send(json.dumps(answer).encode())
    os._exit(0)


def _receive(requests: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    try:
        message, descriptors, _, _ = socket.recv_fds(requests, MAX_BYTES, 2)
    except KeyboardInterrupt:  # it is for the process that asks
        return None
    return (json.loads(message), descriptors) if message else None


def _fork() -> int:
    parent = os.getpid()
    if len([*Path("/proc/self/task").iterdir()]) > 1:
        raise RuntimeError("a module has started threads, which forks would lack")
    if (pid := os.fork()) == 0:
        # Not inherited. The parent may have ended before the wish was made.
        ctypes.CDLL(None).prctl(leash.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
    return pid


def _take_over(request: dict[str, Any], output: int, errors: int) -> None:
    """Make the fork what a command would be that had just been started."""
    os.dup2(output, 1)
    os.dup2(errors, 2)
    os.close(output)
    os.close(errors)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    time.tzset()
    sys.argv = ["-c", *request["arguments"]]
    exec(request["code"], {"__name__": "__main__"})  # noqa: S102 - what a test puts in on purpose


def _has_ended(descriptor: int) -> bool:
    """Whether the process of a process descriptor has ended; its exit code may not have been asked for yet."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))
