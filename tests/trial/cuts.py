"""Plain clients that are cut at any byte: no record is lost and none comes twice, with ids in either spelling.

An `EventSource` in Chromium, npm's `eventsource`, `httpx-sse` and the Go recipe read the whole topic from two replicas,
each through a proxy of its own that ends every connection after one more byte than the one before, counted from the end
of the first state; and then after some more each time, counted from the first byte of the response, until all of the
state was passed on. Chromium alone is not cut in the response's head: an `EventSource` gives up for good where that is
not whole. The clients are those of docs/clients.md.
"""

import itertools
import re
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Literal

import trio

from testbed.balancer import RECEIVE_BYTES
from testbed.broker.cluster import KafkaCluster
from testbed.browser import open_browser
from testbed.patience import seconds
from testbed.producing import produce_numbered
from testbed.replicas import Replica
from tests.recipes.edge import Edge
from tests.recipes.running import SHOWN, Recipes, Running, prepare
from tests.test_whole_topic import PlainReader
from tests.trial.ledger import Row

PAGE = "eventsource.html"
PARTITIONS = (6, 300)
"""Of the topics: with few of them ids are spelled plainly, with many compactly."""
EARLY_STEP = 7
"""How many times more bytes there are from one early cut to the next: clients wait longer after such failures."""
ID = re.compile(rb"(?:\r\nlast-event-id|\nid): *([^\r\n]+)", re.IGNORECASE)
LOT = 30
LOT_SECONDS = 0.2
END_SECONDS = 60.0
"""How long the last records may take (`testbed.patience.seconds`)."""
SLOW, QUICK = b"retry: 1000", b"retry: 0020"
"""What the server says, and what the proxy makes of it, so that hundreds of connections take no hour."""

Origin = Literal["first byte", "head", "state"]
"""From where the bytes before a cut are counted: the end of the first state, of the response's head, or its start."""
Cut = tuple[Origin, int]
CLIENTS: dict[str, Origin] = {
    PAGE: "head",
    "node.mjs": "first byte",
    "with_httpx.py": "first byte",
    "main.go": "first byte",
}
"""Each, and from where its early cuts are counted."""


class Cutter(Edge):
    """A proxy that ends each connection after some bytes.

    Args:
        files: Pages that it serves itself.
        early: From where early cuts are counted.
        most: Bytes after the first state that are passed on before the last of the other cuts.
        step: From one number of bytes to the next.
    """

    def __init__(self, files: Mapping[str, tuple[str, bytes]], early: Origin, most: int, step: int) -> None:
        super().__init__([], files)
        self._early = early
        self._cuts = self._plan(most, step)
        self._is_state_passed = False
        """Whether an early cut came after the first state."""
        self.made: Counter[str] = Counter()
        """Cuts by what they are counted from."""
        self.sent: Counter[str] = Counter()
        """Ids that replicas sent, by their spelling."""
        self.resumed: Counter[str] = Counter()
        """Ids that came back, by their spelling."""
        self.is_done = trio.Event()

    def _plan(self, most: int, step: int) -> Iterator[Cut]:
        """Where connections are cut, one after the other; when there are no more, they last."""
        for after in range(0, most, step):
            yield "state", after
        for after in itertools.count(0, EARLY_STEP * step):
            if self._is_state_passed:
                return
            yield self._early, after

    async def pass_on(self, client: trio.SocketStream, begun: bytes) -> None:
        """Serve one connection up to its cut."""
        backend = await self._connect()
        assert backend is not None
        self.resumed += _spellings(begun)
        cut = next(self._cuts, None)
        if cut is None:
            self.is_done.set()
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async with client, backend, trio.open_nursery() as nursery:
                await backend.send_all(begun)
                nursery.start_soon(_until_end, client, nursery.cancel_scope)
                await self._down(backend, client, cut)
                nursery.cancel_scope.cancel()

    async def _down(self, backend: trio.SocketStream, client: trio.SocketStream, cut: Cut | None) -> None:
        """Pass on what is before the cut."""
        came = b""
        passed = 0
        while data := bytes(await backend.receive_some(RECEIVE_BYTES)):
            if cut is None:
                await client.send_all(data)
                continue
            came = (came + data).replace(SLOW, QUICK)
            start = _start(came, cut[0])
            end = len(came) if start is None else min(len(came), start + cut[1])
            await client.send_all(came[passed:end])
            passed = end
            if start is not None and end == start + cut[1]:
                self.made[cut[0]] += 1
                self.sent += _spellings(came)
                self._is_state_passed = cut[0] == self._early and _start(came[:end], "state") is not None
                return


def _spellings(text: bytes) -> Counter[str]:
    return Counter("compact" if b":~" in found else "plain" for found in ID.findall(text))


def _start(came: bytes, origin: Origin) -> int | None:
    """Where the count begins, as soon as that has come."""
    if origin == "first byte":
        return 0
    after = came.find(b"event: state") if origin == "state" else 0
    end = came.find(b"\n\n" if origin == "state" else b"\r\n\r\n", after) if after >= 0 else -1
    return None if end < 0 else end + (2 if origin == "state" else 4)


async def _until_end(source: trio.SocketStream, whole: trio.CancelScope) -> None:
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while await source.receive_some(RECEIVE_BYTES):
            pass
    whole.cancel()


async def run(cluster: KafkaCluster, most: int, tell: Callable[[str], None], step: int = 1) -> list[Row]:
    """Cut every client again and again, and compare what it has handed out with what was written.

    Args:
        cluster: A cluster that runs.
        most: Bytes after the first state before the last cut.
        tell: Called with what happens, in words.
        step: From one number of bytes to the next.
    """
    with tempfile.TemporaryDirectory(prefix="recipes-") as folder:
        recipes = await trio.to_thread.run_sync(prepare, Path(folder))
        tell("the recipes are installed")
        rows: list[Row] = []
        for partitions in PARTITIONS:
            cutters = {name: Cutter(recipes.files, early, most, step) for name, early in CLIENTS.items()}
            found, written = await _run(cluster, partitions, recipes, cutters, tell)
            for name, cutter in cutters.items():
                rows += _rows(name, cutter, found[name], written, partitions)
        return rows


async def _run(
    cluster: KafkaCluster,
    partitions: int,
    recipes: Recipes,
    cutters: Mapping[str, Cutter],
    tell: Callable[[str], None],
) -> tuple[Mapping[str, Sequence[str]], int]:
    """The same with a topic of this many partitions: what each client has handed out, and how many were written."""
    topic = cluster.create_topic(f"cuts-{partitions}", partitions)
    settings = {"default_scope": "topic", "idle_leave_seconds": 0}
    replicas: list[Replica] = []
    try:
        for number in range(2):
            name = f"cuts-{partitions}-{number}"
            make = partial(Replica, cluster.bootstrap_servers, topic, client_id=name, settings=settings)
            replicas.append(await trio.to_thread.run_sync(make))
        for cutter in cutters.values():
            cutter.backends += replicas
        home = recipes.folder / f"{partitions} partitions"
        home.mkdir()
        tell(f"{partitions} partitions")
        produce = partial(produce_numbered, cluster.bootstrap_servers, topic, LOT, partitions, 0)
        return await _cut_all(replicas, (recipes, home), cutters, produce, tell)
    finally:
        for replica in replicas:
            replica.end(by_force=True)


async def _cut_all(
    replicas: Sequence[Replica],
    installed: tuple[Recipes, Path],
    cutters: Mapping[str, Cutter],
    produce: Callable[[int], None],
    tell: Callable[[str], None],
) -> tuple[Mapping[str, Sequence[str]], int]:
    recipes, home = installed
    readers: dict[str, Callable[[], Awaitable[Sequence[str]]]] = {}
    written = 0
    async with open_browser() as browser, trio.open_nursery() as nursery:
        # Each takes what its replica owns: what is dispatched and committed is sent again only to whoever asks for it.
        witnesses = [PlainReader(replica, "?scope=replica") for replica in replicas]
        for witness in witnesses:
            nursery.start_soon(witness.run)
        for name, cutter in cutters.items():
            listeners = await nursery.start(partial(trio.serve_tcp, cutter.handle, 0, host="127.0.0.1"))
            cutter.address = listeners[0].socket.getsockname()[:2]
            if name == PAGE:
                page = await browser.new_page()
                await page.open(f"{cutter.url}/{name}")
                readers[name] = partial(page.run, SHOWN)
            else:
                running = Running(recipes, name, cutter.url, home / name)
                await nursery.start(running.run_to_end)
                readers[name] = partial(_printed, running)
        made, moved_at = 0, trio.current_time()
        # A client that gave up is cut no more: what it lacks shows at the end.
        while not all(cutter.is_done.is_set() for cutter in cutters.values()) and (
            trio.current_time() < moved_at + seconds(END_SECONDS)
        ):
            await trio.to_thread.run_sync(produce, written)
            written += LOT
            await trio.sleep(LOT_SECONDS)
            before, made = made, sum(cutter.made.total() for cutter in cutters.values())
            moved_at = trio.current_time() if made > before else moved_at
            if written % (100 * LOT) == 0:
                tell(", ".join(f"{name} {cutter.made.total()} cuts" for name, cutter in cutters.items()))
        found: dict[str, Sequence[str]] = {}
        with trio.move_on_after(seconds(END_SECONDS)):
            while len(found) < len(readers) or any(len(values) < written for values in found.values()):
                await trio.sleep(0.2)
                found = {name: await values() for name, values in readers.items()}
        nursery.cancel_scope.cancel()
    return found, written


async def _printed(running: Running) -> Sequence[str]:
    return running.values


def _rows(name: str, cutter: Cutter, values: Sequence[str], written: int, partitions: int) -> Iterator[Row]:
    name = f"{name}, {partitions} partitions"
    numbers = [int(value) for value in values]
    missing = set(range(written)) - set(numbers)
    latest: dict[int, int] = {}
    disorder = 0
    for number in numbers:
        disorder += number <= latest.get(number % partitions, -1)
        latest[number % partitions] = number
    made = ", ".join(f"{count} after the {origin}" for origin, count in cutter.made.items())
    sent, resumed = (
        ", ".join(f"{n:,} {spelling}" for spelling, n in ids.items()) for ids in (cutter.sent, cutter.resumed)
    )
    yield f"{name}: cuts", made, len(cutter.made) == 2
    yield f"{name}: ids sent", sent, ("compact" in cutter.sent) == (partitions == max(PARTITIONS))
    yield f"{name}: ids it came back with", resumed, bool(cutter.resumed)
    yield f"{name}: lost of {written:,}", f"{len(missing)} {sorted(missing)[:5]}", not missing
    yield f"{name}: twice, or out of order", str(disorder), not disorder
