"""A plain EventSource in Chromium with ``?scope=topic``, while replicas and brokers of a 3-node Kafka fail.

Nothing else is in the page: no merging, no ``since``, no second connection. Three replicas stand after a TCP balancer.
"""

import math
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial

import trio
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from testbed.balancer import Balancer, open_balancer
from testbed.broker.cluster import KafkaCluster
from testbed.broker.topics import grow
from testbed.browser import Page, open_browser
from testbed.patience import seconds as patient_seconds
from testbed.replicas import Replica
from tests.trial.ledger import Ledger, Row

PARTITIONS = 6
VALUE_BYTES = 200
SESSION_SECONDS = 6
SUSPEND_SECONDS = 10.0
"""Longer than the session."""
BROKER_AWAY_SECONDS = 6.0
CALM_SECONDS = 4.0
"""Between two events."""
QUIET_SECONDS = 20.0
"""Before the end nothing begins."""
END_SECONDS = 60.0
"""How long the last records may take (`testbed.patience.seconds`)."""

SCRIPT = """
window.seen = []; window.told = []; window.opens = 0; window.errors = 0; window.at = "";
const source = new EventSource("/events?scope=topic");
source.onopen = () => { window.opens += 1; };
source.onerror = () => { window.errors += 1; };
source.onmessage = (event) => {
  const own = /^[^:]+:(\\d+)=(\\d+)/.exec(event.lastEventId);
  window.seen.push([Number(own[1]), Number(own[2]), parseInt(event.data, 10)]);
};
source.addEventListener("gap", (event) => window.told.push(event.data));
source.addEventListener("state", (event) => { window.at = JSON.parse(event.data).replica; });
window.source = source;
"""
TAKE = "({seen: seen.splice(0), gaps: told.splice(0), opens, errors, at, closed: source.readyState === 2})"

PROPERTIES: Mapping[str, Mapping[str, object]] = {
    "classic": {"session.timeout.ms": SESSION_SECONDS * 1000},
    "consumer": {"group.protocol": "consumer"},
}
KINDS = ("kill", "stop", "join", "suspend", "broker", "grow", "cut")


class Trial:
    """One run.

    Args:
        cluster: Three nodes that run.
        protocol: The group's.
        seed: Of what happens when.
        tell: Called with what happens, in words.
    """

    def __init__(self, cluster: KafkaCluster, protocol: str, seed: int, tell: Callable[[str], None]) -> None:
        self._cluster = cluster
        self._properties = {**PROPERTIES[protocol], "topic.metadata.refresh.interval.ms": 1000}
        self._chance = random.Random(seed)  # noqa: S311 - it has to be repeatable
        self._tell = tell
        self._topic = f"whole-{protocol}-{seed}"
        self._partitions = PARTITIONS
        self._replicas: list[Replica] = []
        self._number = 0
        self._balancer: Balancer
        self._produced = threading.Event()
        self._at = ""
        self._is_closed = False
        self.happened: Counter[str] = Counter()
        self.ledger = Ledger()
        self.opens = 0
        self.errors = 0

    async def run(self, seconds: float, rate: float) -> None:
        """Let things happen for a time, and return when the reader has everything, or too long after that."""
        self._cluster.create_topic(self._topic, PARTITIONS)
        try:
            for _ in range(3):
                await self._start()
            async with open_balancer(self._replicas) as self._balancer, open_browser() as browser:
                page = await browser.new_page()
                await page.open(f"{self._balancer.url}/livez")
                await page.until("document.readyState === 'complete'")
                await page.run(SCRIPT)
                await page.until("window.opens > 0")
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._watch, page)
                    nursery.start_soon(trio.to_thread.run_sync, self._produce, rate)
                    await self._let_things_happen(trio.current_time() + seconds)
                    self._produced.set()
                    with trio.move_on_after(patient_seconds(END_SECONDS)):
                        await trio.sleep(1)
                        while self.ledger.missing():  # noqa: ASYNC110
                            await trio.sleep(0.2)
                    nursery.cancel_scope.cancel()
        finally:
            self._produced.set()
            for replica in self._replicas:
                replica.end(by_force=True)

    def rows(self) -> list[Row]:
        """The verdict."""
        kinds = ", ".join(f"{self.happened[kind]} {kind}" for kind in KINDS)
        return [
            ("what happened", kinds, True),
            ("connections of the one EventSource", f"{self.opens:,}", self.opens > 0),
            ("EventSource closed for good", str(self._is_closed), not self._is_closed),
            *self.ledger.rows(),
        ]

    async def _start(self) -> Replica:
        self._number += 1
        name = f"replica-{self._number}"
        make = partial(Replica, self._cluster.bootstrap_servers, self._topic, client_id=name, kafka=self._properties)
        replica = await trio.to_thread.run_sync(make)
        self._replicas.append(replica)
        return replica

    async def _watch(self, page: Page) -> None:
        while True:
            found = await page.run(TAKE)
            for partition, offset, number in found["seen"]:
                self.ledger.took(partition, offset, number)
            self.ledger.gaps.extend(found["gaps"])
            self.opens, self.errors, self._at = found["opens"], found["errors"], found["at"]
            self._is_closed = found["closed"]
            await trio.sleep(0.1)

    def _produce(self, rate: float) -> None:
        producer = Producer(
            {
                "bootstrap.servers": self._cluster.bootstrap_servers,
                "enable.idempotence": True,
                "linger.ms": 5,
                "delivery.timeout.ms": 120_000,
                "reconnect.backoff.max.ms": 500,
                "topic.metadata.refresh.interval.ms": 1000,
                "log_level": 2,
            }
        )

        def stored(number: int) -> Callable[[KafkaError | None, Message], None]:
            def delivered(error: KafkaError | None, message: Message) -> None:
                if error is not None:
                    self._tell(f"a record was not stored: {error.str()}")
                else:
                    self.ledger.wrote(message.partition() or 0, message.offset() or 0, number)

            return delivered

        began, number = time.monotonic(), 0
        while not self._produced.is_set():
            due = math.ceil((time.monotonic() - began) * rate)
            while number < due:
                value, partition = str(number).zfill(VALUE_BYTES), number % self._partitions
                try:
                    producer.produce(self._topic, value, partition=partition, on_delivery=stored(number))
                except KafkaException as error:
                    if error.args[0].code() != KafkaError._UNKNOWN_PARTITION:
                        raise
                    # One that was added a moment ago: the next record goes to another one.
                number += 1
            producer.poll(0.02)
        producer.flush()

    # What happens.

    async def _let_things_happen(self, until: float) -> None:
        deck: list[str] = []
        while trio.current_time() < until - QUIET_SECONDS:
            if not deck:
                # A partition is added once per run.
                deck = [kind for kind in KINDS if kind != "grow" or not self.happened[kind]]
                self._chance.shuffle(deck)
            kind = deck.pop()
            self.happened[kind] += 1
            self._tell(kind)
            await getattr(self, f"_{kind}")()
            await trio.sleep(CALM_SECONDS)
        await trio.sleep_until(until)

    def _choose(self) -> Replica:
        """A replica; mostly the one that the reader is connected to."""
        at = [replica for replica in self._replicas if replica.client_id == self._at]
        return at[0] if at and self._chance.random() < 0.6 else self._chance.choice(self._replicas)

    async def _kill(self) -> None:
        await self._replace(self._choose(), signal.SIGKILL)

    async def _stop(self) -> None:
        await self._replace(self._choose(), signal.SIGTERM)

    async def _replace(self, replica: Replica, number: signal.Signals) -> None:
        replica.signal(number)
        await trio.to_thread.run_sync(replica.wait)
        self._balancer.backends.remove(replica)
        self._replicas.remove(replica)
        replica.end()
        await trio.sleep(self._chance.uniform(0, 4))
        self._balancer.backends.append(await self._start())

    async def _join(self) -> None:
        joined = await self._start()
        self._balancer.backends.append(joined)
        await trio.sleep(CALM_SECONDS)
        joined.signal(signal.SIGTERM)
        await trio.to_thread.run_sync(joined.wait)
        self._balancer.backends.remove(joined)
        self._replicas.remove(joined)
        joined.end()

    async def _suspend(self) -> None:
        replica = self._choose()
        replica.signal(signal.SIGSTOP)
        await trio.sleep(SUSPEND_SECONDS)
        replica.signal(signal.SIGCONT)

    async def _broker(self) -> None:
        node = self._chance.randrange(3)
        await trio.to_thread.run_sync(self._cluster.kill_node, node)
        await trio.sleep(BROKER_AWAY_SECONDS)
        await trio.to_thread.run_sync(self._cluster.start_node, node)
        await trio.to_thread.run_sync(self._cluster.wait_until_ready)

    async def _grow(self) -> None:
        await trio.to_thread.run_sync(grow, self._cluster.admin, self._topic, self._partitions + 1)
        self._partitions += 1

    async def _cut(self) -> None:
        self._balancer.cut()
