"""The server of the cases sends again what a cut took with it, as a dispatcher does."""

import trio

from testbed.clients import SseStream
from testbed.patience import seconds
from tests.client_cases.server import CaseServer, case_server


async def visit(
    server: CaseServer, case: str, last_event_id: str | None = None, number: int | None = None
) -> list[str]:
    """The ids that a connection is sent, up to its end, or to this many."""
    host, port = server.url.removeprefix("http://").split(":")
    headers = {} if last_event_id is None else {"Last-Event-ID": last_event_id}
    stream = SseStream(await trio.open_tcp_stream(host, int(port)))
    ids: list[str] = []
    async with stream.stream:
        await stream.open(f"/{case}/run/events", headers)
        while len(ids) != number and (event := await stream.next_event()) is not None:
            ids += [event.id] * (event.type == "message")
    return ids


async def test_a_client_that_saw_nothing_before_the_cut_is_sent_all_of_it_again() -> None:
    """A page that read nothing before the cut returns without an id."""
    with trio.fail_after(seconds(10)):
        async with case_server() as server:
            first = await visit(server, "two-replicas")
            assert first == ["assets:0=7", "assets:1=3,0=7"]
            assert await visit(server, "two-replicas") == first
            after = ["assets:2=0", "other.topic:0=9;assets:2=0"]
            assert await visit(server, "two-replicas", first[-1]) == after
    repeated = [connection["repeated"] for connection in server.runs["two-replicas", "run"].connections]
    assert repeated == [False, True, False]


async def test_a_client_that_saw_a_part_before_the_cut_is_sent_the_rest() -> None:
    """Records of the old log do not return after the gap that ends it."""
    with trio.fail_after(seconds(10)):
        async with case_server() as server:
            first = await visit(server, "gap-recreated")
            assert first == ["assets:0=500", "assets:1=7,0=500", "assets:0=0,1=7", "assets:0=1,1=7"]
            assert await visit(server, "gap-recreated", first[1]) == first[2:]
            assert await visit(server, "gap-recreated", first[-1], 2) == ["assets:0=1,1=7", "assets:0=2,1=7"]


async def test_a_client_that_went_on_past_a_gap_goes_on_to_the_next_connection() -> None:
    """A position may be the last id (`EventSource`), or the end of a gap after it."""
    for position in ("assets:0=2", "assets:0=9"):
        with trio.fail_after(seconds(10)):
            async with case_server() as server:
                assert await visit(server, "gap-expired") == ["assets:0=2"]
                assert await visit(server, "gap-expired", position, 1) == ["assets:0=10"]
