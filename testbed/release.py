"""``python -m testbed.release VERSION``: everything for a release but the upload, and what is left to do.

Builds the wheel, the source archive and the npm package into ``dist``, installs each in a clean environment, and runs
there what the docs promise: the demo, ``dispatcher tail``, ``dispatcher status``, the Python client and ``client.js``.
"""

import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import click
import orjson

import dispatcher
from testbed.patience import seconds
from testbed.tools import find

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "dispatcher" / "web" / "page"
NAME = "kafka-dispatcher"

FETCH_SECONDS = 300.0
RUN_SECONDS = 60.0

PYTHON_EXAMPLE = """
import trio
from dispatcher.client import subscribe

async def main() -> None:
    async with subscribe({url!r}) as stream:
        async for record in stream:
            print(record.topic)
            return

trio.run(main)
"""

NODE_EXAMPLE = """
import {{ subscribe }} from "kafka-dispatcher";
const stream = subscribe("{url}/", {{ onRecord: ({{ topic }}) => {{ console.log(topic); stream.close(); }} }});
"""


class ReleaseError(click.ClickException):
    """Something is not as a release has to be."""


def check_versions(version: str, *, dated: bool = True) -> None:
    """Check that all that names the version names this one.

    Args:
        version: Such as ``0.2.0``.
        dated: Whether the changelog must have a date for it.

    Raises:
        ReleaseError: something names another one.
    """
    manifest = orjson.loads((PAGE / "package.json").read_bytes())
    image = re.search(r"^ARG VERSION=(\S+)$", (ROOT / "deploy/swarm/Dockerfile").read_text(), re.MULTILINE)
    heading = re.search(rf"^## {re.escape(version)} - (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    recipes = set(re.findall(rf"{NAME}-([0-9][\w.]*)\.tgz", (ROOT / "docs/clients.md").read_text()))
    found: Mapping[str, object] = {
        "dispatcher/__init__.py": dispatcher.__version__,
        "dispatcher/web/page/package.json": manifest["version"],
        "deploy/swarm/Dockerfile": image and image[1],
        "CHANGELOG.md": version if heading else None,
        "docs/clients.md": version if recipes == {version} else recipes,
    }
    wrong = [f"{place} has {value}" for place, value in found.items() if value != version]
    if dated and heading and not re.fullmatch(r"\d{4}-\d{2}-\d{2}", heading[1]):
        wrong.append(f"CHANGELOG.md has no date for it, but {heading[1]}")
    if wrong:
        raise ReleaseError(f"not all names {version}: {'; '.join(wrong)}")


def build(folder: Path) -> tuple[Path, Path]:
    """Build the wheel and the npm package; returns where they are.

    Raises:
        ReleaseError: one of them cannot be built.
    """
    run(folder, sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT))
    packed = run(folder, "npm", "pack", "--json", str(PAGE))
    (wheel,) = folder.glob("*.whl")
    return wheel, folder / str(orjson.loads(packed)[0]["filename"])


def try_wheel(wheel: Path, folder: Path) -> str:
    """Install a wheel in an environment of its own, and run what the docs promise; returns its Python.

    Raises:
        ReleaseError: something of that fails.
    """
    # Without pip, which takes three seconds to unpack: the one of this environment installs into the other.
    run(folder, sys.executable, "-m", "venv", "--without-pip", str(folder / "venv"))
    programs = folder / "venv" / "bin"
    python, command = str(programs / "python"), str(programs / "dispatcher")
    pip = (sys.executable, "-m", "pip", "--python", python, "--quiet", "--disable-pip-version-check")
    run(folder, *pip, "install", "--no-compile", f"{wheel}[auth]")
    version = run(folder, command, "--version").strip()
    if version != f"dispatcher, version {dispatcher.__version__}":
        raise ReleaseError(f"the wheel is of another version: {version}")
    with demo(folder, command) as url:
        if "ofa_assets" not in run(folder, command, "tail", url, "--count=3", "--format={topic}"):
            raise ReleaseError("dispatcher tail shows no records of the demo")
        run(folder, command, "status", url)
        (folder / "example.py").write_text(PYTHON_EXAMPLE.format(url=url))
        if run(folder, python, "example.py").strip() != "ofa_assets":
            raise ReleaseError("the Python client gets no records of the demo")
    return python


def try_tarball(tarball: Path, folder: Path, command: str) -> None:
    """Install the npm package in a folder of its own, and read the demo with it.

    Raises:
        ReleaseError: something of that fails.
    """
    folder.mkdir()
    run(folder, "npm", "install", "--offline", "--no-audit", "--no-fund", str(tarball))
    with demo(folder, command) as url:
        (folder / "example.mjs").write_text(NODE_EXAMPLE.format(url=url))
        if run(folder, find("node") or "node", "example.mjs").split()[:1] != ["ofa_assets"]:
            raise ReleaseError("client.js gets no records of the demo")


@contextmanager
def demo(folder: Path, command: str) -> Iterator[str]:
    """``dispatcher demo`` of an installation; gives its URL.

    Raises:
        ReleaseError: it does not listen.
    """
    path = folder / "demo.log"
    with path.open("wb") as log:
        arguments = ("demo", "--rate=50", "--bind=127.0.0.1:0", "--log-format=json")
        process = subprocess.Popen([command, *arguments], cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + seconds(RUN_SECONDS)
        while time.monotonic() < deadline and process.poll() is None:
            if match := re.search(r'"addresses":\s*\["(http://[^"]+)"', path.read_text()):
                yield match[1]
                return
            time.sleep(0.05)
        raise ReleaseError(f"the demo does not listen:\n{path.read_text()}")
    finally:
        process.terminate()
        try:
            process.wait(seconds(RUN_SECONDS))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def run(folder: Path, *command: str) -> str:
    """Run a command in a folder; returns what it writes.

    Raises:
        ReleaseError: it fails, or takes too long.
    """
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=seconds(FETCH_SECONDS), check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ReleaseError(f"{' '.join(command)}: {error}") from error
    if done.returncode:
        raise ReleaseError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def left_to_do(version: str) -> str:
    """What only somebody with the rights can do."""
    return f"""
All of it is in dist/. What is left, in this order:

    git tag --annotate v{version} --message "Version {version}" && git push origin v{version}
    twine upload dist/*.whl dist/*.tar.gz
    npm publish dist/{NAME}-{version}.tgz
    docker build -f deploy/swarm/Dockerfile --build-arg VERSION={version} -t IMAGE .
    docker push IMAGE

Then make a release of the tag with the changelog's section for {version}."""


@click.command()
@click.argument("version")
@click.option("--anyway", is_flag=True, help="Also from a tree with changes, and without a date in the changelog.")
def main(version: str, *, anyway: bool) -> None:
    """Do everything for a release of VERSION but the upload, and say what is left."""
    check_versions(version, dated=not anyway)
    if not anyway and run(ROOT, "git", "status", "--porcelain"):
        raise ReleaseError("the tree has changes that no commit holds (--anyway builds all the same)")
    if run(ROOT, "git", "tag", "--list", f"v{version}").strip():
        raise ReleaseError(f"there is a tag v{version} already")
    dist = ROOT / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    dist.mkdir()
    run(ROOT, sys.executable, "-m", "build", "--sdist", "--outdir", str(dist))
    wheel, tarball = build(dist)
    run(ROOT, sys.executable, "-m", "twine", "check", "--strict", *map(str, (wheel, *dist.glob("*.tar.gz"))))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        click.echo(f"{wheel.name}: installing it in a clean environment")
        python = try_wheel(wheel, folder)
        click.echo(f"{tarball.name}: installing it in a clean folder")
        try_tarball(tarball, folder / "node", str(Path(python).with_name("dispatcher")))
    click.echo(left_to_do(version))


if __name__ == "__main__":
    main()
