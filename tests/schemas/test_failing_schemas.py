"""A registry that fails for some schemas is not away, and one that fails for all of them is."""

import pytest
import trio

from dispatcher.sansio.records import Record, Records
from dispatcher.schemas import schemas as schemas_module
from dispatcher.schemas.decoding import RecordDecoder
from dispatcher.schemas.framing import SchemaKey
from dispatcher.schemas.registry import RegisteredSchema
from dispatcher.schemas.rules import Rules
from dispatcher.schemas.schemas import Missing, Schemas
from testbed.registry import serve_registry
from tests.schemas.test_schemas import found, found_decoder, running, until

FOR_ONE_SCHEMA = [
    b"401 Unauthorized",
    b"403 Forbidden",
    b"429 Too Many Requests",
    b"500 Oh",
    b"503 No",
    b"200 OK",
    b"?",
]


async def fail_again(schemas: Schemas) -> None:
    """Schema 1 is asked for, in vain, and the registry judged."""
    failures = schemas.statistics().failures
    await until(lambda: schemas.look_up(1) and schemas.statistics().failures > failures)
    await until(lambda: not schemas._is_checking and not schemas._wanted)


@pytest.mark.parametrize("status", [b"401 No", b"403 No", b"429 No", b"500 No", b"503 No", b"200 OK", b"nonsense"])
async def test_a_schema_that_fails_says_nothing_of_others(monkeypatch: pytest.MonkeyPatch, status: bytes) -> None:
    """The registry counts as available, however often it is asked for that one, and others are waited for."""
    monkeypatch.setattr(schemas_module, "RETRY_SECONDS", 0)
    async with serve_registry() as server:
        for key in (1, 2, 3):
            server.add(key, '"int"')
        server.bodies["/schemas/ids/1"] = b"garbage"
        server.statuses["/schemas/ids/1"] = status
        async with running(server) as schemas:
            await found_decoder(schemas, 2)
            for _ in range(5):
                await fail_again(schemas)
                assert schemas.unavailable is None
            bad = schemas.look_up(1)
            assert bad is not None
            assert bad.since is not None
            # The first look-up of another schema waits for its own answer.
            assert schemas.look_up(3) is None
            await found_decoder(schemas, 3)
            again = schemas.look_up(1)
            assert again is not None
            assert again.since == bad.since


async def test_the_first_schema_of_all_fails_and_another_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """No schema is known, so the registry counts as away; the first answer shows that it is not."""
    monkeypatch.setattr(schemas_module, "RETRY_SECONDS", 0)
    async with serve_registry() as server:
        server.add(1, '"int"')
        server.add(2, '"int"')
        server.statuses["/schemas/ids/1"] = b"403 Forbidden"
        async with running(server) as schemas:
            decoder = RecordDecoder(schemas, {"t": Rules()}, wait_seconds=0)
            first = Records.of([Record(0, 0, None, b"\x00\x00\x00\x00\x01\x02", ())])
            await until(lambda: len(decoder.decode("t", first)) and schemas.unavailable)
            server.held = trio.Event()
            second = Records.of([Record(1, 0, None, b"\x00\x00\x00\x00\x02\x02", ())])
            assert len(decoder.decode("t", second)) == 0
            server.held.set()
            await until(lambda: schemas.decoder(2))
            decoded = decoder.decode("t", second).decoded
            assert decoded is not None
            assert decoded.values == [b"1"]
            for _ in range(3):
                await fail_again(schemas)
                assert schemas.unavailable is None


@pytest.mark.parametrize("status", [b"401 No", b"403 No", b"429 No", b"503 No", b"nonsense"])
async def test_a_registry_that_fails_for_known_schemas_is_away(monkeypatch: pytest.MonkeyPatch, status: bytes) -> None:
    """It is asked for one at once, so a single schema that is needed suffices to find out."""
    monkeypatch.setattr(schemas_module, "RETRY_SECONDS", 0.2)
    async with serve_registry() as server:
        for key in (1, 2):
            server.add(key, '"int"')
        async with running(server) as schemas:
            await found_decoder(schemas, 1)
            server.status = status
            missing = await found(schemas, 2)
            assert isinstance(missing, Missing)
            await until(lambda: schemas.unavailable is not None)
            assert server.asked == {"/schemas/ids/1": 2, "/schemas/ids/2": 1}
            outage = schemas._availability.outage
            assert outage is not None
            assert outage.since == missing.since
            server.status = b"200 OK"
            await found_decoder(schemas, 2)
            assert schemas.unavailable is None


async def test_a_chain_of_references_that_is_too_slow_is_no_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    """The schema itself was answered."""
    monkeypatch.setattr(schemas_module, "RETRY_SECONDS", 0)
    async with serve_registry() as server:
        server.add(1, '"a.B"', references=[("a.B", "slow", 1)])
        server.add_version("slow", 1, "x")
        server.add(2, '"int"')
        server.withheld.add("/subjects/slow/versions/1")
        server.held = trio.Event()
        async with running(server, timeout_seconds=0.3) as schemas:
            missing = await found(schemas, 1)
            assert isinstance(missing, Missing)
            assert "no complete answer for schema 1" in missing.reason
            assert schemas.unavailable is None
            await found_decoder(schemas, 2)
        server.held.set()


async def test_a_schema_that_failed_is_asked_for_also_while_no_record_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise each record of a rare schema would wait as the first did."""
    monkeypatch.setattr(schemas_module, "ASK_SECONDS", 0.01)
    monkeypatch.setattr(schemas_module, "RETRY_SECONDS", 0)
    async with serve_registry() as server:
        bad = range(1, 8)
        for key in (0, *bad):
            server.add(key, '"int"')
            server.statuses[f"/schemas/ids/{key}"] = b"403 Forbidden" if key else b"200 OK"
        async with running(server) as schemas:
            await found_decoder(schemas, 0)
            for key in bad:
                await found(schemas, key)
            await until(lambda: all(server.asked[f"/schemas/ids/{key}"] >= 4 for key in bad))
            assert schemas.unavailable is None
            server.statuses.clear()
            await until(lambda: all(schemas.decoder(key) for key in bad))


async def test_a_check_that_nobody_foresaw_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any failure counts as an answer: it concerns the schema that was asked for."""
    async with serve_registry() as server:
        for key in (1, 2):
            server.add(key, '"int"')
        server.statuses["/schemas/ids/2"] = b"403 Forbidden"
        async with running(server) as schemas:
            await found_decoder(schemas, 1)
            fetch = schemas._registry.fetch

            async def fail(key: SchemaKey) -> RegisteredSchema:
                if key == 1:
                    raise RecursionError
                return await fetch(key)

            monkeypatch.setattr(schemas._registry, "fetch", fail)
            await found(schemas, 2)
            await until(lambda: schemas.statistics().fetches == 3 and not schemas._is_checking)
            assert schemas.unavailable is None
