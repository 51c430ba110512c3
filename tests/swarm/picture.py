"""A picture of the dashboard, as Grafana's own libraries draw it in a browser: its server is not needed for that."""

import fcntl
import hashlib
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import orjson
import trio

from testbed.browser import NAMES, open_browser
from testbed.tools import find
from tests.swarm.engine import run
from tests.swarm.panels import DASHBOARD, STEP_SECONDS, Panel

SOURCES = Path(__file__).parent / "grafana"
"""``package.json`` pins the versions, Grafana's as in the stack. It asks for a react-data-grid out of a git repository;
none is drawn here, so the registry's stands in."""

WIDTH = 1600


class CannotDrawError(Exception):
    """Something that the picture needs is not here; the message says what, in a line."""


def draw(panels: Sequence[Panel], path: Path) -> None:
    """Draw the panels where the dashboard has them, and write what is seen as PNG.

    Raises:
        CannotDrawError: a program is missing, or Grafana's libraries cannot be had.
    """
    missing = [names[0] for names in (("node",), ("npm",), NAMES) if find(*names) is None]
    if missing:
        raise CannotDrawError(f"there is no {', '.join(missing)}")
    with _served(_page()) as url:
        trio.run(_photograph, url, panels, path)


async def _photograph(url: str, panels: Sequence[Panel], path: Path) -> None:
    times = [time for panel in panels for series in _series(panel) for time, _ in series["values"]]
    given = {
        "dashboard": DASHBOARD,
        "answers": {str(panel.number): panel.answers for panel in panels},
        "began": min(times),
        "ended": max(times),
        "stepSeconds": STEP_SECONDS,
    }
    async with open_browser() as browser:
        page = await browser.new_page()
        await page.look(WIDTH, 100)
        await page.open(url)
        await page.until("typeof draw === 'function'")
        await page.run(f"draw({orjson.dumps(given).decode()})")
        # Each icon, of a panel's description, is fetched.
        await page.until(f"document.querySelectorAll('section svg').length >= {len(panels)}")
        await page.look(WIDTH, await page.run("document.body.offsetHeight"))
        assert page.complaints == []
        await trio.Path(path).write_bytes(await page.shot())


def _series(panel: Panel) -> Iterator[Any]:
    for answer in panel.answers.values():
        yield from answer


def _page() -> Path:
    """The folder with the page, which is built when it is not there yet.

    Raises:
        CannotDrawError: it could not be built.
    """
    files = sorted(SOURCES.iterdir())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dispatcher-grafana"
    folder = cache / hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
    cache.mkdir(parents=True, exist_ok=True)
    # The second one waits here, and then finds it.
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            print("Fetching Grafana's libraries with npm, once ...", file=sys.stderr, flush=True)  # noqa: T201 - for people
            with tempfile.TemporaryDirectory(dir=cache) as name:
                for file in files:
                    shutil.copy(file, name)
                try:
                    run(["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"], cwd=name)
                    run(["npm", "run", "build"], cwd=name)
                except RuntimeError as error:
                    told = " ".join(str(error).split())
                    raise CannotDrawError(f"Grafana's libraries cannot be had: {told[:300]}") from None
                Path(name, "built").rename(folder)
    return folder


class _Files(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    """The address of a folder's files: a page that is a file itself may fetch none."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Files, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
