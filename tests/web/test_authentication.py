"""Tokens at the door: which requests get which answer, and that nothing is done for those refused."""

import math
import time
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import httpx2
import orjson
import pytest
import trio

from dispatcher.access import keyring
from dispatcher.access.principal import Grant, Principal
from dispatcher.access.tokens import MAX_TOKEN_BYTES, Valid
from dispatcher.errors import BadRequestError, ForbiddenError, SettingsError
from dispatcher.sansio.records import TopicPartition
from dispatcher.settings import Settings
from dispatcher.web.app import create_app
from dispatcher.web.authentication import Caller, Verdict, open_authentication
from dispatcher.web.operations import Operations
from dispatcher.web.server import Server
from testbed.clients import SseStream
from testbed.issuer import Issuer, open_issuer
from testbed.patience import seconds
from testbed.tokens import AUDIENCE, SCOPE, grant, sign, signing_key
from tests.hub.test_hub import ONE, Bench
from tests.web.test_bad_input import problem
from tests.web.test_page_in_browser import Told
from tests.web.test_transports import House

OTHER = TopicPartition("orders", 0)
RULES = [{"require": {"scope": SCOPE}, "topics": [ONE.topic]}]
COOKIE = "__Host-dispatcher"
DAY = 24 * 60 * 60
NONE = "eyJhbGciOiJub25lIiwidHlwIjoiYXQrand0In0"
"""The header of a token without a signature."""

METADATA = [b"{", b"[]", b'{"issuer":"https://evil.example","jwks_uri":"/jwks"}', b"x" * 10**6]
"""None of it says where the keys of the issuer are."""


class Guarded(House):
    """A house with an issuer: two topics, one of which the scope of a token allows."""

    def __init__(self, issuer: Issuer, **settings: Any) -> None:
        self.issuer = issuer
        self.secure = False
        given = {"auth_issuer": issuer.url, "auth_audience": AUDIENCE, "auth_grants": RULES} | settings
        Bench.__init__(self, bind="127.0.0.1:0", topics=[ONE.topic, OTHER.topic], **given)
        self.hub.assigned([OTHER])
        authentication = open_authentication(self.settings)
        assert authentication is not None
        self.authentication = authentication
        app = create_app(self.hub, self.settings, cast("Operations", Told()), authentication=authentication)
        self.server = Server(app, self.settings, lambda: self.hub.subscribers, direct=app.direct)

    @asynccontextmanager
    async def serving(self, within_seconds: float = 20) -> AsyncIterator[None]:
        """Keys are fetched, and tokens watched, within the ``async with`` block as well."""
        async with super().serving(within_seconds), trio.open_nursery() as nursery:
            nursery.start_soon(self.authentication.run)
            yield
            nursery.cancel_scope.cancel()

    async def ask(self, path: str = "/events", method: str = "HEAD", **headers: str) -> httpx2.Response:
        """A request; underscores in names of headers are dashes."""
        host, port = self.server.addresses[0]
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        async with httpx2.AsyncClient() as client:
            return await client.request(method, f"http://{host}:{port}{path}", headers=fields)

    @asynccontextmanager
    async def stream(self, token: str, query: str = "", **headers: str) -> AsyncIterator[SseStream]:
        """A stream of events."""
        async with self.connected() as stream:
            client = SseStream(stream)
            await client.open(f"/events{query}", {"Authorization": f"Bearer {token}", **headers})
            yield client

    @asynccontextmanager
    async def ws_with(self, token: str, query: str = "", *lines: str) -> AsyncIterator["Ws"]:
        """A WebSocket with the token in its headers."""
        async with self.connected() as stream:
            client = Ws(stream)
            fields = [f"Authorization: Bearer {token}"] if token else []
            await client.open(f"/ws{query}", *fields, *lines)
            yield client

    def nothing_moved(self) -> None:
        """Nobody has subscribed, and no record was dispatched."""
        assert self.hub.subscribers == 0
        assert self.dispatched == []


class Ws:
    """A WebSocket that says what the server says, its close included."""

    def __init__(self, stream: Any) -> None:
        from wsproto import ConnectionType, WSConnection

        self._stream = stream
        self._ws = WSConnection(ConnectionType.CLIENT)
        self.subprotocol: str | None = None
        self.status = 101
        self._heard: list[dict[str, Any]] = []

    async def open(self, target: str, *lines: str) -> None:
        """Shake hands."""
        from wsproto.events import AcceptConnection, RejectConnection, Request

        extra = [tuple(part.encode() for part in line.split(": ", 1)) for line in lines]
        names = [
            each for name, value in extra if name == b"Sec-WebSocket-Protocol" for each in value.decode().split(", ")
        ]
        extra = [pair for pair in extra if pair[0] != b"Sec-WebSocket-Protocol"]
        request = Request(
            host="localhost",
            target=target,
            subprotocols=names or ["dispatcher.v1.json"],
            extra_headers=extra,  # type: ignore[arg-type]
        )
        await self._stream.send_all(self._ws.send(request))
        while True:
            for event in self._ws.events():
                if isinstance(event, AcceptConnection):
                    self.subprotocol = event.subprotocol
                    return
                if isinstance(event, RejectConnection):
                    self.status = event.status_code
                    return
            self._ws.receive_data(await self._stream.receive_some(65536))

    async def say(self, message: object) -> None:
        """Send a text message."""
        from wsproto.events import TextMessage

        text = message if isinstance(message, str) else orjson.dumps(message).decode()
        await self._stream.send_all(self._ws.send(TextMessage(data=text)))

    async def next(self, *kinds: str) -> dict[str, Any]:
        """The next message of one of these types; the close is one, with its code and reason."""
        from wsproto.events import CloseConnection, TextMessage

        text = ""
        while True:
            while self._heard:
                if (message := self._heard.pop(0))["type"] in kinds:
                    return message
            for event in self._ws.events():
                if isinstance(event, TextMessage):
                    text += event.data
                    if event.message_finished:
                        self._heard.append(orjson.loads(text))
                        text = ""
                elif isinstance(event, CloseConnection):
                    self._heard.append({"type": "close", "code": int(event.code), "reason": event.reason})
            if not self._heard:
                self._ws.receive_data(await self._stream.receive_some(65536) or None)


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    """An issuer of tokens."""
    async with open_issuer() as opened:
        yield opened


def encoded(token: str) -> str:
    """As a subprotocol carries it."""
    return urlsafe_b64encode(token.encode()).decode().rstrip("=")


async def test_each_way_of_a_token_opens_a_stream(issuer: Issuer) -> None:
    """Header, cookie, subprotocol (not echoed), and query if allowed."""
    house = Guarded(issuer, auth_query_parameter=True)
    token = issuer.token()
    async with house.serving():
        for headers, query in (
            ({"Authorization": f"Bearer {token}"}, ""),
            ({"Authorization": f"bearer  {token}"}, ""),
            ({"Authorization": "Basic eDp5", "Cookie": f"a=b; {COOKIE}={token}"}, ""),
            ({}, f"?access_token={token}"),
        ):
            async with house.connected() as stream:
                client = SseStream(stream)
                await client.open(f"/events{query}", headers)
                assert (await client.next_control("state"))["assigned"] == {"assets": [0, 1]}
        protocols = f"Sec-WebSocket-Protocol: dispatcher.bearer.{encoded(token)}, dispatcher.v1.json"
        for line, query in ((f"Cookie: {COOKIE}={token}", ""), (protocols, ""), ("A: b", f"?access_token={token}")):
            async with house.ws_with("", query, line) as ws:
                assert (await ws.next("state"))["assigned"] == {"assets": [0, 1]}
                assert ws.subprotocol == "dispatcher.v1.json"


def tampered(token: str) -> str:
    """The same with another signature."""
    return token[:-6] + ("AAAAAA" if not token.endswith("AAAAAA") else "BBBBBB")


Make = Callable[[Issuer], dict[str, str]]


def bearer(make: Callable[[Issuer], str]) -> Make:
    """A header with a token."""
    return lambda issuer: {"Authorization": f"Bearer {make(issuer)}".strip()}


ATTACKS: dict[str, tuple[int, Make]] = {
    "none at all": (401, lambda _: {}),
    "another scheme": (401, lambda _: {"Authorization": "Basic eDp5"}),
    "another cookie": (401, lambda issuer: {"Cookie": f"token={issuer.token()}"}),
    "empty": (401, bearer(lambda _: "")),
    "opaque": (401, bearer(lambda _: "mF_9.B5f-4.1JqM")),
    "tampered": (401, bearer(lambda issuer: tampered(issuer.token()))),
    "alg none": (
        401,
        bearer(lambda issuer: f"{NONE}.{issuer.token().split('.')[1]}."),
    ),
    "HS256": (401, bearer(lambda issuer: sign({"iss": issuer.url}, signing_key("HS256"), "HS256"))),
    "jku": (401, bearer(lambda issuer: sign({"iss": issuer.url}, jku=f"{issuer.url}/evil"))),
    "x5u": (401, bearer(lambda issuer: sign({"iss": issuer.url}, x5u=f"{issuer.url}/evil"))),
    "unknown key": (401, bearer(lambda issuer: issuer.token(signing_key("ES256", 9)))),
    "expired two days ago": (401, bearer(lambda issuer: issuer.token(exp=time.time() - 2 * DAY))),
    "not valid yet": (401, bearer(lambda issuer: issuer.token(nbf=time.time() + DAY))),
    "another audience": (401, bearer(lambda issuer: issuer.token(aud="billing"))),
    "another issuer": (401, bearer(lambda issuer: issuer.token(iss="https://evil.example"))),
    "an ID token": (401, bearer(lambda issuer: sign({"iss": issuer.url}, typ="JWT"))),
    "oversized": (401, bearer(lambda _: "x" * (MAX_TOKEN_BYTES + 1))),
    "without a grant": (403, bearer(lambda issuer: issuer.token(scope="openid"))),
    "a grant of another topic": (
        403,
        bearer(lambda issuer: issuer.token(scope="", authorization_details=[grant("secrets")])),
    ),
    "a grant to observe": (
        403,
        bearer(lambda issuer: issuer.token(scope="", authorization_details=[grant("assets", actions=("observe",))])),
    ),
    "a grant whose filter cannot be read": (
        403,
        bearer(lambda issuer: issuer.token(scope="", authorization_details=[grant("assets", filter={"exact": {}})])),
    ),
    "two cookies": (400, lambda issuer: {"Cookie": f"{COOKIE}={issuer.token()}; {COOKIE}=x"}),
    "header and cookie": (
        400,
        lambda issuer: {"Authorization": f"Bearer {issuer.token()}", "Cookie": f"{COOKIE}={issuer.token()}"},
    ),
}


async def test_whoever_may_not_gets_nothing(issuer: Issuer) -> None:
    """SSE and WebSocket get the right code and reason, and nothing is dispatched."""
    house = Guarded(issuer)
    async with house.serving():
        house.publish(ONE)
        for name, (status, make) in ATTACKS.items():
            headers = make(issuer)
            answer = await house.ask("/events", "GET", **headers)
            detail = problem(answer, status)
            challenge = answer.headers["WWW-Authenticate"]
            assert challenge.startswith('Bearer realm="dispatcher"'), name
            assert ("error=" in challenge) == ("token is needed" not in detail), name
            assert (await house.ask("/events", "HEAD", **headers)).status_code == status
            lines = [f"{field}: {value}" for field, value in headers.items()]
            async with house.ws_with("", "", *lines) as ws:
                close = await ws.next("close", "records", "state")
                assert (close["type"], close["code"]) == ("close", 4000 + status), name
                assert close["reason"]
            for value in headers.values():
                assert value.rpartition(" ")[2] not in detail or len(value) < 20
            house.nothing_moved()
        async with house.stream(issuer.token()) as stream:
            assert await stream.next_event() is not None
        assert issuer.asked["/evil"] == 0


async def test_a_token_in_the_query_is_refused_unless_allowed(issuer: Issuer) -> None:
    """Even a valid one is, because addresses are kept in many places."""
    house = Guarded(issuer)
    async with house.serving():
        detail = problem(await house.ask(f"/events?access_token={issuer.token()}", "GET"), 401)
        assert "auth_query_parameter" in detail


async def test_a_thousand_unknown_keys_cause_one_fetch(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients can invent key names; a rotated key is found by the first token."""
    monkeypatch.setattr(keyring, "UNKNOWN_KEY_SECONDS", math.inf)  # the thousand may take longer than that
    house = Guarded(issuer, auth_refresh_seconds=DAY)
    statuses = []

    async def ask(client: httpx2.AsyncClient, number: int) -> None:
        token = sign({"iss": issuer.url}, signing_key("ES256", 8), kid=f"unknown-{number}")
        statuses.append((await client.head("/events", headers={"Authorization": f"Bearer {token}"})).status_code)

    async with house.serving():
        # Not until the first fetch has ended: those that come earlier wait for it, and cause none.
        await house.until(lambda: house.authentication.statistics().keys == 1)
        host, port = house.server.addresses[0]
        async with httpx2.AsyncClient(base_url=f"http://{host}:{port}", timeout=seconds(20)) as client:
            issuer.held = trio.Event()
            async with trio.open_nursery() as nursery:
                for number in range(50):
                    nursery.start_soon(ask, client, number)
                await house.until(lambda: issuer.asked["/.well-known/openid-configuration"] == 2)
                issuer.held.set()
            for number in range(50, 1000):
                await ask(client, number)
        assert statuses == [401] * 1000
        assert issuer.asked["/jwks"] == 2
        house.nothing_moved()


async def test_a_rotated_key_is_found_at_once(issuer: Issuer) -> None:
    """The first token that names it finds it, and tokens of a withdrawn key are refused."""
    house = Guarded(issuer)
    old = issuer.token()
    async with house.serving():
        async with house.stream(old) as stream:
            await stream.next_control("state")
        issuer.keys = [signing_key("RS256", 1)]
        new = sign({**_claims(issuer)}, signing_key("RS256", 1), "RS256")
        async with house.stream(new) as stream:
            await stream.next_control("state")
        assert (await house.ask(Authorization=f"Bearer {old}")).status_code == 401


def _claims(issuer: Issuer) -> dict[str, Any]:
    from testbed.tokens import claims

    return claims(iss=issuer.url)


async def test_an_issuer_that_is_away_costs_nothing_once_keys_are_here(issuer: Issuer) -> None:
    """The last good keys stay, and a failed refresh changes nothing."""
    house = Guarded(issuer, auth_refresh_seconds=0.01)
    async with house.serving():
        async with house.stream(issuer.token()) as stream:
            await stream.next_control("state")
        issuer.is_away = True
        asked = issuer.asked["/.well-known/openid-configuration"]
        await house.until(lambda: issuer.asked["/.well-known/openid-configuration"] > asked + 1)
        async with house.stream(issuer.token(sub="bob")) as stream:
            await stream.next_control("state")


@pytest.mark.parametrize(
    "document", [b"{", b"[]", b'{"issuer":"https://evil.example","jwks_uri":"/jwks"}', b"x" * 10**6]
)
async def test_without_keys_clients_are_asked_to_come_back(issuer: Issuer, document: bytes) -> None:
    """SSE gets 200, ``retry`` and 1013, because errors end an EventSource; WebSocket gets 503."""
    issuer.answers["/.well-known/openid-configuration"] = document
    house = Guarded(issuer)
    async with house.serving():
        house.publish(ONE)
        async with house.stream(issuer.token()) as stream:
            goodbye = await stream.next_control("goodbye")
            assert (goodbye["code"], stream.response.status_code) == (1013, 200)
            assert "retry:" in f"{stream.raw}retry:"
        async with house.ws_with(issuer.token()) as ws:
            assert ws.status == 503
        house.nothing_moved()
        del issuer.answers["/.well-known/openid-configuration"]
        await house.until(lambda: bool(house.authentication._keyring.keys))
        assert (await house.ask(Authorization=f"Bearer {issuer.token()}")).status_code == 200


async def test_a_token_that_has_just_ended_is_no_error(issuer: Issuer) -> None:
    """The client gets 200, ``retry`` and 4419; a wrong request is still an error."""
    house = Guarded(issuer)
    ended = issuer.token(exp=time.time() - 60)
    async with house.serving():
        house.publish(ONE)
        async with house.stream(ended) as stream:
            goodbye = await stream.next_control("goodbye")
            assert goodbye["code"] == 4419
            assert cast("int", goodbye["retry_ms"]) >= 5000
        async with house.ws_with(ended) as ws:
            assert (await ws.next("goodbye"))["code"] == 4419
            assert (await ws.next("close"))["code"] == 4419
        assert (await house.ask("/events?since=x", "GET", Authorization=f"Bearer {ended}")).status_code == 400
        assert (await house.ask("/events?topic=orders", "GET", Authorization=f"Bearer {ended}")).status_code == 403
        house.nothing_moved()


async def test_a_stream_ends_with_its_token_and_resumes_exactly(issuer: Issuer) -> None:
    """Goodbye 4419 follows the write under way; a new token and the last id repeat nothing."""
    house = Guarded(issuer)
    async with house.serving():
        house.publish(ONE)
        async with house.stream(issuer.token(exp=int(time.time()) + 2)) as stream:
            ids = []
            while (event := await stream.next_event()) is not None and event.type != "goodbye":
                if event.type == "message":
                    ids.append(event.id)
            assert event is not None
            assert orjson.loads(event.data)["code"] == 4419
            assert await stream.next_event() is None
            assert stream.ended
        await house.until(lambda: house.hub.subscribers == 0)
        house.publish(ONE)
        async with house.stream(issuer.token(), **{"Last-Event-ID": ids[-1]}) as stream:
            while (event := await stream.next_event()) is not None and event.type != "message":
                pass
            assert event is not None
            assert event.own == (0, 1)


async def test_a_websocket_is_warned_and_goes_on_with_a_new_token(issuer: Issuer) -> None:
    """The new token must have the same subject, and other messages are ignored."""
    house = Guarded(issuer)
    async with house.serving():
        async with house.ws_with(issuer.token(exp=int(time.time()) + 3)) as ws:
            assert 0 <= (await ws.next("expiring"))["seconds"] <= 3
            for ignored in ("", "[]", "{", '{"type":1}', {"type": "hello"}, {"type": ["token"]}):
                await ws.say(ignored)
            await ws.say({"type": "token", "token": issuer.token(exp=int(time.time()) + 5, jti="2")})
            assert (await ws.next("expiring", "goodbye"))["type"] == "expiring"
            await ws.say({"type": "token", "token": issuer.token(jti="3")})
            await house.until(lambda: house.authentication.sessions.open[0].due > time.time() + 1000)
            house.publish(ONE)
            await ws.next("records")
        await house.until(lambda: len(house.authentication.sessions) == 0)


async def test_short_tokens_are_not_asked_for_without_end(issuer: Issuer) -> None:
    """A token that is shorter than the warning is used by half before the next is asked for."""
    house = Guarded(issuer)
    async with house.serving(), house.ws_with(issuer.token(exp=int(time.time()) + 20)) as ws:
        await ws.next("expiring")
        await ws.say({"type": "token", "token": issuer.token(exp=int(time.time()) + 20, jti="2")})
        await house.until(lambda: house.authentication.sessions.open[0].verdict.valid.claims["jti"] == "2")
        assert house.authentication.sessions.open[0].due >= time.time() + 5
        house.publish(ONE)
        await ws.next("records")
        assert [message for message in ws._heard if message["type"] == "expiring"] == []


RENEWALS: dict[str, tuple[int, Callable[[Issuer], object]]] = {
    "another subject": (4403, lambda issuer: issuer.token(sub="bob")),
    "other grants": (4419, lambda issuer: issuer.token(authorization_details=[grant("orders")])),
    "fewer grants": (4419, lambda issuer: issuer.token(scope="openid")),
    "one that has ended": (4419, lambda issuer: issuer.token(exp=time.time() - 5)),
    "tampered": (4401, lambda issuer: tampered(issuer.token())),
    "unknown key": (4401, lambda issuer: issuer.token(signing_key("ES256", 9))),
    "another audience": (4401, lambda issuer: issuer.token(aud="billing")),
    "no text": (4401, lambda _: 1),
    "oversized": (4401, lambda _: "x" * 20_000),
}


@pytest.mark.parametrize("name", RENEWALS)
async def test_a_renewal_that_is_not_right_ends_the_stream(issuer: Issuer, name: str) -> None:
    """Goodbye and close have the same code."""
    code, make = RENEWALS[name]
    house = Guarded(issuer)
    async with house.serving(), house.ws_with(issuer.token()) as ws:
        await ws.next("state")
        await ws.say({"type": "token", "token": make(issuer)})
        assert (await ws.next("goodbye"))["code"] == code
        assert (await ws.next("close"))["code"] == code
        await house.until(lambda: house.hub.subscribers == 0)


async def test_topics_are_those_that_the_grants_allow(issuer: Issuer) -> None:
    """Without ``topic=`` these are all; ids and states name no other, whatever id was sent."""
    house = Guarded(issuer)
    both = issuer.token(authorization_details=[grant("ord*")])
    async with house.serving():
        for token, query, topics in (
            (issuer.token(), "", {"assets"}),
            (both, "", {"assets", "orders"}),
            (both, "?topic=orders", {"orders"}),
        ):
            async with house.stream(token, query, **{"Last-Event-ID": "assets:0=-1;orders:0=-1;secrets:5=9"}) as stream:
                event = await stream.next_event()
                assert event is not None
                assert set(orjson.loads(event.data)["assigned"]) == topics
                assert {part.partition(":")[0] for part in event.id.split(";")} == topics
        for query, status in (("?topic=orders", 403), ("?topic=assets&topic=orders", 403), ("?topic=nothing", 403)):
            detail = problem(
                await house.ask(f"/events{query}", "GET", Authorization=f"Bearer {issuer.token()}"), status
            )
            assert "secrets" not in detail
        answer = await house.ask("/events?topic=order", "GET", Authorization=f"Bearer {both}")
        assert "orders" in problem(answer, 400)


async def test_after_a_reload_streams_that_are_no_longer_allowed_end(issuer: Issuer) -> None:
    """They get 4403, also for a withdrawn key; others notice nothing."""
    house = Guarded(issuer)
    async with (
        house.serving(),
        house.stream(issuer.token()) as stream,
        house.ws_with(issuer.token(authorization_details=[grant("assets")])) as ws,
    ):
        await stream.next_control("state")
        await ws.next("state")
        given: dict[str, Any] = {name: getattr(house.settings, name) for name in Settings.model_fields}
        house.authentication._read_settings = lambda: Settings(**given | {"auth_grants": ()})
        await house.authentication.reload()
        assert (await stream.next_control("goodbye"))["code"] == 4403
        house.publish(ONE)
        await ws.next("records")
        issuer.keys = [signing_key("ES256", 2)]
        await house.authentication.reload()
        assert (await ws.next("goodbye"))["code"] == 4403
        house.authentication._read_settings = lambda: Settings(**given | {"auth_issuer": "https://other.example"})
        with pytest.raises(SettingsError, match="restart to change it"):
            await house.authentication.reload()


async def test_a_reload_judges_every_stream_whatever_a_token_has_for_an_audience(issuer: Issuer) -> None:
    """A token is accepted if one of its audiences fits, though another one is no text; its stream stays."""
    house = Guarded(issuer)
    async with house.serving(), house.ws_with(issuer.token(aud=[{"x": 1}, ["y"], AUDIENCE])) as ws:
        await ws.next("state")
        await house.authentication.reload()
        house.publish(ONE)
        await ws.next("records")
        given: dict[str, Any] = {name: getattr(house.settings, name) for name in Settings.model_fields}
        house.authentication._read_settings = lambda: Settings(**given | {"auth_audience": "other"})
        await house.authentication.reload()
        assert (await ws.next("goodbye"))["code"] == 4403


async def test_a_stream_that_cannot_be_judged_ends_and_keeps_no_other_from_being_judged(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reload ends all streams whose grants were withdrawn, although it fails for the first one."""
    house = Guarded(issuer)
    allowed = issuer.token(authorization_details=[grant("assets")], sub="allowed")
    async with (
        house.serving(),
        house.ws_with(issuer.token(sub="odd")) as odd,
        house.ws_with(issuer.token()) as withdrawn,
        house.ws_with(allowed) as other,
    ):
        for ws in (odd, withdrawn, other):
            await ws.next("state")
        given: dict[str, Any] = {name: getattr(house.settings, name) for name in Settings.model_fields}
        house.authentication._read_settings = lambda: Settings(**given | {"auth_grants": ()})
        principal_of = house.authentication._principal

        def principal(valid: Valid) -> Principal:
            if valid.subject == "odd":
                raise RecursionError
            return principal_of(valid)

        monkeypatch.setattr(house.authentication, "_principal", principal)
        await house.authentication.reload()
        assert (await odd.next("goodbye"))["code"] == 4403
        assert (await withdrawn.next("goodbye"))["code"] == 4403
        house.publish(ONE)
        await other.next("records")


async def test_cookies_count_only_for_origins_that_are_named(issuer: Issuer) -> None:
    """`*` excludes credentials, but a browser's WebSocket sends cookies anyway."""
    house = Guarded(issuer, allowed_origins="*, https://app.example.org")
    cookie = f"Cookie: {COOKIE}={issuer.token()}"
    async with house.serving():
        async with house.ws_with("", "", cookie, "Origin: https://stranger.example") as ws:
            assert (await ws.next("close"))["code"] == 4401
        async with house.ws_with("", "", cookie, "Origin: https://app.example.org") as ws:
            assert (await ws.next("state", "close"))["type"] == "state"
        answer = await house.ask(Cookie=cookie[8:], Origin="https://stranger.example")
        assert answer.status_code == 401


async def test_a_signature_is_checked_once_for_each_token(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Valid tokens are remembered up to a bound in bytes; invalid ones are not."""
    from dispatcher.access.keys import IssuerKey

    checked = []
    has_signed = IssuerKey.has_signed

    def count(key: IssuerKey, token: bytes, algorithm: str) -> bool:
        checked.append(token)
        return has_signed(key, token, algorithm)

    monkeypatch.setattr(IssuerKey, "has_signed", count)
    house = Guarded(issuer)
    async with house.serving():
        right, wrong = issuer.token(), tampered(issuer.token())
        for token, checks in ((right, 1), (wrong, 4)):
            for _ in range(3):
                await house.ask(Authorization=f"Bearer {token}")
            assert len(checked) == checks
        monkeypatch.setattr("dispatcher.web.authentication.REMEMBERED_BYTES", 3 * len(right))
        for number in range(20):
            await house.ask(Authorization=f"Bearer {issuer.token(jti=str(number))}")
        assert 1 <= len(house.authentication._verdicts) <= 3
        assert house.authentication._remembered_bytes <= 3 * len(right)


async def test_what_is_open_to_anybody_stays_so(issuer: Issuer) -> None:
    """The page, its files and health checks need no token."""
    house = Guarded(issuer)
    async with house.serving():
        for path in ("/", "/client.js", "/livez"):
            assert (await house.ask(path, "GET")).status_code == 200


def test_many_topics_of_one_request_are_not_compared_with_the_grants_one_by_one() -> None:
    """Otherwise each of two thousand names in a query would be compared with each pattern of a token."""
    asked: list[str] = []

    class Counted(Principal):
        """Notes the topics that are compared one at a time."""

        def allowed_topics(self, action: Any, topics: Any) -> tuple[str, ...]:
            asked.extend(topics)
            return super().allowed_topics(action, topics)

    principal = Counted("issuer", "subject", 0, (Grant(frozenset({"subscribe"}), ("a*",)),), "key")
    caller = Caller(Verdict(cast("Any", None), principal), has_expired=False)
    configured, names = ["a", "b"], [f"a{number}" for number in range(2000)]
    assert caller.read_query({"topic": ["a"] * 2000}, None, configured).topics == {"a"}
    with pytest.raises(BadRequestError, match="unknown topic 'a0'; this dispatcher serves a"):
        caller.read_query({"topic": [*names, "b"]}, None, configured)
    with pytest.raises(ForbiddenError, match="does not allow this topic"):
        caller.read_query({"topic": ["a", "b", *names]}, None, configured)
    assert asked == ["a", "b", "a0", "b"]
