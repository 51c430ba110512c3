"""One fetch for each schema, and what is known of those that cannot be had."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from uuid import UUID

import orjson
import pytest
import trio
import trio.testing

from dispatcher.schemas import schemas as schemas_module
from dispatcher.schemas.framing import MAX_REASON_CHARACTERS, SchemaKey
from dispatcher.schemas.registry import Registry
from dispatcher.schemas.schemas import Decoder, Missing, Schemas
from testbed.patience import seconds
from testbed.registry import RegistryServer, serve_registry

GUID = UUID("0190a3a4-7bd1-7e6a-9d2b-1c2d3e4f5a6b")


@asynccontextmanager
async def running(server: RegistryServer, timeout_seconds: float = 30) -> AsyncIterator[Schemas]:
    """Schemas of this registry."""
    schemas = Schemas(Registry(server.url, timeout_seconds=timeout_seconds))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(schemas.run)
        await trio.testing.wait_all_tasks_blocked()
        yield schemas
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], object]) -> None:
    """Wait for something that threads and sockets bring about."""
    with trio.fail_after(seconds(10)):
        while not condition():  # noqa: ASYNC110 - it has no event
            await trio.sleep(0.005)


async def found(schemas: Schemas, key: SchemaKey) -> Decoder | Missing:
    """The decoder, or why there is none."""
    await until(lambda: schemas.decoder(key) or schemas.look_up(key))
    answer = schemas.decoder(key) or schemas.look_up(key)
    assert answer is not None
    return answer


async def found_decoder(schemas: Schemas, key: SchemaKey) -> Decoder:
    """The decoder, however often it has to be asked for."""
    await until(lambda: schemas.decoder(key) is not None or (schemas.look_up(key) and False))
    decoder = schemas.decoder(key)
    assert decoder is not None
    return decoder


async def test_one_fetch_for_each_schema() -> None:
    """This holds however many ask, during the fetch and after it."""
    async with serve_registry() as server:
        server.add(1, '"int"')
        server.held = trio.Event()
        async with running(server) as schemas:
            for _ in range(100):
                assert schemas.look_up(1) is None
            server.held.set()
            decoder = await found_decoder(schemas, 1)
            assert decoder.decode(b"\x04") == b"2"
            assert (await found(schemas, 1)) is decoder
            assert server.asked == {"/schemas/ids/1": 1}
            statistics = schemas.statistics()
            assert (statistics.known, statistics.missing, statistics.fetches, statistics.failures) == (1, 0, 1, 0)


async def test_a_schema_that_has_come_meanwhile_is_not_fetched_again() -> None:
    """A thread that looked just before would count its bytes twice, for good."""
    async with serve_registry() as server:
        for key in (1, 2):
            server.add(key, '"int"')
        async with running(server) as schemas:
            await found_decoder(schemas, 1)
            assert schemas.look_up(1) is None
            await found_decoder(schemas, 2)
            assert schemas.statistics().fetches == 2


async def test_each_kind_has_its_decoder() -> None:
    """The registry says which kind a schema is."""
    async with serve_registry() as server:
        server.add(1, '{"type": "enum", "name": "a.E", "symbols": ["A"]}')
        server.add(2, 'syntax = "proto3"; package a; message M {}', "PROTOBUF")
        server.add(GUID, '{"title": "T"}', "JSON")
        async with running(server) as schemas:
            keys: list[SchemaKey] = [1, 2, GUID]
            decoders = [await found_decoder(schemas, key) for key in keys]
            assert [(one.kind, one.name) for one in decoders] == [("AVRO", "a.E"), ("PROTOBUF", "a.M"), ("JSON", "T")]


async def test_what_was_looked_up_before_the_start_is_fetched() -> None:
    """Threads may start earlier than the loop's task."""
    async with serve_registry() as server:
        server.add(1, '"int"')
        schemas = Schemas(Registry(server.url))
        schemas.look_up(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(schemas.run)
            await found_decoder(schemas, 1)
            nursery.cancel_scope.cancel()


async def test_threads_look_schemas_up() -> None:
    """The loop wakes up for a request from the poller's thread."""
    async with serve_registry() as server:
        server.add(1, '"int"')
        async with running(server) as schemas:
            await trio.to_thread.run_sync(schemas.look_up, 1)
            await until(lambda: schemas.decoder(1))


async def test_a_schema_that_is_not_there_is_asked_for_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at once, however often it is wanted; a lagging registry has it by then."""
    async with serve_registry() as server:
        async with running(server) as schemas:
            missing = await found(schemas, 1)
            assert isinstance(missing, Missing)
            assert missing.since is None
            assert "the registry has no schema 1" in missing.reason
            for _ in range(100):
                assert schemas.look_up(1) == missing
            assert server.asked == {"/schemas/ids/1": 1}
            assert schemas.statistics().unavailable is None
        monkeypatch.setattr(schemas_module, "MISSING_SECONDS", 0)
        async with running(server) as schemas:
            assert isinstance(await found(schemas, 1), Missing)
            server.add(1, '"int"')
            await found_decoder(schemas, 1)


async def test_a_schema_that_cannot_be_decoded_with_says_why() -> None:
    """It is known to be wrong, and others are unaffected."""
    async with serve_registry() as server:
        server.add(1, '{"type": "array", "items": "null"}')
        server.add(2, '"int"')
        async with running(server) as schemas:
            missing = await found(schemas, 1)
            assert isinstance(missing, Missing)
            assert (missing.since, "takes no bytes" in missing.reason) == (None, True)
            await found_decoder(schemas, 2)


async def test_a_schema_that_nobody_foresaw_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any failure to make a decoder is reported for its schema only."""

    def fail(text: str) -> None:
        raise MemoryError(text)

    monkeypatch.setattr("dispatcher.schemas.json_schema.JsonDecoder", fail)
    async with serve_registry() as server, running(server) as schemas:
        server.add(1, "{}", "JSON")
        server.add(2, '"int"')
        missing = await found(schemas, 1)
        assert isinstance(missing, Missing)
        assert "MemoryError" in missing.reason
        assert (await found_decoder(schemas, 2)).kind == "AVRO"


async def test_an_outage_is_counted_from_its_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    """While it lasts its start stays, and an answer ends it."""
    monkeypatch.setattr(schemas_module, "RETRY_SECONDS", 0)
    async with serve_registry() as server:
        server.add(1, '"int"')
        server.add(2, '"int"')
        server.status = b"503 Service Unavailable"
        async with running(server) as schemas:
            first = await found(schemas, 1)
            assert isinstance(first, Missing)
            assert first.since is not None
            await until(lambda: schemas.look_up(1) and server.asked["/schemas/ids/1"] >= 4)
            again = schemas.look_up(1)
            assert again is not None
            assert again.since == first.since
            # A schema that was never asked for is tried, and then need not wait for what is known to be away.
            assert schemas.look_up(2) is None
            other = await found(schemas, 2)
            assert isinstance(other, Missing)
            assert other.since == first.since
            assert "answered 503" in str(schemas.statistics().unavailable)
            server.status = b"200 OK"
            await found_decoder(schemas, 1)
            await found_decoder(schemas, 2)
            assert schemas.statistics().unavailable is None


async def test_an_outage_that_nobody_has_looked_at_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry may be back, so the next record waits like the first."""
    monkeypatch.setattr(schemas_module, "RETRY_SECONDS", 0)
    monkeypatch.setattr(schemas_module, "FORGET_SECONDS", 0)
    async with serve_registry() as server:
        server.is_away = True
        async with running(server) as schemas:
            schemas.look_up(1)
            await until(lambda: schemas.statistics().failures)
            server.held = trio.Event()
            server.is_away = False
            # Under way again or not: what it was is no answer to either.
            await until(lambda: schemas.look_up(1) is None)
            assert schemas.look_up(2) is None
            server.held.set()


async def test_while_nobody_is_there_one_schema_at_a_time_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred look-ups say why, and cost neither tasks nor attempts; in the end all schemas are fetched."""
    monkeypatch.setattr(schemas_module, "RETRY_SECONDS", 0.2)

    async def ask_in_vain(since: float | None) -> None:
        asked, failures = sum(server.asked.values()), schemas.statistics().failures
        server.held = trio.Event()
        await until(lambda: [schemas.look_up(key) for key in range(100)] and schemas._wanted)
        answers = [schemas.look_up(key) for key in range(100)]
        assert [one.since for one in answers if one is not None] == [since] * 100
        assert len(schemas._wanted) == 1
        await until(lambda: sum(server.asked.values()) > asked)
        assert sum(server.asked.values()) == asked + 1
        server.held.set()
        await until(lambda: schemas.statistics().failures > failures)

    async with serve_registry() as server:
        for key in range(100):
            server.add(key, '"int"')
        server.status = b"nonsense"
        async with running(server) as schemas:
            first = await found(schemas, 0)
            assert isinstance(first, Missing)
            for _ in range(3):
                await ask_in_vain(first.since)
            server.status = b"200 OK"
            for key in range(100):
                await found_decoder(schemas, key)


@pytest.mark.parametrize("is_answered", [True, False])
async def test_what_waits_to_be_fetched_is_bounded(monkeypatch: pytest.MonkeyPatch, is_answered: bool) -> None:
    """A registry accepts connections and is slow, while records name any number of ids."""
    monkeypatch.setattr(schemas_module, "MAX_WANTED", 50)
    ids = range(50_000)
    async with serve_registry() as server:
        server.held = trio.Event()
        async with running(server) as schemas:
            tasks = trio.lowlevel.current_statistics().tasks_living
            assert [one for key in ids if (one := schemas.look_up(key)) is not None] == []
            assert (len(schemas._wanted), len(schemas._queue)) == (50, 50)
            await until(lambda: len(server.heads) == schemas_module.FETCHES_AT_ONCE)
            # For each of its connections the registry has a task as well.
            assert trio.lowlevel.current_statistics().tasks_living <= tasks + 3 * schemas_module.FETCHES_AT_ONCE
            server.is_away = not is_answered
            server.held.set()
            await until(lambda: not schemas._wanted)
            if is_answered:
                assert sum(server.asked.values()) == 50
                # Those without room are asked for by later look-ups.
                assert isinstance(await found(schemas, ids[-1]), Missing)


async def test_what_is_known_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hostile producer may name every id."""
    monkeypatch.setattr(schemas_module, "MAX_SCHEMAS", 3)
    async with serve_registry() as server:
        for key in range(5):
            server.add(key, '"int"')
        async with running(server) as schemas:
            for key in range(10):
                await found(schemas, key)
            statistics = schemas.statistics()
            assert (statistics.known, statistics.missing) == (3, 3)


async def test_a_registry_that_is_away_is_asked_also_while_no_record_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a quiet topic would stay degraded after the registry's return."""
    monkeypatch.setattr(schemas_module, "ASK_SECONDS", 0.01)
    monkeypatch.setattr(schemas_module, "RETRY_SECONDS", 0)
    async with serve_registry() as server:
        server.add(1, '"int"')
        server.is_away = True
        async with running(server) as schemas:
            schemas.look_up(1)
            await until(lambda: schemas.unavailable is not None and server.asked["/schemas/ids/1"] >= 3)
            server.is_away = False
            await until(lambda: schemas.unavailable is None)
            assert schemas.decoder(1) is not None
            # It is not asked any more: what is known is known.
            asked = server.asked["/schemas/ids/1"]
            await trio.sleep(0.1)
            assert server.asked["/schemas/ids/1"] == asked


async def test_what_is_known_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large schemas are evicted sooner, and the newest is always kept."""
    monkeypatch.setattr(schemas_module, "MAX_SCHEMAS_BYTES", 3 * schemas_module.DECODER_OVERHEAD_BYTES)
    async with serve_registry() as server:
        for key in (1, 2):
            server.add(key, '"int"')
        server.add(3, '{"type": "enum", "name": "E", "symbols": ["%s"]}' % ("A" * 100_000))
        async with running(server) as schemas:
            for key in (1, 2):
                await found_decoder(schemas, key)
            assert (schemas.statistics().known, schemas.evictions) == (2, 0)
            await found_decoder(schemas, 3)
            assert (schemas.statistics().known, schemas.evictions) == (1, 2)
            await found_decoder(schemas, 1)
            assert schemas.decoder(3) is None


async def test_the_reason_for_a_schema_that_cannot_be_used_is_short() -> None:
    """It names what the schema names, and is kept for each id, and logged."""
    async with serve_registry() as server:
        server.add(1, orjson.dumps({"type": "array", "items": "U" * 1_000_000}).decode())
        async with running(server) as schemas:
            missing = await found(schemas, 1)
            assert isinstance(missing, Missing)
            assert missing.reason.startswith("its Avro schema is wrong: UnknownType: UUU")
            assert len(missing.reason) == MAX_REASON_CHARACTERS
