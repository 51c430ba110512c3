"""Grants with filters: a token's own records and no others, through the whole of the web side."""

from typing import Any

import pytest

from dispatcher.sansio.records import Batch, Record
from dispatcher.settings import Settings
from testbed.issuer import Issuer
from testbed.tokens import grant
from tests.hub.test_filtered import KeyedBench
from tests.hub.test_hub import ONE, TWO
from tests.web.test_authentication import Guarded, issuer
from tests.web.test_bad_input import problem
from tests.web.test_filters import events

__all__ = ["issuer"]

RULE = {
    "require": {"scope": "assets:read"},
    "topics": ["assets"],
    "filter": {"prefix": {"key": "${claims.tenant}."}},
}


class KeyedGuarded(Guarded, KeyedBench):
    """A house with an issuer, whose records have keys: tokens allow those of their tenant."""

    def __init__(self, issuer: Issuer) -> None:
        super().__init__(issuer, auth_grants=[RULE])
        self.offsets = {ONE: 0, TWO: 0}

    def reread(self, **changed: Any) -> None:
        """What the settings say at the next reload."""
        given: dict[str, Any] = {name: getattr(self.settings, name) for name in Settings.model_fields} | changed
        self.authentication._read_settings = lambda: Settings(**given)


def of(tenant: str | None, issuer: Issuer) -> str:
    """A token of a tenant."""
    more: dict[str, Any] = {} if tenant is None else {"tenant": tenant}
    return issuer.token(scope="assets:read", **more)


async def test_a_stream_has_what_its_grant_allows_and_its_filter_wants(issuer: Issuer) -> None:
    """Another tenant's records wait, and reach that tenant completely."""
    house = KeyedGuarded(issuer)
    async with house.serving(), house.stream(of("a", issuer)) as all_of_a:
        async with house.ws_with(of("a", issuer), "?key=a.2&key=b.1") as some_of_a:
            await house.live(2)
            house.publish_keys("a.1", "b.1", "a.2", "b.2", "a")
            assert [event.data for event in await events(all_of_a, "message", 2)] == ["0", "2"]
            assert [record["value"] for record in (await some_of_a.next("records"))["records"]] == ["2"]
            await house.until(lambda: house.ranges == {ONE: {0, 2}})
            assert house.unmatched() == {}
        async with house.stream(of("a", issuer), "?key=a.2&last_event_id=assets:0=-1") as resumed:
            assert [event.data for event in await events(resumed, "message", 1)] == ["2"]
        async with house.stream(of("b", issuer)) as all_of_b:
            assert [event.data for event in await events(all_of_b, "message", 2)] == ["1", "3"]
            await house.until(lambda: house.ranges == {ONE: {0, 1, 2, 3}})


async def test_a_stream_of_the_whole_topic_is_narrowed_as_well(issuer: Issuer) -> None:
    """Grant and filter both apply, and the state echoes only the filter."""
    house = KeyedGuarded(issuer)
    house.hub.expect({"assets": 2})
    for partition in (ONE, TWO):
        house.hub.reached(partition, 0)
    async with (
        house.serving(),
        house.stream(of("a", issuer), "?scope=topic") as all_of_a,
        house.ws_with(of("a", issuer), "?scope=topic&key=a.2&key=b.1") as some_of_a,
    ):
        state = await some_of_a.next("state", "close")
        assert (state["scope"], state["filter"]) == ("topic", {"in": {"key": ["a.2", "b.1"]}})
        assert "filters-whole-topic" in state["features"]
        await house.live(2)
        house.publish_keys("a.1", "b.1", "a.2")
        assert [event.data for event in await events(all_of_a, "message", 2)] == ["0", "2"]
        assert [record["value"] for record in (await some_of_a.next("records"))["records"]] == ["2"]


async def test_a_token_without_the_claim_is_refused(issuer: Issuer) -> None:
    """A missing claim matches nothing."""
    house = KeyedGuarded(issuer)
    async with house.serving():
        for tenant, query, reason in (
            (None, "", "the token allows no topic here"),
            (None, "?topic=assets", "the token does not allow this topic"),
        ):
            answer = await house.ask(f"/events{query}", "GET", Authorization=f"Bearer {of(tenant, issuer)}")
            assert reason in problem(answer, 403)
            async with house.ws_with(of(tenant, issuer), query) as ws:
                assert (await ws.next("close", "state"))["code"] == 4403
        house.nothing_moved()


async def test_one_grant_with_a_filter_and_one_without_are_alternatives(issuer: Issuer) -> None:
    """They allow part of one topic and all of another."""
    house = KeyedGuarded(issuer)
    details = [grant("assets", filter={"exact": {"key": "x"}}), grant("orders")]
    async with house.serving():
        async with house.stream(issuer.token(authorization_details=details)) as stream:
            await house.live(1)
            house.publish_keys("x")
            house.publish_keys("y")
            assert [event.data for event in await events(stream, "message", 1)] == ["0"]
        async with house.stream(issuer.token(authorization_details=[*details, grant("assets")])) as stream:
            assert [event.data for event in await events(stream, "message", 1)] == ["1"]


async def test_a_value_that_cannot_be_read_is_not_allowed_by_what_it_does_not_say(issuer: Issuer) -> None:
    """Avro may have any tenant: live, from memory and from Kafka, in every format, it reaches only who may have it."""
    house = KeyedGuarded(issuer)
    own = issuer.token(authorization_details=[grant("assets", filter={"not": {"exact": {"/tenant": "secret"}}})])
    values = (b"\x00\x00\x00\x00\x01\x0csecret", b'{"tenant":"secret"}', b"secret", b'{"tenant":"a"}')
    async with house.serving(), house.stream(own, "?topic=assets&format=envelope") as stream, house.ws_with(own) as ws:
        await house.live(2)
        for offset, value in enumerate(values):
            record = Record(offset, None, b"k", value, ())
            house.replays.log.append((ONE, record))
            house.hub.publish(Batch(ONE, (record,)))
        assert ['"offset":3' in event.data for event in await events(stream, "message", 1)] == [True]
        assert [record["offset"] for record in (await ws.next("records"))["records"]] == [3]
        await house.until(lambda: house.ranges == {ONE: {3}})
        for position in ("last_event_id=assets:0=-1", "since=earliest"):
            async with house.stream(own, f"?topic=assets&format=envelope&{position}") as again:
                assert ['"offset":3' in event.data for event in await events(again, "message", 1)] == [True]
        async with house.stream(issuer.token(authorization_details=[grant("assets")]), "?since=earliest") as everything:
            await events(everything, "message", 2)


@pytest.mark.parametrize(
    ("rules", "code"),
    [
        ([RULE | {"filter": {"prefix": {"key": "${claims.tenant}.1"}}}], 4419),
        ([RULE | {"filter": None}], 4419),
        ([RULE | {"filter": {"exact": {"key": "${claims.region}"}}}], 4403),
        ([], 4403),
    ],
)
async def test_a_reload_ends_the_streams_whose_records_are_others_now(
    issuer: Issuer, rules: list[dict[str, Any]], code: int
) -> None:
    """With other records they may return, with none they may not; equal grants change nothing."""
    house = KeyedGuarded(issuer)
    async with house.serving(), house.ws_with(of("a", issuer)) as ws:
        await ws.next("state")
        house.reread(auth_grants=[RULE | {"filter": {"all": [RULE["filter"], RULE["filter"]]}}])
        await house.authentication.reload()
        await house.live(1)
        house.publish_keys("a.1", "a.2")
        assert (await ws.next("records", "goodbye"))["type"] == "records"
        house.reread(auth_grants=rules)
        await house.authentication.reload()
        assert (await ws.next("goodbye"))["code"] == code
