"""Compressed streams in browsers, directly and through nginx: `EventSource`, `fetch` and `WebSocket` all offer it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest

from dispatcher.hub.goodbyes import Goodbye
from dispatcher.web.app import create_app
from dispatcher.web.operations import Operations
from dispatcher.web.server import Server
from testbed.browser import Tab, open_profile
from testbed.firefox import FIREFOX, open_firefox
from testbed.patience import seconds
from tests.web.test_behind_nginx import HouseBehindNginx, documented
from tests.web.test_page_in_browser import Told
from tests.web.test_transports import House

PADDING = "so long that it is compressed " * 20

OPEN = """import("/client.js").then(({ subscribe }) => {
    window.events = [];
    window.fetched = [];
    window.messages = [];
    window.source = new EventSource("/events");
    source.onmessage = (event) => events.push(event.data);
    source.addEventListener("goodbye", (event) => { events.push(JSON.parse(event.data).code); source.close(); });
    window.stream = subscribe("/", {
        transport: "sse",
        onRecord: ({ value }) => fetched.push(value),
        onState: ({ state, reason }) => fetched.push(`${state}: ${reason}`),
    });
    window.socket = new WebSocket(location.origin.replace("http", "ws") + "/ws");
    socket.onmessage = (event) => {
        for (const record of JSON.parse(event.data).records ?? []) messages.push(record.value);
    };
    socket.onclose = (event) => messages.push(event.code);
})"""


@asynccontextmanager
async def open_tab(browser: str) -> AsyncIterator[Tab]:
    """A tab of a browser in which nothing is stored."""
    if browser == "firefox":
        async with open_firefox() as tab:
            yield tab
    else:
        async with open_profile() as chromium:
            yield await chromium.new_page()


def make_house(way: str, folder: Path) -> House:
    """A house that serves the page, with nginx in front of it or without."""
    nginx = HouseBehindNginx("socket", folder, documented(), compression="on") if way == "nginx" else None
    house = nginx or House("socket", compression="on")
    app = create_app(house.hub, house.settings, cast("Operations", Told()))
    house.server = Server(app, house.settings, lambda: house.hub.subscribers, direct=app.direct)
    return house


@pytest.mark.parametrize("way", ["directly", "nginx"])
@pytest.mark.parametrize("browser", ["chromium", FIREFOX])
async def test_all_three_read_record_by_record(browser: str, way: str, tmp_path: Path) -> None:
    """Each record arrives before the next is published, and the reason for the end arrives, too."""
    house = make_house(way, tmp_path)
    async with house.serving(within_seconds=90), open_tab(browser) as tab:
        url = house.url if isinstance(house, HouseBehindNginx) else "http://{}:{}".format(*house.server.addresses[0])
        await tab.open(f"{url}/")
        await tab.until("document.readyState === 'complete' && location.protocol === 'http:'")
        await tab.run(OPEN)
        # The page has a stream of its own.
        await tab.until("socket.readyState === 1 && source.readyState === 1")
        assert str(await tab.run("socket.extensions")).startswith("permessage-deflate")
        await house.until(lambda: wires(house) == {"sse-gzip", "sse-envelope-gzip", "websocket-deflate"})
        for number in range(3):
            value = f"record {number} {PADDING}"
            house.publish_text(value)
            arrived = " && ".join(f"{name}.includes('{value}')" for name in ("events", "fetched", "messages"))
            await tab.until(arrived, seconds(30))
        house.hub.say_goodbye(lambda: Goodbye(1012, "the replica restarts", 1500))
        said = "fetched.some((text) => text.includes('the replica restarts'))"
        await tab.until(f"events.includes(1012) && messages.includes(1012) && {said}", seconds(30))
        statistics = house.hub.encoder.statistics().compression
        assert statistics is not None
        assert statistics.output_bytes < statistics.input_bytes / 2


def wires(house: House) -> set[str]:
    """The formats that subscribers have."""
    return {statistics.wire for statistics in house.hub.subscriber_statistics()}
