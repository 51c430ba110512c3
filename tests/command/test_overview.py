"""``dispatcher status`` and ``dispatcher subscribers``: tables for people, JSON in a pipe, and clear errors."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import orjson
import pytest
import trio
from click.testing import CliRunner, Result

from dispatcher.command.main import main
from testbed.clients import open_sse
from testbed.replicas import Replica

SECRET = "0123456789abcdef"  # noqa: S105 - opens nothing but this replica
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]")


def run(*arguments: str, text: str = "") -> Result:
    """Run the command line; its output is no terminal."""
    return CliRunner().invoke(main, arguments, input=text)


@pytest.fixture(scope="module")
def replica(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    """Without a broker, with a port for operators."""
    path = tmp_path_factory.mktemp("admin") / "token"
    path.write_text(SECRET)
    replica = Replica("127.0.0.1:9", "assets", settings={"operations_bind": "127.0.0.1:0", "admin_token_file": path})
    yield replica
    replica.end()


@contextmanager
def saying(status: int, *bodies: bytes) -> Iterator[str]:
    """A server that answers each request with the next of some bodies, the last one for ever."""
    left = list(bodies)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = left.pop(0) if len(left) > 1 else left[0]
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_status_is_json_in_a_pipe_and_a_table_for_people(replica: Replica) -> None:
    """Both name the missing broker and exit with 1, because the replica is not ready."""
    piped = run("status", replica.operations_url)
    assert piped.exit_code == 1
    assert orjson.loads(piped.stdout)["replica"] == replica.client_id
    shown = run("status", replica.operations_url.removeprefix("http://"), "--format", "table")
    assert shown.exit_code == 1
    for words in (
        replica.client_id,
        "not ready",
        "no Kafka broker is reachable",
        "assets",
        "unknown",
        " subscribers: ",
    ):
        assert words in " ".join(shown.stdout.split()), shown.stdout


async def test_subscribers_are_listed(replica: Replica, tmp_path: Path) -> None:
    """Selected subscribers are listed as JSON, one per line, or as a table."""
    path = tmp_path / "token"
    path.write_text(SECRET)
    asked = ("subscribers", replica.operations_url, "--token-file", str(path))
    async with open_sse(replica, "", {"User-Agent": "teapot"}) as stream:
        assert await stream.next_event() is not None
        piped = await trio.to_thread.run_sync(run, *asked)
        lines = [orjson.loads(line) for line in piped.stdout.splitlines()]
        assert [(line["agent"], line["topics"]) for line in lines] == [("teapot", ["assets"])]
        assert not (await trio.to_thread.run_sync(run, *asked, "--subject", "alice")).stdout
        shown = await trio.to_thread.run_sync(run, *asked, "--format", "table")
        assert shown.exit_code == 0
        assert "teapot" in shown.stdout
        assert "1 in all" in shown.stdout


async def test_every_page_is_asked_for(tmp_path: Path) -> None:
    """Pages are read up to the limit; a server whose pages never end is refused."""
    path = tmp_path / "token"
    path.write_text(SECRET)

    def page(number: int, following: int | None) -> bytes:
        return orjson.dumps({"subscribers": [{"id": number}], "next": following, "total": 3})

    with saying(200, page(1, 1), page(2, 2), page(3, None)) as url:
        listed = run("subscribers", url, "--token-file", str(path))
        assert [orjson.loads(line)["id"] for line in listed.stdout.splitlines()] == [1, 2, 3]
    with saying(200, page(1, 1)) as url:
        endless = run("subscribers", url, "--token-file", str(path))
        assert endless.exit_code == 3
        assert "without end" in endless.stderr


def test_what_goes_wrong_is_said_in_one_line(replica: Replica, tmp_path: Path) -> None:
    """Exit code 2 means wrong usage, 3 no answer, and there is never a traceback."""
    good, wrong, empty = (tmp_path / name for name in ("good", "wrong", "empty"))
    good.write_text(SECRET)
    wrong.write_text("x" * 20)
    empty.write_text("\n")
    cases = (
        (("status", "ftp://localhost"), 2, "is not an address"),
        (("status", "http://[bad"), 2, "is not an address"),
        (("status", "http://127.0.0.1:9"), 3, "no answer from"),
        (("status", replica.url), 3, "operations_bind"),
        (("subscribers", replica.operations_url), 2, "--token-file"),
        (("subscribers", replica.operations_url, "--token-file", str(wrong)), 2, "401"),
        (("subscribers", replica.operations_url, "--token-file", str(empty)), 2, "holds no token"),
        (("subscribers", replica.operations_url, "--token-file", str(tmp_path / "none")), 2, "cannot be read"),
        (("subscribers", replica.operations_url, "--token-file", str(good), "--state", "dead"), 2, "unknown state"),
        (("subscribers", replica.url, "--token-file", str(good)), 3, "has no /admin"),
    )
    for arguments, code, words in cases:
        result = run(*arguments)
        assert (result.exit_code, arguments) == (code, arguments), result.output
        assert words in " ".join(result.stderr.split()), result.stderr


HOSTILE = "a\x1b[2J\u202e[bold]"
ODD: tuple[Any, ...] = (
    [],
    {"partitions": {}},
    {"partitions": [1]},
    {"partitions": [], "topic_health": [], "subscribers": 7, "bytes": {"history": "x"}, "group_health": None},
    {"partitions": [{"topic": HOSTILE, "lag": "x"}] * 60, "topic_health": {HOSTILE: {"health": [HOSTILE]}}},
    {"partitions": [], "replica": HOSTILE, "state": {HOSTILE: HOSTILE}, "subscribers": {"total": HOSTILE}},
)


@pytest.mark.parametrize("document", ODD)
def test_a_server_that_is_no_dispatcher_harms_nobody(document: Any) -> None:
    """Its text reaches the terminal only cleaned, and nothing ends in a traceback."""
    with saying(200, orjson.dumps(document)) as url:
        result = run("status", url, "--format", "table")
        assert result.exit_code in {1, 3}, result.exception
        assert not CONTROL.search(result.output)
    with saying(500, b"<html>") as url:
        assert run("status", url).exit_code == 3
