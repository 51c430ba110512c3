"""client.js: its logic in Node, on a server that is written byte by byte (tests/client_js), and its size and types."""

import gzip
import os
import re
import subprocess
from functools import partial
from pathlib import Path

import pytest
import trio

from testbed.tools import ESBUILD, need
from tests.client_cases.server import case_server

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / "dispatcher" / "web" / "page" / "client.js"
MOST_BYTES = 13 * 1024


def run(*command: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """A command of Node's, whose words are for people who read a failure."""
    whole = {**os.environ, **environment}
    return subprocess.run(command, cwd=ROOT, env=whole, capture_output=True, text=True, timeout=150, check=False)


def run_tests(name: str, **environment: str) -> int:
    """How many tests of a file in tests/client_js passed; all of them have to, over WebSocket where Node has it."""
    need("node")
    known = run("node", "--help").stdout
    # A WebSocket that was given up while it was being opened would keep Node alive for as long as the server does.
    flags = [flag for flag in ("--experimental-websocket", "--test-force-exit") if flag in known]
    done = run("node", *flags, "--test", "--test-reporter=spec", f"tests/client_js/{name}", **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"pass (\d+)", done.stdout)
    assert passed is not None
    return int(passed[1])


def test_its_logic_in_node() -> None:
    """Against a server whose answers are written byte by byte."""
    assert run_tests("client.test.js") > 30


def test_the_page_shows_any_timestamp() -> None:
    """The cases that all clients share."""
    assert run_tests("times.test.js", TZ="UTC") > 20


def test_the_page_shows_any_record_in_bounds() -> None:
    """Nesting and size cost no more than what is shown."""
    assert run_tests("detail.test.js") >= 4


async def test_it_passes_the_table_of_cases() -> None:
    """The one that all clients share."""
    async with case_server() as server:
        passed = await trio.to_thread.run_sync(partial(run_tests, "cases.test.js", CASES_URL=server.url))
    assert passed > 30


def test_it_is_small() -> None:
    """Minified, as a bundler puts it into a page, it stays below 13 KiB, 6 compressed."""
    need("npx")
    done = run("npx", "--yes", ESBUILD, "--bundle", "--format=esm", "--minify", str(CLIENT))
    if done.returncode != 0:
        pytest.skip(f"{ESBUILD} cannot be had here: {done.stderr.strip().splitlines()[-1]}")
    size_bytes = len(done.stdout.encode())
    assert size_bytes < MOST_BYTES, f"{size_bytes} bytes, {len(gzip.compress(done.stdout.encode()))} compressed"


def test_it_has_no_dependencies() -> None:
    """It imports nothing, so a page can take it as it is."""
    assert re.search(r"^\s*import\b|\bimport\(|\brequire\(", CLIENT.read_text(), re.MULTILINE) is None
