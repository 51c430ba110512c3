"""``dispatcher tail``, as the process that people and scripts start."""

import os
import pty
import re
import signal
import subprocess
import sys
from base64 import b64encode
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
import trio
from click.testing import CliRunner

from dispatcher.client import Record
from dispatcher.client.timestamps import time_of_day
from dispatcher.command import tail_output as tail
from dispatcher.command import tail_text
from dispatcher.command.main import main
from dispatcher.sansio.position import parse_position
from testbed import commands
from testbed.patience import seconds
from tests.client_cases.encoding import own_pair
from tests.client_cases.server import case_server
from tests.client_cases.table import cases, check_since

COMMAND = [sys.executable, "-m", "dispatcher", "tail"]
FULL = Path("/dev/full")
PATHS = {"sse": "events", "websocket": "ws"}


@dataclass
class Result:
    """How a run ended."""

    code: int
    lines: list[dict[str, Any]]
    told: str


async def run(*arguments: str) -> Result:
    """Run it with its output in pipes."""
    done = await commands.run("tail", *arguments)
    lines = [orjson.loads(line) for line in done.stdout.splitlines()] if done.stdout.startswith(b"{") else []
    return Result(done.returncode, lines, done.stderr.decode())


def check(case: dict[str, Any], result: Result, connections: Sequence[dict[str, Any]]) -> None:
    """Compare with what the table expects."""
    expect, name = case["expect"], case["name"]
    assert [own_pair(line["id"]) for line in result.lines] == expect.get("records", []), name
    assert result.code == (3 if "fatal" in expect else 0), name
    for gap in expect.get("gaps", ()):
        partition, is_new = f"{gap['topic']}:{gap['partition']}", gap["reason"] == "recreated"
        missing = f"{partition} offsets {gap['from']} to {gap['to']} will not be sent"
        words = f"{partition} is a new log, which begins at offset {gap['to'] + 1}" if is_new else missing
        assert f"-- gap: {words} ({gap['reason']})" in result.told, name
    for state in expect.get("states", ()):
        assert f"-- {state.replace('streaming', 'live')} on case (" in result.told, name
    assert expect.get("fatal", {}).get("reason", "") in result.told, name
    values = {own_pair(line["id"]): line for line in result.lines}
    for pair, value in expect.get("values", {}).items():
        assert values[pair].get("value", {"base64": values[pair].get("value_base64")}) == value, name
    check_since(case, list(connections))
    if "resumes" in expect:
        came = [c["last_event_id"] and parse_position(c["last_event_id"]) for c in connections]
        assert came == [text and parse_position(text) for text in expect["resumes"]], name


async def test_the_table_of_cases() -> None:
    """Each case that all clients share gives its JSON lines, messages on standard error, and exit code.

    Every other case on the other transport: what is below passes all of them on both (tests/client).
    """
    limit = trio.CapacityLimiter(6)

    async def run_case(case: dict[str, Any], url: str) -> None:
        options = ["--connect-timeout", str(case.get("client", {}).get("connect_timeout_seconds", 10))]
        if "fatal" not in case["expect"]:
            options += ["--count", str(len(case["expect"]["records"]))]
        async with limit:
            result = await run(url, *options)
        check(case, result, server.runs[case["name"], "tail"].connections)

    with trio.fail_after(seconds(170)):
        async with case_server() as server, trio.open_nursery() as nursery:
            for number, case in enumerate(cases().values()):
                transport = case.get("only", ("sse", "websocket")[number % 2])
                nursery.start_soon(run_case, case, f"{server.url}/{case['name']}/tail/{PATHS[transport]}")


async def test_it_resumes_after_an_id_and_prints_the_next_one() -> None:
    """The id that one run printed is where the next run begins."""
    with trio.fail_after(seconds(60)):
        async with case_server() as server:
            url = f"{server.url}/two-replicas/run/events"
            first = await run(url, "--count", "2")
            told = re.search(r"resume with --from-id '(.*)'", first.told)
            assert told is not None, first.told
            assert parse_position(told[1]) == parse_position("assets:0=7,1=3")
            second = await run(url, "--count", "2", "--from-id", told[1], "--quiet")
            assert [own_pair(line["id"]) for line in second.lines] == ["assets:2=0", "other.topic:0=9"]
            assert second.told == ""
            assert server.runs["two-replicas", "run"].connections[1]["last_event_id"] == told[1]


async def read_until(stream: trio.abc.ReceiveStream, what: bytes) -> bytes:
    """Read until something has come."""
    data = b""
    while what not in data:
        part = bytes(await stream.receive_some())
        assert part, data
        data += part
    return data


@asynccontextmanager
async def tailing(*arguments: str, **keywords: Any) -> AsyncIterator[trio.Process]:
    """The process, with its outputs in pipes; it is ended for sure."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **keywords}
    process = await trio.lowlevel.open_process([*COMMAND, *arguments], **pipes)
    try:
        yield process
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


@pytest.mark.parametrize("case", ["plain", "half-open"])
async def test_it_ends_when_the_reader_of_the_pipe_has_left(case: str) -> None:
    """It ends without an error message, even if no further record arrives."""
    with trio.fail_after(seconds(60)):
        async with case_server() as server, tailing(f"{server.url}/{case}/run/events", "--quiet") as process:
            assert process.stdout is not None
            assert process.stderr is not None
            await read_until(process.stdout, b"assets:0=0")
            await process.stdout.aclose()
            assert await process.wait() == 0
            assert await process.stderr.receive_some() == b""


async def test_ctrl_c_is_130_and_prints_where_to_resume() -> None:
    """There is no traceback; the position covers all written records but perhaps the last."""
    with trio.fail_after(seconds(60)):
        async with case_server() as server, tailing(f"{server.url}/plain/run/ws") as process:
            assert process.stdout is not None
            assert process.stderr is not None
            await read_until(process.stdout, b'"id":"assets:0=2')
            process.send_signal(signal.SIGINT)
            told = await read_until(process.stderr, b"'\n")
            assert await process.wait() == 130
            assert b"Traceback" not in told
            assert re.search(rb"resume with --from-id 'assets:0=[12],1=0'\n$", told), told


async def test_on_a_terminal_it_is_for_people() -> None:
    """Colour, one line per record, and nothing in a record that a terminal would obey."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "TZ": "UTC"}
    environment.pop("NO_COLOR", None)
    try:
        with trio.fail_after(seconds(60)):
            async with case_server() as server:
                url = f"{server.url}/values/run/events"
                async with tailing(url, "-n", "6", stdout=theirs, stderr=theirs, env=environment) as process:
                    shown = b""
                    while b"resume with" not in shown:
                        await trio.lowlevel.wait_readable(ours)
                        shown += os.read(ours, 65536)
                    assert await process.wait() == 0
    finally:
        os.close(ours)
        os.close(theirs)
    assert b"\x1b[32m-- live on case (assets: 0,1)" in shown
    plain = re.sub(rb"\x1b\[[0-9;]*m", b"", shown).decode()
    assert "10:25:33.864 assets:0=0 key <img src=x onerror=alert(1)>\r\n" in plain
    assert "assets:0=1 key data: one\\n\\nid: two\\n\r\n" in plain
    assert "assets:0=3 key (tombstone)\r\n" in plain
    assert "\\x00 \\x1b[31m\r\n" in plain
    assert "\x1b" not in plain


RECORD = Record("t:0=7,1=8", "t", 0, 7, 1795429533864, b"k", b"v", (("h", b"1"), ("h", None), ("b", b"\xff")))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("{offset}", b"7"),
        (r"{topic}\t{partition}\\{key}={value}\n", b"t\t0\\k=v\n"),
        ("{id} {timestamp}", b"t:0=7,1=8 1795429533864"),
        ("{value}{value} {", b"vv {"),
    ],
)
def test_templates(text: str, line: bytes) -> None:
    """Templates have named fields, and the escapes that a shell leaves alone."""
    assert tail_text.template(text)(RECORD) == line


def test_a_template_takes_bytes_as_they_are() -> None:
    """Keys and values may be missing or not be text, and the time may be missing, too."""
    line = tail_text.template("{key}|{value}|{timestamp}|{time}")
    assert line(Record("t:0=7", "t", 0, 7, None, b"\xff{id}", None)) == b"\xff{id}|||-"


@pytest.mark.parametrize("timestamp", [1795429533864250, 1795429533864250125, 2**63 - 1, -(2**63), -1, 0])
def test_any_timestamp_is_shown(timestamp: int) -> None:
    """Microseconds, nanoseconds and times without a date are shown (tests/client/test_timestamps.py)."""
    record = Record("t:0=7", "t", 0, 7, timestamp, None, b"")
    assert tail_text.template("{time}")(record) == (time_of_day(timestamp) or "-").encode()
    assert tail_text.template("{timestamp}")(record) == str(timestamp).encode()
    assert str(timestamp) in str(tail.pretty(record)) or tail_text.record_time(record) in str(tail.pretty(record))


def test_json_lines_are_envelopes() -> None:
    """Lines are envelopes as in the protocol, with base64 where necessary."""
    binary = b64encode(b"\xff").decode()
    assert orjson.loads(tail_text.as_json(RECORD)) == {
        "id": "t:0=7,1=8",
        "topic": "t",
        "partition": 0,
        "offset": 7,
        "timestamp": 1795429533864,
        "key": "k",
        "headers": [{"key": "h", "value": "1"}, {"key": "h", "value": None}, {"key": "b", "value_base64": binary}],
        "value": "v",
    }


class TestUsage:
    """Exit code 2, before anything is sent."""

    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            (["h:8000"], "use http://HOST:PORT"),
            (["http://h", "--from-id", "photo-1"], "lacks the ':'"),
            (
                ["http://h", "--format", "{ofset}"],
                "there is no {ofset}; use pretty, json, value, or a template of {id}",
            ),
            (["http://h", "--format", "xml"], "'xml' names no field"),
            (["http://h", "-H", "Authorization"], "is not a header: use NAME:VALUE"),
            (["http://h", "--count", "-1"], "-1"),
            ([], "Missing argument 'URL'"),
        ],
    )
    def test_wrong(self, arguments: list[str], told: str) -> None:
        """The message says what would be right."""
        result = CliRunner().invoke(main, ["tail", *arguments])
        assert result.exit_code == 2
        assert told in result.stderr

    def test_help_has_the_exit_codes(self) -> None:
        """Scripts are written by reading it."""
        text = CliRunner().invoke(main, ["tail", "--help"]).stdout
        assert all(f"{code}: " in text for code in (0, 1, 2, 3, 4, 130))


async def test_unreachable_is_4_after_the_retries() -> None:
    """It prints why each attempt failed."""
    with trio.socket.socket() as sock:
        await sock.bind(("127.0.0.1", 0))
        with trio.fail_after(seconds(60)):
            result = await run(f"http://127.0.0.1:{sock.getsockname()[1]}", "--retries", "1")
    assert result.code == 4
    lines = result.told.splitlines()
    assert lines[0] == "-- connecting"
    assert re.fullmatch(r"-- reconnecting: no connection: .*Connection refused; next attempt in \d\.\d s", lines[1])
    assert re.fullmatch(r"-- 2 attempts in a row failed; the last: .*Connection refused", lines[2])


async def test_headers_go_along() -> None:
    """Request headers are sent, for example for a proxy that authenticates."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
    with trio.fail_after(seconds(60)):
        async with tailing(url, "-H", "Authorization: Bearer x:y"):
            stream = await listeners[0].accept()
            head = await read_until(stream, b"\r\n\r\n")
            await stream.aclose()
    await listeners[0].aclose()
    assert b"\r\nAuthorization: Bearer x:y\r\n" in head


async def test_a_full_disk_is_reported() -> None:
    """The exit code is 1, with one line of explanation."""
    with trio.fail_after(seconds(60)), FULL.open("wb") as full:  # noqa: ASYNC230 - a device that is not waited for
        async with case_server() as server, tailing(f"{server.url}/plain/run/ws", "--quiet", stdout=full) as process:
            assert process.stderr is not None
            assert await read_until(process.stderr, b"\n") == b"-- [Errno 28] No space left on device\n"
            assert await process.wait() == 1
