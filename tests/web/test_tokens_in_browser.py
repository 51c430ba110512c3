"""Tokens in Chromium: cookie, bearer and subprotocol, with tokens that may and that may not, here and elsewhere."""

import trio

from testbed.browser import Page, open_profile
from testbed.issuer import Issuer, open_issuer
from testbed.patience import seconds
from tests.hub.test_hub import ONE
from tests.recipes.edge import open_edge
from tests.web.test_authentication import COOKIE, Guarded, tampered
from tests.web.test_pages_of_strangers import FILES

SUBSCRIBE = """
  import("%(url)s/client.js").then(({ subscribe }) => {
    window.values = []; window.states = []; window.asked = 0;
    window.stream?.close();
    window.stream = subscribe("%(url)s", {
      transport: "%(transport)s", credentials: "include",
      token: %(token)s,
      onRecord: ({ offset }) => values.push(offset), onState: ({ state, reason }) => states.push(`${state}: ${reason}`),
    });
  }).then(() => true)"""

EVENTS = """(window.source?.close(), window.heard = [],
  window.source = new EventSource("%(url)s/events", { withCredentials: true }),
  source.addEventListener("state", () => heard.push("state")),
  source.onmessage = () => heard.push("record"),
  source.onerror = () => heard.push(`error ${source.readyState}`), true)"""

SOCKET = """(window.socket?.close(), window.heard = [],
  window.socket = new WebSocket("%(url)s/ws".replace("http", "ws"), "dispatcher.v1.json"),
  socket.onmessage = ({ data }) => heard.push(JSON.parse(data).type),
  socket.onclose = ({ code }) => heard.push(`close ${code}`), true)"""


class Scene:
    """A guarded house, and pages."""

    def __init__(self, house: Guarded, issuer: Issuer) -> None:
        self.house = house
        self.right = issuer.token()
        self.forbidden = issuer.token(scope="nothing")
        host, port = house.server.addresses[0]
        self.url = f"http://{host}:{port}"

    async def set_cookie(self, page: Page, token: str) -> None:
        """As an application on the same host would."""
        await page.run(f"document.cookie = '{COOKIE}={token}; Path=/; Secure; SameSite=Strict'")

    async def cookie_opens(self, page: Page) -> None:
        """A right one does, one without a grant does not; nobody has to send it."""
        for script in (EVENTS, SOCKET):
            await self.set_cookie(page, self.right)
            await page.run(script % {"url": self.url})
            await page.until("heard.includes('state')")
            await self.set_cookie(page, self.forbidden)
            await page.run(script % {"url": self.url})
            await page.until("heard.includes('error 2') || heard.includes('close 4403')")
            assert not await page.run("heard.includes('state')")
        await page.run(f"document.cookie = '{COOKIE}=; Path=/; Secure; Max-Age=0'")

    async def client_js_opens(self, page: Page, transport: str) -> None:
        """With a text and with a function; a refused token is asked for once more; a wrong one ends it."""
        wrong = tampered(self.right)
        functions = f"() => asked++ ? '{self.right}' : '{wrong}'"
        for token in (f"'{self.right}'", f"async () => '{self.right}'", functions):
            await page.run(SUBSCRIBE % {"url": self.url, "transport": transport, "token": token})
            await page.until("states.at(-1)?.startsWith('live')")
            before = await page.run("values.length")
            self.house.publish(ONE)
            await page.until(f"values.length > {before}")
            await page.run("stream.close()")
            await self.house.until(lambda: self.house.hub.subscribers == 0)
        for token, code in ((f"'{self.forbidden}'", "403"), (f"() => '{wrong}'", "401")):
            await page.run(SUBSCRIBE % {"url": self.url, "transport": transport, "token": token})
            await page.until(f"states.at(-1)?.startsWith('closed') && states.at(-1).includes('{code}')")
            assert await page.run("values.length") == 0


async def test_each_way_of_a_token_in_a_browser() -> None:
    """From the own origin, from an allowed one with credentials, and from a stranger's."""
    with trio.fail_after(seconds(60)):
        async with open_issuer() as issuer, open_edge([], FILES) as allowed, open_edge([], FILES) as stranger:
            origins = [f"http://127.0.0.1:{edge.address[1]}" for edge in (allowed, stranger)]
            house = Guarded(issuer, allowed_origins=origins[0])
            async with house.serving(60), open_profile() as browser:
                scene = Scene(house, issuer)
                for page_url in (f"{scene.url}/client.js", f"{origins[0]}/"):
                    page = await browser.new_page()
                    await page.open(page_url)
                    await page.until("location.protocol === 'http:' && document.readyState === 'complete'")
                    await scene.cookie_opens(page)
                    for transport in ("sse", "websocket"):
                        await scene.client_js_opens(page, transport)
                    await page.close()
                page = await browser.new_page()
                await page.open(f"{origins[1]}/")
                await page.until("location.protocol === 'http:' && document.readyState === 'complete'")
                await scene.set_cookie(page, scene.right)
                await page.run(EVENTS % {"url": scene.url})
                await page.until("heard.includes('error 2')")
                await page.run(SOCKET % {"url": scene.url})
                await page.until("heard.some((what) => what.startsWith('close'))")
                assert not await page.run("heard.includes('state')")
                dispatched = len(house.dispatched)
                house.publish(ONE)
                await page.run(SOCKET % {"url": scene.url})
                await page.until("heard.some((what) => what.startsWith('close'))")
                assert len(house.dispatched) == dispatched
