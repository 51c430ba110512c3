"""Firefox without a window, spoken to over WebDriver BiDi: https://w3c.github.io/webdriver-bidi.

Only what the tests need: one tab, in which expressions are evaluated. CI does without Firefox.
"""

import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
import trio
from trio_websocket import WebSocketConnection, open_websocket_url

from testbed.broker import leash
from testbed.browser import START_SECONDS, BrowserError, Tab
from testbed.patience import seconds
from testbed.tools import find, need

NAMES = ("firefox", "firefox-esr")

FIREFOX = pytest.param(
    "firefox",
    marks=pytest.mark.skipif(find(*NAMES) is None, reason="this test needs firefox, which this machine does not have"),
)
"""For tests in several browsers: unlike the others, it may be missing in CI, too."""


class FirefoxTab(Tab):
    """The only tab; made by `open_firefox`."""

    def __init__(self, connection: WebSocketConnection) -> None:
        self._connection = connection
        self._numbers = itertools.count(1)
        self._context = ""

    async def _send(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        await self._connection.send_message(orjson.dumps(message).decode())
        while True:
            answer = orjson.loads(await self._connection.get_message())
            if answer.get("id") == number:
                break
        if answer["type"] == "error":
            raise BrowserError(f"{method}: {answer['message']}")
        return dict(answer["result"])

    async def begin(self) -> None:
        """Take over the browser and its tab."""
        await self._send("session.new", capabilities={})
        (found,) = (await self._send("browsingContext.getTree"))["contexts"]
        self._context = found["context"]

    async def open(self, url: str) -> None:
        """Go there; returns when the browser has begun to load it."""
        await self._send("browsingContext.navigate", context=self._context, url=url, wait="none")

    async def run(self, script: str) -> Any:
        """The value of an expression, awaited if it is a promise; nothing but strings, numbers and truth values."""
        target = {"context": self._context}
        answer = await self._send("script.evaluate", expression=script, target=target, awaitPromise=True)
        if answer["type"] == "exception":
            raise BrowserError(str(answer["exceptionDetails"]["text"]))
        return answer["result"].get("value")


@asynccontextmanager
async def open_firefox() -> AsyncIterator[FirefoxTab]:
    """A browser with a profile of its own within the ``async with`` block."""
    executable = need(*NAMES)
    with (
        tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True) as folder,
        _running(executable, folder) as process,
    ):
        address = await _address(Path(folder), process)
        async with open_websocket_url(f"{address}/session", max_message_size=1024 * 1024) as connection:
            tab = FirefoxTab(connection)
            await tab.begin()
            yield tab


@contextmanager
def _running(executable: str, folder: str) -> Iterator["subprocess.Popen[bytes]"]:
    # It dies with the thread that starts it, which is the main one.
    leashed = [sys.executable, "-I", "-S", leash.__file__, str(os.getpid())]
    flags = ["--headless", "--no-remote", "--profile", folder, "--remote-debugging-port", "0"]
    process = subprocess.Popen(
        [*leashed, executable, *flags, "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HOME": folder},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def _address(profile: Path, process: "subprocess.Popen[bytes]") -> str:
    """Where the browser listens, once it does."""
    path = trio.Path(profile, "WebDriverBiDiServer.json")
    with trio.fail_after(seconds(START_SECONDS)):
        while True:
            if process.poll() is not None:
                raise BrowserError(f"the browser ended with {process.returncode}")
            text = await path.read_bytes() if await path.exists() else b""
            if text.endswith(b"}"):
                found = orjson.loads(text)
                return f"ws://{found['ws_host']}:{found['ws_port']}"
            await trio.sleep(0.02)
