"""The registry's client, against a registry on real sockets that is away, slow and wrong."""

import gzip
from collections.abc import Callable
from uuid import UUID

import pytest
import trio

from dispatcher.schemas import registry as registry_module
from dispatcher.schemas.framing import MAX_REASON_CHARACTERS, UndecodableError
from dispatcher.schemas.registry import RegisteredSchema, Registry, RegistryUnavailableError
from testbed.registry import RegistryServer, serve_registry

GUID = UUID("0190a3a4-7bd1-7e6a-9d2b-1c2d3e4f5a6b")


async def test_schemas_are_found_by_id_and_by_guid() -> None:
    """A schema without a type is Avro."""
    async with serve_registry() as server:
        server.add(7, '"int"')
        server.add(GUID, "{}", "JSON")
        registry = Registry(server.url + "/")
        assert await registry.fetch(7) == RegisteredSchema("AVRO", '"int"', {})
        assert await registry.fetch(GUID) == RegisteredSchema("JSON", "{}", {})
        await registry.close()


async def test_all_that_a_schema_refers_to_is_found() -> None:
    """Each follows what it needs itself, and is fetched once, under each of its names."""
    async with serve_registry() as server:
        server.add(1, "main", "PROTOBUF", [("a.proto", "sub a", 3), ("b.proto", "b", 1), ("c.proto", "b", 1)])
        server.add_version("sub a", 3, "a", "PROTOBUF", [("b.proto", "b", 1)])
        server.add_version("b", 1, "b", "PROTOBUF", [("a.proto", "sub a", 3)])
        registry = Registry(server.url)
        found = await registry.fetch(1)
        await registry.close()
        assert (found.text, found.references) == ("main", {"a.proto": "a", "b.proto": "b", "c.proto": "b"})
        assert server.asked == {"/schemas/ids/1": 1, "/subjects/sub a/versions/3": 1, "/subjects/b/versions/1": 1}


async def test_credentials_are_sent() -> None:
    """User and password, or a token, are sent; the address in messages has neither."""
    async with serve_registry() as server:
        server.add(1, '"int"')
        for registry in (Registry(server.url, user="me", password="secret"), Registry(server.url, token="abc")):  # noqa: S106
            await registry.fetch(1)
            await registry.close()
        first, second = (head.lower() for head in server.heads)
        assert b"authorization: basic bwu6c2vjcmv0" in first
        assert b"authorization: bearer abc" in second


def _away(server: RegistryServer) -> None:
    server.is_away = True


def _answering(status: bytes, body: bytes | None = None) -> Callable[[RegistryServer], None]:
    def change(server: RegistryServer) -> None:
        server.status, server.body = status, body

    return change


def _trickling(server: RegistryServer) -> None:
    server.trickles = True


BAD_REFERENCE = b'{"schema": "x", "references": [{"name": "a"}]}'


@pytest.mark.parametrize(
    ("change", "reason", "is_away"),
    [
        (_away, "http://127.0.0.1", True),
        (_trickling, "gave no complete answer for schema 1 within 0.5 s", True),
        (_answering(b"401 Unauthorized"), "answered 401 for schema 1", False),
        (_answering(b"403 Forbidden"), "answered 403", False),
        (_answering(b"302 Found"), "answered 302", False),
        (_answering(b"500 Internal Server Error"), "answered 500", False),
        (_answering(b"503 Service Unavailable"), "answered 503", False),
        (_answering(b"200 OK", b"<html>"), "something that is not a schema", False),
        (_answering(b"200 OK", b"[]"), "something that is not a schema", False),
        (_answering(b"200 OK", b'{"schema": 1}'), "something that is not a schema", False),
        (_answering(b"200 OK", b"\xff" * 1000), "something that is not a schema", False),
        (_answering(b"nonsense"), "http://127.0.0.1", True),
        (_answering(b"200 OK", BAD_REFERENCE), "a reference without subject or version", False),
        (_answering(b"200 OK", b'{"schema": "x", "references": 1}'), "references that are not a list", False),
        (_answering(b"200 OK\r\nContent-Encoding: gzip", gzip.compress(b'{"schema": "x"}')), "is not a schema", False),
    ],
)
async def test_a_registry_that_fails_may_answer_later(
    change: Callable[[RegistryServer], None], reason: str, is_away: bool
) -> None:
    """Each failure has its own message, and the next fetch succeeds."""
    async with serve_registry() as server:
        server.add(1, '"int"')
        change(server)
        registry = Registry(server.url, timeout_seconds=0.5 if server.trickles else 60)
        with pytest.raises(RegistryUnavailableError, match=reason) as caught:
            await registry.fetch(1)
        assert caught.value.is_away is is_away
        server.is_away = server.trickles = False
        server.status, server.body = b"200 OK", None
        registry._timeout_seconds = 60
        assert (await registry.fetch(1)).text == '"int"'
        await registry.close()


async def test_what_a_schema_refers_to_may_be_too_slow() -> None:
    """The registry did respond: only this schema cannot be had."""
    async with serve_registry() as server:
        server.add(1, '"a.B"', references=[("a.B", "slow", 1)])
        server.add_version("slow", 1, "x")
        server.withheld.add("/subjects/slow/versions/1")
        server.held = trio.Event()
        registry = Registry(server.url, timeout_seconds=0.5)
        with pytest.raises(RegistryUnavailableError, match="no complete answer for schema 1 within") as caught:
            await registry.fetch(1)
        assert not caught.value.is_away
        server.held.set()
        await registry.close()


async def test_nobody_listens() -> None:
    """The reason names the address."""
    async with serve_registry() as server:
        url = server.url
    registry = Registry(url)
    with pytest.raises(RegistryUnavailableError, match=url):
        await registry.fetch(1)
    await registry.close()


async def test_what_the_registry_does_not_have_is_no_outage() -> None:
    """Neither are unknown kinds of schemas, and endless answers."""
    async with serve_registry() as server:
        server.add(2, "x", "XML")
        server.add(3, '"' + "x" * registry_module.MAX_SCHEMA_BYTES + '"')
        server.add(4, '"a.B"', references=[("a.B", "gone", 1)])
        server.add(5, "x")
        server.bodies["/schemas/ids/5"] = b'{"schema": "x", "schemaType": [1]}'
        registry = Registry(server.url)
        for key, reason in {
            1: "the registry has no schema 1",
            2: "of the type 'XML'",
            3: "more than",
            4: "no gone 1",
            5: r"of the type \[1\]",
        }.items():
            with pytest.raises(UndecodableError, match=reason):
                await registry.fetch(key)
        await registry.close()


async def test_references_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A schema that needs more is not used."""
    monkeypatch.setattr(registry_module, "MAX_REFERENCES", 3)
    async with serve_registry() as server:
        server.add(1, "x", references=[(f"r{n}", f"s{n}", 1) for n in range(4)])
        for n in range(4):
            server.add_version(f"s{n}", 1, "y")
        registry = Registry(server.url)
        with pytest.raises(UndecodableError, match="more than 3 schemas"):
            await registry.fetch(1)
        await registry.close()


async def test_what_a_schema_refers_to_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The total size counts."""
    monkeypatch.setattr(registry_module, "MAX_SCHEMA_BYTES", 400)
    async with serve_registry() as server:
        text = f'"{"x" * 110}"'
        server.add(1, text, references=[(f"n{n}", f"s{n}", 1) for n in range(4)])
        for n in range(4):
            server.add_version(f"s{n}", 1, text)
        with pytest.raises(UndecodableError, match="what it refers to have more than 400 bytes"):
            await Registry(server.url).fetch(1)


async def test_names_are_bounded_even_if_they_name_the_same_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoders read a schema once for each of its names."""
    monkeypatch.setattr(registry_module, "MAX_REFERENCES", 3)
    async with serve_registry() as server:
        server.add(1, "x", references=[(f"r{n}", "s", 1) for n in range(4)])
        server.add_version("s", 1, "y")
        # No list is too long, but all together are.
        server.add(2, "x", references=[("a", "t", 1), ("b", "u", 1)])
        server.add_version("t", 1, "y", references=[("c", "s", 1), ("d", "s", 1)])
        server.add_version("u", 1, "y", references=[("e", "s", 1)])
        server.add(3, "x", references=[(f"r{n}", "s", 1) for n in range(3)])
        registry = Registry(server.url)
        for key in (1, 2):
            with pytest.raises(UndecodableError, match="more than 3 schemas"):
                await registry.fetch(key)
        assert len((await registry.fetch(3)).references) == 3
        await registry.close()


async def test_names_count_with_the_bytes_of_what_they_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four names of a schema of 100 bytes are 400 bytes for its decoder, and so are four names of 100 bytes."""
    monkeypatch.setattr(registry_module, "MAX_SCHEMA_BYTES", 400)
    async with serve_registry() as server:
        server.add(1, "x", references=[(f"n{n}", "s", 1) for n in range(4)])
        server.add_version("s", 1, "y" * 100)
        server.add(2, "x", references=[("a" * 100, "t", 1), ("b" * 100, "u", 1)])
        server.add_version("t", 1, "y", references=[("c" * 100, "u", 1), ("d" * 100, "u", 1)])
        server.add_version("u", 1, "y")
        server.add(3, "x", references=[(f"n{n}", "s", 1) for n in range(3)])
        registry = Registry(server.url)
        for key in (1, 2):
            with pytest.raises(UndecodableError, match="what it refers to have more than 400 bytes"):
                await registry.fetch(key)
        assert len((await registry.fetch(3)).references) == 3
        await registry.close()


async def test_a_registry_that_fails_with_a_long_name_gives_a_short_reason() -> None:
    """The reason is kept and logged."""
    async with serve_registry() as server:
        subject = "s" * 5_000
        server.add(1, "x", references=[("n", subject, 1)])
        server.statuses[f"/subjects/{subject}/versions/1"] = b"500 Internal Server Error"
        registry = Registry(server.url)
        with pytest.raises(RegistryUnavailableError, match="answered 500 for sss") as caught:
            await registry.fetch(1)
        assert len(str(caught.value)) == MAX_REASON_CHARACTERS
        await registry.close()
