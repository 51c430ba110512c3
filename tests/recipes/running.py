"""Where recipes are laid out and run: folders with the page's blocks in them, and what they need installed beside."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import orjson
import trio

from testbed.tools import ESBUILD, lacking, need
from tests.recipes.blocks import blocks

ROOT = Path(__file__).parents[2]
INSTALL_SECONDS = 300.0
END_SECONDS = 10.0
SHOWN = "[...document.querySelectorAll('#records > li')].map((item) => item.textContent)"
"""What a page's list has, from top to bottom."""

PROCESSES = ("node.mjs", "with_trio.py", "with_httpx.py", "with_websockets.py", "main.go", "follow.sh", "tail.sh")
PAGES = ("eventsource.html", "page.html", "react.html")
REACT_PAGE = '<!doctype html><meta charset="utf-8"><body><script type="module" src="/react.js"></script>'


@dataclass
class Recipes:
    """What the install blocks and the compilers made."""

    folder: Path
    python: str
    """Of an environment with what the page installs."""
    files: dict[str, tuple[str, bytes]]
    """What an edge serves: type and content by path."""

    def command(self, recipe: str, url: str) -> list[str]:
        """How a recipe is started, as the page has it."""
        events, socket = f"{url}/events", f"{url.replace('http', 'ws', 1)}/ws"
        return {
            "node.mjs": [need("node"), str(self.folder / "node" / recipe), events],
            "with_trio.py": [sys.executable, str(self.folder / recipe), url],
            "with_httpx.py": [self.python, str(self.folder / recipe), f"{events}?format=envelope"],
            "with_websockets.py": [self.python, str(self.folder / recipe), socket],
            "main.go": [str(self.folder / "main"), f"{events}?format=envelope"],
            "follow.sh": ["bash", str(self.folder / recipe), f"{events}?format=envelope"],
            "tail.sh": ["bash", str(self.folder / recipe)],
            "look.sh": ["bash", str(self.folder / recipe)],
        }[recipe]

    def environment(self, url: str, heartbeat_seconds: float) -> Mapping[str, str]:
        """Return the environment of every recipe: `dispatcher` is on the path, and URL has its address."""
        told = {"URL": url, "HEARTBEAT_SECONDS": str(heartbeat_seconds)}
        return {**os.environ, **told, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def prepare(folder: Path) -> Recipes:
    """Lay everything out, install and compile; what is missing skips the test, and fails it in CI."""
    for tool, package in (("node", "nodejs"), ("npm", "npm"), ("go", "golang-go"), ("curl", "curl"), ("bash", "bash")):
        need(tool, package=package)
    need("chromium", "chromium-browser", "google-chrome")
    for name, text in blocks().items():
        (folder / name).write_text(text)
    with ThreadPoolExecutor() as workers:
        # The compiler needs longest.
        done = [workers.submit(work, folder) for work in (_build, _python, _node, _react)]
    for work in done:
        work.result()
    return prepared(folder)


def prepared(folder: Path) -> Recipes:
    """What `prepare` made in a folder, for as many as like: recipes run in folders of their own."""
    texts = blocks()
    files = {f"/{name}": ("text/html", texts[name].encode()) for name in ("eventsource.html", "page.html")}
    files["/favicon.ico"] = ("image/x-icon", b"")  # every page asks for it, and it is no stream
    files["/react.html"] = ("text/html", REACT_PAGE.encode())
    files["/react.js"] = ("text/javascript", (folder / "react" / "react.js").read_bytes())
    return Recipes(folder, str(folder / "venv" / "bin" / "python"), files)


def _build(folder: Path) -> None:
    _run(folder, "go", "build", "-o", "main", "main.go", CGO_ENABLED="0", GOFLAGS="-mod=mod", GO111MODULE="off")


def _python(folder: Path) -> None:
    _run(folder, sys.executable, "-m", "venv", "venv")
    path = f"{folder / 'venv' / 'bin'}:{os.environ['PATH']}"
    for name in ("install-httpx.sh", "install-websockets.sh"):
        _fetch(folder, "bash", name, PATH=path, PIP_DISABLE_PIP_VERSION_CHECK="1")


def _node(folder: Path) -> None:
    own = folder / "node"
    own.mkdir()
    shutil.copy(folder / "node.mjs", own)
    _fetch(own, "bash", "../install-node.sh", **QUIET_NPM)


def _react(folder: Path) -> None:
    own = folder / "react"
    own.mkdir()
    for name in ("useStream.jsx", "main.jsx"):
        shutil.copy(folder / name, own)
    shutil.copytree(ROOT / "dispatcher" / "web" / "page", own / "dispatcher" / "web" / "page")
    _run(own, "bash", "../pack.sh", **QUIET_NPM)
    _fetch(own, "bash", "../install-react.sh", **QUIET_NPM)
    options = ["--bundle", "--format=esm", "--jsx=automatic", "--outfile=react.js"]
    _fetch(own, "npx", "--yes", ESBUILD, "main.jsx", *options, **QUIET_NPM)


QUIET_NPM = {"npm_config_audit": "false", "npm_config_fund": "false", "npm_config_update_notifier": "false"}


def _run(folder: Path, *command: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    done = _try(folder, *command, **environment)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done


def _fetch(folder: Path, *command: str, **environment: str) -> None:
    """Run what has to ask a registry, which may be out of reach."""
    done = _try(folder, *command, **environment)
    if done.returncode != 0:
        print(done.stdout, done.stderr)  # noqa: T201 - pytest shows it where it matters
        lacking(f"what `{' '.join(command)}` fetches")


def _try(folder: Path, *command: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    whole = {**os.environ, **environment}
    return subprocess.run(
        command, cwd=folder, env=whole, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
    )


class Running:
    """A recipe that runs as a process in a folder of its own; started again there, it finds what it kept."""

    def __init__(self, recipes: Recipes, recipe: str, url: str, home: Path, heartbeat_seconds: float = 15.0) -> None:
        self._heartbeat_seconds = heartbeat_seconds
        self._recipes = recipes
        self._url = url
        self._home = home
        self.recipe = recipe
        self.lines: list[str] = []
        """What it wrote to standard output."""
        self.process: trio.Process

    @property
    def values(self) -> list[str]:
        """The values of the records that it handed out."""
        if self.recipe == "follow.sh":
            return [str(orjson.loads(line)["value"]) for line in self.lines]
        return list(self.lines)

    @property
    def told(self) -> str:
        """Return what it wrote to standard error."""
        return (self._home / "stderr").read_text()

    async def run_to_end(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> int:
        """Run it to its end, and return its exit code; it is killed when this is cancelled."""
        self._home.mkdir(exist_ok=True)
        with (self._home / "stderr").open("ab") as errors:
            self.process = await trio.lowlevel.open_process(
                self._recipes.command(self.recipe, self._url),
                cwd=self._home,
                env=self._recipes.environment(self._url, self._heartbeat_seconds),
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,  # a shell's children go with it
            )
        task_status.started()
        assert self.process.stdout is not None
        rest = b""
        try:
            async for data in self.process.stdout:
                *lines, rest = (rest + data).split(b"\n")
                self.lines += [line.decode() for line in lines]
            return await self.process.wait()
        finally:
            with trio.move_on_after(END_SECONDS, shield=True):
                await self.end()

    async def end(self) -> None:
        """Kill -9, it and what it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        await self.process.wait()
