"""All recipes at once on real replicas and a real Kafka: cut, killed and stopped, each ends with every record once."""

import signal
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from testbed.browser import Page, open_browser
from testbed.clients import open_sse
from testbed.producing import produce_numbered
from testbed.replicas import Replica
from tests.conftest import Kafka
from tests.recipes.blocks import duties
from tests.recipes.edge import Edge, open_edge
from tests.recipes.running import PAGES, PROCESSES, SHOWN, Recipes, Running

pytestmark = pytest.mark.timeout(600)  # installing and compiling are part of the first test

PARTITIONS = 4
LOT = 40
PATIENCE_SECONDS = 60.0


class Scene:
    """Whoever reads, what was written, and a witness on each replica that takes all that it has."""

    def __init__(self, nursery: trio.Nursery, kafka: Kafka, topic: str) -> None:
        self._nursery = nursery
        self._write = partial(produce_numbered, kafka.bootstrap_servers, topic, LOT, PARTITIONS, 0)
        self.written = 0
        self.readers: dict[str, Callable[[], Awaitable[list[str]]]] = {}
        self.running: dict[str, Running] = {}
        self.before: dict[str, list[str]] = {}
        """What a page showed before it was loaded again."""
        self._witnessed: set[str] = set()

    async def witness(self, replica: Replica, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take every record, so that all are dispatched and committed, and only a resume gets them again."""
        async with open_sse(replica) as stream:
            assert await stream.next_event() is not None
            task_status.started()
            while (event := await stream.next_event()) is not None:
                if event.type == "message":
                    self._witnessed.add(event.data)

    async def write(self) -> None:
        """The next records; returns when they were dispatched to a witness."""
        await trio.to_thread.run_sync(self._write, self.written)
        self.written += LOT
        with trio.fail_after(PATIENCE_SECONDS):
            while len(self._witnessed) < self.written:  # noqa: ASYNC110 - they are other processes
                await trio.sleep(0.05)

    def start(self, recipes: Recipes, edge: Edge, folder: Path) -> None:
        """Start every recipe that is a process."""
        for name in PROCESSES:
            self.running[name] = Running(recipes, name, edge.url, folder / name)
            self._nursery.start_soon(self.running[name].run_to_end)
            self.readers[name] = partial(self._printed, name)

    async def _printed(self, name: str) -> list[str]:
        return self.running[name].values

    async def show(self, name: str, page: Page, url: str) -> None:
        """Open a page."""
        self.before[name] = []
        await page.open(url)
        self.readers[name] = partial(self._shown, name, page)

    async def _shown(self, name: str, page: Page) -> list[str]:
        return self.before[name] + list(await page.run(SHOWN))

    async def all_have_all(self) -> None:
        """Return when each recipe has handed out every record, each once and each partition in its order."""
        short: Any = None
        with trio.move_on_after(PATIENCE_SECONDS):
            while True:
                have = {name: await values() for name, values in self.readers.items()}
                short = {name: len(values) for name, values in have.items() if len(values) < self.written}
                if not short:
                    break
                await trio.sleep(0.1)
        assert not short, f"of {self.written} records: {short}\n{self._told(short)}"
        for name, values in have.items():
            for partition in range(PARTITIONS):
                own = [int(value) for value in values if int(value) % PARTITIONS == partition]
                assert own == list(range(partition, self.written, PARTITIONS)), (name, partition)

    def _told(self, names: Any) -> str:
        return "\n".join(f"{name}: {self.running[name].told[-600:]}" for name in names if name in self.running)

    async def kill_and_start_again(self) -> None:
        """Kill -9 the processes that keep where they were, and start them in the folder where they kept it."""
        for name, running in self.running.items():
            if duties()[name]["restart"]:
                before = list(running.lines)
                await running.end()
                assert running.lines == before
                self._nursery.start_soon(running.run_to_end)


def with_half(status: dict[str, Any]) -> bool:
    """Whether it has its half of the partitions."""
    return len(status["partitions"]) == PARTITIONS // 2


async def test_every_record_once_whatever_ends(
    kafka: Kafka, replicas: Callable[..., Replica], recipes: Recipes, tmp_path: Path
) -> None:
    """Connections are cut, recipes killed, one replica is killed, and another is stopped.

    What one connection misses was dispatched to a witness and committed: only clients that ask for it get it.
    """
    topic = kafka.create_topic(PARTITIONS)

    async def start(name: str) -> Replica:
        options = {"heartbeat_seconds": 1, "spread_seconds": 1}
        make = partial(replicas, kafka.bootstrap_servers, topic, client_id=name, settings=options)
        return await trio.to_thread.run_sync(partial(make, kafka={"session.timeout.ms": 6000}))

    first = await start("first")
    await trio.to_thread.run_sync(first.wait_until_ready)
    async with open_edge([first], recipes.files) as edge, open_browser() as browser, trio.open_nursery() as nursery:
        scene = Scene(nursery, kafka, topic)
        await nursery.start(scene.witness, first)
        scene.start(recipes, edge, tmp_path)
        look = Running(recipes, "look.sh", edge.url, tmp_path / "look.sh")
        nursery.start_soon(look.run_to_end)
        pages = {name: await browser.new_page() for name in PAGES}
        for name, page in pages.items():
            await scene.show(name, page, f"{edge.url}/{name}")
        everybody = 2 + len(PAGES) + len(PROCESSES)
        await trio.to_thread.run_sync(
            first.wait_for, "subscribers", lambda status: status["subscribers"]["total"] == everybody
        )
        await scene.write()
        await scene.all_have_all()
        with trio.fail_after(PATIENCE_SECONDS):
            while sum(line.startswith("data: ") and line[6:].isdigit() for line in look.lines) < LOT:  # noqa: ASYNC110 - they are other processes
                await trio.sleep(0.05)

        # Nobody is connected while records are dispatched to the witness.
        edge.backends.clear()
        edge.cut()
        await scene.kill_and_start_again()
        await scene.write()
        edge.backends.append(first)
        await scene.all_have_all()
        page = pages["page.html"]
        scene.before["page.html"] = await scene.readers["page.html"]()
        await page.run("location.reload()")
        await page.until("document.querySelector('#state')?.textContent.startsWith('live')")

        # The second replica takes half of the partitions and some of the recipes: each sees a half of the next lot.
        second = await start("second")
        edge.backends.append(second)
        for replica in (first, second):
            await trio.to_thread.run_sync(replica.wait_for, "its half", with_half)
        await nursery.start(scene.witness, second)
        await scene.write()
        first.signal(signal.SIGKILL)
        await scene.all_have_all()

        # The third one takes over from the second, which says goodbye.
        third = await start("third")
        await trio.to_thread.run_sync(third.wait_for, "its half", with_half)
        await nursery.start(scene.witness, third)
        edge.backends[:] = [third]
        second.signal(signal.SIGTERM)
        await scene.write()
        await scene.all_have_all()
        nursery.cancel_scope.cancel()
