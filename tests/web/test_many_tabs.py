"""Many tabs of one origin in Chromium, which has six connections to it: a hub in this process, and no Kafka."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from testbed.browser import Browser, Page, open_browser
from testbed.patience import TooLateError, seconds
from tests.web.test_page_in_browser import House

TABS = 9
LOT = 20
PATIENCE_SECONDS = 10
"""Within these a tab is live, and a closed tab has given its place back, on a quiet machine (`testbed.patience`)."""
SUBSCRIBE = """import("/client.js").then(({ subscribe }) => {
  const options = { storageKey: "position", onRecord: (record) => seen.push(record.offset) };
  window.seen = [];
  window.stream = subscribe("/", { ...options, onState: (state) => (window.told = state), ...%s });
})"""
PLACES_HELD = "navigator.locks.query().then(({ held }) => held.length)"
UNTIL_HELD = """(async () => {
  while ((await %s) !== %d) await new Promise((go) => setTimeout(go, 20));
})()"""
LIVE = "window.told?.state === 'live'"


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[House, Browser]]:
    """A hub that serves, and a browser whose tabs share one process, to be light."""
    house = House()
    with trio.fail_after(seconds(90)):
        async with open_browser("--process-per-site") as browser, trio.open_nursery() as nursery:
            nursery.start_soon(house.hub.run)
            await nursery.start(house.server.serve)
            yield house, browser
            nursery.cancel_scope.cancel()


async def open_tab(house: House, browser: Browser, options: str = "{}") -> Page:
    """One that is live; its document is as small as the origin has any.

    Raises:
        TooLateError: the other tabs have all connections, or the stream does not begin.
    """
    with trio.move_on_after(seconds(PATIENCE_SECONDS)):
        page = await browser.new_page()
        await page.open(f"{house.url}client.js")
        await page.until(f"location.origin + '/' === '{house.url}' && document.readyState === 'complete'")
        await page.run(SUBSCRIBE % options)
        await page.until(LIVE)
        return page
    raise TooLateError(f"no stream in this tab, beside {dict(house.hub.statistics().transports)}")


async def until_held(page: Page, number: int) -> None:
    """Return when tabs hold this many places.

    Raises:
        TooLateError: they hold another number.
    """
    with trio.move_on_after(seconds(PATIENCE_SECONDS)):
        await page.run(UNTIL_HELD % (PLACES_HELD, number))
        return
    raise TooLateError(f"tabs hold {await page.run(PLACES_HELD)} places, not {number}")


async def transports(tabs: list[Page]) -> list[str]:
    """What each is connected over."""
    return [await page.run("told.transport") for page in tabs]


async def write(house: House, tabs: list[Page]) -> None:
    """A lot of records, which every tab is handed once."""
    begin = house.number
    for _ in range(LOT):
        house.write(b"x")
    offsets = [*range(begin, house.number)]
    for page in tabs:
        await page.until(f"seen.length >= {LOT}")
        assert await page.run("seen.splice(0)") == offsets


async def test_more_tabs_than_connections() -> None:
    """All are live, three over SSE and the others over WebSocket, and each gets each record once.

    A tab that is closed gives its place to the next one.
    """
    async with serving() as (house, browser):
        tabs: list[Page] = []
        for number in range(1, TABS + 1):
            tabs.append(await open_tab(house, browser))
            # Checked for each tab: without places, the seventh would wait for a connection for ever.
            assert await transports(tabs) == ["sse"] * min(number, 3) + ["websocket"] * (number - 3)
            assert await tabs[0].run(PLACES_HELD) == min(number, 3), "places held by tabs"
        await write(house, tabs)
        await tabs.pop(0).close()
        await until_held(tabs[0], 2)
        tabs.append(await open_tab(house, browser))
        assert await transports(tabs) == ["sse"] * 2 + ["websocket"] * (TABS - 3) + ["sse"]
        await write(house, tabs)


async def test_headers_of_the_page_stay_with_event_streams() -> None:
    """WebSockets cannot send headers, so such a stream uses a free place or none."""
    async with serving() as (house, browser):
        tabs = [await open_tab(house, browser, "{ headers: { 'X-Tenant': 'a' } }") for _ in range(4)]
        assert await transports(tabs) == ["sse"] * 4
        await write(house, tabs)


async def test_an_event_stream_beyond_the_places_where_no_websocket_works() -> None:
    """After a failed WebSocket, the next attempt is an event stream."""
    async with serving() as (house, browser):
        tabs = [await open_tab(house, browser) for _ in range(3)]
        page = await browser.new_page()
        await page.open(f"{house.url}client.js")
        await page.until("document.readyState === 'complete' && location.protocol === 'http:'")
        await page.run(
            "void (window.WebSocket = class extends WebSocket { constructor() { super('ws://127.0.0.1:1'); } })"
        )
        await page.run(SUBSCRIBE % "{}")
        await page.until(LIVE)
        tabs.append(page)
        assert await transports(tabs) == ["sse"] * 4
        await write(house, tabs)
