"""The images of the stack: pulled where they can be, else built from Debian's packages and Maven's jars."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from testbed.broker import jars
from tests.swarm.engine import LABEL, Engine, install, run

HERE = Path(__file__).parent / "stand_ins"
ROOT = Path(__file__).parents[2]
PULL_SECONDS = 60.0

BASE = "dispatcher-trial/base"
OURS = {
    "EDGE_IMAGE": "dispatcher-trial/haproxy",
    "KAFKA_IMAGE": "dispatcher-trial/kafka",
    "PROMETHEUS_IMAGE": "dispatcher-trial/prometheus",
}
"""What stands in for the images of the stack files, by the variable that names them there."""

PACKAGES = "ca-certificates,python3,python3-venv"
SUITE = "bookworm"
PIP_FILES = (Path("/etc/pip.conf"), Path("/etc/ssl/certs/ca-certificates.crt"))
"""How this machine reaches its package index: containers that build have to know it too."""


def prepare(engine: Engine, tell: Callable[[str], None]) -> tuple[str, Mapping[str, str]]:
    """Have every image but the dispatcher's; returns the base for that, and the variables for the stack files."""
    if _can_pull(engine):
        tell("images can be pulled: the stack's own are used")
        return "python:3.13-slim", {}
    tell("no image can be pulled: making them from Debian's packages and Maven's jars")
    saved = _cache() / f"images-{_fingerprint()}.tar"
    if saved.exists():
        tell(f"loading what was made before: {saved}")
        engine.docker("load", "--input", saved)
    else:
        _make(engine, tell)
        partial = saved.with_suffix(".partial")
        engine.docker("save", "--output", partial, BASE, *OURS.values())
        for old in saved.parent.glob("images-*.tar"):
            old.unlink()
        partial.rename(saved)
    return BASE, OURS


def build_dispatcher(engine: Engine, base: str, version: str) -> str:
    """Build the image as the README tells, and return its name."""
    name = f"dispatcher-trial/dispatcher:{version}"
    engine.docker(
        *("build", "--network", "host", "--tag", name, "--label", f"{LABEL}=1"),
        *("--build-arg", f"BASE={base}", "--build-arg", f"VERSION={version}"),
        *("--file", ROOT / "deploy/swarm/Dockerfile", ROOT),
        environment={"DOCKER_BUILDKIT": "0"} if base == BASE else {},  # a base that is in no registry
    )
    return name


def remove(engine: Engine) -> None:
    """Remove what was made here."""
    names = engine.docker("image", "ls", "--filter", f"label={LABEL}", "--quiet").split()
    if names:
        with suppress(RuntimeError):
            engine.docker("image", "rm", "--force", *set(names))


def _can_pull(engine: Engine) -> bool:
    try:
        engine.docker("pull", "--quiet", "python:3.13-slim", seconds=PULL_SECONDS)
    except (RuntimeError, subprocess.TimeoutExpired):
        return False
    return True


def _make(engine: Engine, tell: Callable[[str], None]) -> None:
    if shutil.which("debootstrap") is None:
        install("debootstrap")
    with tempfile.TemporaryDirectory(prefix="swarm-base-") as name:
        folder, archive = Path(name, "root"), Path(name, "base.tar")
        tell(f"debootstrap {SUITE}")
        run(["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, folder])
        for file in PIP_FILES:
            if file.exists():
                shutil.copy(file, folder / file.relative_to("/"))
        run(
            ["tar", "-C", folder, "--exclude=./var/cache/apt/*", "--exclude=./var/lib/apt/lists/*", "-cf", archive, "."]
        )
        engine.docker("import", "--change", f"LABEL {LABEL}=1", archive, BASE)
    for which in ("haproxy", "prometheus", "kafka"):
        tell(f"building {which}")
        with tempfile.TemporaryDirectory(prefix="swarm-image-") as context:
            for file in HERE.iterdir():
                shutil.copy(file, context)
            if which == "kafka":
                shutil.copy(jars.LOGGING, context)
                shutil.copytree(jars.jars(), Path(context, "libs"))
            engine.docker(
                *("build", "--network", "host", "--label", f"{LABEL}=1", "--tag", f"dispatcher-trial/{which}"),
                *("--file", Path(context, f"{which}.Dockerfile"), context),
                environment={"DOCKER_BUILDKIT": "0"},
            )


def _cache() -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dispatcher-swarm"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _fingerprint() -> str:
    """Of all that the images are made from."""
    files = [Path(__file__), jars.POM, jars.LOGGING, *sorted(HERE.iterdir())]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
