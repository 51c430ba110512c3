"""client.js: its logic in Node, on a server that is written byte by byte (tests/client_js), and its size and types."""

import gzip
import os
import re
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import orjson
import pytest
import trio

from dispatcher.sansio.records import Record, TopicPartition
from testbed.patience import seconds
from testbed.tools import ESBUILD, need
from tests.client.test_acks import address, cut
from tests.client_cases.server import case_server
from tests.hub.test_acking import Letters
from tests.hub.test_hub import TWO
from tests.web.test_acks import AckHouse

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / "dispatcher" / "web" / "page" / "client.js"
MOST_BYTES = 17 * 1024


class StoredLetters(Letters):
    """Each is stored a moment later."""

    def send(self, partition: TopicPartition, record: Record, reason: str, on_stored: Callable[[], None]) -> None:
        """Keep it."""
        super().send(partition, record, reason, on_stored)
        trio.lowlevel.current_trio_token().run_sync_soon(on_stored)


def run(*command: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """A command of Node's, whose words are for people who read a failure."""
    whole = {**os.environ, **environment}
    return subprocess.run(
        command, cwd=ROOT, env=whole, capture_output=True, text=True, timeout=seconds(130), check=False
    )


def flags_of_node(*wanted: str) -> list[str]:
    """Those that this version knows."""
    need("node")
    known = run("node", "--help").stdout
    return [flag for flag in wanted if flag in known]


def run_tests(name: str, **environment: str) -> int:
    """How many tests of a file in tests/client_js passed; all of them have to, over WebSocket where Node has it."""
    # A WebSocket that was given up while it was being opened would keep Node alive for as long as the server does.
    done = run(
        "node",
        *flags_of_node("--experimental-websocket", "--test-force-exit"),
        "--test",
        "--test-reporter=spec",
        f"tests/client_js/{name}",
        **environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"pass (\d+)", done.stdout)
    assert passed is not None
    return int(passed[1])


def test_its_logic_in_node() -> None:
    """The server writes its responses byte by byte."""
    assert run_tests("client.test.js") > 30


def test_it_does_its_host_no_harm_in_node() -> None:
    """This covers absurd delays, secrets in redirects, storage, and remaining listeners."""
    assert run_tests("host.test.js") >= 19


def test_its_acknowledgements_in_node() -> None:
    """The longest finished run, refusals, and repeats after a reconnect are acknowledged."""
    assert run_tests("acks.test.js") >= 7


def is_under_way(house: AckHouse, number: int) -> bool:
    """Whether nearly all of this number of records are done."""
    return len(house.done()) > number - 8


async def test_a_real_dispatcher_commits_what_it_acknowledges() -> None:
    """Despite random times, cuts and a refusal, each record is processed once."""
    house = AckHouse()
    letters = house.hub.acking.dead_letters = StoredLetters("assets")
    flags = flags_of_node("--experimental-websocket")
    async with house.serving(within_seconds=30), trio.open_nursery() as nursery:
        command = ["node", *flags, "tests/client_js/acking.js", address(house), "7"]
        node = await nursery.start(
            partial(trio.run_process, command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        )
        for number in (20, 40, 60):
            house.batch(20)
            await house.until(partial(is_under_way, house, number))
            cut(house)
        await house.until(lambda: house.done() == [*range(60)])
        await node.stdin.aclose()
        text = b""
        async for part in node.stdout:
            text += part
    assert orjson.loads(text) == [[0, offset] for offset in range(60)]
    assert {(record.offset, reason) for _, record, reason in letters.sent} == {(7, "cannot be read")}


async def test_a_real_dispatcher_writes_the_letter_of_a_record_that_was_left_to_other_clients_before() -> None:
    """Its owner commits nothing of it before the letter is stored."""
    house = AckHouse()
    letters = house.hub.acking.dead_letters = Letters("assets")
    flags = flags_of_node("--experimental-websocket")
    async with house.serving(within_seconds=30), trio.open_nursery() as nursery:
        house.follow(TWO)
        house.batch(20, TWO, epoch=0)
        command = ["node", *flags, "tests/client_js/acking.js", f"{address(house)}?scope=topic&since=earliest", "7"]
        node = await nursery.start(
            partial(trio.run_process, command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        )
        others = [offset for offset in range(20) if offset != 7]
        await house.until(lambda: house.done(TWO) == others)
        assert letters.sent == []
        house.own(TWO)
        cut(house)
        await house.until(lambda: house.done(TWO) == others)
        assert [(record.offset, reason) for _, record, reason in letters.sent] == [(7, "cannot be read")]
        letters.store[0]()
        assert house.done(TWO) == [*range(20)]
        await node.stdin.aclose()
        text = b""
        async for part in node.stdout:
            text += part
    assert orjson.loads(text) == [[1, offset] for offset in range(20)]


def test_the_page_shows_any_timestamp() -> None:
    """The cases are those that all clients share."""
    assert run_tests("times.test.js", TZ="UTC") > 20


def test_the_page_shows_any_record_in_bounds() -> None:
    """Nested and large records cost no more than what is shown."""
    assert run_tests("detail.test.js") >= 4


def test_the_badge_of_the_page() -> None:
    """It says what the page is live for, by state and by problems of topics."""
    assert run_tests("badge.test.js") >= 5


def test_the_filter_box_of_the_page() -> None:
    """It distinguishes text from filters, and spells filters in the address."""
    assert run_tests("filter_box.test.js") >= 3


async def test_it_passes_the_table_of_cases() -> None:
    """All clients share this table."""
    async with case_server() as server:
        passed = await trio.to_thread.run_sync(partial(run_tests, "cases.test.js", CASES_URL=server.url))
    assert passed > 30


def test_it_is_small() -> None:
    """Minified by a bundler, it stays below 17 KiB, and 8 compressed."""
    need("npx")
    done = run("npx", "--yes", ESBUILD, "--bundle", "--format=esm", "--minify", str(CLIENT))
    if done.returncode != 0:
        pytest.skip(f"{ESBUILD} cannot be had here: {done.stderr.strip().splitlines()[-1]}")
    size_bytes = len(done.stdout.encode())
    assert size_bytes < MOST_BYTES, f"{size_bytes} bytes, {len(gzip.compress(done.stdout.encode()))} compressed"


def test_it_has_no_dependencies() -> None:
    """It imports nothing, so a page can use it directly."""
    assert re.search(r"^\s*import\b|\bimport\(|\brequire\(", CLIENT.read_text(), re.MULTILINE) is None
