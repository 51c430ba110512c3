"""A real schema registry: Apicurio, in memory, on a free loopback port; fetched once by Maven."""

import fcntl
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx2

from testbed.broker import leash
from testbed.patience import seconds

VERSION = "3.0.9"
ARTIFACT = f"io.apicurio:apicurio-registry-app:{VERSION}:zip:all"
START_SECONDS = 60.0


def missing_registry_tools() -> list[str]:
    """The commands that it needs and this machine does not have; Maven only until it is there."""
    needed = ["java"] if _folder().exists() else ["java", "mvn"]
    return [tool for tool in needed if shutil.which(tool) is None]


class Apicurio:
    """A registry for the body of the ``with`` block; it dies with the process that started it.

    Raises:
        RuntimeError: it could not be fetched, or did not answer in time; the message holds the end of its log.
    """

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}/apis/ccompat/v7"
        """Of its API that is Confluent's."""
        self.description = f"Apicurio Registry {VERSION}"
        self._log = Path(tempfile.mkstemp(prefix="apicurio-", suffix=".log")[1])
        # The thread that starts it lives as long as this: see `KafkaCluster`.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="apicurio-starter")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self._start()
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End it: what it knows is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._starter.shutdown()
        self._log.unlink(missing_ok=True)

    def _start(self) -> None:
        folder = _fetched()
        command = [sys.executable, "-I", "-S", leash.__file__, str(os.getpid())]
        command += ["java", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData"]
        command += ["-Dquarkus.http.host=127.0.0.1", f"-Dquarkus.http.port={self._port}", "-jar"]
        command += [f"apicurio-registry-app-{VERSION}-runner.jar"]
        with self._log.open("wb") as log:
            self._process = self._starter.submit(
                subprocess.Popen,
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,
            ).result()

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        patience = seconds(START_SECONDS)
        deadline = time.monotonic() + patience
        while not self._answers():
            if self._process.poll() is not None:
                raise RuntimeError(f"Apicurio ended with {self._process.returncode}:\n{self._log_end()}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"Apicurio did not answer within {patience:g} s:\n{self._log_end()}")
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            return httpx2.get(f"{self.url}/subjects", timeout=5).status_code == 200
        except httpx2.HTTPError:
            return False

    def _log_end(self) -> str:
        return self._log.read_text(errors="replace")[-4000:]


def _folder() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "dispatcher-kafka" / f"apicurio-{VERSION}"


def _fetched() -> Path:
    folder = _folder()
    folder.parent.mkdir(parents=True, exist_ok=True)
    # The second one waits here, and then finds it.
    with (folder.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            print(f"Fetching Apicurio Registry {VERSION} with Maven, once ...", file=sys.stderr, flush=True)  # noqa: T201 - for people
            with tempfile.TemporaryDirectory(dir=folder.parent) as fresh:
                command = ["mvn", "-B", "-q", "dependency:copy", f"-Dartifact={ARTIFACT}", f"-DoutputDirectory={fresh}"]
                result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=fresh)
                if result.returncode:
                    raise RuntimeError(f"Maven could not fetch it:\n{result.stdout[-4000:]}{result.stderr}")
                (archive,) = Path(fresh).glob("*.zip")
                with zipfile.ZipFile(archive) as packed:
                    packed.extractall(Path(fresh, "app"))
                Path(fresh, "app").rename(folder)
    return folder
