"""``/admin``: who may, what it shows, whom it disconnects, and how it empties a replica."""

import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, cast

import httpx2
import pytest
import trio

from dispatcher.errors import SettingsError
from dispatcher.sansio.records import TopicPartition
from dispatcher.settings import Settings
from dispatcher.web.admin import MAX_LIMIT, Admin
from dispatcher.web.admin_access import AdminAccess
from dispatcher.web.admin_streams import OwnStreams
from dispatcher.web.app import create_app, create_operations_app
from dispatcher.web.authentication import open_authentication
from dispatcher.web.draining import Drain
from dispatcher.web.limits import Limits
from dispatcher.web.operations import Operations
from dispatcher.web.server import Server
from dispatcher.web.visits import Visits
from testbed.clients import SseStream, open_sse
from testbed.patience import seconds
from testbed.replicas import Replica
from testbed.tokens import AUDIENCE, ISSUER, grant, jwks, token
from tests.hub.test_hub import ONE, Bench
from tests.web.test_transports import House, WsStream

OTHER = TopicPartition("orders", 0)
SECRET = "0123456789abcdef" * 2
BEARER = {"Authorization": f"Bearer {SECRET}"}


class Administered(House):
    """A house with two topics, and a port for operators."""

    def __init__(self, folder: Path, *, has_file: bool = True, **settings: Any) -> None:
        self.secure = False
        self.token_file = folder / "token"
        self.token_file.write_text(f"{SECRET}\n")
        given = {"admin_token_file": str(self.token_file)} if has_file else {}
        Bench.__init__(
            self,
            bind="127.0.0.1:0",
            operations_bind="127.0.0.1:0",
            topics=[ONE.topic, OTHER.topic],
            **given,
            **settings,
        )
        self.hub.assigned([OTHER])
        self.stops = 0
        self.visits, self.drain = Visits(), Drain(self.hub, self._stop)
        authentication = open_authentication(self.settings)
        self.access = AdminAccess(self.settings, authentication)
        operations, limits = cast("Operations", None), Limits(self.settings)
        app = create_app(
            self.hub,
            self.settings,
            operations,
            limits,
            authentication,
            visits=self.visits,
            is_draining=lambda: self.drain.is_on,
        )
        self.server = Server(app, self.settings, lambda: self.hub.subscribers, direct=app.direct)
        admin = Admin(OwnStreams(self.visits, self.drain), self.access)
        self.for_operators = Server(
            create_operations_app(self.settings, operations, admin), self.settings, for_operators=True
        )

    def _stop(self) -> None:
        self.stops += 1

    @asynccontextmanager
    async def serving(self, within_seconds: float = 20) -> AsyncIterator[None]:
        """The port for operators is open within the ``async with`` block as well."""
        async with super().serving(within_seconds), trio.open_nursery() as nursery:
            await nursery.start(self.for_operators.serve)
            nursery.start_soon(self.drain.run)
            yield
            nursery.cancel_scope.cancel()

    async def ask(self, method: str, path: str, headers: dict[str, str] | None = None) -> httpx2.Response:
        """A request on the port for operators, with the right token unless headers are given."""
        host, port = self.for_operators.addresses[0]
        async with httpx2.AsyncClient(timeout=seconds(20)) as client:
            fields = BEARER if headers is None else headers
            return await client.request(method, f"http://{host}:{port}/admin/{path}", headers=fields)

    @asynccontextmanager
    async def stream(self, query: str = "", **headers: str) -> AsyncIterator[SseStream]:
        """A stream of events."""
        async with self.connected() as stream:
            client = SseStream(stream)
            await client.open(f"/events{query}", headers)
            yield client


async def test_without_a_token_file_or_grants_there_is_no_admin(tmp_path: Path) -> None:
    """The response is 404 on the operators' port, and always on the public one."""
    house = Administered(tmp_path, has_file=False)
    async with house.serving():
        assert (await house.ask("GET", "subscribers")).status_code == 404
        assert (await house.ask("POST", "drain")).status_code == 404
    house = Administered(tmp_path)
    async with house.serving(), httpx2.AsyncClient() as client:
        host, port = house.server.addresses[0]
        answer = await client.get(f"http://{host}:{port}/admin/subscribers", headers=BEARER)
        assert answer.status_code == 404


REFUSED = {
    "no token": ({}, 401),
    "a wrong token": ({"Authorization": f"Bearer {SECRET}x"}, 401),
    "no bearer": ({"Authorization": f"Basic {SECRET}"}, 401),
    "a cookie": ({"Cookie": f"__Host-dispatcher={SECRET}"}, 401),
    "a page of another origin": (BEARER | {"Origin": "https://evil.example"}, 403),
    "a form of another site": (BEARER | {"Sec-Fetch-Site": "cross-site"}, 403),
    "a silent browser": (BEARER | {"User-Agent": "Mozilla/5.0"}, 403),
    "a name that was rebound": (BEARER | {"Host": "evil.example"}, 421),
}


async def test_whoever_may_not_changes_nothing(tmp_path: Path) -> None:
    """Each kind of wrong request for each action gets its status, and every stream continues."""
    house = Administered(tmp_path)
    actions = [("GET", "subscribers"), ("DELETE", "subscribers/1"), ("POST", "disconnect?all=1"), ("POST", "drain")]
    async with house.serving(60), house.stream():
        await house.live()
        for headers, status in REFUSED.values():
            for method, path in actions:
                answer = await house.ask(method, path, headers)
                assert (answer.status_code, method, path) == (status, method, path)
                if status == 401:
                    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert (house.hub.subscribers, house.drain.is_on) == (1, False)


@asynccontextmanager
async def three_streams(house: Administered) -> AsyncIterator[tuple[SseStream, SseStream, WsStream]]:
    """Two with events, of which the first has one topic only, and a WebSocket."""
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(house.stream(f"?topic={ONE.topic}", **{"User-Agent": "teapot"}))
        second = await stack.enter_async_context(house.stream("?observe=1"))
        third = await stack.enter_async_context(house.ws())
        await house.live(3)
        yield first, second, third


async def test_subscribers_are_listed_by_what_they_are(tmp_path: Path) -> None:
    """They are selected by topic, address and state, page by page, without repeats."""
    house = Administered(tmp_path)
    async with house.serving(60), three_streams(house):
        whole = (await house.ask("GET", "subscribers")).json()
        assert (len(whole["subscribers"]), whole["next"], whole["total"]) == (3, None, 3)
        first = whole["subscribers"][0]
        expected = {"id": 1, "agent": "teapot", "address": "127.0.0.1", "subject": None, "topics": [ONE.topic]}
        assert {name: first[name] for name in expected} == expected
        assert [one["observe"] for one in whole["subscribers"]] == [False, True, False]

        async def ids(query: str) -> list[int]:
            return [one["id"] for one in (await house.ask("GET", f"subscribers?{query}")).json()["subscribers"]]

        assert await ids(f"topic={OTHER.topic}") == [2, 3]
        assert await ids(f"topic={OTHER.topic}&topic={ONE.topic}") == [1, 2, 3]
        assert await ids("state=catching-up") == []
        assert await ids("state=live&address=127.0.0.1") == [1, 2, 3]
        assert await ids("subject=alice") == []
        seen: list[int] = []
        after: int | None = 0
        for _ in range(4):
            page = (await house.ask("GET", f"subscribers?limit=1&after={after}")).json()
            seen += [one["id"] for one in page["subscribers"]]
            after = page["next"]
            if after is None:
                break
        assert seen == [1, 2, 3]


WRONG = (
    ("GET", "subscribers?sate=live"),
    ("GET", "subscribers?state=dead"),
    ("GET", f"subscribers?limit={MAX_LIMIT + 1}"),
    ("GET", "subscribers?limit=0"),
    ("GET", "subscribers?after=-1"),
    ("GET", "subscribers?after=1&after=2"),
    ("POST", "disconnect"),
    ("POST", "disconnect?all=1&topic=assets"),
    ("POST", "disconnect?subjet=alice"),
    ("POST", "disconnect?all=yes"),
    ("DELETE", "subscribers/1?reconnect=maybe"),
    ("POST", "drain?seconds=1e9"),
    ("POST", "drain?seconds=-1"),
)


async def test_a_misspelled_request_means_nobody(tmp_path: Path) -> None:
    """The response is 400: a mistyped selector must not disconnect everybody."""
    house = Administered(tmp_path)
    async with house.serving(60), house.stream():
        await house.live()
        for method, path in WRONG:
            answer = await house.ask(method, path)
            assert (answer.status_code, path) == (400, path), answer.text
        assert (await house.ask("DELETE", "subscribers/77")).status_code == 404
        assert (await house.ask("PUT", "drain")).status_code == 405
        assert (house.hub.subscribers, house.drain.is_on) == (1, False)


async def test_one_subscriber_is_disconnected_and_no_other(tmp_path: Path) -> None:
    """The goodbye is 1013 if it may return, and 4403 if not."""
    house = Administered(tmp_path)
    async with house.serving(60), three_streams(house) as (first, second, _third):
        assert (await house.ask("DELETE", "subscribers/1")).json() == {"disconnected": 1}
        assert (await first.next_control("goodbye"))["code"] == 1013
        assert (await house.ask("DELETE", "subscribers/2?reconnect=0")).json() == {"disconnected": 1}
        assert (await second.next_control("goodbye"))["code"] == 4403
        await house.until(lambda: set(house.visits.open) == {3})
        assert (await house.ask("DELETE", "subscribers/1")).status_code == 404


async def test_many_subscribers_are_disconnected_by_what_they_are(tmp_path: Path) -> None:
    """First those of one topic, and then all."""
    house = Administered(tmp_path)
    async with house.serving(60), three_streams(house) as (first, second, _third):
        assert (await house.ask("POST", f"disconnect?topic={OTHER.topic}")).json() == {"disconnected": 2}
        assert (await second.next_control("goodbye"))["code"] == 1013
        await house.until(lambda: set(house.visits.open) == {1})
        assert (await house.ask("POST", "disconnect?all=1")).json() == {"disconnected": 1}
        assert (await first.next_control("goodbye"))["code"] == 1013


async def test_a_drained_replica_has_nobody_and_takes_nobody(tmp_path: Path) -> None:
    """Goodbyes are spread over the given time, and newcomers get 1013, until it is cancelled."""
    house = Administered(tmp_path)
    async with house.serving(60):
        async with three_streams(house) as (first, _second, _third):
            answer = await house.ask("POST", "drain?seconds=0")
            assert (answer.status_code, answer.json()["subscribers"]) == (202, 3)
            assert (await first.next_control("goodbye"))["code"] == 1013
            await house.until(lambda: not house.hub.subscribers)
            again = (await house.ask("POST", "drain?seconds=60")).json()
            assert again == {"draining": True, "subscribers": 0, "seconds": 0}, "the first one counts"
        async with house.stream() as refused:
            goodbye = await refused.next_control("goodbye")
            assert goodbye["code"] == 1013
            assert "draining" in str(goodbye["reason"])
        assert (await house.ask("DELETE", "drain")).json() == {"draining": False}
        async with house.stream():
            await house.live()
    assert house.stops == 0


async def test_a_drain_that_is_cancelled_ends_no_more_streams(tmp_path: Path) -> None:
    """This holds even if it is cancelled in the step that ordered it."""
    house = Administered(tmp_path)
    async with house.serving(60), three_streams(house):
        house.drain.begin(3600, stops=True)
        house.drain.cancel()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert house.hub.subscribers == 3
        house.drain.begin(3600, stops=True)
        await house.until(lambda: house.hub.subscribers == 2)
        house.drain.cancel()
        house.drain.begin(0, stops=False)
        await house.until(lambda: not house.hub.subscribers)
    assert house.stops == 0


async def test_a_drain_can_end_with_a_stop(tmp_path: Path) -> None:
    """The stop follows when the last subscriber has left."""
    house = Administered(tmp_path)
    async with house.serving(60), house.stream():
        await house.live()
        await house.ask("POST", "drain?seconds=0&stop=1")
        await house.until(lambda: house.stops == 1)
        assert not house.hub.subscribers


async def test_a_stop_during_a_drain_waits_for_nobody_in_vain(tmp_path: Path) -> None:
    """Both wait for the last subscriber, and both see it leave."""
    house = Administered(tmp_path)
    async with house.serving(60), house.stream():
        await house.live()
        house.drain.begin(3600, stops=True)
        await house.hub.wait_no_subscribers()
        await house.until(lambda: house.stops == 1)


async def test_a_grant_for_every_topic_makes_an_administrator(tmp_path: Path) -> None:
    """Part of the topics, a filter, another action or an expired token do not."""
    (tmp_path / "keys.json").write_bytes(jwks())
    house = Administered(
        tmp_path,
        has_file=False,
        auth_issuer=ISSUER,
        auth_audience=AUDIENCE,
        auth_keys_file=str(tmp_path / "keys.json"),
    )
    both = (ONE.topic, OTHER.topic)
    cases = {
        token(authorization_details=[grant("*", actions=("admin",))]): 200,
        token(authorization_details=[grant(ONE.topic, actions=("admin",))]): 403,
        token(authorization_details=[grant(*both, actions=("subscribe", "observe"))]): 403,
        token(authorization_details=[grant(*both, actions=("admin",), filter={"exact": {"key": "a"}})]): 403,
        token(authorization_details=[grant("*", actions=("admin",))], exp=1): 401,
        token(aud="billing", authorization_details=[grant("*", actions=("admin",))]): 401,
    }
    async with house.serving(60), trio.open_nursery() as nursery:
        for text, status in cases.items():
            answer = await house.ask("GET", "subscribers", {"Authorization": f"Bearer {text}"})
            assert answer.status_code == status, answer.text
        good = next(iter(cases))
        answer = await house.ask("GET", "subscribers", {"Cookie": f"__Host-dispatcher={good}"})
        assert answer.status_code == 401
        nursery.cancel_scope.cancel()


def test_a_token_in_the_place_of_its_path_is_not_echoed() -> None:
    """This is an easy mistake to make."""
    settings = Settings(admin_token_file="4f1c-no-path", operations_bind="127.0.0.1:9000")  # noqa: S106 - it is none
    with pytest.raises(SettingsError, match="admin_token_file") as caught:
        AdminAccess(settings)
    assert "4f1c" not in str(caught.value)


@pytest.mark.parametrize("content", [b"short", b"two words that are long enough", b"\xff" * 32, None])
def test_a_token_that_can_be_guessed_stops_the_start(content: bytes | None, tmp_path: Path) -> None:
    """So does an unreadable file; the message says what is right, without the contents."""
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    settings = Settings(admin_token_file=str(path), operations_bind="127.0.0.1:9000")
    with pytest.raises(SettingsError, match="admin_token_file") as caught:
        AdminAccess(settings)
    assert "two words" not in str(caught.value)


async def test_the_token_can_be_replaced_while_it_runs(tmp_path: Path) -> None:
    """SIGHUP reads it again, and a file that became unusable changes nothing."""
    house = Administered(tmp_path)
    async with house.serving(60):
        house.token_file.write_text("new" * 20)
        await house.access.reload_admin_token()
        assert (await house.ask("GET", "subscribers")).status_code == 401
        assert (await house.ask("GET", "subscribers", {"Authorization": f"Bearer {'new' * 20}"})).status_code == 200
        house.token_file.write_text("x")
        with pytest.raises(SettingsError):
            await house.access.reload_admin_token()
        assert (await house.ask("GET", "subscribers", {"Authorization": f"Bearer {'new' * 20}"})).status_code == 200


async def test_a_replica_that_is_drained_is_not_ready_and_stops_when_asked(
    replicas: Callable[..., Replica], tmp_path: Path
) -> None:
    """The operators' port has the reason, and the process exits with 0."""
    (tmp_path / "token").write_text(SECRET)
    replica = replicas(
        "127.0.0.1:9",
        "assets",
        settings={"operations_bind": "127.0.0.1:0", "admin_token_file": tmp_path / "token"},
    )
    async with httpx2.AsyncClient(timeout=seconds(20), headers=BEARER) as client, open_sse(replica) as stream:
        assert await stream.next_event() is not None
        assert len((await client.get(f"{replica.operations_url}/admin/subscribers")).json()["subscribers"]) == 1
        assert (await client.post(f"{replica.operations_url}/admin/drain?seconds=3600")).status_code == 202
        assert (await stream.next_control("goodbye"))["code"] == 1013
        reasons = (await client.get(f"{replica.operations_url}/readyz")).json()["reasons"]
        assert any("drain" in reason for reason in reasons)
        replica.signal(signal.SIGHUP)
        await trio.to_thread.run_sync(replica.wait_until_logged, "reloaded")
        assert (await client.post(f"{replica.operations_url}/admin/drain?stop=1")).status_code == 202
    assert await trio.to_thread.run_sync(replica.wait) == 0
