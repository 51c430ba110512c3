"""The page and its files as they are served: types, caching, and what a browser may do with them."""

import re
from pathlib import Path

import httpx2
import pytest
import trio

from dispatcher.web import page
from dispatcher.web.page import FILES
from tests.web.test_transports import House

FOLDER = Path(page.__file__).parent


def get(url: str, tag: str) -> httpx2.Response:
    """Ask for what one has already."""
    return httpx2.get(url, headers={"If-None-Match": tag})


@pytest.mark.parametrize("path", FILES)
async def test_a_file_is_served_once_and_then_said_to_be_the_same(path: str) -> None:
    """It has a type and an ETag, and a request with the ETag gets 304."""
    house = House("plain")
    async with house.serving():
        host, port = house.server.addresses[0]
        url = f"http://{host}:{port}{path}"
        first = await trio.to_thread.run_sync(httpx2.get, url)
        assert first.status_code == 200
        assert first.headers["Content-Type"] == FILES[path][1]
        assert first.headers["Cache-Control"] == "no-cache"
        for tag in (first.headers["ETag"], f'"other", W/{first.headers["ETag"]}'):
            again = await trio.to_thread.run_sync(get, url, tag)
            assert again.status_code == 304
            assert again.content == b""
            assert again.headers["ETag"] == first.headers["ETag"]
        other = await trio.to_thread.run_sync(get, url, '"other"')
        assert other.content == first.content


@pytest.mark.parametrize("path", FILES)
async def test_nothing_from_elsewhere_can_run(path: str) -> None:
    """The policy allows scripts, styles and connections of this origin only, and no framing."""
    house = House("plain")
    async with house.serving():
        host, port = house.server.addresses[0]
        answer = await trio.to_thread.run_sync(httpx2.get, f"http://{host}:{port}{path}")
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["Content-Security-Policy"].split(";"))
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "connect-src": "'self'",
        "img-src": "'self' data:",
        "base-uri": "'none'",
        "frame-ancestors": "'none'",
        "form-action": "'none'",
    }
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_the_page_takes_nothing_from_elsewhere() -> None:
    """There is no foreign address and nothing inline, which the policy would refuse."""
    for name, _ in FILES.values():
        text = (FOLDER / name).read_text()
        assert re.findall(r"(?:src|href)=\"(?:https?:)?//", text) == [], name
        assert re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write", text) == [], name
    html = (FOLDER / "index.html").read_text()
    assert re.findall(r"<script(?![^>]* src=)|<style| style=| on[a-z]+=", html) == []
