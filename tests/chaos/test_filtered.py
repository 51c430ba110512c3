"""What late readers of parked records are owed, each of them and all together."""

import random
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import cast

import orjson
import trio

from testbed.patience import seconds
from tests.audit.listeners import Process
from tests.chaos.filtered import LATE, left_parked
from tests.chaos.judge import Judge
from tests.chaos.readers import Reader

TOPIC, FIRST_PARKED, END = "parks", 9, 14


async def replica_that_sends(offsets: Sequence[int], stream: trio.SocketStream) -> None:
    """It says that it follows partition 1, and sends these records of it to whoever comes without an id."""
    request = await stream.receive_some()
    assert b"last-event-id" not in request.lower()
    state = orjson.dumps({"assigned": {}, "followed": {TOPIC: [1]}}).decode()
    events = [f"event: state\ndata: {state}\n\n", *(f"id: {TOPIC}:1={offset}\ndata: 0 \n\n" for offset in offsets)]
    body = "".join(f"{len(event):x}\r\n{event}\r\n" for event in events)
    await stream.send_all(f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}".encode())
    while await stream.receive_some():
        pass


async def judged(*streams: Sequence[int]) -> Judge:
    """Late readers, one at each of the replicas that send these offsets, until each has had the last one."""
    judge = Judge()
    async with trio.open_nursery() as nursery:
        for number, offsets in enumerate(streams):
            replica = partial(replica_that_sends, offsets)
            listeners = await nursery.start(partial(trio.serve_tcp, replica, 0, host="127.0.0.1"))
            address = listeners[0].socket.getsockname()[:2]
            process = cast("Process", SimpleNamespace(identity=f"replica-{number}", address=address))
            chance = random.Random(number)  # noqa: S311 - it has to be repeatable
            where: Callable[[], Sequence[Process]] = partial(list, [process])
            reader = Reader(f"late {number}", judge, TOPIC, where, habits=LATE, chance=chance, began=0.0)
            nursery.start_soon(reader.run)
            with trio.fail_after(seconds(10)):
                while reader.position != {1: END - 1}:  # noqa: ASYNC110 - a socket's
                    await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    return judge


async def test_one_that_comes_after_another_was_sent_what_was_parked() -> None:
    """A client without an id begins at the committed offset; together both are owed everything."""
    judge = await judged(range(FIRST_PARKED, END), range(FIRST_PARKED + 2, END))
    assert judge.verdict().faults == {}, judge.evidence
    assert left_parked({1: FIRST_PARKED}, judge.begun, {1: END}) == {}


async def test_what_none_of_them_was_sent_is_found() -> None:
    """Two parked records that neither client was sent are found."""
    judge = await judged(range(FIRST_PARKED + 2, END), range(FIRST_PARKED + 3, END))
    assert left_parked({1: FIRST_PARKED}, judge.begun, {1: END}) == {1: 2}


def test_what_is_left_parked() -> None:
    """Parked records count if they precede the first record that any client was sent."""
    assert left_parked({0: 9, 1: 9, 2: 9}, {0: 9, 1: 12}, {0: 14, 1: 14, 2: 14}) == {1: 3, 2: 5}
    assert left_parked({0: 9}, {0: 3}, {0: 14}) == {}
    assert left_parked({0: 9}, {}, {0: 9}) == {}
