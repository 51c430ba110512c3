"""``python -m tests.pictures``: the pictures of docs/page.md, on a real Kafka and real replicas.

Every state that is seen was reached: brokers and replicas are killed, the network is taken away, records are deleted.
"""

import io
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import cast

import click
import trio
from confluent_kafka import OFFSET_END, Producer, TopicPartition
from confluent_kafka.admin._acl import AclOperation
from confluent_kafka.admin._resource import ResourceType
from PIL import Image
from rich.console import Console

from dispatcher.command.demo import AssetEvents, produce_steadily
from testbed.balancer import Balancer, open_balancer
from testbed.broker import topics
from testbed.broker.cluster import KafkaCluster
from testbed.browser import Browser, Page, open_browser
from testbed.clients import open_sse
from testbed.replicas import Replica
from tests.test_topic_health import AUTHORIZER, lift, restrict

TOPIC, QUIET_TOPIC = "ofa_assets", "ofa_previews"
PARTITIONS = 12
DESK, PHONE = (1280, 800), (390, 844)
BACKLOG = 200_000
SLOW_LINE = 1_500_000
"""Bytes a second."""
HEADERS = [("source", b"ingest-3"), ("trace", b"4bf92f3577b34da6a3ce929d0e0e4736")]
BETWEEN = 24
"""Pixels between what is side by side."""

UNTIL_REBALANCING = """new Promise((go) => {
  const badge = document.querySelector("#badge");
  new MutationObserver(() => badge.dataset.state === "rebalancing" && go(true)).observe(badge, { attributes: true });
})"""
"""The state may be over before a condition is looked at again."""
NOTHING_WRONG = "document.querySelector('.partitions') !== null && document.querySelector('.troubles') === null"
SOMETHING_WRONG = "document.querySelector('.troubles') !== null"
TO_THE_GAPS = """{
  const events = document.querySelector("#events");
  events.scrollTop = events.querySelector("[data-kind=gap]").offsetTop - events.firstElementChild.offsetTop;
}"""
"""What came after them, such as the rebalances of the replicas that start, is listed above."""
RECORDS = "document.querySelectorAll('#records > li').length"


def state(name: str) -> str:
    """The condition that the badge shows a state."""
    return f"document.querySelector('#badge')?.dataset.state === '{name}'"


class Studio:
    """A Kafka, two replicas behind a balancer, a browser, and what they are taken pictures of with.

    Args:
        cluster: The Kafka.
        balancer: In front of the replicas.
        browser: The browser.
        folder: Where pictures go.
        tell: Called with what is going on.
    """

    def __init__(
        self, cluster: KafkaCluster, balancer: Balancer, browser: Browser, folder: Path, tell: Callable[[str], None]
    ) -> None:
        self.cluster = cluster
        self.balancer = balancer
        self.browser = browser
        self._folder = folder
        self.tell = tell
        self.replicas: dict[str, Replica] = {}
        properties = {"bootstrap.servers": cluster.bootstrap_servers, "linger.ms": 5, "log_level": 2}
        self._producer = Producer({**properties, "queue.buffering.max.messages": 10**6})
        self._events = AssetEvents(7)

    async def start(self, name: str, topic: str = TOPIC) -> Replica:
        """One more replica behind the balancer."""
        replica = await trio.to_thread.run_sync(
            partial(
                Replica,
                self.cluster.bootstrap_servers,
                topic,
                client_id=name,
                settings={"heartbeat_seconds": 2, "stall_timeout_seconds": 600},
            )
        )
        self.replicas[name] = replica
        self.balancer.backends = list(self.replicas.values())
        return replica

    def end(self, number: int = signal.SIGKILL) -> None:
        """End all replicas."""
        self.balancer.backends = []
        for replica in self.replicas.values():
            replica.signal(number)
            replica.end()
        self.replicas = {}

    def write(self, topic: str, key: bytes, value: bytes) -> None:
        """One record."""
        self._producer.produce(topic, value, key, headers=[*HEADERS])
        self._producer.poll(0)

    async def write_many(self, number: int) -> None:
        """Records as fast as they are taken; returns when they are stored."""

        def write() -> None:
            for _ in range(number):
                key, value = next(self._events)
                while True:
                    try:
                        self.write(TOPIC, key, value)
                    except BufferError:
                        self._producer.poll(0.1)
                    else:
                        break
            self._producer.flush(60)

        await trio.to_thread.run_sync(write)

    @asynccontextmanager
    async def records(self, rate: float, topic: str = TOPIC) -> AsyncIterator[None]:
        """Records at a rate, within the ``async with`` block."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(produce_steadily, self.write, (topic,), self._events, rate)
            yield
            nursery.cancel_scope.cancel()

    async def delete_records(self, partitions: Sequence[int]) -> None:
        """Delete all that partitions hold."""
        ends = [TopicPartition(TOPIC, partition, OFFSET_END) for partition in partitions]
        for future in self.cluster.admin.delete_records(ends).values():
            await trio.to_thread.run_sync(future.result, 30)

    async def open(self, query: str = "?observe=0", size: tuple[int, int] = DESK, scheme: str = "light") -> Page:
        """A page in a new tab."""
        page = await self.browser.new_page()
        await page.look(*size, scheme, 1.25 if size == PHONE else 1)
        await page.open(f"{self.balancer.url}/{query}")
        return page

    async def take(self, name: str, *shots: bytes) -> None:
        """A picture of what pages have shown, side by side."""
        opened = [Image.open(io.BytesIO(shot)).convert("RGB") for shot in shots]
        width = sum(shot.width for shot in opened) + BETWEEN * (len(opened) - 1)
        whole = Image.new("RGB", (width, opened[0].height), "#8a928f")
        left = 0
        for shot in opened:
            whole.paste(shot, (left, 0))
            left += shot.width + BETWEEN
        path = self._folder / f"page-{name}.png"
        few_colours(whole).save(path, optimize=True)
        self.tell(f"{path}: {path.stat().st_size / 1024:.0f} KiB")


def few_colours(picture: Image.Image) -> Image.Image:
    """In 256: those that it has most of, so that surfaces and words stay what they are, and some of every hue."""
    counted = sorted(picture.getcolors(picture.width * picture.height) or (), reverse=True)
    most = [part for _, colour in counted[:128] for part in cast("tuple[int, int, int]", colour)]
    hues = picture.quantize(256 - len(most) // 3, Image.Quantize.MAXCOVERAGE).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette(most + hues)
    return picture.quantize(palette=palette, dither=Image.Dither.NONE)


async def settled(page: Page, seconds: float = 2.5) -> None:
    """Return when the page has asked for the status and drawn its plots again."""
    await page.run(f"new Promise((go) => setTimeout(go, {seconds * 1000}))")


async def open_record(page: Page) -> None:
    """Open the third record by keyboard."""
    await page.press("Escape")
    for key in ("ArrowDown", "ArrowDown", "ArrowDown", "Enter"):
        await page.press(key)
    await page.until("document.querySelector('#records .open pre') !== null")


async def an_ordinary_day(studio: Studio) -> None:
    """Live; a record opened; a third replica comes; a broker goes and comes back."""
    async with studio.records(40), AsyncExitStack() as stack:
        page = await studio.open("")
        await page.until(state("live"))
        name = await page.run("document.querySelector('#replica').textContent")
        own = studio.replicas[name.split()[0]]
        reads_nothing = await stack.enter_async_context(open_sse(own, receive_buffer_bytes=4096))
        await settled(page, 60)
        await studio.take("live", await page.shot())
        await open_record(page)
        await settled(page)
        await page.look(*DESK, "dark")
        await settled(page, 1.5)
        await studio.take("record", await page.shot())
        await page.press("Escape")
        await page.run("document.activeElement.blur()")
        await page.look(*DESK, "light")
        for name in ("dispatcher-3", "dispatcher-4", "dispatcher-5", "dispatcher-6"):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(studio.start, name)
                with trio.move_on_after(20):
                    await page.run(UNTIL_REBALANCING)
                # It goes on when it was seen: most rebalances are over within a tenth of a second.
                own.signal(signal.SIGSTOP)
            await settled(page, 1)
            is_seen = await page.run(state("rebalancing"))
            if is_seen:
                await studio.take("rebalancing", await page.shot())
            own.signal(signal.SIGCONT)
            if is_seen:
                break
        reads_nothing.reset()
        await page.until(state("live"))
        await settled(page, 10)
        await page.look(*DESK, "dark")
        await trio.to_thread.run_sync(studio.cluster.kill_node, 0)
        await page.until(state("broker-down"))
        await settled(page)
        await studio.take("broker-down", await page.shot())
        studio.cluster.start_node(0)
        await trio.to_thread.run_sync(studio.cluster.wait_until_ready)
        await page.until(state("live"), 60)


async def a_bad_hour(studio: Studio) -> None:
    """All replicas are killed; what was written meanwhile is deleted; they come back."""
    async with studio.records(40):
        page = await studio.open()
        await page.until(state("live"))
        await settled(page, 20)
        studio.end()
        waits = "/in ([5-9]|\\d\\d)\\./.test(document.querySelector('#badge').textContent)"
        await page.until(f"{state('reconnecting')} && {waits}", 90)
        await settled(page, 1)
        await studio.take("reconnecting", await page.shot())
        await settled(page, 5)
        await studio.delete_records(range(0, PARTITIONS, 3))
        await studio.start("dispatcher-4")
        await studio.start("dispatcher-5")
        await page.until("document.querySelector('#events [data-kind=gap]') !== null", 90)
        await page.until(state("live"))
        await settled(page, 20)
        await page.run(TO_THE_GAPS)
        await studio.take("gaps", await page.shot())
        await page.open("about:blank")


async def phones(studio: Studio) -> None:
    """Live, a record opened, and offline."""
    async with studio.records(8):
        live = await studio.open("", PHONE)
        opened = await studio.open("?transport=websocket", PHONE, "dark")
        offline = await studio.open("", PHONE)
        for page in (live, opened, offline):
            await page.send("Page.bringToFront")
            await page.until(f"{state('live')} && {RECORDS} > 8")
            await settled(page, 20)
        await opened.send("Page.bringToFront")
        await open_record(opened)
        await opened.run("document.querySelector('#stream').scrollIntoView()")
        await settled(opened)
        await live.send("Page.bringToFront")
        await settled(live)
        shots = [await live.shot(), await opened.shot()]
        await offline.send("Page.bringToFront")
        await offline.send(
            "Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0
        )
        studio.balancer.fall_silent()
        await offline.until(f"{state('offline')} && /next attempt/.test(document.querySelector('#badge').textContent)")
        await settled(offline, 8)
        await studio.take("phone", *shots, await offline.shot())


async def much_to_do(studio: Studio) -> None:
    """A long way to catch up, and 5,000 records per second."""
    other = studio.replicas.pop("dispatcher-2")
    studio.balancer.backends = list(studio.replicas.values())
    await trio.to_thread.run_sync(other.end)
    page = await studio.open(scheme="dark")
    await page.until(state("live"))
    await studio.write_many(BACKLOG)
    await settled(page, 5)
    # All of it again, over a line that takes some seconds for that.
    await page.send(
        "Network.emulateNetworkConditions", offline=False, latency=20, downloadThroughput=SLOW_LINE, uploadThroughput=-1
    )
    await page.open(f"{studio.balancer.url}/?since=earliest")
    await page.until(f"{state('catching-up')} && {RECORDS} === 200", 60)
    await settled(page, 12)
    await studio.take("catching-up", await page.shot())
    await page.open("about:blank")
    async with studio.records(5000):
        page = await studio.open(scheme="light")
        await page.until(state("live"), 60)
        await settled(page, 60)
        await studio.take("fast", await page.shot())


async def beginnings_and_ends(studio: Studio) -> None:
    """No partition; the first moment; a request that is wrong."""
    page = await studio.open("?topic=ofa_asset", scheme="light")
    await page.until(state("closed"))
    await settled(page)
    await studio.take("closed", await page.shot())
    await page.send("Fetch.enable", patterns=[{"urlPattern": "*/events*"}])
    await page.open(studio.balancer.url)
    await page.until(state("connecting"))
    await settled(page)
    await studio.take("connecting", await page.shot())
    await page.open("about:blank")
    studio.end(signal.SIGTERM)
    studio.cluster.create_topic(QUIET_TOPIC, 1)
    busy = await studio.start("dispatcher-1", QUIET_TOPIC)
    await trio.to_thread.run_sync(busy.wait_until_ready)
    idle = await studio.start("dispatcher-2", QUIET_TOPIC)
    await trio.to_thread.run_sync(idle.wait_for, "in the group", lambda status: status["joined"])
    studio.balancer.backends = [idle]
    page = await studio.open(scheme="dark")
    await page.until(state("waiting"), 60)
    await settled(page, 5)
    await studio.take("waiting", await page.shot())


async def look_at(
    studio: Studio, page: Page, name: str, begin: Callable[[], object], end: Callable[[], object]
) -> None:
    """A trouble of a topic: a picture, how soon the page names it, and how soon it stops after its end."""
    await trio.to_thread.run_sync(begin)
    began = trio.current_time()
    await page.until(SOMETHING_WRONG, 60)
    shown = trio.current_time() - began
    await settled(page)
    await studio.take(f"topic-{name}", await page.shot())
    await trio.to_thread.run_sync(end)
    ended = trio.current_time()
    await page.until(NOTHING_WRONG, 60)
    studio.tell(f"{name}: named after {shown:.1f} s, gone after {trio.current_time() - ended:.1f} s")


async def what_is_wrong(studio: Studio) -> None:
    """READ denied, DESCRIBE denied, a topic deleted under load, and a topic that is misspelled."""
    cluster, admin = studio.cluster, studio.cluster.admin
    studio.end()
    cluster.create_topic("orders", 1)
    await studio.start("dispatcher-1", f"{TOPIC},orders")
    page = await studio.open("")
    await page.until(f"{state('live')} && {NOTHING_WRONG}", 60)
    denied, lifted = partial(restrict, admin, ResourceType.TOPIC, "orders"), partial(lift, admin)
    async with studio.records(20):
        await look_at(studio, page, "read-denied", partial(denied, AclOperation.READ), lifted)
        await look_at(studio, page, "describe-denied", partial(denied, AclOperation.DESCRIBE), lifted)
        recreate = partial(cluster.create_topic, "orders", 1)
        await look_at(studio, page, "deleted", partial(cluster.delete_topic, "orders"), recreate)
        studio.end()
        await studio.start("dispatcher-1", f"{TOPIC},ordres")
        page = await studio.open("")
        await page.until(SOMETHING_WRONG, 60)
        await settled(page)
        await studio.take("topic-typo", await page.shot())


async def a_leader_away(studio: Studio) -> None:
    """One of three brokers dies, and a partition of a topic with it."""
    studio.end()
    await trio.to_thread.run_sync(topics.create_on_nodes, studio.cluster.admin, "fragile", [0, 2])
    await studio.start("dispatcher-1", "fragile")
    page = await studio.open("")
    await page.until(f"{state('live')} && {NOTHING_WRONG}", 60)
    kill, start = partial(studio.cluster.kill_node, 2), partial(studio.cluster.start_node, 2)
    await look_at(studio, page, "leader-away", kill, start)


async def take_all(folder: Path, only: Sequence[str], tell: Callable[[str], None]) -> None:
    """Every scene, or those that are named."""
    scenes = {scene.__name__.replace("_", "-"): scene for scene in SCENES}
    for name in only or scenes:
        tell(name)
        nodes = 3 if scenes[name] is a_leader_away else 1
        with KafkaCluster(nodes, AUTHORIZER if scenes[name] is what_is_wrong else None) as cluster:
            cluster.create_topic(TOPIC, PARTITIONS)
            async with open_balancer([]) as balancer, open_browser() as browser:
                studio = Studio(cluster, balancer, browser, folder, tell)
                try:
                    first = [await studio.start("dispatcher-1"), await studio.start("dispatcher-2")]
                    for replica in first:
                        half = PARTITIONS // 2
                        await trio.to_thread.run_sync(
                            replica.wait_for, "its half", lambda s, half=half: len(s["partitions"]) == half
                        )
                    await scenes[name](studio)
                finally:
                    studio.end()


SCENES = (an_ordinary_day, a_bad_hour, phones, much_to_do, beginnings_and_ends, what_is_wrong, a_leader_away)


@click.command()
@click.argument("scenes", nargs=-1, type=click.Choice([scene.__name__.replace("_", "-") for scene in SCENES]))
@click.option("--folder", default="docs/pictures", show_default=True, type=click.Path(path_type=Path))
def main(scenes: Sequence[str], folder: Path) -> None:
    """Take the pictures of SCENES, or all of them: about 6 minutes."""
    folder.mkdir(parents=True, exist_ok=True)
    trio.run(take_all, folder, scenes, Console(log_path=False).log)


if __name__ == "__main__":
    main()
