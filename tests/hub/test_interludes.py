"""What a subscriber is sent between records, while its task waits and while it does not."""

from collections.abc import Mapping

from dispatcher.hub.feed import Feed, feed_of
from dispatcher.hub.interludes import Interludes
from dispatcher.hub.live_buffer import LiveBuffer
from dispatcher.hub.resumption import Resumption
from dispatcher.hub.statistics import SubscriberState
from dispatcher.sansio.encoding.wire import SSE_VALUE
from dispatcher.sansio.health import ReplicaState
from dispatcher.sansio.records import TopicPartition
from tests.hub.test_filtered import wanting
from tests.hub.test_hub import FEED, ONE, Bench, RecordingTransport

HEARTBEAT = b"a heartbeat"
WHOLE = feed_of(SSE_VALUE, frozenset({"assets"}), whole=True)


class Halving(RecordingTransport):
    """A socket that takes half of what it is handed, once it is open."""

    def try_send(self, data: bytes) -> int:
        """The first half."""
        return super().try_send(data[: len(data) // 2])


class Listener(Interludes):
    """A subscriber without a task."""

    def __init__(
        self,
        bench: Bench,
        transport: RecordingTransport,
        feed: Feed = FEED,
        *,
        live: bool = True,
        waits: bool = True,
        position: Mapping[TopicPartition, int] = {},
    ) -> None:
        hub = bench.hub
        super().__init__(hub, feed, transport, LiveBuffer(1000), ())
        self.resumption = Resumption(
            hub.history, hub.encoder, hub.lookups, feed, position=position, since_ms=None, wake=self._wake
        )
        if live:
            self.state = SubscriberState.LIVE
            self.resumption.go_live()
        self._parked = waits

    @property
    def waits(self) -> bool:
        """Whether its task has not been woken."""
        return self._parked

    @property
    def has_unsent(self) -> bool:
        """Whether the rest of a write goes out first."""
        return self._unsent

    def news(self) -> bytes:
        """Return what its task would send about the state."""
        return b"".join(self._state())

    def due(self) -> list[bytes]:
        """The heartbeats that its task would send."""
        return list(self._heartbeat())

    def beginning(self, *, begins: bool) -> list[bytes]:
        """Return what its task would send at the beginning."""
        return list(self._news("0:1", begins=begins))


def opened(transport: RecordingTransport) -> RecordingTransport:
    """One whose socket takes bytes."""
    transport.gate.set()
    return transport


async def test_a_state_goes_to_the_socket_at_once_and_once() -> None:
    """Nothing is sent without news, or to a subscriber that has left."""
    transport = opened(RecordingTransport())
    listener = Listener(Bench(), transport)
    for _ in range(2):
        listener.send_state()
    assert len(transport.writes) == 1
    assert listener.waits
    listener.closed = True
    listener._source.announcements.partitions_left()
    listener.send_state()
    assert len(transport.writes) == 1


async def test_a_state_that_the_socket_does_not_take_is_left_to_the_task() -> None:
    """The task sends all of it, or the rest if the socket took a part."""
    for transport, news in ((RecordingTransport(), True), (opened(Halving()), False)):
        listener = Listener(Bench(), transport)
        listener.send_state()
        assert (listener.waits, listener.has_unsent) == (False, not news)
        assert bool(listener.news()) is news
    busy = Listener(Bench(), opened(RecordingTransport()), waits=False)
    busy.send_state()
    assert busy.news()


async def test_a_heartbeat_goes_to_the_socket_at_once_or_with_the_next_write() -> None:
    """It goes at once only after the present state, because it may name that state's partitions."""
    transport = opened(RecordingTransport())
    listener = Listener(Bench(), transport)
    listener.heartbeat(HEARTBEAT)
    assert (transport.writes, listener.waits, len(listener.due()), listener.due()) == ([], False, 1, [])
    assert listener.news()
    listener._parked = True
    listener.heartbeat(HEARTBEAT)
    assert (transport.writes, listener.waits, listener.due()) == ([HEARTBEAT], True, [])
    halving = Listener(Bench(), opened(Halving()))
    assert halving.news()
    halving.heartbeat(HEARTBEAT)
    assert (halving.has_unsent, halving.waits) == (True, False)


async def test_a_heartbeat_moves_one_whose_filter_wants_nothing_to_the_head() -> None:
    """It need not search all of it again; a reader that is not live stays where it is."""
    bench = Bench()
    places = []
    for live in (True, False):
        listener = Listener(bench, RecordingTransport(), wanting("a"), live=live)
        bench.publish(ONE)
        await _handed_out(bench)
        listener.heartbeat(HEARTBEAT)
        assert len(listener.due()) == 1
        places.append(listener.resumption.cursor.sequence == bench.hub.history.head)
    assert places == [True, False]


async def _handed_out(bench: Bench) -> None:
    """Nobody is live in the hub, so what was published is offered to nobody."""
    bench.hub._fan_out.withdraw()


async def test_a_stream_of_the_whole_topic_begins_with_its_position() -> None:
    """The first state has it if it is known by then; otherwise a heartbeat follows with it."""
    at_once = Listener(Bench(), RecordingTransport(), WHOLE, live=False)
    assert at_once.beginning(begins=False) == []
    assert len(at_once.beginning(begins=True)) == 1
    late = Listener(Bench(), RecordingTransport(), WHOLE, live=False)
    late.heartbeat(HEARTBEAT)
    assert len(late.beginning(begins=False)) == 1
    first, *rest = late.beginning(begins=True)
    assert (b"0:1" in first, rest) == (True, [])
    bench = Bench()
    bench.hub.set_state(ReplicaState.BROKER_DOWN)
    assert len(Listener(bench, RecordingTransport(), WHOLE, live=False).beginning(begins=False)) == 1


async def test_the_task_names_once_what_is_sent_again() -> None:
    """A state that goes to the socket at once does not: the socket might take nothing of it."""
    transport = opened(RecordingTransport())
    listener = Listener(Bench(), transport)
    listener.resumption.repeats.note(ONE, 3, 9)
    listener.send_state()
    assert b"repeats" not in transport.writes[0]
    (state,) = listener.beginning(begins=False)
    assert b'"repeats":[{"topic":"assets","partition":0,"from":3,"to":8}]' in state
    assert listener.beginning(begins=False) == []


async def test_its_place_is_spelled_as_an_id() -> None:
    """Partitions that its id named are named even if they are elsewhere; those without a start are not."""
    bench = Bench()
    bench.publish(ONE)
    assert Listener(bench, RecordingTransport(), live=False)._position() == "assets:0=-1"
    elsewhere = {ONE: 0, TopicPartition("assets", 9): 3}
    assert Listener(bench, RecordingTransport(), live=False, position=elsewhere)._position() == "assets:0=-1,9=3"
    assert Listener(bench, RecordingTransport(), WHOLE, live=False)._position() == "assets:0=-1"


async def test_a_listener_reports_when_its_channel_has_outgrown_its_bound() -> None:
    """Each heartbeat checks that."""
    listener = Listener(Bench(), RecordingTransport())
    assert listener.is_within_bound
    listener._buffer.size_bytes = 1001
    assert not listener.is_within_bound
