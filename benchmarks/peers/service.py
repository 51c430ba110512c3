"""A peer's process: what it is made of is built outside the tree, once; its log is kept until it ends."""

import contextlib
import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from testbed.broker import leash

BUILD_SECONDS = 600.0
START_SECONDS = 30.0
END_SECONDS = 5.0


class CannotRunError(Exception):
    """A peer can't be built, started or measured here; the message says why."""


def cache() -> Path:
    """Where peers are built."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "dispatcher-peers"


def built(name: str, make: Callable[[Path], None]) -> Path:
    """The folder of what was built under a name, which holds its versions; made when it is not there yet.

    Raises:
        CannotRunError: it could not be built.
    """
    folder = cache() / name
    cache().mkdir(parents=True, exist_ok=True)
    # The second one waits here, and then finds it.
    with (cache() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = folder / "built"
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            done.touch()
    return folder


def build(*command: str | Path, folder: Path) -> None:
    """Run a step of a build.

    Raises:
        CannotRunError: it failed; the message holds what it said of errors.
    """
    try:
        found = subprocess.run(  # noqa: S603 - the commands stand in this package
            command, cwd=folder, capture_output=True, text=True, check=False, timeout=BUILD_SECONDS
        )
    except FileNotFoundError:
        raise CannotRunError(f"not built: there is no {command[0]}") from None
    except subprocess.TimeoutExpired:
        raise CannotRunError(f"not built: {command[0]} took longer than {BUILD_SECONDS:g} s") from None
    if found.returncode:
        lines = (found.stderr or found.stdout).strip().splitlines()
        told = [line for line in lines if "error" in line.lower()][:3] or lines[-3:]
        raise CannotRunError(f"not built: {' '.join(line.strip() for line in told)}")


def free_port() -> int:
    """A port that nobody listens on, for services that cannot choose one themselves."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Service:
    """A process that serves on loopback.

    Args:
        command: What to run.
        folder: Where.
        environment: Beside our own.
        port: Where it will listen; None when it chooses a port itself, and prints ``{"port": …}`` when it serves.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        folder: Path,
        environment: Mapping[str, str] | None = None,
        port: int | None = None,
    ) -> None:
        self._log = Path(tempfile.mkstemp(prefix="peer-", suffix=".log")[1])
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(  # noqa: S603 - the same
                [sys.executable, "-I", "-S", leash.__file__, str(os.getpid()), *map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env={**os.environ, **(environment or {})},
            )
        try:
            self.port = self._wait_for_port(port)
        except BaseException:
            self.end()
            raise

    @property
    def log(self) -> str:
        """Everything it has printed."""
        return self._log.read_text(errors="replace")

    def end(self) -> None:
        """End it, whatever state it is in."""
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(END_SECONDS)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._log.unlink(missing_ok=True)

    def _wait_for_port(self, port: int | None) -> int:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            if port is not None:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    return port
            for line in self.log.splitlines():
                if line.startswith('{"port"'):
                    return int(json.loads(line)["port"])
            time.sleep(0.02)
        raise CannotRunError(f"not started: {' '.join(self.log.strip().splitlines()[-3:])}")
