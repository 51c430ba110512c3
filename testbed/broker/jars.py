"""Kafka's jars: fetched once by Maven into a cache outside the tree, and the commands that run them."""

import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
POM = HERE / "pom.xml"
LOGGING = HERE / "log4j2.xml"
NODE = "kafka.Kafka"
"""The main class of a node; all others are tools."""


def missing_tools() -> list[str]:
    """The commands that a real broker needs and this machine does not have; Maven only until the jars are there."""
    needed = ["java"] if _folder().exists() else ["java", "mvn"]
    return [tool for tool in needed if shutil.which(tool) is None]


def kafka_version() -> str:
    """The pinned version."""
    return POM.read_text().split("<kafka.version>")[1].split("<")[0]


def jars() -> Path:
    """The folder with the jars; fetched when they are not there yet.

    Raises:
        RuntimeError: Maven failed; the message holds what it printed.
    """
    folder = _folder()
    if folder.exists():
        return folder
    cache = folder.parent
    cache.mkdir(parents=True, exist_ok=True)
    # The second one waits here, and then finds them.
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            print(f"Fetching Apache Kafka {kafka_version()} with Maven, once ...", file=sys.stderr, flush=True)  # noqa: T201 - for people
            with tempfile.TemporaryDirectory(dir=cache) as fresh:
                result = subprocess.run(
                    ["mvn", "-B", "-q", "-f", POM, "dependency:copy-dependencies", f"-DoutputDirectory={fresh}/jars"],
                    capture_output=True,
                    text=True,
                    check=False,
                )
                if result.returncode:
                    raise RuntimeError(f"Maven could not fetch Apache Kafka:\n{result.stdout[-4000:]}{result.stderr}")
                Path(fresh, "jars").rename(folder)
    return folder


def java(main: str, *arguments: str | Path, heap_megabytes: int = 128, record: Path | None = None) -> list[str]:
    """The command that runs a main class of Kafka; the flags are for a quick start on a small machine.

    Args:
        main: The class.
        arguments: Its arguments.
        heap_megabytes: How large the heap may grow.
        record: Where Java writes an archive of the classes that it has loaded, when it ends in good order; None: it
            loads them from the archive that there is (`testbed.broker.archives`).
    """
    archive = class_archive(main)
    if record is not None:
        sharing = [f"-XX:ArchiveClassesAtExit={record}"]
    elif archive.exists() and archive.stat().st_size:
        sharing = [f"-XX:SharedArchiveFile={archive}"]
    else:
        sharing = []
    return [
        "java",
        f"-Xms{heap_megabytes // 2}m",
        f"-Xmx{heap_megabytes}m",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-Xshare:auto",
        *sharing,
        "-Xlog:cds*=off",  # would write into the output of a tool that an archive does not fit
        "-XX:-UsePerfData",  # would leave a file in /tmp for each node that is killed
        f"-Dlog4j2.configurationFile={LOGGING}",
        "-cp",
        f"{jars()}/*",
        main,
        *map(str, arguments),
    ]


def class_archive(main: str) -> Path:
    """Where the archive of the classes is that a node loads, or a tool, with this version of Kafka and of Java."""
    return _folder().with_suffix(f".{_java_version()}.{'node' if main == NODE else 'tool'}.jsa")


@functools.cache
def _java_version() -> str:
    described = subprocess.run(["java", "-version"], capture_output=True, check=True).stderr
    return hashlib.sha256(described).hexdigest()[:8]


def _folder() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "dispatcher-kafka" / hashlib.sha256(POM.read_bytes()).hexdigest()[:16]
