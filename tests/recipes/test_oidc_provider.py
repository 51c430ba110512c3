"""A real OpenID Connect provider (PyPI ``oidc-provider-mock``): log in, stream, keys rotate, it goes away, tokens end.

It is installed into an environment of its own. Its access tokens are opaque, so its ID tokens stand for them: they are
what providers without RFC 9068 sign, with ``auth_types = "JWT"`` and the client as the audience.
"""

import socket
import venv
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2
import pytest
import trio

from dispatcher.client import subscribe
from testbed.issuer import Issuer
from testbed.patience import seconds
from tests.client.test_subscription import QUICK
from tests.client.test_tokens import url
from tests.hub.test_hub import ONE
from tests.web.test_authentication import Guarded

PACKAGE = "oidc-provider-mock>=0.3,<0.4"
REDIRECT = "https://app.example.org/callback"
RULES = [{"require": {}, "topics": [ONE.topic]}]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The provider's command."""
    import subprocess

    folder = tmp_path_factory.mktemp("provider")
    venv.create(folder, with_pip=True)
    install = [str(folder / "bin" / "pip"), "install", "-q", PACKAGE]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"{PACKAGE} cannot be had here: {done.stderr.strip()[-200:]}")
    return folder / "bin" / "oidc-provider-mock"


class Provider:
    """The provider on a port that it keeps, and a client of it."""

    def __init__(self, program: Path, nursery: trio.Nursery, token_seconds: int) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self.metadata: dict[str, Any] = {}
        self._command = [str(program), "--port", str(self._port), "--token-max-age", str(token_seconds)]
        self._nursery = nursery
        self._process: trio.Process | None = None

    async def start(self) -> None:
        """Each start makes another key."""
        run = trio.run_process
        self._process = await self._nursery.start(
            lambda task_status: run(
                self._command, capture_stdout=True, capture_stderr=True, check=False, task_status=task_status
            )
        )
        async with httpx2.AsyncClient() as client:
            with trio.fail_after(seconds(20)):
                while not await self._answers(client):
                    pass

    async def _answers(self, client: httpx2.AsyncClient) -> bool:
        try:
            self.metadata = (await client.get(f"{self.url}/.well-known/openid-configuration")).json()
        except httpx2.HTTPError:
            await trio.sleep(0.05)
            return False
        return True

    async def stop(self) -> None:
        """It is away."""
        assert self._process is not None
        self._process.kill()
        await self._process.wait()

    async def log_in(self, subject: str) -> str:
        """What an application gets for a person who has logged in: authorization code flow."""
        async with httpx2.AsyncClient() as client:
            query = {"client_id": "app", "redirect_uri": REDIRECT, "response_type": "code", "scope": "openid"}
            where = f"{self.metadata['authorization_endpoint']}?{urlencode(query)}"
            answer = await client.post(where, data={"sub": subject})
            [code] = parse_qs(urlsplit(answer.headers["Location"]).query)["code"]
            exchange = {"grant_type": "authorization_code", "code": code, "redirect_uri": REDIRECT}
            answer = await client.post(self.metadata["token_endpoint"], data=exchange, auth=("app", "secret"))
            return str(answer.json()["id_token"])


@asynccontextmanager
async def staged(program: Path, token_seconds: int) -> AsyncIterator[tuple[Provider, Guarded]]:
    """A provider that runs, and a house that takes its tokens."""
    async with trio.open_nursery() as nursery:
        provider = Provider(program, nursery, token_seconds)
        await provider.start()
        house = Guarded(cast("Issuer", provider), auth_audience="app", auth_types="JWT", auth_grants=RULES)
        async with house.serving(120):
            yield provider, house
        await provider.stop()


async def test_log_in_stream_rotate_and_away(program: Path) -> None:
    """A stream goes on whatever the provider does; a new key is found at once; while it is away its last keys count."""
    async with staged(program, 600) as (provider, house):
        alice = await provider.log_in("alice")
        async with subscribe(url(house), token=alice, **QUICK) as stream:
            house.publish(ONE)
            await anext(stream)
            await provider.stop()
            async with house.stream(alice) as second:
                await second.next_control("state")
            await provider.start()  # with another key
            bob = await provider.log_in("bob")
            async with house.stream(bob) as third:
                await third.next_control("state")
            await provider.stop()
            async with house.stream(bob) as fourth:
                await fourth.next_control("state")
            house.publish(ONE)
            assert (await anext(stream)).offset == 1
            assert stream.statistics().attempts == 1
            assert (await house.ask(Authorization=f"Bearer {alice}")).status_code == 401  # its key is withdrawn
            await provider.start()


def _has_token_after(house: Guarded, moment: float) -> bool:
    """Whether a stream is open with a token that ends after a moment."""
    return any(session.verdict.principal.expires_at > moment for session in house.authentication.sessions.open)


@pytest.mark.parametrize("transport", ["sse", "websocket"])
async def test_a_token_ends_while_it_streams(program: Path, transport: Any) -> None:
    """The client logs in again, and each record comes once: over a WebSocket without a break."""
    async with staged(program, 12) as (provider, house):

        async def log_in() -> str:
            return await provider.log_in("alice")

        async def publish() -> None:
            # Beside the reader: a subscription that nobody takes from does not reconnect either.
            for _ in range(2):
                await house.until(lambda: bool(house.authentication.sessions.open))
                [session] = house.authentication.sessions.open
                house.publish(ONE)
                await house.until(partial(_has_token_after, house, session.verdict.principal.expires_at))
            house.publish(ONE)

        async with subscribe(url(house), transport=transport, token=log_in, **QUICK) as stream:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(publish)
                assert [(await anext(stream)).offset for _ in range(3)] == [0, 1, 2]
            assert stream.repeats == 0
            assert (stream.statistics().attempts == 1) == (transport == "websocket")


async def test_another_subject_is_refused(program: Path) -> None:
    """A WebSocket that alice opened is not bob's to go on with."""
    async with staged(program, 600) as (provider, house):
        alice, bob = await provider.log_in("alice"), await provider.log_in("bob")
        async with house.ws_with(alice) as ws:
            await ws.next("state")
            await ws.say({"type": "token", "token": bob})
            assert (await ws.next("close"))["code"] == 4403
