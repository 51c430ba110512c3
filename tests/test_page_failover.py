"""The page with a plain TCP balancer, real replicas and a real Kafka: whatever ends, it continues without a loss."""

import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from testbed.balancer import Balancer, open_balancer
from testbed.broker.cluster import KafkaCluster
from testbed.browser import Page, open_profile
from testbed.clients import open_sse, sse_records
from testbed.patience import seconds
from testbed.producing import produce_numbered
from testbed.replicas import Replica
from tests.conftest import Kafka

PARTITIONS = 6
HALF = 84
"""Records before and after; all of them together fit into the page's list."""

WATCH = """
window.states = [];
window.reasons = [];
new MutationObserver(() => {
  const badge = document.querySelector("#badge");
  if (badge.dataset.state !== window.states.at(-1)) window.states.push(badge.dataset.state);
  window.reasons.push(badge.textContent);
}).observe(document.querySelector("#badge"), { attributes: true, childList: true, characterData: true, subtree: true });
"""
"""Keeps every state that the badge shows from now on, and its words."""
LIVE = "document.querySelector('#badge')?.dataset.state === 'live'"


class Scene:
    """Replicas, the balancer in front of them, and a page.

    Args:
        kafka: The broker.
        topic: Its topic.
        start: Starts a replica with this ``client_id``.
    """

    balancer: Balancer
    page: Page

    def __init__(self, kafka: Kafka, topic: str, start: Callable[..., Replica]) -> None:
        self._kafka = kafka
        self._topic = topic
        self._start = start
        self._replicas: dict[str, Replica] = {}
        self._written = 0
        self._before: list[str] = []
        """What was shown before a reload."""

    async def join(self, name: str) -> None:
        """One more replica; returns when all of them have as many partitions."""
        self._replicas[name] = await trio.to_thread.run_sync(partial(self._start, client_id=name))
        share = PARTITIONS // len(self._replicas)
        for replica in self._replicas.values():
            await trio.to_thread.run_sync(replica.wait_for, "its share", lambda s: len(s["partitions"]) == share)

    @property
    def replicas(self) -> list[Replica]:
        """All that were started."""
        return list(self._replicas.values())

    async def write(self, number: int) -> None:
        """Write the next records, round robin over the partitions."""
        arguments = (self._kafka.bootstrap_servers, self._topic, number, PARTITIONS, 0, self._written)
        await trio.to_thread.run_sync(produce_numbered, *arguments)
        self._written += number

    async def replica(self) -> Replica:
        """The one that the page is on."""
        name = await self.page.run("document.querySelector('#replica').textContent")
        return self._replicas[name.split()[0]]

    async def stop_others(self) -> None:
        """SIGTERM to those that the page is not on: what they hold comes to it."""
        own = await self.replica()
        for replica in self._replicas.values():
            if replica is not own:
                replica.signal(signal.SIGTERM)

    async def ids(self) -> list[str]:
        """Which records the list shows."""
        return list(
            await self.page.run("[...document.querySelectorAll('#records > li')].map((item) => item.dataset.id)")
        )

    async def leave(self) -> None:
        """Go elsewhere, and forget nothing of what the page has shown."""
        self._before += await self.ids()
        await self.page.open("about:blank")
        await self.page.until("location.href === 'about:blank'")

    async def reload(self) -> None:
        """Load the page again, and forget nothing of what it has shown."""
        # What it has taken is drawn at most 200 ms later, with the frame after that; it does not take it again.
        await self.page.run("new Promise((drawn) => setTimeout(() => requestAnimationFrame(drawn), 300))")
        self._before += await self.ids()
        await self.page.run("window.isOld = true")
        await self.page.send("Page.reload")
        await self.page.until(f"!window.isOld && {LIVE}")

    async def all_is_shown(self) -> None:
        """Return when the page is live and has shown every record, each once."""
        await self.page.until(LIVE, 60)
        missing = self._written - len(self._before)
        await self.page.until(f"document.querySelectorAll('#records > li').length >= {missing}", 60)
        each = [f"{self._topic}:{n % PARTITIONS}={n // PARTITIONS}" for n in range(self._written)]
        assert sorted(self._before + await self.ids()) == sorted(each)

    async def went_through(self, *states: str) -> None:
        """Return when the badge has shown these states in this order, and perhaps others between them."""
        # Records may be drawn before the badge.
        find = "for (const state of window.states) if (state === left[0]) left.shift();"
        await self.page.until(f"(() => {{ const left = {list(states)}; {find} return !left.length; }})()")


@asynccontextmanager
async def scene(
    kafka: Kafka, replicas: Callable[..., Replica], query: str = "", **settings: float
) -> AsyncIterator[Scene]:
    """A page that is live and has shown the first records."""
    topic = kafka.create_topic(PARTITIONS)
    start = partial(
        replicas,
        kafka.bootstrap_servers,
        topic,
        settings={"heartbeat_seconds": 0.5, **settings},
        kafka={"session.timeout.ms": 6000},
    )
    stage = Scene(kafka, topic, start)
    await stage.join("one")
    await stage.join("two")
    with trio.fail_after(seconds(150)):
        async with open_balancer(stage.replicas) as stage.balancer, open_profile() as browser:
            stage.page = await browser.new_page()
            await stage.page.look(1280, 860)
            await stage.page.open(f"{stage.balancer.url}/?observe=0{query}")
            await stage.page.until(LIVE)
            await stage.write(HALF)
            # Of its own replica: the other one keeps its half, as nobody reads there.
            await stage.page.until(f"document.querySelectorAll('#records > li').length >= {HALF // 2}")
            await stage.page.run(WATCH)
            yield stage


@pytest.mark.parametrize("transport", ["sse", "websocket"])
async def test_a_killed_replica_costs_no_record(kafka: Kafka, replicas: Callable[..., Replica], transport: str) -> None:
    """The page reconnects, and the other replica sends everything; nothing repeats."""
    async with scene(kafka, replicas, f"&transport={transport}") as stage:
        victim = await stage.replica()
        # What it had dispatched and not committed would come from the other one as well.
        await trio.to_thread.run_sync(
            victim.wait_for, "committed", lambda s: all(p["lag"] == 0 for p in s["partitions"])
        )
        victim.signal(signal.SIGKILL)
        await stage.write(HALF)
        await stage.all_is_shown()
        # Whether it has to catch up depends on how soon it is back.
        await stage.went_through("reconnecting", "live")
        assert (await stage.replica()) is not victim


async def test_a_stopped_replica_says_goodbye(kafka: Kafka, replicas: Callable[..., Replica]) -> None:
    """The badge says that the replica restarts, and the page continues with the other one."""
    async with scene(kafka, replicas) as stage:
        (await stage.replica()).signal(signal.SIGTERM)
        await stage.write(HALF)
        await stage.all_is_shown()
        await stage.went_through("reconnecting", "live")
        reasons = await stage.page.run("window.reasons.join()")
        assert "the replica is restarting (1012)" in reasons


async def test_a_connection_that_only_looks_open_is_given_up(kafka: Kafka, replicas: Callable[..., Replica]) -> None:
    """After two heartbeats of silence from a balancer, the page reconnects."""
    async with scene(kafka, replicas) as stage:
        stage.balancer.fall_silent()
        await stage.write(HALF)
        await stage.page.until("window.states.includes('reconnecting')")
        # Whichever replica it comes to next: the other half comes when the one that holds it has gone.
        await stage.page.until(LIVE)
        await stage.stop_others()
        await stage.all_is_shown()


async def test_an_hour_of_sleep_costs_nothing(kafka: Kafka, replicas: Callable[..., Replica]) -> None:
    """A laptop that wakes up checks its clock, reconnects, and misses nothing."""
    async with scene(kafka, replicas, heartbeat_seconds=30) as stage:
        stage.balancer.fall_silent()
        await stage.page.run("{ const now = Date.now; Date.now = () => now() + 3_600_000; }")
        await stage.page.until("window.states.includes('reconnecting')")
        await stage.write(HALF)
        await stage.page.until(LIVE, 60)
        await stage.stop_others()
        await stage.all_is_shown()


async def test_a_rebalance_costs_no_record(kafka: Kafka, replicas: Callable[..., Replica]) -> None:
    """One replica joins and two leave; the time line shows each, on the same connection."""
    async with scene(kafka, replicas) as stage:
        await stage.join("three")
        await stage.page.until(LIVE)
        await stage.went_through("rebalancing", "live")
        # Also the one that came after the page's connections were made.
        stage.balancer.backends = [*stage.replicas]
        await stage.page.until("document.querySelectorAll('#partitions h3').length === 3")
        assert "partitions are moving between replicas" in await stage.page.run("window.reasons.join()")
        await stage.stop_others()
        await stage.write(HALF)
        await stage.all_is_shown()
        assert "reconnecting" not in await stage.page.run("window.states")
        marks = "[...document.querySelectorAll('#events [data-kind=rebalance]')].map((item) => item.innerText).join()"
        for words in ("1 revoked", f"has {PARTITIONS} now"):
            await stage.page.until(f"{marks}.includes('{words}')")


async def test_a_reload_goes_on_at_another_replica(kafka: Kafka, replicas: Callable[..., Replica]) -> None:
    """Shown records do not return, but those that were sent to others meanwhile do."""
    async with scene(kafka, replicas) as stage:
        before = await stage.replica()
        async with open_sse(before) as other:
            await stage.leave()
            await stage.write(HALF)
            await sse_records(other, HALF // 2)
        await stage.page.back()
        await stage.page.until(LIVE)
        while await stage.replica() is before:  # the balancer's turn is not the page's alone
            await stage.reload()
        await stage.stop_others()
        await stage.all_is_shown()


async def test_a_broker_restart_costs_no_record(
    own_cluster: Callable[..., KafkaCluster], replicas: Callable[..., Replica]
) -> None:
    """The badge says that no broker is reachable, and goes live again on the same connection."""
    cluster = own_cluster()
    await trio.to_thread.run_sync(cluster.start)
    # Neither a second without a heartbeat nor one without a partition ends the connection: that is for other tests.
    kafka = Kafka(cluster.bootstrap_servers, cluster.description)
    async with scene(kafka, replicas, heartbeat_seconds=10, spread_seconds=0) as stage:
        await trio.to_thread.run_sync(cluster.kill_node, 0)
        await stage.page.until("document.querySelector('#badge').dataset.state === 'broker-down'")
        cluster.start_node(0)
        await trio.to_thread.run_sync(cluster.wait_until_ready)
        await stage.page.until(LIVE, 60)
        await stage.went_through("broker-down", "live")
        assert "no Kafka broker can be reached" in await stage.page.run("window.reasons.join()")
        assert "reconnecting" not in await stage.page.run("window.states")
        await stage.stop_others()
        await stage.write(HALF)
        await stage.all_is_shown()


async def test_the_page_only_looks_until_its_reader_takes_part(kafka: Kafka, replicas: Callable[..., Replica]) -> None:
    """Until then, records that it shows wait for others; afterwards they are committed."""
    topic = kafka.create_topic(PARTITIONS)
    replica = await trio.to_thread.run_sync(replicas, kafka.bootstrap_servers, topic)
    await trio.to_thread.run_sync(
        replica.wait_for, "all partitions", lambda status: len(status["partitions"]) == PARTITIONS
    )
    badge = "document.querySelector('#badge b')?.textContent"
    list_length = "document.querySelectorAll('#records > li').length"
    whole = f"{badge} === 'live, all {PARTITIONS} partitions'"
    with trio.fail_after(seconds(90)):
        async with open_profile() as browser:
            page = await browser.new_page()
            await page.open(replica.url)
            await page.until(whole)
            # In the list of what happened, and for people who hear the page, just as in the badge.
            for where in ("#events [data-kind=state] b", "#said"):
                await page.until(
                    f"document.querySelector('{where}')?.textContent.startsWith('live, all {PARTITIONS} ')"
                )
            await trio.to_thread.run_sync(produce_numbered, kafka.bootstrap_servers, topic, 10, PARTITIONS)
            await page.until(f"{list_length} === 10")
            assert replica.status()["records"]["dispatched"] == 0
            await page.run("document.querySelector('#switch').click()")
            await page.until(f"location.search === '?observe=0' && {whole} && {list_length} === 10")
            await trio.to_thread.run_sync(
                replica.wait_for, "committed", lambda s: all(one["lag"] == 0 for one in s["partitions"])
            )
            assert page.complaints == []
