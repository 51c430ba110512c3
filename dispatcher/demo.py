"""``dispatcher demo``: the dispatcher on an embedded broker, with a steady stream of believable asset events."""

import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import orjson
import trio
from rich.console import Console
from rich.panel import Panel

from dispatcher.kafka.embedded import EmbeddedBroker
from dispatcher.settings import Settings
from dispatcher.supervisor import supervise

TICK_SECONDS = 0.02
"""Records that are due within a tick are written together: a wake-up a record would cap the rate."""

_KINDS = {
    "photo": (("jpg", "heic", "raw"), 2_000_000),
    "video": (("mov", "mp4"), 900_000_000),
    "audio": (("wav", "flac"), 40_000_000),
    "document": (("pdf", "docx"), 600_000),
}
_PEOPLE = ("amara", "bjorn", "chiyo", "dario", "elif", "femi", "greta", "hugo")
_PLACES = ("oslo", "lagos", "kyoto", "quito", "turin", "perth")
_LIFE = ("ingested", "checked", "transcoded", "tagged", "approved", "published", "archived")


class AssetEvents:
    """An endless iterator of (key, value): assets that are ingested, worked on, and archived.

    Args:
        seed: The same seed gives the same assets and steps.
    """

    def __init__(self, seed: int, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._random = random.Random(seed)  # noqa: S311 - a demo that can be repeated
        self._now = now
        self._assets: list[dict[str, Any]] = []
        self._number = 0

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        return self

    def __next__(self) -> tuple[bytes, bytes]:
        pick = self._random
        if len(self._assets) < 20 or (len(self._assets) < 200 and pick.random() < 0.2):
            self._assets.append(self._new_asset())
        asset = pick.choice(self._assets)
        asset["version"] += 1
        asset["event"] = _LIFE[min(asset["version"] - 1, len(_LIFE) - 1)]
        asset["by"] = pick.choice(_PEOPLE)
        asset["at"] = self._now().isoformat(timespec="milliseconds")
        if asset["event"] == _LIFE[-1]:
            self._assets.remove(asset)
        return str(asset["asset"]).encode(), orjson.dumps(asset)

    def _new_asset(self) -> dict[str, Any]:
        pick = self._random
        self._number += 1
        kind = pick.choice(tuple(_KINDS))
        endings, size = _KINDS[kind]
        name = f"{pick.choice(_PLACES)}-{pick.randrange(10_000):04}"
        return {
            "asset": f"{kind}-{self._number:06}",
            "event": _LIFE[0],
            "path": f"/library/{pick.choice(_PLACES)}/{name}.{pick.choice(endings)}",
            "bytes": int(size * pick.lognormvariate(0, 0.6)),
            "version": 0,
            "by": "",
            "at": "",
        }


async def run_demo(make_settings: Callable[[str], Settings], *, rate: float, seed: int, console: Console) -> None:
    """Serve asset events from an embedded broker until SIGTERM or SIGINT.

    Args:
        make_settings: Given the embedded broker's address, makes the settings.
        rate: Records per second.
        seed: For the events.
        console: Where the addresses to open are shown.
    """
    topics = make_settings("127.0.0.1:1").topics
    with EmbeddedBroker(topics) as broker:
        settings = make_settings(broker.bootstrap_servers)
        async with trio.open_nursery() as nursery:
            server = await nursery.start(supervise_until_stopped, settings, nursery.cancel_scope)
            console.print(_invitation(server.addresses[0], rate))
            await produce_steadily(broker, topics, AssetEvents(seed), rate)


async def supervise_until_stopped(  # noqa: ASYNC128 - supervise calls task_status.started
    settings: Settings, everything: trio.CancelScope, *, task_status: trio.TaskStatus[Any]
) -> None:
    """`supervise`, and when it has come to its end, the rest too."""
    await supervise(settings, task_status=task_status)
    everything.cancel()


async def produce_steadily(broker: EmbeddedBroker, topics: tuple[str, ...], events: AssetEvents, rate: float) -> None:
    """Write ``rate`` records per second, paced by when each is due: a late one does not delay the next."""
    started = trio.current_time()
    written = 0
    while True:
        due = int((trio.current_time() - started) * rate) + 1
        while written < due:
            key, value = next(events)
            broker.produce(topics[written % len(topics)], key, value, [("source", b"demo")])
            written += 1
        await trio.sleep_until(max(started + written / rate, trio.current_time() + TICK_SECONDS))


def _invitation(address: tuple[str, int], rate: float) -> Panel:
    host, port = address
    http = f"http://{host}:{port}"
    return Panel(
        f"[bold]{http}/[/]          the page\n"
        f"[bold]{http}/status[/]    what the replica is doing\n"
        f"[bold]{http}/metrics[/]   for Prometheus\n\n"
        f"curl -N {http}/events\n"
        f"python -m websockets ws://{host}:{port}/ws\n\n"
        f"{rate:g} records/s from an embedded broker. Ctrl-C stops.",
        title="dispatcher demo",
        expand=False,
    )
