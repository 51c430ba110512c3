"""Compressed streams in Chromium, whose EventSource offers gzip and whose WebSocket offers permessage-deflate."""

from typing import cast

from dispatcher.hub.goodbyes import Goodbye
from dispatcher.web.app import create_app
from dispatcher.web.operations import Operations
from dispatcher.web.server import Server
from testbed.browser import open_profile
from testbed.patience import seconds
from tests.web.test_page_in_browser import Told
from tests.web.test_transports import House

PADDING = "so long that it is compressed " * 20

OPEN = """void (() => {
    window.events = [];
    window.messages = [];
    window.source = new EventSource("/events");
    source.onmessage = (event) => events.push(event.data);
    source.addEventListener("goodbye", (event) => { events.push(JSON.parse(event.data).code); source.close(); });
    window.socket = new WebSocket(location.origin.replace("http", "ws") + "/ws");
    socket.onmessage = (event) => {
        for (const record of JSON.parse(event.data).records ?? []) messages.push(record.value);
    };
    socket.onclose = (event) => messages.push(event.code);
})()"""


async def test_event_source_and_websocket_read_record_by_record() -> None:
    """Each record arrives before the next is published, and the reason for the end arrives, too."""
    house = House("socket", compression="on")
    app = create_app(house.hub, house.settings, cast("Operations", Told()))
    house.server = Server(app, house.settings, lambda: house.hub.subscribers, direct=app.direct)
    async with house.serving(within_seconds=90), open_profile() as browser:
        page = await browser.new_page()
        await page.open("http://{}:{}/".format(*house.server.addresses[0]))
        await page.until("document.readyState === 'complete' && location.protocol === 'http:'")
        await page.run(OPEN)
        # The page has streams of its own.
        await page.until("socket.readyState === 1 && source.readyState === 1")
        await house.until(lambda: wires(house) >= {"sse-gzip", "websocket-deflate"})
        for number in range(3):
            house.publish_text(f"record {number} {PADDING}")
            value = f"record {number} {PADDING}"
            await page.until(f"events.includes('{value}') && messages.includes('{value}')", seconds(30))
        house.hub.say_goodbye(lambda: Goodbye(1012, "the replica restarts", 1500))
        await page.until("events.includes(1012) && messages.includes(1012)", seconds(30))
        statistics = house.hub.encoder.statistics().compression
        assert statistics is not None
        assert statistics.output_bytes < statistics.input_bytes / 2


def wires(house: House) -> set[str]:
    """The formats that subscribers have."""
    return {statistics.wire for statistics in house.hub.subscriber_statistics()}
