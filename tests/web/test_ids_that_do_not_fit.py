"""Streams whose ids cannot name all of their partitions, over real sockets: refused, or said in their states."""

import json

import pytest
from wsproto.events import CloseConnection

from dispatcher.sansio.records import TopicPartition
from testbed.clients import SseStream
from tests.hub.test_hub import ONE
from tests.web.test_filters import Asking, events
from tests.web.test_transports import House

MANY = 2000


def house_with(owned: int, expected: int) -> House:
    """A replica that owns some partitions of a topic."""
    house = House("plain")
    house.hub.assigned([TopicPartition(ONE.topic, number) for number in range(owned)])
    house.hub.expect({ONE.topic: expected})
    return house


async def test_the_whole_of_too_many_partitions_is_refused() -> None:
    """The code is 400 or 4400 with the remedy, and HEAD is answered like GET."""
    house = house_with(2, MANY)
    async with house.serving():
        for method in (b"GET", b"HEAD"):
            async with house.connected() as stream:
                await stream.send_all(method + b" /events?scope=topic HTTP/1.0\r\nHost: localhost\r\n\r\n")
                answer = b""
                while data := await stream.receive_some():
                    answer += data
                assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 "))
                assert method == b"HEAD" or b"name fewer topics, or scope=replica" in answer
        async with house.connected() as stream:
            client = Asking(stream)
            await client.open_with("scope=topic")
            close = await client.next_event()
            assert isinstance(close, CloseConnection)
            assert close.code == 4400
            assert "name fewer topics, or scope=replica" in str(close.reason)
        await house.until(lambda: house.hub.subscribers == 0)


@pytest.mark.parametrize("owned", [2, MANY])
async def test_a_stream_of_a_replica_says_whether_ids_name_all_of_it(owned: int) -> None:
    """On both protocols, it says so only if they do not."""
    house = house_with(owned, MANY)
    async with house.serving(), house.connected() as stream, house.connected() as other:
        sse = SseStream(stream)
        await sse.open("/events?scope=replica")
        event = await sse.next_event()
        assert event is not None
        assert json.loads(event.data).get("resumable", True) is (owned == 2)
        ws = Asking(other)
        await ws.open_with("scope=replica")
        assert (await ws.first_state()).get("resumable", True) is (owned == 2)


async def test_partitions_that_are_added_make_ids_too_long() -> None:
    """A stream of the whole topic continues, and its next state says so."""
    house = house_with(2, 2)
    for number in range(2):
        house.hub.reached(TopicPartition(ONE.topic, number), 0)
    async with house.serving(), house.connected() as stream:
        sse = SseStream(stream)
        await sse.open("/events?scope=topic")
        (first,) = await events(sse, "state", 1)
        assert "resumable" not in json.loads(first.data)
        await house.live()
        house.hub.expect({ONE.topic: MANY})
        state: dict[str, object] = {}
        while state.get("partitions") != {ONE.topic: MANY}:
            (event,) = await events(sse, "state", 1)
            state = json.loads(event.data)
        assert state["resumable"] is False
