"""``python -m tests.page_trials``: pages in Chromium through minutes of harm, on a real replica and a real Kafka.

Each trial opens pages, does them harm, writes records meanwhile, and waits until every page is live again by itself and
has been handed each record once.
"""

import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import click
import trio

from testbed.broker.cluster import KafkaCluster
from testbed.browser import Browser, Page, open_browser
from testbed.patience import seconds
from testbed.producing import produce_numbered
from testbed.replicas import Replica

PARTITIONS = 3
LOT = 30
TABS = 50
LIVE = "window.told?.state === 'live'"
SUBSCRIBE = """import("/client.js").then(({ subscribe }) => {
  window.seen = [];
  const onRecord = ({ value }) => seen.push(+value);
  window.stream = subscribe("/", { storageKey: "position", onRecord, onState: (state) => (window.told = state) });
})"""
FILL_STORAGE = """(() => {
  for (let size = 2 ** 22; size; size = Math.floor(size / 2)) {
    try {
      for (let n = 0; n < 9; n += 1) sessionStorage.setItem(`${size} ${n}`, "x".repeat(size));
    } catch {}
  }
})()"""
IS_FULL = "(() => { try { sessionStorage.setItem('position', 't:0=1'); } catch { return true; } })()"
IS_DENIED = "(() => { try { return !sessionStorage; } catch { return true; } })()"
WITHOUT_STORAGE = {"profile": {"default_content_setting_values": {"cookies": 2}}}
"""Settings of a user who blocks what sites store."""


class Stage:
    """A replica, a browser, and the records that were written.

    Args:
        bootstrap_servers: Of Kafka.
        topic: Where records are written.
        replica: What pages are subscribed to.
        browser: Where pages are.
        lasting_seconds: How long harm lasts.
    """

    def __init__(
        self, bootstrap_servers: str, topic: str, replica: Replica, browser: Browser, lasting_seconds: float
    ) -> None:
        self._bootstrap_servers = bootstrap_servers
        self._topic = topic
        self.replica = replica
        self.browser = browser
        self.lasting_seconds = lasting_seconds
        self.written = 0
        self._firsts: dict[Page, int] = {}
        """The first record that was written after a page was live."""

    async def write(self) -> None:
        """Some more records."""
        arguments = (self._bootstrap_servers, self._topic, LOT, PARTITIONS, 0, self.written)
        await trio.to_thread.run_sync(produce_numbered, *arguments)
        self.written += LOT

    async def open_tab(self, before: str = "") -> Page:
        """A page that is live; its document is as small as the origin has any.

        Args:
            before: What has to be true in it after it was run, before it subscribes.
        """
        page = await self.browser.new_page()
        host, port = self.replica.address
        await page.open(f"http://{host}:{port}/client.js")
        await page.until(f"location.port === '{port}' && document.readyState === 'complete'")
        assert not before or await page.run(before) is True
        await page.run(SUBSCRIBE)
        await page.until(LIVE)
        self._firsts[page] = self.written
        return page

    async def last(self) -> None:
        """Let the harm last: records are written in the middle of it."""
        await trio.sleep(self.lasting_seconds / 2)
        await self.write()
        await trio.sleep(self.lasting_seconds / 2)

    async def check(self, *pages: Page) -> None:
        """Every page is live, and has been handed each record once."""
        await self.write()
        for page in pages:
            first = self._firsts[page]
            await page.until(f"seen.length >= {self.written - first} && {LIVE}", 120)
            assert sorted(await page.run("seen")) == [*range(first, self.written)]


async def frozen_server(stage: Stage) -> None:
    """The replica gets SIGSTOP, and SIGCONT later."""
    page = await stage.open_tab()
    await _freeze_replica(stage)
    await stage.check(page)


async def _freeze_replica(stage: Stage) -> None:
    await stage.write()
    stage.replica.signal(signal.SIGSTOP)
    try:
        await stage.last()
    finally:
        stage.replica.signal(signal.SIGCONT)


async def frozen_browser(stage: Stage) -> None:
    """All processes of the browser get SIGSTOP, as a laptop that sleeps, and SIGCONT later."""
    page = await stage.open_tab()
    await stage.write()
    processes = (await stage.browser.send("SystemInfo.getProcessInfo"))["processInfo"]
    try:
        _signal(processes, signal.SIGSTOP)
        await stage.last()
    finally:
        _signal(processes, signal.SIGCONT)
    await stage.check(page)


def _signal(processes: Sequence[Mapping[str, Any]], number: int) -> None:
    for process in processes:
        with suppress(ProcessLookupError):  # a spare one has ended meanwhile
            os.kill(process["id"], number)


async def offline(stage: Stage) -> None:
    """The browser has no network, and then it has one again."""
    page = await stage.open_tab()
    await stage.write()
    conditions = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    await page.send("Network.emulateNetworkConditions", offline=True, **conditions)
    await page.until("navigator.onLine === false")
    await stage.last()
    await page.send("Network.emulateNetworkConditions", offline=False, **conditions)
    await stage.check(page)


async def background(stage: Stage) -> None:
    """Another tab is in front, and the browser freezes the one that nobody sees."""
    page = await stage.open_tab()
    await stage.write()
    await stage.browser.new_page()
    await page.send("Page.setWebLifecycleState", state="frozen")
    await stage.last()
    await page.send("Page.setWebLifecycleState", state="active")
    await stage.check(page)


async def full_storage(stage: Stage) -> None:
    """The storage of the session takes nothing more: the position is not kept, and nothing else is different."""
    page = await stage.open_tab(f"{FILL_STORAGE}, {IS_FULL}")
    await stage.last()
    await stage.check(page)


async def denied_storage(stage: Stage) -> None:
    """Access to sessionStorage throws, and Web Locks are refused, too."""
    page = await stage.open_tab(IS_DENIED)
    await stage.last()
    await stage.check(page)


async def many_tabs(stage: Stage) -> None:
    """Fifty tabs of one origin, whose server freezes."""
    pages = [await stage.open_tab() for _ in range(TABS)]
    await _freeze_replica(stage)
    await stage.check(*pages)


Trial = Callable[[Stage], Awaitable[None]]
TRIALS: dict[str, Trial] = {
    each.__name__.replace("_", "-"): each
    for each in (frozen_server, frozen_browser, offline, background, full_storage, denied_storage, many_tabs)
}


@asynccontextmanager
async def staged(
    name: str, bootstrap_servers: str, topic: str, replica: Replica, lasting: float
) -> AsyncIterator[Stage]:
    """A stage with a browser for the ``async with`` block."""
    preferences = WITHOUT_STORAGE if name == "denied-storage" else {}
    async with open_browser("--process-per-site", preferences=preferences) as browser:
        yield Stage(bootstrap_servers, topic, replica, browser, lasting)


async def run_trial(name: str, bootstrap_servers: str, topic: str, replica: Replica, lasting_seconds: float) -> None:
    """One trial, on a topic and a replica of its own."""
    with trio.fail_after(lasting_seconds + seconds(300)):
        await trio.to_thread.run_sync(replica.wait_until_ready)
        async with staged(name, bootstrap_servers, topic, replica, lasting_seconds) as stage:
            await TRIALS[name](stage)


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(TRIALS)))
@click.option("--seconds", "lasting_seconds", default=120.0, show_default=True, help="How long each harm lasts.")
def main(names: Sequence[str], lasting_seconds: float) -> None:
    """Try pages of Chromium, and say what became of them."""
    failed = []
    with KafkaCluster(1) as cluster:
        for name in names or TRIALS:
            topic = cluster.create_topic(f"trial-{name}", PARTITIONS)
            replica = Replica(cluster.bootstrap_servers, topic)
            try:
                trio.run(run_trial, name, cluster.bootstrap_servers, topic, replica, lasting_seconds)
                click.echo(f"{name}: live again, nothing missing")
            except Exception as error:  # noqa: BLE001 - the other trials are run all the same
                failed.append(name)
                click.echo(f"{name}: {error!r} {json.dumps(replica.log[-2000:])}")
            finally:
                replica.end()
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
