"""A Docker Engine: the one that runs, or one of our own in a folder of its own, stopped for sure."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

START_SECONDS = 60.0
STOP_SECONDS = 60.0
LABEL = "dispatcher.trial"
"""On all that is made here, so that nothing else is ever removed."""


class Engine:
    """A Docker Engine in swarm mode for the body of the ``with`` block.

    What runs already is used, and left as it was: it leaves the swarm only if it was brought into it. One that is
    started here has its data, its socket and its processes in a temporary folder.

    *Thread*: any.

    Args:
        tell: Called with what happens, in words.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._folder: Path | None = None
        self._daemon: subprocess.Popen[bytes] | None = None
        self._environment = dict(os.environ)
        self._joined = False

    @property
    def is_ours(self) -> bool:
        """Whether it was started here: nobody else has anything on it."""
        return self._daemon is not None

    def __enter__(self) -> Self:
        try:
            if not self._answers():
                self._start()
            if self.docker("info", "--format", "{{.Swarm.LocalNodeState}}") != "active":
                self.docker("swarm", "init", "--advertise-addr", "127.0.0.1")
                self._joined = True
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Impatient people have pressed Ctrl-C once already; twice would leave a swarm behind.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            self._stop()
        finally:
            signal.signal(signal.SIGINT, before)

    def docker(
        self,
        *arguments: str | Path,
        environment: Mapping[str, str] | None = None,
        text: str | None = None,
        seconds: float = 900.0,
        errors_too: bool = False,
    ) -> str:
        """Run a docker command and return what it printed, stripped; what it printed as an error only if asked to.

        Raises:
            RuntimeError: it failed; the message holds what it printed.
        """
        result = subprocess.run(
            ["docker", *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            input=text,
            timeout=seconds,
            start_new_session=True,  # a Ctrl-C in the terminal is for us
            env=self._environment | dict(environment or {}),
        )
        if result.returncode:
            command = " ".join(map(str, arguments[:3]))
            raise RuntimeError(f"docker {command} failed:\n{result.stdout[-4000:]}{result.stderr[-4000:]}")
        return (result.stdout + (result.stderr if errors_too else "")).strip()

    def ask(self, *arguments: str) -> list[dict[str, Any]]:
        """The same, of a command that prints JSON."""
        answer: list[dict[str, Any]] = json.loads(self.docker(*arguments))
        return answer

    def drain(self) -> None:
        """Have the node give up its tasks."""
        node = self.docker("info", "--format", "{{.Swarm.NodeID}}")
        self.docker("node", "update", "--availability", "drain", node)

    def _answers(self) -> bool:
        if shutil.which("docker") is None:
            return False
        result = subprocess.run(["docker", "version"], capture_output=True, check=False, env=self._environment)
        return result.returncode == 0

    def _start(self) -> None:
        if os.geteuid() != 0:
            raise RuntimeError("no Docker Engine runs, and only root can start one")
        if shutil.which("dockerd") is None or shutil.which("docker") is None:
            self._tell("no Docker Engine here: installing Debian's")
            install("docker.io", "iptables")
            if self._answers():
                return  # the package has started one
        self._folder = Path(tempfile.mkdtemp(prefix="swarm-engine-"))
        socket = f"unix://{self._folder}/docker.sock"
        self._tell(f"no Docker Engine runs: starting one in {self._folder}")
        command = ["dockerd", "--host", socket, "--data-root", f"{self._folder}/data", "--log-level", "warn"]
        command += ["--exec-root", f"{self._folder}/exec", "--pidfile", f"{self._folder}/docker.pid"]
        with (self._folder / "dockerd.log").open("wb") as log:
            self._daemon = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C in the terminal is for us, who then stop it
            )
        self._environment["DOCKER_HOST"] = socket
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._daemon.poll() is not None or time.monotonic() > deadline:
                log_end = (self._folder / "dockerd.log").read_text(errors="replace")[-4000:]
                raise RuntimeError(f"the Docker Engine did not start:\n{log_end}")
            time.sleep(0.2)

    def _stop(self) -> None:
        if self._joined:
            self._joined = False
            with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):
                self.docker("swarm", "leave", "--force", seconds=STOP_SECONDS)
        if self._daemon is not None:
            with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):
                if containers := self.docker("ps", "--all", "--quiet").split():
                    self.docker("rm", "--force", *containers, seconds=STOP_SECONDS)
            self._daemon.terminate()
            try:
                self._daemon.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._daemon.kill()
                self._daemon.wait()
            self._daemon = None
        if self._folder is not None:
            _unmount_below(self._folder)
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


def install(*packages: str) -> None:
    """Install Debian's packages.

    Raises:
        RuntimeError: this is no Debian, or it could not.
    """
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        raise RuntimeError(f"please install {' and '.join(packages)}")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *packages]
    for step in (["apt-get", "update"], command):
        result = subprocess.run(step, capture_output=True, text=True, check=False, env=environment)
        if result.returncode:
            raise RuntimeError(f"{' '.join(step)} failed:\n{result.stdout[-2000:]}{result.stderr[-2000:]}")


def run(command: Sequence[str | Path], **keywords: Any) -> None:
    """Run a command.

    Raises:
        RuntimeError: it failed; the message holds what it printed.
    """
    result = subprocess.run(command, capture_output=True, text=True, check=False, **keywords)
    if result.returncode:
        raise RuntimeError(f"{command[0]} failed:\n{result.stdout[-4000:]}{result.stderr[-4000:]}")


def _unmount_below(folder: Path) -> None:
    """What a killed engine may have left mounted, deepest first."""
    points = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for point in sorted((point for point in points if point.startswith(f"{folder}/")), reverse=True):
        subprocess.run(["umount", "--lazy", point], capture_output=True, check=False)
