"""The Python client passes the table of cases that all clients share (tests/client_cases)."""

from base64 import b64decode
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
import trio

from dispatcher.client import Gap, Record, RefusedError, State, SubscriptionError, WrongServerError, subscribe
from dispatcher.sansio.position import parse_position
from testbed.patience import seconds
from tests.client_cases.encoding import own_pair
from tests.client_cases.server import CaseServer, case_server
from tests.client_cases.table import cases, check_since, load

TRANSPORTS: dict[Literal["sse", "websocket"], str] = {"sse": "events", "websocket": "ws"}
_STATES = {"live": "streaming"}


@dataclass
class Outcome:
    """What the client made of a case."""

    records: list[Record] = field(default_factory=list)
    gaps: list[dict[str, Any]] = field(default_factory=list)
    states: list[str] = field(default_factory=list)
    error: SubscriptionError | None = None
    position: str = ""
    state: State | None = None


async def run_client(
    server: CaseServer, case: dict[str, Any], transport: Literal["sse", "websocket"], run: str
) -> Outcome:
    """Subscribe until the last record of a case, or until the client gives up."""
    outcome = Outcome()
    options = {**load()["client"], **case.get("client", {})}
    expected = len(case["expect"].get("records", ()))
    fatal = "fatal" in case["expect"]
    url = f"{server.url}/{case['name']}/{run}/{TRANSPORTS[transport]}"
    async with subscribe(url, **options) as stream:
        try:
            while fatal or len(outcome.records) < expected:
                event = await anext(stream.events())
                if isinstance(event, Record):
                    outcome.records.append(event)
                elif isinstance(event, Gap):
                    outcome.gaps.append(
                        {
                            "topic": event.topic,
                            "partition": event.partition,
                            "from": event.from_offset,
                            "to": event.to_offset,
                            "reason": event.reason,
                        }
                    )
                elif event.replica is not None:
                    outcome.states.append(_STATES.get(event.name, event.name))
        except SubscriptionError as error:
            outcome.error = error
        outcome.position, outcome.state = stream.position, stream.state
    return outcome


def check(case: dict[str, Any], outcome: Outcome, connections: list[dict[str, Any]]) -> None:
    """Compare with what the table expects."""
    expect = case["expect"]
    assert [own_pair(record.id) for record in outcome.records] == expect.get("records", [])
    assert outcome.gaps == expect.get("gaps", outcome.gaps)
    assert outcome.states == expect.get("states", outcome.states)
    values = {own_pair(record.id): record.value for record in outcome.records}
    for pair, value in expect.get("values", {}).items():
        assert values[pair] == _bytes(value)
    if "resumes" in expect:
        came = [c["last_event_id"] and parse_position(c["last_event_id"]) for c in connections]
        assert came == [text and parse_position(text) for text in expect["resumes"]]
    check_since(case, connections)
    for connection, least_ms in zip(connections[1:], expect.get("waited_ms", ()), strict=False):
        assert connection["waited_ms"] >= least_ms
    check_fatal(expect.get("fatal"), outcome.error)
    if outcome.error is not None:
        assert outcome.state == State("closed", str(outcome.error))


def check_fatal(fatal: dict[str, Any] | None, error: SubscriptionError | None) -> None:
    """Check that the client gave up for the right reason."""
    assert (error is None) == (fatal is None), error
    if fatal is None:
        return
    if "wrong_server" in fatal:
        assert isinstance(error, WrongServerError)
    else:
        assert isinstance(error, RefusedError)
        assert (error.status, error.code) == (fatal.get("status"), fatal.get("code"))
        assert error.reason == fatal.get("reason", error.reason)


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("name", cases())
async def test_case(name: str, transport: Literal["sse", "websocket"]) -> None:
    """Each case of the table holds on each transport."""
    case = cases()[name]
    if case.get("only", transport) != transport:
        pytest.skip(f"for {case['only']} only")
    with trio.fail_after(seconds(60)):
        async with case_server() as server:
            outcome = await run_client(server, case, transport, "run")
    check(case, outcome, server.runs[name, "run"].connections)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_cut_at_any_byte_loses_and_repeats_nothing(transport: Literal["sse", "websocket"]) -> None:
    """The stream is cut after every single byte, and each time resumed."""
    case = cases()["cut-at-any-byte"]
    with trio.fail_after(seconds(170)):
        async with case_server() as server:
            await run_client(server, case, transport, "whole")
            length = server.runs[case["name"], "whole"].connections[0]["stream_bytes"]
            limit = trio.CapacityLimiter(20)

            async def cut(after: int) -> None:
                async with limit:
                    run = f"run-cut{after}"
                    outcome = await run_client(server, case, transport, run)
                    check(case, outcome, server.runs[case["name"], run].connections)
                    assert parse_position(outcome.position) == parse_position("assets:0=3,1=6")

            async with trio.open_nursery() as nursery:
                for after in range(1, length):
                    nursery.start_soon(cut, after)
    assert length > 500


def _bytes(value: Any) -> bytes | None:
    if isinstance(value, dict):
        return b64decode(value["base64"])
    return None if value is None else str(value).encode()
