"""``dispatcher tail`` beside records, terminals, pipes and servers that mean it no good."""

import fcntl
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import orjson
import pytest
import trio
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.client import Record
from dispatcher.command.main import main
from dispatcher.command.safe_text import clean
from dispatcher.command.tail_text import as_json, template
from testbed import commands
from testbed.patience import seconds
from tests.client_cases.encoding import payload
from tests.client_cases.server import case_server
from tests.command.test_tail import COMMAND, read_until, tailing

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
STATE = payload({"state": "streaming", "id": "t:0=-1"}, "envelope", 15.0)
HOSTILE = (
    "\x1b]52;c;Y3VybCBldmls\x07",
    "\x1b[2J\x1b[H",
    "\x9b31m",
    "a\rb\x08\x7f",
    "\u202egnp.exe\u202c",
    "\u2066x\u2069\u200b\u200d\ufeff\u00ad\u2028",
    "\x00\x0e",
    "\U000e0041",
    "\u3164\u115f",
)


@asynccontextmanager
async def sending(*said: bytes) -> AsyncIterator[str]:
    """A server that sends this to whoever comes; gives its URL."""

    async def serve(stream: trio.SocketStream) -> None:
        try:
            await stream.receive_some(65536)
            await stream.send_all(HEAD + b"".join(said))
            await trio.sleep_forever()
        except trio.BrokenResourceError:
            pass

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        yield f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


def record(offset: int, **more: Any) -> bytes:
    """One on the wire."""
    return payload({"record": {"id": f"t:0={offset}", **more}}, "envelope", 15.0)


@given(st.text(max_size=30))
def test_clean_text_is_visible(text: str) -> None:
    """Cleaned text is visible whatever it was, and visible ASCII stays unchanged."""
    assert all(each.isprintable() or each == "\t" or each.isspace() for each in clean(text))
    assert not set(clean(text)) & set("\x1b\x9b\r\n\x00\u202e\u200b\u2028\u0085")
    assert clean("plain ~ text\t1") == "plain ~ text\t1"


@pytest.mark.parametrize("form", ["pretty", "json", "value", "{topic} {key} {value}"])
async def test_a_terminal_gets_nothing_but_text(form: str) -> None:
    """200 hostile records (escapes, OSC 52, directions, invisible characters, NUL) and 20 MB become text."""
    many = [record(n, value=HOSTILE[n % len(HOSTILE)], key=HOSTILE[(n + 1) % len(HOSTILE)]) for n in range(200)]
    large = [record(200, large_bytes=20_000_000)] if form == "pretty" else []
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "dumb", "NO_COLOR": "1"}
    try:
        with trio.fail_after(seconds(120)):
            async with sending(STATE, *many, *large) as url:
                options = ("--format", form, "-n", str(200 + len(large)))
                async with tailing(url, *options, stdout=theirs, stderr=theirs, env=environment) as process:
                    shown = b""
                    while b"resume with" not in shown:
                        await trio.lowlevel.wait_readable(ours)
                        shown += os.read(ours, 65536)
                    assert await process.wait() == 0
    finally:
        os.close(ours)
        os.close(theirs)
    text = shown.decode()
    assert not [each for each in text if not (each.isprintable() or each in "\r\n\t")]
    assert text.count("\r\n") == 3 + 200 + len(large)
    assert not large or "(20,000,000 bytes)" in text
    assert len(text) < 150_000


def test_a_template_means_the_same_everywhere() -> None:
    """Tabs and line ends of the template stay; fields are cleaned only for a terminal."""
    row = Record("t:0=7", "t", 0, 7, None, b"\x1b", b"a\nb")
    shown = template(r"{key}\t{value}\n|", lambda field: clean(field.decode()).encode())
    assert shown(row) == b"\\x1b\ta\\nb\n|"
    assert template(r"{key}\t{value}\n|")(row) == b"\x1b\ta\nb\n|"


def test_json_hides_nothing_and_stays_json() -> None:
    """The bytes are the same on a terminal and in a pipe."""
    line = as_json(Record("t:0=7", "t", 0, 7, None, "\u202e\x7f".encode(), "é\U000e0041".encode()))
    assert b"\\u202e\\u007f" in line
    assert "é\\udb40\\udc41".encode() in line


async def test_the_line_to_copy_only_resumes() -> None:
    """Quotes and commands in a server's ids and topics do not get into the line to copy."""
    evil = "t'|touch pwned|'"
    state = orjson.dumps({"state": evil, "replica": evil})
    said = (f"id: {evil}:0=1\n\n".encode(), b"event: state\ndata: " + state + b"\n\n")
    with trio.fail_after(seconds(60)):
        async with sending(STATE, record(0), *said) as url, tailing(url, "--retries", "2") as process:
            assert process.stderr is not None
            told = await read_until(process.stderr, b"reconnecting")
            process.send_signal(signal.SIGTERM)
            told += await read_until(process.stderr, b"resume with")
            told += await read_until(process.stderr, b"\n") if not told.endswith(b"\n") else b""
            assert await process.wait() == 143
    line = told.decode().splitlines()[-1].removeprefix("-- resume with ")
    pasted = await trio.run_process(["sh", "-c", f"printf '%s,' {line}"], capture_stdout=True)
    assert pasted.stdout == b"--from-id,t:0=0,"


async def test_what_a_server_says_of_itself_is_text() -> None:
    """Replica, states, topics and the goodbye's reason are printed as plain text on standard error."""
    evil = "".join(HOSTILE)
    state = orjson.dumps({"state": evil, "replica": evil, "assigned": {evil: [0]}})
    goodbye = orjson.dumps({"code": 4400, "reason": evil})
    said = (b"event: state\ndata: " + state + b"\n\n", b"event: goodbye\ndata: " + goodbye + b"\n\n")
    with trio.fail_after(seconds(60)):
        async with sending(*said) as url:
            done = await commands.run("tail", url)
    text = done.stderr.decode()
    assert text.count("52;c;Y3VybCBldmls") == 4
    assert not [each for each in text if not (each.isprintable() or each == "\n")]


async def test_a_reader_that_does_not_read_hinders_no_signal() -> None:
    """With 20 MB for a full pipe, SIGTERM ends it, and the position omits what was not written."""
    with trio.fail_after(seconds(60)):
        async with sending(STATE, record(0), record(1, large_bytes=20_000_000)) as url, tailing(url) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            await read_until(process.stdout, b'"offset":1')
            process.send_signal(signal.SIGTERM)
            told = await read_until(process.stderr, b"resume with")
            told += await read_until(process.stderr, b"\n") if not told.endswith(b"\n") else b""
            assert await process.wait() == 143
    assert b"--from-id 't:0=0'" in told


async def test_a_pipe_that_does_not_block_is_waited_for() -> None:
    """A pipe may be non-blocking because of its other end."""
    with trio.fail_after(seconds(60)):
        async with sending(STATE, record(0, large_bytes=2_000_000), record(1)) as url:
            reads, writes = os.pipe()
            fcntl.fcntl(writes, fcntl.F_SETFL, os.O_NONBLOCK)
            async with tailing(url, "-n", "2", "--format", "value", "-q", stdout=writes) as process:
                os.close(writes)
                came = b""
                async with trio.lowlevel.FdStream(reads) as stream:
                    async for part in stream:
                        came += part
                assert await process.wait() == 0
    assert len(came) == 2_000_000 + len(b"\nt:0=1\n")


async def test_a_terminal_without_unicode() -> None:
    """Characters that it cannot show are escaped."""
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    with trio.fail_after(seconds(60)):
        async with sending(STATE, record(0, value="é 🦊")) as url:
            arguments = [*COMMAND, url, "-n", "1", "--format", "pretty", "-q"]
            done = await trio.run_process(arguments, capture_stdout=True, env=environment)
    assert b"\\xe9 \\U0001f98a" in done.stdout


@pytest.mark.parametrize(("closed", "code"), [("1>&-", 1), ("2>&-", 0), ("2>/dev/full", 0), ("1>/dev/full", 1)])
async def test_outputs_that_are_not_there(closed: str, code: int) -> None:
    """Closed outputs give the documented exit codes and no traceback."""
    with trio.fail_after(seconds(60)):
        async with case_server() as server:
            command = f"{shlex.join([*COMMAND, f'{server.url}/plain/run/events', '-n', '2'])} {closed}"
            done = await trio.run_process(["sh", "-c", command], capture_stdout=True, capture_stderr=True, check=False)
    assert done.returncode == code, done.stderr
    assert b"Traceback" not in done.stderr


async def test_nobody_reads_standard_error() -> None:
    """Records continue, and the exit code stays the same."""
    with trio.fail_after(seconds(60)):
        async with case_server() as server:
            reads, writes = os.pipe()
            os.close(reads)
            arguments = [*COMMAND, f"{server.url}/plain/run/events", "-n", "4"]
            done = await trio.run_process(arguments, capture_stdout=True, stderr=writes, check=False)
            os.close(writes)
    assert (done.returncode, done.stdout.count(b"\n")) == (0, 4)


async def test_ctrl_c_at_any_moment_of_a_start() -> None:
    """The exit code is 130 without a traceback, from the loading of the package on."""
    code = (
        "import sys; sys.argv[1:] = ['tail', 'http://127.0.0.1:1']; from dispatcher.__main__ import main\n"
        "from dispatcher.command.interrupts import interrupts_end_quietly\n"
        "with interrupts_end_quietly():\n    print(flush=True)\n    main()"
    )
    for delay in (0.0, 0.05, 0.1, 0.2, 0.4):
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = await trio.lowlevel.open_process([sys.executable, "-c", code], **pipes)
        assert process.stdout is not None
        assert process.stderr is not None
        async with process.stdout, process.stderr:
            with trio.fail_after(seconds(60)):
                await read_until(process.stdout, b"\n")
                await trio.sleep(delay)
                process.send_signal(signal.SIGINT)
                told = b""
                async for part in process.stderr:
                    told += part
                code_of_exit = await process.wait()
        assert (code_of_exit, b"Traceback" in told) == (130, False), told


@pytest.mark.parametrize(
    "arguments",
    [["-H", "X: é"], ["-H", "X: a\r\nY: b"], ["-H", "X Y: a"], ["--connect-timeout", "nan"], ["--from-id", "t:~AQ"]],
)
def test_what_no_request_can_hold_is_wrong_usage(arguments: list[str]) -> None:
    """It is exit code 2, before anything is sent."""
    result = CliRunner().invoke(main, ["tail", "http://127.0.0.1:1", *arguments])
    assert result.exit_code == 2, result.output
    assert re.search("Error: .", result.stderr)
