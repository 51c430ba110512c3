"""Acknowledgements of a partition that changes its owner at any step, against a model, without Kafka and sockets.

What one client has acknowledged to the owner, with everything before it, is committed when the partition leaves, and is
sent to no later subscriber. Everything is real but the log, the group's committed offset, the group's consumer and
the follower (`test_whole_topic_model`).
"""

from collections.abc import Callable, Mapping

import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dispatcher.hub.feed import feed_of
from dispatcher.sansio.encoding.wire import WEBSOCKET
from tests.hub.test_acking import Acker
from tests.hub.test_hub import settle
from tests.hub.test_whole_topic_model import PARTITION, TOPICS, World

WHOLE, OWN = feed_of(WEBSOCKET, TOPICS, acks=True, whole=True), feed_of(WEBSOCKET, TOPICS, acks=True)
CLIENTS = 4
"""No more at the same time."""


class Client(Acker):
    """One connection of a client that acknowledges in order, and drops what has left its stream."""

    def __init__(self, world: "AckedWorld", window: int, named: int | None, *, whole: bool) -> None:
        self._world = world
        self.named = named
        self.tenure = world.tenure
        self.begins = world.acked_to()
        """Nothing before this has to be sent to it, unless it asks for it, as long as the same tenure lasts."""
        self.whole = whole
        self.outstanding: list[int] = []
        self._read = 0
        position = {} if named is None else {PARTITION: named - 1}
        super().__init__(world, window, position=position, feed=WHOLE if whole else OWN, timeout_seconds=1e9)  # type: ignore[arg-type] # the world plays the bench

    def look(self) -> None:
        """Take what has come."""
        messages = self.messages
        for message in messages[self._read :]:
            if message["type"] == "state":
                members = ("assigned", "followed") if self.whole else ("assigned",)
                listed = [number for member in members for number in message[member].get("assets", ())]
                self.outstanding = self.outstanding if listed else []
            for record in message.get("records", ()):
                offset = record["offset"]
                is_asked_for = self.named is not None and offset >= self.named
                if self.tenure == self._world.tenure and not is_asked_for:
                    assert offset >= self.begins, f"{offset} was acknowledged before it came, with all after its start"
                self.outstanding = [*(one for one in self.outstanding if one < offset), offset]
        self._read = len(messages)


class AckedWorld(World):
    """One replica, and clients that acknowledge."""

    def __init__(self, nursery: trio.Nursery, committed: int, *, history_bytes: int) -> None:
        bounds = {"pause_above_bytes": history_bytes, "resume_below_bytes": history_bytes}
        super().__init__(topic_tables={"assets": {"commit_on": "acked"}}, history_bytes=history_bytes, **bounds)
        self.nursery = nursery
        self.clients: list[Client] = []
        self.tenure = 0
        """Changes when the partition is assigned, and when it leaves."""
        self._begins = 0
        self._acked: set[int] = set()
        """What was acknowledged in this tenure."""
        self.end, self.committed, self.elsewhere = 8, committed, committed
        nursery.start_soon(self.hub.run)

    def acked_to(self) -> int:
        """Up to where all was acknowledged in this tenure, of what was read in it; 0 in none."""
        if self.group_at is None:
            return 0
        end = self._begins
        while end in self._acked and end < self.hub.history.end(PARTITION):
            end += 1
        return end

    def own(self) -> None:
        """See `World`."""
        if self.group_at is None:
            self.tenure += 1
            self._acked.clear()
            super().own()
            self._begins = self.offsets.dispatched_to(PARTITION) or 0

    def revoke(self, *, lost: bool) -> None:
        """See `World`: what was acknowledged is committed."""
        if self.group_at is not None:
            acked_to = self.acked_to()
            super().revoke(lost=lost)
            assert lost or self.committed >= acked_to
            self.hub.acking.released([PARTITION])
            self.tenure += 1

    def come(self, number: int, *, whole: bool) -> None:
        """A client comes, with an id or without one."""
        if len(self.clients) < CLIENTS:
            named = None if number % 2 else min(self.end, self.committed + number)
            self.clients.append(Client(self, (1, 3, 100)[number % 3], named, whole=whole))

    def leave(self, number: int) -> None:
        """A client leaves, with what it has not acknowledged."""
        if self.clients:
            self.clients.pop(number % len(self.clients)).leave()
            self.unfollow()

    def acknowledge(self, number: int, most: int) -> None:
        """A client says that it is done with some of its records."""
        if self.clients:
            client = self.clients[number % len(self.clients)]
            done, client.outstanding = client.outstanding[:most], client.outstanding[most:]
            if done:
                self.taken.update(done)
                self._acked.update(done)
                client.subscriber.acked({PARTITION: done[-1]})
                while client.subscriber.go_on():
                    pass


STEPS: Mapping[str, Callable[[AckedWorld, int], object]] = {
    "produce": lambda world, number: setattr(world, "end", world.end + number),
    "poll": lambda world, number: world.poll(2 * number),
    "follow": lambda world, number: world.follow(2 * number),
    "own": lambda world, _: world.own(),
    "revoke": lambda world, number: world.revoke(lost=number == 1),
    "commit": lambda world, _: world.commit(),
    "elsewhere": lambda world, number: world.dispatch_elsewhere(number),
    "connect": lambda world, number: world.come(number, whole=False),
    "connect for all": lambda world, number: world.come(number, whole=True),
    "leave": lambda world, number: world.leave(number),
    "acknowledge all": lambda world, number: world.acknowledge(number, 1_000),
    "acknowledge some": lambda world, number: world.acknowledge(number, number),
}


async def play(committed: int, history_bytes: int, steps: list[tuple[str, int]]) -> None:
    """Take the steps, and let a client take what is left: all of it is committed then."""
    async with trio.open_nursery() as nursery:
        world = AckedWorld(nursery, committed, history_bytes=history_bytes)
        for name, number in [("connect for all", 3), ("follow", 4), *steps, ("own", 0), ("connect", 5)]:
            STEPS[name](world, number)
            await settle()
            for client in world.clients:
                client.look()
        while world.committed < world.end and len(world.clients) < 1_000:
            before = world.committed
            world.poll(1_000)
            for _ in range(world.end + 1):
                await settle()
                for number, client in enumerate(world.clients):
                    client.look()
                    world.acknowledge(number, 1_000)
            world.commit()
            assert world.committed > before, f"{world.committed} of {world.end} committed"
        nursery.cancel_scope.cancel()


IN_THE_MIDDLE = [("own", 1), ("acknowledge all", 1), ("acknowledge all", 1), ("connect", 1)]
READ_AGAIN = [("own", 1), ("acknowledge all", 1), ("poll", 4), ("connect", 1)]
"""What random steps rarely find: hand-overs in the middle of a batch, and where memory does not reach back."""


@example(6, 2**20, IN_THE_MIDDLE)
@example(2, 2**20, READ_AGAIN)
@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 6),
    st.sampled_from([4096, 2**20]),
    st.lists(st.tuples(st.sampled_from(sorted(STEPS)), st.integers(1, 6)), max_size=30),
)
def test_what_was_acknowledged_to_the_owner_is_committed_and_sent_to_nobody_else(
    committed: int, history_bytes: int, steps: list[tuple[str, int]]
) -> None:
    """The partition is owned, followed, and handed over anywhere in a batch, also where memory does not reach back."""
    trio.run(play, committed, history_bytes, steps)
