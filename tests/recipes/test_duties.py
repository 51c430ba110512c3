"""Each duty that the table of docs/clients.md says a recipe has, on the cases that all clients share.

Recipes on `client.js`, `dispatcher.client` and `dispatcher tail` are not here: those pass the whole table of cases by
themselves (tests/web/test_client_js.py, tests/client/test_cases.py, tests/command/test_tail.py).
"""

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
import trio

from dispatcher.sansio.position import parse_position
from dispatcher.web import page
from testbed.browser import open_browser
from tests.client_cases.server import CaseServer, case_server
from tests.client_cases.table import cases
from tests.recipes.blocks import blocks, duties, number_of_fences, states
from tests.recipes.edge import Elsewhere, open_edge
from tests.recipes.running import PAGES, PROCESSES, SHOWN, Recipes, Running

pytestmark = pytest.mark.timeout(600)  # installing and compiling are part of the first test

CASES = {
    "resume": ["reset", "goodbye-1011"],
    "begin": ["first-position"],
    "merge": ["two-replicas", "compact-ids"],
    "heartbeat": ["heartbeat-moves-the-position"],
    "repeats": ["repeats", "first-position-is-no-record", "one-position-a-write"],
    "recreated": ["gap-recreated"],
    "wait": ["goodbye-1012", "goodbye-1013"],
    "give up": ["goodbye-4400", "goodbye-4403", "http-404"],
    "silence": ["half-open", "half-an-event"],
}
OF_THEIR_OWN = ("eventsource.html", "node.mjs", "with_httpx.py", "with_websockets.py", "main.go", "follow.sh")
"""Recipes that do these things themselves."""

DROPPING = ("eventsource.html", "node.mjs")
"""Recipes whose platform drops what it has not handed out yet when a connection fails; the server sends it again."""

PATIENCE_SECONDS = 60.0
AT_ONCE = 6
"""How many run at the same time."""


def test_every_block_of_the_page_is_run() -> None:
    """A block without a name, or one that nothing runs, would rot."""
    texts = blocks()
    assert number_of_fences() == len(texts)
    parts = {"useStream.jsx", "main.jsx", "seen.py", "pack.sh", "look.sh"}
    installs = {f"install-{what}.sh" for what in ("react", "node", "httpx", "websockets")}
    pages = {page for page in PAGES if page != "react.html"}
    assert set(texts) == {*PROCESSES, *pages, *parts, *installs}
    assert set(duties()) == {*PROCESSES, *pages, "useStream.jsx", "look.sh"}


def test_what_people_are_shown_has_every_state() -> None:
    """The page has the states of client.d.ts, with client.js's words where they are fixed."""
    folder = Path(page.__file__).parent
    union = re.search(r"type StateName =(.*?);", (folder / "client.d.ts").read_text(), re.DOTALL)
    words = re.search(r"const WORDS = {(.*?)}", (folder / "client.js").read_text(), re.DOTALL)
    assert union is not None
    assert words is not None
    table = states()
    assert set(table) == set(re.findall(r'"([\w-]+)"', union[1]))
    for state, text in re.findall(r'^ *"?([\w-]+)"?: "(.*)",$', words[1], re.MULTILINE):
        assert table[state] == text


def played() -> list[tuple[str, str, str]]:
    """Recipe, duty and case, for all that the table says."""
    table = duties()
    return [
        (recipe, duty, case)
        for recipe in OF_THEIR_OWN
        for duty, names in CASES.items()
        if table[recipe][duty]
        for case in names
    ]


async def check(recipe: str, duty: str, case: dict[str, Any], server: CaseServer, values: Callable[[], Any]) -> None:
    """Wait until the case has come to its end, and compare with what the table of cases expects."""
    expect, run = case["expect"], server.runs[case["name"], recipe]
    expected = expect.get("records", [])
    if "fatal" not in expect:
        while len(await values()) < len(expected):  # noqa: ASYNC110 - they are other processes
            await trio.sleep(0.05)
    assert await values() == expected
    connections = [each for each in run.connections if recipe not in DROPPING or not each["repeated"]]
    if duty == "wait":
        for connection, least_ms in zip(connections[1:], expect["waited_ms"], strict=False):
            assert connection["waited_ms"] >= least_ms
    if duty == "begin":
        assert all(connection["since"] for connection in connections)
    if duties()[recipe][duty] == "since":
        return  # its ids are those of one replica: only what it hands out is whole
    if "resumes" in expect:
        if duty == "silence":
            # The last connection is silent, too: 0.3 s later there is another, and a busy machine looks later.
            connections = connections[: len(expect["resumes"])]
        came = [c["last_event_id"] and parse_position(c["last_event_id"]) for c in connections]
        assert came == [text and parse_position(text) for text in expect["resumes"]]


class Verdicts:
    """What failed: one thing that does shall not hide the others."""

    def __init__(self) -> None:
        self.failed: list[str] = []

    @asynccontextmanager
    async def on(self, *what: object) -> AsyncIterator[None]:
        """Take note of a failure within the block, and of what takes too long."""
        try:
            with trio.fail_after(PATIENCE_SECONDS):  # noqa: ASYNC100 - the block waits
                yield
        except (AssertionError, trio.TooSlowError) as error:
            self.failed.append(f"{', '.join(map(str, what))}: {error!r}")


async def test_processes_have_the_duties_of_the_table(recipes: Recipes, tmp_path: Path) -> None:
    """What they print in order, where they resume, how long they wait, and how they give up."""
    verdicts, limit = Verdicts(), trio.CapacityLimiter(AT_ONCE)

    async def play(recipe: str, duty: str, name: str) -> None:
        case = cases()[name]
        heartbeat = case.get("heartbeat_seconds", 15.0)
        running = Running(recipes, recipe, f"{server.url}/{name}/{recipe}", tmp_path / f"{recipe}-{name}", heartbeat)

        async def values() -> list[str]:
            return running.values

        async with limit, trio.open_nursery() as nursery:
            async with verdicts.on(recipe, duty, name):
                if "fatal" in case["expect"]:
                    assert await running.run_to_end() != 0
                    assert str(case["expect"]["fatal"].get("reason", "404")) in running.told
                else:
                    await nursery.start(running.run_to_end)
                await check(recipe, duty, case, server, values)
            nursery.cancel_scope.cancel()

    async with case_server() as server, trio.open_nursery() as nursery:
        for recipe, duty, name in played():
            if recipe in PROCESSES:
                nursery.start_soon(play, recipe, duty, name)
    assert not verdicts.failed, "\n".join(verdicts.failed)


async def test_pages_have_the_duties_of_the_table(recipes: Recipes) -> None:
    """The same holds in Chromium."""
    verdicts = Verdicts()
    async with case_server() as server, open_browser() as browser, trio.open_nursery() as nursery:
        host, port = server.url.removeprefix("http://").split(":")

        async def play(recipe: str, duty: str, name: str) -> None:
            case = cases()[name]
            prefix = f"/{name}/{recipe}"
            async with (
                open_edge([Elsewhere((host, int(port)))], recipes.files, prefix) as edge,
                verdicts.on(recipe, duty, name),
            ):
                page = await browser.new_page()
                await page.open(f"{edge.url}/{recipe}")

                async def values() -> Any:
                    return await page.run(SHOWN)

                if "fatal" in case["expect"]:
                    shown = case["expect"]["fatal"].get("reason", "closed")
                    words = "document.querySelector('#state')?.textContent"
                    await page.until(f"{words} === {shown!r} || {words} === 'closed'")
                    await page.run("new Promise((go) => setTimeout(go, 1500))")  # longer than it would wait
                await check(recipe, duty, case, server, values)

        for recipe, duty, name in played():
            if recipe in PAGES:
                nursery.start_soon(play, recipe, duty, name)
    assert not verdicts.failed, "\n".join(verdicts.failed)


@pytest.mark.parametrize("recipe", ["with_httpx.py", "with_websockets.py", "main.go", "follow.sh"])
async def test_a_cut_anywhere_loses_and_repeats_nothing(recipes: Recipes, tmp_path: Path, recipe: str) -> None:
    """Cuts are within an id, within a value, and between the lines of an event."""
    verdicts, limit = Verdicts(), trio.CapacityLimiter(AT_ONCE)
    case = cases()["cut-at-any-byte"]

    async def cut(after: int) -> None:
        url = f"{server.url}/{case['name']}/{recipe}-cut{after}"
        running = Running(recipes, recipe, url, tmp_path / f"cut{after}")
        async with limit, trio.open_nursery() as nursery:
            await nursery.start(running.run_to_end)
            async with verdicts.on("cut behind", after):
                while len(running.values) < len(case["expect"]["records"]):  # noqa: ASYNC110 - they are other processes
                    await trio.sleep(0.05)
                assert running.values == case["expect"]["records"]
            nursery.cancel_scope.cancel()

    async with case_server() as server, trio.open_nursery() as nursery:
        for after in CUTS:
            nursery.start_soon(cut, after)
    assert not verdicts.failed, "\n".join(verdicts.failed)


async def test_the_shell_runs_nothing_of_what_a_server_sends(recipes: Recipes, tmp_path: Path) -> None:
    """Ids, delays and members of a gap are data, even if bash would evaluate them."""
    home = tmp_path / "hostile"
    command = "a[$(touch pwned)]"
    wrong = {"topic": command, "partition": command, "from": 0}
    gaps = ({**wrong, "to": command, "reason": "recreated"}, {**wrong, "to": 5, "reason": "expired"})
    lines = [
        *(f"retry: {command}", f"id: t:0={command}", "data: {}", ""),
        *(f"id: t:{command}=1,0={command}", ""),
        *(line for gap in gaps for line in ("event: gap", f"data: {orjson.dumps(gap).decode()}", "")),
        *("event: state", f'data: {{"heartbeat_seconds":"{command}"}}', f"id: {command}", ""),
        *(
            f"id: t:~{command};t:~AQ{command}",
            f'data: {{"topic":"{command}","partition":0,"offset":1,"value":"bad"}}',
            "",
        ),
        *("id: t:~AQH_____", f'data: {{"topic":"t","partition":{command},"offset":1,"value":"bad"}}', ""),
        *("id: t:0=1", 'data: {"topic":"t","partition":0,"offset":1,"value":"fine"}', "", ""),
    ]

    async def serve(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            await stream.receive_some(65536)
            head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
            await stream.send_all((head + "\n".join(lines)).encode())
            await trio.sleep_forever()

    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
            port = listeners[0].socket.getsockname()[1]
            running = Running(recipes, "follow.sh", f"http://127.0.0.1:{port}", home)
            await nursery.start(running.run_to_end)
            while not running.lines:  # noqa: ASYNC110 - it is another process
                await trio.sleep(0.05)
            nursery.cancel_scope.cancel()
    assert running.values == ["fine"], running.told
    assert not (home / "pwned").exists()


CUTS = (60, 200, 230, 280, 320, 420)
