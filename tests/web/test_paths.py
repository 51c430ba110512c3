"""Paths in other spellings than their route's, over real sockets: a rule of a proxy may know only one of them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import trio
from quart import Quart

from dispatcher.web.admin import Admin
from dispatcher.web.admin_streams import OwnStreams
from dispatcher.web.app import create_app, create_operations_app
from dispatcher.web.operations import Operations
from dispatcher.web.server import Server
from tests.web.test_admin import SECRET, Administered
from tests.web.test_origin_check import Allowing
from tests.web.test_page_in_browser import Told
from tests.web.test_transports import UPGRADE

REQUEST = "{} {} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nConnection: close\r\n\r\n"


def spellings(path: str) -> Iterator[str]:
    """A path in the ways that a server or a proxy may take for the same one."""
    first, rest = path[1:2], path[2:]
    yield from (f"/{path}", f"//{path}", f"/.{path}", f"/%2e{path}", f"/x/..{path}", f"/%2f{path[1:]}", f"/%2F{path}")
    yield from (f"/\\{path[1:]}", f"/%5c{path[1:]}", f"/;x{path}", f"{path};x", f"{path}%3bx", f"{path}#x")
    yield from (f"{path}%{code}" for code in ("00", "09", "0a", "20", "23", "2e", "3f"))
    if first:
        code = f"{ord(first):02x}"
        yield from (f"/%{code}{rest}", f"/%{code.upper()}{rest}", f"/%25{code}{rest}", path.upper())
        yield from (f"{path}/", f"{path}//", f"{path}/.", f"{path}%2f", f"{path}/../{first}{rest}")
    if "/" in rest:
        head, _, tail = path.rpartition("/")
        yield from (f"{head}//{tail}", f"{head}/./{tail}", f"{head}%2f{tail}", f"{head};x/{tail}")


def routes(app: Quart) -> dict[str, str]:
    """The path of each route, with a method for it."""
    named = {rule.rule: min({*(rule.methods or {"GET"})} - {"OPTIONS"}) for rule in app.url_map.iter_rules()}
    return {re.sub("<.*>", "1", path): method for path, method in named.items()}


async def status(server: Server, request: str) -> int:
    """The status of the response to a request."""
    stream = await trio.open_tcp_stream(*server.addresses[0])
    async with stream:
        await stream.send_all(request.encode())
        head = b""
        while len(head) < len("HTTP/1.1 404"):
            data = await stream.receive_some(65536)
            assert data, request
            head += data
    return int(head.split()[1])


async def check_spellings(server: Server, app: Quart) -> None:
    """Send every route's path as it is, and in all other spellings."""
    known = routes(app)
    assert {"/livez", "/status", "/metrics"} <= known.keys()
    for path, method in known.items():
        assert await status(server, REQUEST.format("HEAD", path, SECRET)) != 404, path
        for other in spellings(path):
            for target in (other, f"http://localhost{other}?x"):
                assert (target, await status(server, REQUEST.format(method, target, SECRET))) == (target, 404)


async def test_the_public_port_serves_no_other_spelling() -> None:
    """Whether it is a page, a stream, or for operators."""
    house = Allowing()
    async with house.serving(60):
        await check_spellings(house.server, create_app(house.hub, house.settings, cast("Operations", Told())))


async def test_the_port_for_operators_serves_no_other_spelling(tmp_path: Path) -> None:
    """Administration included, with the right token."""
    house = Administered(tmp_path)
    admin = Admin(OwnStreams(house.visits, house.drain), house.access)
    async with house.serving(60):
        app = create_operations_app(house.settings, cast("Operations", Told()), admin)
        await check_spellings(house.for_operators, app)
        assert (house.stops, house.drain.is_on) == (0, False)


async def test_a_websocket_has_no_other_spelling() -> None:
    """It is answered before the upgrade."""
    house = Allowing()
    async with house.serving():
        for other in spellings("/ws"):
            request = UPGRADE.decode().replace("/ws", other, 1)
            assert (other, await status(house.server, request)) == (other, 404)
