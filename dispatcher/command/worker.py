"""What a worker's process runs: only its parent starts it (`workers.member`)."""

import signal
from collections.abc import Collection, Mapping
from functools import partial

from dispatcher.command.running import run_to_exit
from dispatcher.kafka.embedded import EmbeddedReplays
from dispatcher.kafka.replay import Replays
from dispatcher.sansio.records import TopicPartition
from dispatcher.supervisor import supervise
from dispatcher.workers.orders import Orders, read_lines
from dispatcher.workers.worker import Leash, ParentLink

STDIN = 0


def main() -> None:
    """Serve as one of several until the parent stops this process, or has ended."""
    # A SIGHUP before the replica can reload must not end the process.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    lines = read_lines(STDIN)
    line = next(lines, None)
    if line is None:
        return  # the parent has already ended
    orders = Orders.decode(line)
    Leash(lines, orders.settings.shutdown_seconds).start()

    async def run() -> None:
        link = ParentLink(orders)
        make_replays = partial(EmbeddedReplays, partial(_look_up, link)) if orders.is_embedded else Replays
        await supervise(orders.settings, make_replays, read_settings=link.read_settings, parent=link)

    run_to_exit(run, orders.settings, worker=orders.name)


async def _look_up(
    link: ParentLink, partitions: Collection[TopicPartition], since_ms: int
) -> Mapping[TopicPartition, int]:
    """See `kafka.embedded.LookUp`."""
    asked = list(partitions)
    found = await link.offsets_since([(one.topic, one.partition) for one in asked], since_ms)
    return {one: offset for one, offset in zip(asked, found, strict=True) if offset is not None}
