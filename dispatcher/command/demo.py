"""``dispatcher demo``: the dispatcher on an embedded broker, with a steady stream of realistic asset events."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import orjson
import trio
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from dispatcher.kafka.embedded import EmbeddedBroker, EmbeddedReplays
from dispatcher.sansio.records import TopicPartition
from dispatcher.settings import Settings
from dispatcher.supervisor import supervise
from dispatcher.workers.machine import read_machine
from dispatcher.workers.parent import Addresses, run_workers
from dispatcher.workers.plan import number_of_workers

WITH_WORKERS = {"default_scope": "topic", "operations_bind": "127.0.0.1:0", "max_subscribers": "500"}
"""Defaults of the demo for more than one worker: settings that workers need, and sizes that suit a laptop."""

TICK_SECONDS = 0.02
"""Records that are due within a tick are written together: one wake-up per record would limit the rate."""

LATE_SECONDS = 1.0
"""Records that are later than this are skipped, so that a laptop that slept for an hour does not write a burst."""

_KINDS = {
    "photo": (("jpg", "heic", "raw"), 2_000_000),
    "video": (("mov", "mp4"), 900_000_000),
    "audio": (("wav", "flac"), 40_000_000),
    "document": (("pdf", "docx"), 600_000),
}
"""By kind of asset: file extensions, and the typical size in bytes."""

_PEOPLE = ("amara", "bjorn", "chiyo", "dario", "elif", "femi", "greta", "hugo")
_PLACES = ("oslo", "lagos", "kyoto", "quito", "turin", "perth")
_THINGS = ("harbour", "market", "interview", "skyline", "rehearsal", "contract", "portrait")
_LIFE = ("ingested", "checked", "transcoded", "tagged", "approved", "published", "archived")


@dataclass(slots=True)
class _Asset:
    name: str
    folder: str
    file: str
    size_bytes: int
    steps: int = 0
    """The number of steps of its life cycle that are done."""
    version: int = 0


class AssetEvents:
    """An endless iterator of (key, value): assets that are ingested, processed, moved and archived.

    Args:
        seed: The same seed gives the same assets and steps.
        now: The clock for the times of events.
    """

    def __init__(self, seed: int, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._random = random.Random(seed)  # noqa: S311 - makes the demo repeatable
        self._now = now
        self._assets: list[_Asset] = []
        self._number = 0

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        return self

    def __next__(self) -> tuple[bytes, bytes]:
        pick = self._random
        if len(self._assets) < 20 or (len(self._assets) < 200 and pick.random() < 0.2):
            self._assets.append(self._new_asset())
        asset = pick.choice(self._assets)
        if asset.steps and pick.random() < 0.1:
            event = "moved"
            asset.folder = pick.choice(_PLACES)
        else:
            event = _LIFE[asset.steps]
            asset.steps += 1
        asset.version += 1
        if asset.steps == len(_LIFE):
            self._assets.remove(asset)
        value = {
            "asset": asset.name,
            "event": event,
            "path": f"/library/{asset.folder}/{asset.file}",
            "bytes": asset.size_bytes,
            "checksum": f"{pick.getrandbits(64):016x}",
            "version": asset.version,
            "user": pick.choice(_PEOPLE),
            "at": self._now().isoformat(timespec="milliseconds"),
        }
        return asset.name.encode(), orjson.dumps(value)

    def _new_asset(self) -> _Asset:
        pick = self._random
        self._number += 1
        kind = pick.choice(tuple(_KINDS))
        endings, size_bytes = _KINDS[kind]
        place = pick.choice(_PLACES)
        return _Asset(
            name=f"{kind}-{self._number:06}",
            folder=place,
            file=f"{place}-{pick.choice(_THINGS)}-{pick.randrange(10_000):04}.{pick.choice(endings)}",
            size_bytes=int(size_bytes * pick.lognormvariate(0, 0.6)),
        )


async def run_demo(settings: Settings, *, rate: float, seed: int, console: Console) -> int:
    """Serve asset events from an embedded broker until SIGTERM or SIGINT; returns the exit code.

    *Cancellation*: stops the replica as `supervise` does.

    Args:
        settings: The replica's settings; the broker's address is filled in.
        rate: Records per second.
        seed: The seed of the events.
        console: Where the addresses to open are shown.
    """
    machine = read_machine()
    code = 0
    with EmbeddedBroker(settings.topics) as broker:
        settings = settings.model_copy(update={"bootstrap_servers": broker.bootstrap_servers})
        write = partial(broker.produce, headers=[("source", b"demo")])
        produce = partial(produce_steadily, write, settings.topics, AssetEvents(seed), rate)
        async with trio.open_nursery() as nursery:
            if number_of_workers(settings, machine) > 1:

                def invite(addresses: Addresses, operations: Addresses) -> None:
                    console.print(invitation(addresses[0], rate, operations[0]))
                    nursery.start_soon(produce)

                code = await run_workers(
                    settings,
                    machine,
                    hangup_stops=True,
                    look_up=partial(_offsets_since, broker),
                    on_started=invite,
                )
                nursery.cancel_scope.cancel()
            else:
                replays = partial(EmbeddedReplays, broker.look_up)
                server = await nursery.start(supervise_until_stopped, settings, replays, nursery.cancel_scope)
                console.print(invitation(server.addresses[0], rate))
                await produce()
    return code


def _offsets_since(
    broker: EmbeddedBroker, partitions: Sequence[tuple[str, int]], since_ms: int
) -> Sequence[int | None]:
    """Answer a worker's look-up (`workers.member.LookUp`)."""
    asked = [TopicPartition(topic, partition) for topic, partition in partitions]
    found = broker.offsets_since(asked, since_ms)
    return [found.get(partition) for partition in asked]


async def supervise_until_stopped(  # noqa: ASYNC128 - supervise calls task_status.started
    settings: Settings,
    make_replays: Callable[..., EmbeddedReplays],
    everything: trio.CancelScope,
    *,
    task_status: trio.TaskStatus[Any],
) -> None:
    """Run `supervise`, then cancel everything else."""
    await supervise(settings, make_replays, hangup_stops=True, task_status=task_status)
    everything.cancel()


async def produce_steadily(
    write: Callable[[str, bytes, bytes], None],
    topics: tuple[str, ...],
    events: Iterator[tuple[bytes, bytes]],
    rate: float,
) -> None:
    """Write ``rate`` records per second, each when it is due: a late record does not delay the next.

    *Backpressure*: while the client's queue is full, due records wait.

    Args:
        write: Takes topic, key and value; raises BufferError when its queue is full.
        topics: The topics, which are written to in turn.
        events: Keys and values.
        rate: Records per second.
    """
    started = trio.current_time()
    written = 0
    while True:
        now = trio.current_time()
        if now - (started + written / rate) > LATE_SECONDS:
            started = now - written / rate
        due = int((now - started) * rate) + 1
        while written < due:
            key, value = next(events)
            try:
                write(topics[written % len(topics)], key, value)
            except BufferError:
                break
            written += 1
        await trio.sleep_until(max(started + written / rate, trio.current_time() + TICK_SECONDS))


def invitation(address: tuple[str, int], rate: float, operations: tuple[str, int] | None = None) -> Panel:
    """The addresses to open, the commands to try, and how to stop.

    Args:
        address: Where subscribers connect.
        rate: Records per second.
        operations: Where operators connect, if that is another address.
    """
    netloc = _netloc(address)
    operators = _netloc(operations or address)
    pages = {
        f"http://{netloc}/": "the live page",
        f"http://{netloc}/events": "server-sent events",
        f"http://{operators}/status": "state of the replica, as JSON",
        f"http://{operators}/metrics": "metrics for Prometheus",
    }
    width = max(map(len, pages))
    text = Text()
    for url, what in pages.items():
        text.append(url.ljust(width), "bold").append(f"  {what}\n")
    text.append(f"ws://{netloc}/ws".ljust(width), "bold").append("  WebSocket\n\n")
    text.append(f"curl -N http://{netloc}/events\n")
    text.append(f"python -m websockets ws://{netloc}/ws\n\n")
    text.append(f"{rate:g} records per second from an embedded broker. Press Ctrl-C to stop.")
    return Panel(text, title="dispatcher demo", expand=False)


def _netloc(address: tuple[str, int]) -> str:
    host, port = address
    # A wildcard address can be listened on, but not connected to.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
