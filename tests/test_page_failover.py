"""The page behind a plain TCP balancer, on real replicas and a real Kafka: whatever ends, it goes on without a loss."""

import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from tests.balancer import Balancer, open_balancer
from tests.browser import Page, open_browser
from tests.conftest import Kafka
from tests.producing import produce_numbered
from tests.replicas import Replica

PARTITIONS = 4
HALF = 80
"""Records before and after; all of them together fit into the page's list."""

WATCH = """
window.states = [];
new MutationObserver(() => {
  const { state } = document.querySelector("#badge").dataset;
  if (state !== window.states.at(-1)) window.states.push(state);
}).observe(document.querySelector("#badge"), { attributes: true });
"""
"""Keeps every state that the badge shows from now on."""


class Scene:
    """Two replicas, the balancer in front of them, and a page."""

    def __init__(self, kafka: Kafka, topic: str, replicas: dict[str, Replica], balancer: Balancer, page: Page) -> None:
        self._kafka = kafka
        self._topic = topic
        self._replicas = replicas
        self._written = 0
        self.balancer = balancer
        self.page = page

    async def write(self, number: int) -> None:
        """Write the next records, round robin over the partitions."""
        arguments = (self._kafka.bootstrap_servers, self._topic, number, PARTITIONS, 0, self._written)
        await trio.to_thread.run_sync(produce_numbered, *arguments)
        self._written += number

    async def replica(self) -> Replica:
        """The one that the page is on."""
        name = await self.page.run("document.querySelector('#replica').textContent")
        return self._replicas[name.split()[0]]

    async def other(self) -> Replica:
        """The one that it is not on."""
        own = await self.replica()
        return next(replica for replica in self._replicas.values() if replica is not own)

    async def all_is_shown(self) -> None:
        """Return when the page is live and its list has every record, each once."""
        await self.page.until("document.querySelector('#badge').dataset.state === 'live'", 60)
        await self.page.until(f"document.querySelectorAll('#records > li').length >= {self._written}", 60)
        ids = await self.page.run("[...document.querySelectorAll('#records > li')].map((item) => item.dataset.id)")
        each = [f"{self._topic}:{n % PARTITIONS}={n // PARTITIONS}" for n in range(self._written)]
        assert sorted(ids) == sorted(each)

    async def went_through(self, *states: str) -> None:
        """Check that the badge showed these states in this order, and perhaps others between them."""
        shown = await self.page.run("window.states")
        remaining = iter(shown)
        assert [state for state in states if state in remaining] == list(states), shown


@asynccontextmanager
async def scene(
    kafka: Kafka, replicas: Callable[..., Replica], query: str = "", heartbeat_seconds: float = 0.5
) -> AsyncIterator[Scene]:
    """A page that is live and has shown the first records."""
    topic = kafka.create_topic(PARTITIONS)
    start = partial(
        replicas,
        kafka.bootstrap_servers,
        topic,
        settings={"heartbeat_seconds": heartbeat_seconds},
        kafka={"session.timeout.ms": 6000},
    )
    started = {name: await trio.to_thread.run_sync(partial(start, client_id=name)) for name in ("one", "two")}
    half = PARTITIONS // 2
    for replica in started.values():
        await trio.to_thread.run_sync(replica.wait_for, "its half", lambda status: len(status["partitions"]) == half)
    with trio.fail_after(150):
        async with open_balancer(list(started.values())) as balancer, open_browser() as browser:
            page = await browser.new_page()
            await page.look(1280, 860)
            await page.open(balancer.url + "/" + query)
            await page.until("document.querySelector('#badge')?.dataset.state === 'live'")
            stage = Scene(kafka, topic, started, balancer, page)
            await stage.write(HALF)
            # Of its own replica: the other one keeps its half, as nobody reads there.
            await page.until(f"document.querySelectorAll('#records > li').length >= {HALF // 2}")
            await page.run(WATCH)
            yield stage


@pytest.mark.parametrize("transport", ["sse", "websocket"])
async def test_a_killed_replica_costs_no_record(kafka: Kafka, replicas: Callable[..., Replica], transport: str) -> None:
    """Reconnecting, catching up, live; what the killed one had comes from the other, and nothing comes twice."""
    async with scene(kafka, replicas, f"?transport={transport}") as stage:
        victim = await stage.replica()
        victim.signal(signal.SIGKILL)
        await stage.write(HALF)
        await stage.all_is_shown()
        await stage.went_through("reconnecting", "catching-up", "live")
        assert (await stage.replica()) is not victim


async def test_a_stopped_replica_says_goodbye(kafka: Kafka, replicas: Callable[..., Replica]) -> None:
    """The badge tells that the replica restarts, and the page goes on with the other one."""
    async with scene(kafka, replicas) as stage:
        await stage.page.run("""
            window.reasons = [];
            new MutationObserver(() => window.reasons.push(document.querySelector("#badge").textContent))
              .observe(document.querySelector("#badge"), { childList: true, characterData: true, subtree: true });
        """)
        (await stage.replica()).signal(signal.SIGTERM)
        await stage.write(HALF)
        await stage.all_is_shown()
        await stage.went_through("reconnecting", "live")
        reasons = await stage.page.run("window.reasons.join()")
        assert "the replica is restarting (1012)" in reasons


async def test_a_connection_that_only_looks_open_is_given_up(kafka: Kafka, replicas: Callable[..., Replica]) -> None:
    """A balancer that passes nothing on: silence for two heartbeats, and the page takes another connection."""
    async with scene(kafka, replicas) as stage:
        stage.balancer.fall_silent()
        await stage.write(HALF)
        await stage.page.until("window.states.includes('reconnecting')")
        # Whichever replica it comes to next: the other half comes when the one that holds it has gone.
        await stage.page.until("document.querySelector('#badge').dataset.state === 'live'")
        (await stage.other()).signal(signal.SIGTERM)
        await stage.all_is_shown()


async def test_an_hour_of_sleep_costs_nothing(kafka: Kafka, replicas: Callable[..., Replica]) -> None:
    """A laptop that wakes up an hour later looks at its clock, takes a new connection, and misses nothing."""
    async with scene(kafka, replicas, heartbeat_seconds=30) as stage:
        stage.balancer.fall_silent()
        await stage.page.run("{ const now = Date.now; Date.now = () => now() + 3_600_000; }")
        await stage.page.until("window.states.includes('reconnecting')")
        await stage.write(HALF)
        await stage.page.until("document.querySelector('#badge').dataset.state === 'live'", 60)
        (await stage.other()).signal(signal.SIGTERM)
        await stage.all_is_shown()
