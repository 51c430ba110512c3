"""What a page of another origin can do to a replica, in Chromium and with a real Kafka: nothing, unless allowed."""

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from testbed.browser import Browser, Page, open_profile
from testbed.clients import open_sse, sse_records
from testbed.patience import seconds
from testbed.producing import produce_numbered
from testbed.replicas import Replica
from tests.conftest import Kafka
from tests.recipes.edge import Edge, open_edge

NAMES = "--host-resolver-rules=MAP *.example 127.0.0.1"
"""A stranger can give any name any address; so can this browser."""

SECURITY = Path(__file__).parents[2] / "docs" / "security.md"

FILES = {
    "/": ("text/html", b"<!doctype html><title>stranger</title><body>"),
    "/favicon.ico": ("image/x-icon", b""),
    "/sandbox": (
        "text/html",
        b"<script>const s = new WebSocket(location.hash.slice(1));"
        b"s.onclose = () => parent.postMessage(0, '*');</script>",
    ),
}

ELEMENT = """
  const e = document.createElement("%s"); e.%s = url;
  e.onload = e.onerror = end; document.body.append(e)"""
FORM = """
  const e = document.createElement("iframe"); e.name = "into"; document.body.append(e);
  const form = document.createElement("form"); form.action = url; form.target = "into"; form.method = "%s";
  document.body.append(form); e.onload = end; form.submit()"""
EVENTS = """
  const e = new EventSource(url, { withCredentials: %s });
  e.onerror = () => e.readyState === 2 && end()"""
FETCH = "fetch(url, { mode: '%s'%s }).then((a) => a.text()).finally(end)"
NO_CORS_NAMED = FETCH % ("no-cors", ", headers: { Accept: 'text/event-stream' }")

ATTACKS = {
    "WebSocket": "const e = new WebSocket(url.replace('http', 'ws').replace('events', 'ws')); e.onclose = end",
    "WebSocket from a sandbox": """
  const e = document.createElement("iframe"); e.sandbox = "allow-scripts"; onmessage = end;
  e.src = "/sandbox#" + url.replace('http', 'ws').replace('events', 'ws'); document.body.append(e)""",
    "EventSource": EVENTS % "false",
    "EventSource with credentials": EVENTS % "true",
    "fetch": FETCH % ("cors", ""),
    "fetch with credentials": FETCH % ("cors", ", credentials: 'include'"),
    "fetch without CORS": FETCH % ("no-cors", ""),
    "fetch without CORS, by POST": FETCH % ("no-cors", ", method: 'POST', body: 'x'"),
    "img": ELEMENT % ("img", "src"),
    "script": ELEMENT % ("script", "src"),
    "iframe": ELEMENT % ("iframe", "src"),
    "video": ELEMENT % ("video", "src"),
    "form by GET": FORM % "get",
    "form by POST": FORM % "post",
    "beacon": "navigator.sendBeacon(url, 'x'); setTimeout(end)",
    "link": "location.href = url",
}
"""Scripts that have ``url`` and call ``end`` when the browser says that it is over."""


class Scene:
    """A replica without a subscriber, records that wait there, and a stranger's page."""

    def __init__(self, kafka: Kafka, replica: Replica, topic: str, browser: Browser, stranger: Edge) -> None:
        self._kafka = kafka
        self.replica = replica
        self._topic = topic
        self._browser = browser
        self.strangers_port = stranger.address[1]
        self._written = 0
        self._tab: Page | None = None

    async def write(self) -> None:
        """One record, and it has reached the replica."""
        servers = self._kafka.bootstrap_servers
        await trio.to_thread.run_sync(produce_numbered, servers, self._topic, 1, 1, 0, self._written)
        self._written += 1
        await self.until(lambda records: int(records["published"]) == self._written)

    async def until(self, condition: Callable[[dict[str, int]], bool]) -> None:
        """Return when the figures of records in ``/status`` are so."""
        await trio.to_thread.run_sync(self.replica.wait_for, "records", lambda status: condition(status["records"]))

    async def page_at(self, url: str) -> Page:
        """A tab that has loaded a page."""
        return await self._load(await self._browser.new_page(), url)

    async def _load(self, page: Page, url: str) -> Page:
        await page.open(url)
        await page.until("location.protocol === 'http:' && document.readyState === 'complete'")
        return page

    async def succeeds(self, attack: str, page_url: str, target: str) -> bool:
        """Whether an attack, run in a page, takes the record that waits for a subscriber."""
        before = (await self.status())["records"]["dispatched"]
        await self.write()
        # The same tab for all attacks: a process of the browser for each of them takes a second of CPU.
        self._tab = self._tab or await self._browser.new_page()
        page = await self._load(self._tab, page_url)
        prepare = "window.isHere = true; const end = () => { window.ended = true; };"
        script = f"void ((url) => {{ {prepare} {attack} }})('{target}/events')"
        await page.run(script)
        is_over = False
        with trio.fail_after(seconds(60)):
            while (dispatched := (await self.status())["records"]["dispatched"]) == before and not is_over:
                is_over = bool(await page.run("window.ended || !window.isHere"))
        await page.open("about:blank")
        await trio.to_thread.run_sync(self.replica.wait_for, "left", lambda status: not status["subscribers"]["total"])
        return bool(dispatched != before)

    async def status(self) -> dict[str, Any]:
        """``/status``."""
        return await trio.to_thread.run_sync(self.replica.status)

    async def nothing_has_moved(self) -> None:
        """The next subscriber gets the very first record, and Kafka has no other offset for the group than 0."""
        rows = await trio.to_thread.run_sync(self._kafka.group_offsets, self.replica.group)
        assert {row.current_offset for row in rows.values()} <= {0, None}
        async with open_sse(self.replica) as stream:
            records = await sse_records(stream, self._written)
        assert [record.data for record in records] == [str(number) for number in range(self._written)]


@asynccontextmanager
async def staged(
    kafka: Kafka, replicas: Callable[..., Replica], host: str = "127.0.0.1", **settings: object
) -> AsyncIterator[Scene]:
    """A scene; ``{stranger}`` in a setting is the stranger's port."""
    topic = kafka.create_topic(1)
    with trio.fail_after(seconds(150)):
        async with open_edge([], FILES) as stranger, open_profile(NAMES) as browser:
            flags = {name: str(value).format(stranger=stranger.address[1]) for name, value in settings.items()}
            replica = replicas(kafka.bootstrap_servers, topic, host=host, settings=flags)
            await trio.to_thread.run_sync(replica.wait_until_ready)
            yield Scene(kafka, replica, topic, browser, stranger)


@pytest.mark.parametrize(
    ("bind", "page_host", "target_host"),
    [
        ("127.0.0.1", "127.0.0.1", "127.0.0.1"),  # another port of the same machine: Sec-Fetch-Site is same-site
        ("127.0.0.1", "stranger.example", "127.0.0.1"),  # cross-site
        ("0.0.0.0", "stranger.example", "stream.example"),  # noqa: S104 - plain HTTP by name: no Sec-Fetch-Site
    ],
)
async def test_a_page_of_another_origin_takes_nothing(
    kafka: Kafka, replicas: Callable[..., Replica], bind: str, page_host: str, target_host: str
) -> None:
    """Every way to make a request in a browser is refused, and no offset moves."""
    async with staged(kafka, replicas, bind) as scene:
        target = f"http://{target_host}:{scene.replica.port}"
        attacks = dict(ATTACKS)
        if target_host == "127.0.0.1":
            attacks["fetch without CORS that names event streams"] = NO_CORS_NAMED
        page_url = f"http://{page_host}:{scene.strangers_port}/"
        succeeded = [name for name, attack in attacks.items() if await scene.succeeds(attack, page_url, target)]
        assert succeeded == []
        await scene.nothing_has_moved()


@pytest.mark.parametrize("attack", ["WebSocket", "EventSource", "fetch"])
async def test_a_name_that_points_here_is_no_way_in(
    kafka: Kafka, replicas: Callable[..., Replica], attack: str
) -> None:
    """With DNS rebinding the page has the replica's origin, but its name is not ours."""
    async with staged(kafka, replicas) as scene:
        rebound = f"http://rebound.example:{scene.replica.port}"
        # Its name pointed elsewhere when the page was loaded; here /client.js stands for what was loaded.
        assert not await scene.succeeds(ATTACKS[attack], f"{rebound}/client.js", rebound)
        await scene.nothing_has_moved()


SUBSCRIBE = """
  import("%s/client.js").then(({ subscribe }) => {
    window.values = []; window.states = [];
    subscribe("%s", {
      transport: "%s", credentials: "include", headers: { Authorization: "Bearer x" },
      onRecord: ({ value }) => values.push(value), onState: ({ state, reason }) => states.push(`${state}: ${reason}`),
    });
  }).then(() => true)"""


@pytest.mark.parametrize("transport", ["sse", "websocket"])
async def test_an_allowed_page_reads_with_client_js(
    kafka: Kafka, replicas: Callable[..., Replica], transport: str
) -> None:
    """It imports the module, and subscribes with credentials and a preflight."""
    async with staged(kafka, replicas, allowed_origins="http://127.0.0.1:{stranger}") as scene:
        await scene.write()
        url = scene.replica.url
        page = await scene.page_at(f"http://127.0.0.1:{scene.strangers_port}/")
        await page.run(SUBSCRIBE % (url, url, transport))
        await page.until("values.join() === '0'")
        await scene.write()
        await page.until("values.join() === '0,1'")


@pytest.mark.parametrize(
    ("allowed", "credentials"), [("http://127.0.0.1:{stranger}", "true"), ("*", "false"), ("*", "true")]
)
async def test_an_allowed_page_reads_with_an_event_source(
    kafka: Kafka, replicas: Callable[..., Replica], allowed: str, credentials: str
) -> None:
    """Credentials need a listed origin, and the page can read errors."""
    async with staged(kafka, replicas, allowed_origins=allowed) as scene:
        await scene.write()
        page = await scene.page_at(f"http://127.0.0.1:{scene.strangers_port}/")
        url = f"{scene.replica.url}/events"
        await page.run(
            f"window.source = new EventSource('{url}', {{ withCredentials: {credentials} }});"
            "source.onmessage = (e) => { window.data = e.data; }; true"
        )
        if (allowed, credentials) == ("*", "true"):
            await page.until("source.readyState === EventSource.CLOSED && window.data === undefined")
            return
        await page.until("window.data === '0'")
        reason = await page.run(f"fetch('{url}?since=x').then((a) => a.json())")
        assert "is not a time" in reason["detail"]


async def test_a_person_may_type_the_address(kafka: Kafka, replicas: Callable[..., Replica]) -> None:
    """On loopback it streams; by name over plain HTTP it is refused like a stranger's image."""
    async with staged(kafka, replicas, "0.0.0.0") as scene:  # noqa: S104
        await scene.write()
        page = await scene.page_at(f"http://stream.example:{scene.replica.port}/events")
        assert "must name text/event-stream in Accept" in await page.run("document.body.innerText")
        assert not (await scene.status())["records"]["dispatched"]
        await page.open(f"http://127.0.0.1:{scene.replica.port}/events")
        await scene.until(lambda records: records["dispatched"] == 1)


@pytest.mark.parametrize("transport", ["auto", "websocket"])
async def test_client_js_says_that_it_is_probably_cors(
    kafka: Kafka, replicas: Callable[..., Replica], transport: str
) -> None:
    """Browsers hide the reason; if only /livez answers, the server has refused."""
    async with staged(kafka, replicas) as scene:
        url = scene.replica.url
        page = await scene.page_at(f"http://127.0.0.1:{scene.strangers_port}/")
        await page.run(SUBSCRIBE % (url, url, transport))
        await page.until("states.some((state) => /^reconnecting: .*probably CORS.*allowed_origins/.test(state))")
        scene.replica.process.terminate()
        await trio.to_thread.run_sync(scene.replica.wait)
        await page.until("states.at(-1) === 'reconnecting: no connection'")


async def test_the_page_works_by_name_over_plain_http(kafka: Kafka, replicas: Callable[..., Replica]) -> None:
    """Browsers send no Sec-Fetch-Site there, and the replica's own page still works."""
    async with staged(kafka, replicas, "0.0.0.0", allowed_hosts="stream.example") as scene:  # noqa: S104
        await scene.write()
        for transport in ("sse", "websocket"):
            page = await scene.page_at(f"http://stream.example:{scene.replica.port}/?transport={transport}&observe=0")
            await page.until("document.querySelectorAll('#records > li').length === 1")
            await page.until("document.querySelectorAll('#partitions tbody tr').length === 1")
            assert page.complaints == []
            await page.open("about:blank")
            # The next record must not go to the page that is leaving.
            await trio.to_thread.run_sync(
                lambda: scene.replica.wait_for("nobody", lambda status: status["subscribers"]["total"] == 0)
            )
            await scene.write()
        for path in ("status", "metrics"):
            page = await scene.page_at(f"http://stream.example:{scene.replica.port}/{path}")
            assert "dispatched" in await page.run("document.body.innerText")


async def test_what_remains_is_written_down(kafka: Kafka, replicas: Callable[..., Replica]) -> None:
    """Over plain HTTP, a no-cors fetch for event streams looks like the page's own EventSource."""
    async with staged(kafka, replicas, "0.0.0.0") as scene:  # noqa: S104
        target = f"http://stream.example:{scene.replica.port}"
        # The browser may end a response that the page cannot read before anything was dispatched: it is a race.
        for _ in range(10):
            if await scene.succeeds(NO_CORS_NAMED, f"http://stranger.example:{scene.strangers_port}/", target):
                break
        else:
            pytest.fail("it is closed: say so in docs/security.md")
    assert re.search(r"no-cors[^.]*plain\s+HTTP", SECURITY.read_text())
