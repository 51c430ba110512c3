"""``python -m tests.client_histories.run``: both clients against generated histories, over both transports."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import click
import orjson
import trio

from dispatcher.client import Gap, Record, State, SubscriptionError, subscribe
from testbed.patience import seconds
from testbed.tools import need
from tests.client_histories.history import Judge
from tests.client_histories.server import HistoryServer, history_server

ROOT = Path(__file__).parents[2]
TRANSPORTS: dict[Literal["sse", "websocket"], str] = {"sse": "events", "websocket": "ws"}
AT_ONCE = 100
"""Histories that are played side by side: a client waits for a second after some attempts."""


async def play_to_python(server: HistoryServer, seed: int, transport: Literal["sse", "websocket"]) -> dict[str, Any]:
    """Play one history; returns what the client handed out, in the form of tests/client_js/histories.js."""
    run = f"python-{transport}"
    url = f"{server.url}/{seed}/{run}/{TRANSPORTS[transport]}"
    events: list[dict[str, Any]] = []
    reason = ""
    late = 0
    async with subscribe(url, first_wait_seconds=0.01, connect_timeout_seconds=seconds(20)) as stream:
        try:
            async for event in stream.events():
                if isinstance(event, State):
                    late += event.reason.startswith("no data for")
                elif isinstance(event, Record):
                    events.append({"topic": event.topic, "partition": event.partition, "offset": event.offset})
                elif isinstance(event, Gap):
                    place = {"topic": event.topic, "partition": event.partition}
                    events.append({**place, "from": event.from_offset, "to": event.to_offset, "reason": event.reason})
        except SubscriptionError as error:
            reason = str(error)
    return {"seed": seed, "run": run, "events": events, "reason": reason, "late": late}


async def play_all_to_python(server: HistoryServer, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Play some histories over both transports."""
    limiter = trio.CapacityLimiter(AT_ONCE)
    outcomes: list[dict[str, Any]] = []

    async def play(seed: int, transport: Literal["sse", "websocket"]) -> None:
        async with limiter:
            outcomes.append(await play_to_python(server, seed, transport))

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
    done = await trio.run_process(command, cwd=ROOT, capture_stdout=True, capture_stderr=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return [orjson.loads(line) for line in done.stdout.splitlines()]


def judge(server: HistoryServer, outcome: dict[str, Any]) -> list[str]:
    """What is wrong with one outcome, each with the seed and the run."""
    history = server.histories[str(outcome["seed"]), outcome["run"]]
    # A connection that a client gave up as silent may have brought it less than the server wrote.
    unread = [] if outcome["late"] else history.unread
    wrong = [*history.wrong, *unread, *Judge(history.logs).wrong(outcome["events"])]
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
