"""Real OpenID Connect providers: log in, stream, keys rotate, the provider goes away, tokens end.

Each is installed into a folder of its own. PyPI's ``oidc-provider-mock`` has opaque access tokens, so its ID tokens
stand for them: they are what providers without RFC 9068 sign, with ``auth_types = "JWT"`` and the client as the
audience. npm's ``oidc-provider`` signs access tokens of RFC 9068, which the defaults take.

``PROVIDER_AWAY_SECONDS=60`` keeps a provider away for a minute; without it, until it was asked in vain three times.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import venv
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, cast
from urllib.parse import parse_qs, urlencode, urljoin, urlsplit

import httpx2
import pytest
import trio

from dispatcher.client import subscribe
from testbed.issuer import Issuer
from testbed.patience import seconds
from testbed.tokens import AUDIENCE
from tests.client.test_subscription import QUICK
from tests.client.test_tokens import url
from tests.hub.test_hub import ONE
from tests.web.test_authentication import RULES, Guarded

PYPI = "oidc-provider-mock>=0.3,<0.4"
NPM = "oidc-provider@8"
SCRIPT = Path(__file__).parent / "oidc_provider.mjs"
REDIRECT = "https://app.example.org/callback"
AWAY_SECONDS = float(os.environ.get("PROVIDER_AWAY_SECONDS", "0"))
PAGES = 10
"""Of a provider, from the request to log in to the code."""


def install(command: list[str], package: str, folder: Path) -> None:
    """Let a package manager have its way, or skip the test."""
    done = subprocess.run([*command, package], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"{package} cannot be had here: {done.stderr.strip()[-200:]}")


class Provider:
    """A provider on a port that it keeps, and a client of it.

    Args:
        folder: Where it is installed.
        nursery: Where it runs.
        token_seconds: How long its tokens live.
    """

    settings: ClassVar[Mapping[str, Any]] = {}
    """What makes a dispatcher take its tokens."""

    def __init__(self, folder: Path, nursery: trio.Nursery, token_seconds: int) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self.metadata: dict[str, Any] = {}
        self._command = self.command(folder, self._port, token_seconds)
        self._nursery = nursery
        self._process: trio.Process | None = None

    @staticmethod
    def install(folder: Path) -> None:
        """Install it there."""
        raise NotImplementedError

    @staticmethod
    def command(folder: Path, port: int, token_seconds: int) -> list[str]:
        """How it is started."""
        raise NotImplementedError

    async def log_in(self, subject: str) -> str:
        """What an application gets for a person who has logged in: authorization code flow."""
        raise NotImplementedError

    async def wrong_token(self) -> str:
        """Another one that it gets, and must not send."""
        raise NotImplementedError

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
        """Stop the provider."""
        assert self._process is not None
        self._process.kill()
        await self._process.wait()

    async def _exchange(self, client: httpx2.AsyncClient, query: str, kind: str, **more: str) -> str:
        """A token for the code in a redirect."""
        [code] = parse_qs(query)["code"]
        exchange = {"grant_type": "authorization_code", "code": code, "redirect_uri": REDIRECT, **more}
        answer = await client.post(self.metadata["token_endpoint"], data=exchange, auth=("app", "secret"))
        return str(answer.json()[kind])


class Mock(Provider):
    """PyPI's."""

    settings: ClassVar[Mapping[str, Any]] = {
        "auth_audience": "app",
        "auth_types": "JWT",
        "auth_grants": [{"require": {}, "topics": [ONE.topic]}],
    }

    @staticmethod
    def install(folder: Path) -> None:
        """See `Provider`."""
        # Without pip, which takes three seconds to unpack: the one of this environment installs into the other.
        venv.create(folder)
        pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "-q"]
        install([*pip, "install", "--no-compile"], PYPI, folder)

    @staticmethod
    def command(folder: Path, port: int, token_seconds: int) -> list[str]:
        """See `Provider`."""
        program = str(folder / "bin" / "oidc-provider-mock")
        return [program, "--port", str(port), "--token-max-age", str(token_seconds)]

    async def log_in(self, subject: str, kind: str = "id_token") -> str:
        """See `Provider`."""
        async with httpx2.AsyncClient() as client:
            query = {"client_id": "app", "redirect_uri": REDIRECT, "response_type": "code", "scope": "openid"}
            where = f"{self.metadata['authorization_endpoint']}?{urlencode(query)}"
            answer = await client.post(where, data={"sub": subject})
            return await self._exchange(client, urlsplit(answer.headers["Location"]).query, kind)

    async def wrong_token(self) -> str:
        """See `Provider`: an opaque one."""
        return await self.log_in("alice", "access_token")


class Rfc9068(Provider):
    """npm's."""

    settings: ClassVar[Mapping[str, Any]] = {"auth_audience": AUDIENCE, "auth_grants": RULES}

    @staticmethod
    def install(folder: Path) -> None:
        """See `Provider`."""
        npm = shutil.which("npm")
        if npm is None or shutil.which("node") is None:
            pytest.skip("npm and node are not here")
        (folder / "package.json").write_text('{"private": true, "type": "module"}')
        install([npm, "install", "--no-audit", "--no-fund", "--silent"], NPM, folder)
        shutil.copy(SCRIPT, folder)

    @staticmethod
    def command(folder: Path, port: int, token_seconds: int) -> list[str]:
        """See `Provider`."""
        return ["node", str(folder / SCRIPT.name), str(port), str(token_seconds)]

    async def log_in(self, subject: str, kind: str = "access_token") -> str:
        """See `Provider`; with PKCE, and through its pages for logging in and for consent."""
        verifier = "v" * 43
        challenge = urlsafe_b64encode(sha256(verifier.encode()).digest()).decode().rstrip("=")
        query = {"client_id": "app", "redirect_uri": REDIRECT, "response_type": "code", "scope": "openid orders:read"}
        query |= {"code_challenge": challenge, "code_challenge_method": "S256"}
        async with httpx2.AsyncClient() as client:
            where, form = f"{self.metadata['authorization_endpoint']}?{urlencode(query)}", dict[str, str]()
            for _ in range(PAGES):
                answer = await (client.post(where, data=form) if form else client.get(where))
                if "Location" in answer.headers:
                    where, form = urljoin(where, answer.headers["Location"]), {}
                    if where.startswith(REDIRECT):
                        return await self._exchange(client, urlsplit(where).query, kind, code_verifier=verifier)
                else:
                    page = answer.text
                    [action], [prompt] = (
                        re.findall(f'{name}="([^"]+)"', page) for name in ("action", 'name="prompt" value')
                    )
                    where, form = urljoin(where, action), {"prompt": prompt, "login": subject, "password": "any"}
        raise AssertionError(f"no code after {PAGES} pages")

    async def wrong_token(self) -> str:
        """See `Provider`: an ID token, which is for the application."""
        return await self.log_in("alice", "id_token")

    async def service_token(self) -> str:
        """Return what a service gets for itself: client credentials."""
        async with httpx2.AsyncClient() as client:
            asked = {"grant_type": "client_credentials", "scope": "orders:read"}
            answer = await client.post(self.metadata["token_endpoint"], data=asked, auth=("app", "secret"))
            return str(answer.json()["access_token"])


Installed = tuple[type[Provider], Path]


@pytest.fixture(scope="module", params=[Mock, Rfc9068])
def installed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Each of the providers."""
    folder = tmp_path_factory.mktemp("provider")
    request.param.install(folder)
    return request.param, folder


@asynccontextmanager
async def staged(installed: Installed, token_seconds: int) -> AsyncIterator[tuple[Provider, Guarded]]:
    """A provider that runs, and a house that takes its tokens."""
    kind, folder = installed
    async with trio.open_nursery() as nursery:
        provider = kind(folder, nursery, token_seconds)
        await provider.start()
        house = Guarded(cast("Issuer", provider), auth_refresh_seconds=1, **kind.settings)
        async with house.serving(120 + AWAY_SECONDS):
            yield provider, house
        await provider.stop()


async def test_log_in_stream_rotate_and_away(installed: Installed) -> None:
    """A stream continues whatever the provider does; new keys are found at once, old ones stay valid."""
    async with staged(installed, 600) as (provider, house):
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
            await _stay_away(house)
            async with house.stream(bob) as fourth:
                await fourth.next_control("state")
            house.publish(ONE)
            assert (await anext(stream)).offset == 1
            assert stream.statistics().attempts == 1
            assert (await house.ask(Authorization=f"Bearer {alice}")).status_code == 401  # its key is withdrawn
            await provider.start()


async def _stay_away(house: Guarded) -> None:
    """Wait until the provider was asked in vain, and for as long as it is to be down."""
    until, failed = time.monotonic() + AWAY_SECONDS, house.authentication.statistics().failed
    await house.until(
        lambda: time.monotonic() > until and house.authentication.statistics().failed >= failed + 3,
    )


def _has_token_after(house: Guarded, moment: float) -> bool:
    """Whether a stream is open with a token that ends after a moment."""
    return any(session.verdict.principal.expires_at > moment for session in house.authentication.sessions.open)


@pytest.mark.parametrize("transport", ["sse", "websocket"])
async def test_a_token_ends_while_it_streams(installed: Installed, transport: Any) -> None:
    """The client logs in again, and each record arrives once: on a WebSocket without a break."""
    async with staged(installed, 12) as (provider, house):

        async def log_in() -> str:
            return await provider.log_in("alice")

        async def publish() -> None:
            # Beside the reader: a subscription that nobody takes from does not reconnect either.
            await house.until(lambda: bool(house.authentication.sessions.open))
            [session] = house.authentication.sessions.open
            house.publish(ONE)
            await house.until(partial(_has_token_after, house, session.verdict.principal.expires_at))
            house.publish(ONE)

        async with subscribe(url(house), transport=transport, token=log_in, **QUICK) as stream:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(publish)
                assert [(await anext(stream)).offset for _ in range(2)] == [0, 1]
            assert stream.repeats == 0
            assert (stream.statistics().attempts == 1) == (transport == "websocket")


async def test_another_subject_is_refused(installed: Installed) -> None:
    """A WebSocket that alice opened cannot be continued by bob."""
    async with staged(installed, 600) as (provider, house):
        alice, bob = await provider.log_in("alice"), await provider.log_in("bob")
        async with house.ws_with(alice) as ws:
            await ws.next("state")
            await ws.say({"type": "token", "token": bob})
            assert (await ws.next("close"))["code"] == 4403


async def test_tokens_for_others_are_refused(installed: Installed) -> None:
    """Tokens for the application and opaque ones are refused; a service's own token opens streams."""
    async with staged(installed, 600) as (provider, house):
        assert (await house.ask(Authorization=f"Bearer {await provider.wrong_token()}")).status_code == 401
        if isinstance(provider, Rfc9068):
            async with house.stream(await provider.service_token()) as stream:
                await stream.next_control("state")
                assert house.authentication.sessions.open[0].subject == "app"
