"""``python -m tests.client_histories.run``: both clients against generated histories, over both transports."""

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import click
import orjson
import trio

from dispatcher.client import Gap, Record, SubscriptionError, subscribe
from testbed.patience import TooLateError, seconds
from testbed.tools import need
from tests.client_histories.history import Judge
from tests.client_histories.server import PATIENT_SECONDS, HistoryServer, history_server

ROOT = Path(__file__).parents[2]
TRANSPORTS: dict[Literal["sse", "websocket"], str] = {"sse": "events", "websocket": "ws"}
AT_ONCE = 100
"""Histories that are played side by side: a client waits for a second after some attempts."""
STALLED_SECONDS = 60.0
"""Without a stream that ended: clients here are as patient as this, and give up no connection as silent before it."""


@contextmanager
def progressing() -> Iterator[Callable[[], None]]:
    """A block in which something has to happen again and again; call what it gives whenever it does.

    Raises:
        TooLateError: nothing did for `STALLED_SECONDS`.
    """
    patience = seconds(STALLED_SECONDS)
    with trio.move_on_after(patience) as scope:

        def progressed() -> None:
            scope.deadline = trio.current_time() + patience

        yield progressed
    if scope.cancelled_caught:
        raise TooLateError(f"no stream ended for {patience:.0f} s")


async def play_to_python(server: HistoryServer, seed: int, transport: Literal["sse", "websocket"]) -> dict[str, Any]:
    """Play one history; returns what the client handed out, in the form of tests/client_js/histories.js."""
    run = f"python-{transport}"
    url = f"{server.url}/{seed}/{run}/{TRANSPORTS[transport]}"
    events: list[dict[str, Any]] = []
    reason = ""
    async with subscribe(url, first_wait_seconds=0.01, connect_timeout_seconds=PATIENT_SECONDS) as stream:
        try:
            async for event in stream.events():
                if isinstance(event, Record):
                    events.append({"topic": event.topic, "partition": event.partition, "offset": event.offset})
                elif isinstance(event, Gap):
                    place = {"topic": event.topic, "partition": event.partition}
                    events.append({**place, "from": event.from_offset, "to": event.to_offset, "reason": event.reason})
        except SubscriptionError as error:
            reason = str(error)
    return {"seed": seed, "run": run, "events": events, "reason": reason}


async def play_all_to_python(server: HistoryServer, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Play some histories over both transports."""
    limiter = trio.CapacityLimiter(AT_ONCE)
    outcomes: list[dict[str, Any]] = []

    async def play(seed: int, transport: Literal["sse", "websocket"]) -> None:
        async with limiter:
            outcomes.append(await play_to_python(server, seed, transport))
            progressed()

    with progressing() as progressed:
        async with trio.open_nursery() as nursery:
            for seed in seeds:
                for transport in TRANSPORTS:
                    nursery.start_soon(play, seed, transport)
    return outcomes


async def play_all_to_javascript(server: HistoryServer, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """The same in Node, over WebSocket where it has it."""
    need("node")
    known = (await trio.run_process(["node", "--help"], capture_stdout=True)).stdout
    flags = [flag for flag in ("--experimental-websocket",) if flag.encode() in known]
    command = ["node", *flags, "tests/client_js/histories.js", server.url, *map(str, seeds)]
    outcomes: list[dict[str, Any]] = []
    with progressing() as progressed:
        async with trio.open_nursery() as nursery:
            run = partial(trio.run_process, command, cwd=ROOT, stdout=subprocess.PIPE)
            process: trio.Process = await nursery.start(run)
            assert process.stdout is not None
            rest = b""
            async for part in process.stdout:
                *lines, rest = (rest + part).split(b"\n")
                outcomes += map(orjson.loads, lines)
                progressed()
    return outcomes


def judge(server: HistoryServer, outcome: dict[str, Any]) -> list[str]:
    """Return what is wrong with one outcome, each with the seed and the run."""
    history = server.histories[str(outcome["seed"]), outcome["run"]]
    wrong = [*history.wrong, *Judge(history.logs).wrong(outcome["events"])]
    if not history.is_over or "the history is over" not in outcome["reason"]:
        wrong.append(f"it gave up: {outcome['reason']}")
    return [f"seed {outcome['seed']}, {outcome['run']}: {each}" for each in wrong]


async def play_all(seeds: Sequence[int]) -> tuple[int, list[str]]:
    """Play some histories to both clients; returns how many were played, and what was wrong."""
    async with history_server() as server:
        outcomes = await play_all_to_python(server, seeds) + await play_all_to_javascript(server, seeds)
        return len(outcomes), [wrong for outcome in outcomes for wrong in judge(server, outcome)]


@click.command()
@click.option("--first", default=0, show_default=True, type=click.IntRange(0), help="The first seed.")
@click.option("--number", default=1000, show_default=True, type=click.IntRange(1), help="How many histories.")
def main(first: int, number: int) -> None:
    """Play generated histories to the Python and the JavaScript client, and check what they hand out."""
    count, wrong = trio.run(play_all, range(first, first + number))
    for each in wrong:
        click.echo(each)
    click.echo(f"{count} streams of {number} histories, {len(wrong)} wrong")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
