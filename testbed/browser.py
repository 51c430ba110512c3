"""A real browser for tests: Chromium without a window, spoken to over the Chrome DevTools Protocol.

Only what the tests need: https://chromedevtools.github.io/devtools-protocol/ has the rest.
"""

import atexit
import base64
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, open_websocket_url

from testbed.broker import leash
from testbed.patience import TooLateError
from testbed.patience import seconds as patient_seconds
from testbed.tools import need

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""A screenshot is one message."""

START_SECONDS = 20.0
"""Within these a browser listens on a quiet machine (`testbed.patience`)."""

LEAST_TASK_MS = 5.0
"""Shorter tasks are not noted while a browser is traced."""

NAMES = ("chromium", "chromium-browser", "google-chrome")
"""Of the program, wherever this machine has it from."""

FLAGS = (
    "--headless=new",
    "--no-sandbox",  # tests run as root in containers, which have no other sandbox to offer
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-features=BackForwardCache",  # who goes back loads the page again, so that tests can tell
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)


class BrowserError(Exception):
    """The browser refused a command, or a script in the page threw."""


class Tab(ABC):
    """What tests do in a tab of any browser."""

    @abstractmethod
    async def open(self, url: str) -> None:
        """Go there; returns when the browser has begun to load it."""

    @abstractmethod
    async def run(self, script: str) -> Any:
        """The value of an expression, awaited if it is a promise.

        Raises:
            BrowserError: it threw.
        """

    async def until(self, condition: str, seconds: float = 30) -> None:
        """Return when an expression is true, through reloads too.

        Raises:
            TooLateError: it was not in time.
        """
        look = f"const look = () => {{ if ({condition}) go(true); else setTimeout(look, 20); }};"
        wait = f"new Promise((go) => {{ {look} look(); }})"
        with trio.move_on_after(patient_seconds(seconds)):
            while True:
                try:
                    await self.run(wait)
                except BrowserError:
                    await trio.sleep(0.05)  # the page was left meanwhile, or is not there yet
                else:
                    return
        state = await self.run("document.body?.innerText.slice(0, 2000)")
        raise TooLateError(f"not within {seconds:g} s: {condition}\n{state}")


class Page(Tab):
    """One tab of Chromium.

    Args:
        browser: Where it is.
        session: Its session.
        target: Its name among the browser's tabs.
    """

    def __init__(self, browser: "Browser", session: str, target: str) -> None:
        self._browser = browser
        self._session = session
        self._target = target

    async def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the protocol, and its result. *Cancellation*: the command may have been carried out."""
        return await self._browser.send(method, self._session, **parameters)

    async def open(self, url: str) -> None:
        """Go there; returns when the browser has begun to load it."""
        await self.send("Page.navigate", url=url)

    async def close(self) -> None:
        """Close the tab, and every connection that it holds."""
        await self._browser.send("Target.closeTarget", targetId=self._target)

    async def back(self) -> None:
        """Go to the page before; returns when the browser is about to."""
        await self.run("void setTimeout(() => history.back())")  # an answer from within would be lost with the page

    async def run(self, script: str) -> Any:
        """The value of an expression, awaited if it is a promise.

        Raises:
            BrowserError: it threw.
        """
        answer = await self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise BrowserError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    async def press(self, key: str) -> None:
        """A key goes down and up."""
        more: dict[str, Any] = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
        if key == "Tab":
            more = {"windowsVirtualKeyCode": 9}  # without it the focus does not move
        await self.send("Input.dispatchKeyEvent", type="keyDown", key=key, **more)
        await self.send("Input.dispatchKeyEvent", type="keyUp", key=key)

    async def look(self, width: int, height: int, scheme: str = "light", scale: float = 1) -> None:
        """Give the page a size in CSS pixels, and a colour scheme."""
        await self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=width < 500,
        )
        await self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    async def shot(self) -> bytes:
        """What is seen, as PNG."""
        answer = await self.send("Page.captureScreenshot", format="png")
        return base64.b64decode(answer["data"])

    @property
    def complaints(self) -> list[str]:
        """What the browser logged as an error: exceptions, refusals by the policy."""
        return self._browser.complaints[self._session]


class Browser:
    """A running browser, or a profile in one; made by `open_browser` or `open_profile`."""

    def __init__(self, connection: WebSocketConnection) -> None:
        self._connection = connection
        self.profile: Mapping[str, str] = {}
        """What names the profile that new pages are in, if not the first one."""
        self._numbers = itertools.count(1)
        self._answers: dict[int, trio.MemorySendChannel[dict[str, Any]]] = {}
        self.complaints: dict[str, list[str]] = {}
        self._traced: list[dict[str, Any]] = []
        self._has_traced = trio.Event()

    async def send(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """A command, and its result.

        Raises:
            BrowserError: the browser refused it.
        """
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        send_channel, receive_channel = trio.open_memory_channel[dict[str, Any]](1)
        self._answers[number] = send_channel
        try:
            await self._connection.send_message(orjson.dumps(message).decode())
            answer = await receive_channel.receive()
        finally:
            del self._answers[number]
        if "error" in answer:
            raise BrowserError(f"{method}: {answer['error']['message']}")
        return dict(answer["result"])

    async def new_page(self) -> Page:
        """Another tab, with a storage that it shares with the others."""
        target = await self.send("Target.createTarget", url="about:blank", **self.profile)
        attached = await self.send("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        page = Page(self, attached["sessionId"], target["targetId"])
        self.complaints[attached["sessionId"]] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            await page.send(f"{domain}.enable")
        return page

    @asynccontextmanager
    async def tracing(self) -> AsyncIterator[list[float]]:
        """The CPU time of each task of pages' main threads that took at least `LEAST_TASK_MS`, filled in at the end.

        In milliseconds, whatever else the machine does meanwhile: by the clock, tasks also wait for the processor.
        """
        self._traced, self._has_traced = [], trio.Event()
        config = {"includedCategories": ["toplevel"], "excludedCategories": ["*"]}
        await self.send("Tracing.start", traceConfig=config, transferMode="ReportEvents")
        tasks: list[float] = []
        yield tasks
        await self.send("Tracing.end")
        await self._has_traced.wait()
        named = [each for each in self._traced if each["name"] == "thread_name"]
        mains = {(each["pid"], each["tid"]) for each in named if each["args"]["name"] == "CrRendererMain"}
        assert mains
        durations = [each for each in self._traced if "tdur" in each and (each["pid"], each["tid"]) in mains]
        tasks += [each["tdur"] / 1000 for each in durations]

    def _trace(self, events: list[dict[str, Any]]) -> None:
        least = LEAST_TASK_MS * 1000
        self._traced += [each for each in events if each.get("tdur", 0) >= least or each["name"] == "thread_name"]

    async def hear(self) -> None:
        """Hand out answers and keep complaints, until the browser has gone."""
        while True:
            try:
                message = orjson.loads(await self._connection.get_message())
            except ConnectionClosed:
                return
            if "id" in message:
                if message["id"] in self._answers:
                    self._answers[message["id"]].send_nowait(message)
                continue
            complaints = self.complaints.get(message.get("sessionId", ""), [])
            if message["method"] == "Tracing.dataCollected":
                self._trace(message["params"]["value"])
            elif message["method"] == "Tracing.tracingComplete":
                self._has_traced.set()
            elif message["method"] == "Runtime.exceptionThrown":
                complaints.append(str(message["params"]["exceptionDetails"]))
            elif message["method"] == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
                entry = message["params"]["entry"]
                complaints.append(f"{entry['source']}: {entry['text']} {entry.get('url', '')}")


@asynccontextmanager
async def open_browser(*flags: str, preferences: Mapping[str, Any] | None = None) -> AsyncIterator[Browser]:
    """A browser within the ``async with`` block; the test is skipped where there is none, and fails there in CI.

    Args:
        flags: For the command line, beside `FLAGS`.
        preferences: Of its user, as Chromium stores them.
    """
    executable = need(*NAMES)
    with tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True) as folder:
        if preferences:
            profile = trio.Path(folder, "Default")
            await profile.mkdir()
            await (profile / "Preferences").write_bytes(orjson.dumps(preferences))
        process = await trio.lowlevel.open_process(
            [executable, *FLAGS, *flags, f"--user-data-dir={folder}", "about:blank"],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "HOME": folder},
        )
        assert process.stderr is not None
        try:
            async with trio.open_nursery() as nursery:
                address = await nursery.start(read_address, process.stderr)
                async with open_websocket_url(address, max_message_size=MAX_MESSAGE_BYTES) as connection:
                    browser = Browser(connection)
                    nursery.start_soon(browser.hear)
                    yield browser
                nursery.cancel_scope.cancel()
        finally:
            with trio.move_on_after(10, shield=True):
                process.kill()
                await process.wait()


class _Shared:
    """A browser that lives as long as this process, which starts it when it first needs one with these flags."""

    def __init__(self, flags: tuple[str, ...]) -> None:
        executable = need(*NAMES)
        self._folder = Path(tempfile.mkdtemp(prefix="browser-"))
        # It dies with the thread that starts it, which is the main one.
        leashed = [sys.executable, "-I", "-S", leash.__file__, str(os.getpid())]
        self._process = subprocess.Popen(
            [*leashed, executable, *FLAGS, *flags, f"--user-data-dir={self._folder}", "about:blank"],
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "HOME": str(self._folder)},
        )
        atexit.register(self._end)

    @property
    def has_ended(self) -> bool:
        """Whether it crashed."""
        return self._process.poll() is not None

    async def address(self) -> str:
        """Where it listens, once it does.

        Raises:
            BrowserError: it has ended before.
        """
        path = trio.Path(self._folder, "DevToolsActivePort")
        with trio.fail_after(patient_seconds(START_SECONDS)):
            while True:
                if self.has_ended:
                    raise BrowserError(f"the browser ended with {self._process.returncode}")
                # The second line follows the first one.
                lines = (await path.read_text()).split("\n") if await path.exists() else []
                if len(lines) == 2 and lines[1].startswith("/devtools/browser/"):
                    return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
                await trio.sleep(0.02)

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


_shared: dict[tuple[str, ...], _Shared] = {}


@asynccontextmanager
async def open_profile(*flags: str) -> AsyncIterator[Browser]:
    """A profile of its own within the ``async with`` block: nothing in it was stored, fetched or connected before.

    It is in a browser that all tests of this process share, as to start one takes more CPU than most tests do.

    Args:
        flags: As for `open_browser`.
    """
    if flags not in _shared or _shared[flags].has_ended:
        _shared[flags] = _Shared(flags)
    address = await _shared[flags].address()
    async with (
        trio.open_nursery() as nursery,
        open_websocket_url(address, max_message_size=MAX_MESSAGE_BYTES) as connection,
    ):
        browser = Browser(connection)
        nursery.start_soon(browser.hear)
        browser.profile = await browser.send("Target.createBrowserContext", disposeOnDetach=True)
        yield browser
        nursery.cancel_scope.cancel()


async def read_address(
    output: trio.abc.ReceiveStream, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED
) -> None:
    """Tell where the browser listens, then read on, or it would wait for somebody who reads its log."""
    log = b""
    is_told = False
    async for data in output:
        if is_told:
            continue
        log += data
        for line in log.decode(errors="replace").splitlines(keepends=True):
            if line.startswith("DevTools listening on ") and line.endswith("\n"):
                task_status.started(line.split()[-1])
                is_told = True
    if not is_told:
        raise BrowserError(f"the browser did not start: {log.decode(errors='replace')}")
