"""Records and schemas that are nearly right, or meant to harm, through a registry and the decoders.

Every second record is a good one of a known schema: whatever the others are, it has to come out right and in order.
"""

import random
import resource
import time
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any

import fastavro
import orjson
import trio

from dispatcher.sansio.records import Records
from dispatcher.schemas.decoding import RecordDecoder
from dispatcher.schemas.registry import Registry
from dispatcher.schemas.rules import Rules
from dispatcher.schemas.schemas import Schemas
from dispatcher.schemas.values import MAX_DECODED_BYTES
from testbed.patience import seconds as patient
from testbed.registry import RegistryServer, serve_registry

STEP_SECONDS = 20.0
"""How much processor time one step of a decoder may take on a quick machine; a 10 MiB value is refused at once."""
MOST_BYTES = 3 * 2**30
TOPICS = {"numbers": Rules(), "strings": Rules(int64_strings=True), "tagged": Rules(avro_json=True)}
CONTROL_ID = 1
CONTROL: dict[str, Any] = {"type": "record", "name": "Good", "fields": [{"name": "n", "type": "long"}]}
PRIMITIVES = ("null", "boolean", "int", "long", "float", "double", "bytes", "string")
LOGICAL = (
    {"type": "int", "logicalType": "date"},
    {"type": "int", "logicalType": "time-millis"},
    {"type": "long", "logicalType": "time-micros"},
    {"type": "long", "logicalType": "timestamp-millis"},
    {"type": "long", "logicalType": "timestamp-micros"},
    {"type": "long", "logicalType": "local-timestamp-millis"},
    {"type": "bytes", "logicalType": "decimal", "precision": 30, "scale": 4},
    {"type": "string", "logicalType": "uuid"},
)
PROTO = """
syntax = "proto3";
package p;
enum Suit { CLUBS = 0; HEARTS = 1; }
message Tree { repeated Tree children = 1; map<string, Tree> named = 2; string text = 3; sint64 number = 4;
  oneof either { bytes data = 5; Suit suit = 6; } repeated double many = 7; optional bool flag = 8; }
"""


class SchemaGenerator:
    """Everything that it makes follows from its seed.

    Args:
        seed: The same gives the same.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 - to be repeated
        self._names = 0

    def avro(self, depth: int = 0) -> Any:
        """A right schema."""
        pick = self.random
        kind = pick.randrange(4 if depth > 3 else 9)
        if kind < 4:
            return pick.choice(LOGICAL if kind == 3 else PRIMITIVES)
        if kind == 4:
            return {"type": "array", "items": self._taking_bytes(depth)}
        if kind == 5:
            return {"type": "map", "values": self.avro(depth + 1)}
        if kind == 6:
            return ["null", pick.choice(("long", "string", LOGICAL[3]))]
        self._names += 1
        if kind == 7:
            return {"type": "enum", "name": f"E{self._names}", "symbols": ["A", "B", "C"]}
        name = f"R{self._names}"
        fields = [{"name": f"f{n}", "type": self.avro(depth + 1)} for n in range(pick.randrange(1, 6))]
        return {"type": "record", "name": name, "fields": fields}

    def _taking_bytes(self, depth: int) -> Any:
        """A type that may be repeated: what takes no bytes may not."""
        return self.random.choice(("long", "string", "boolean", {"type": "map", "values": self.avro(depth + 2)}))

    def bomb(self) -> tuple[str, str]:
        """A schema that is meant to harm, or is broken, and its kind."""
        pick = self.random
        doubling: list[Any] = [{"name": "a", "type": "int"}]
        for level in range(25):
            inner = {"type": "record", "name": f"D{level}", "fields": doubling}
            doubling = [{"name": "a", "type": inner}, {"name": "b", "type": f"D{level}"}]
        nested: Any = "int"
        for level in range(pick.choice((5, 50, 80))):
            nested = {"type": "record", "name": f"N{level}", "fields": [{"name": "x", "type": nested}]}
        avro: Sequence[Any] = (
            {"type": "record", "name": "Doubled", "fields": doubling},
            nested,
            {"type": "array", "items": "null"},
            {"type": "array", "items": {"type": "record", "name": "Nothing", "fields": []}},
            {"type": "record", "name": "Self", "fields": [{"name": "next", "type": ["null", "Self"]}]},
            {"type": "record", "name": "Endless", "fields": [{"name": "next", "type": "Endless"}]},
            {"type": "record", "name": "Long", "fields": [{"name": "x" * 100_000, "type": ["null", "long"]}]},
            {"type": "enum", "name": "Many", "symbols": [f"S{n}" for n in range(20_000)]},
            {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 10**9},
            {"type": "bytes", "logicalType": "decimal", "precision": "x", "scale": "y"},
            {"type": "fixed", "name": "Huge", "size": 2**40},
            {"type": "fixed", "name": "Less", "size": -5},
            {"type": "array", "items": {"type": "fixed", "name": "None_", "size": 0}},
            ["null"] * 3,
            [f"Unknown{n}" for n in range(100)],
            {"type": {"type": {"type": "int"}}},
            {"type": 7},
            7,
            None,
            [],
            {},
        )
        texts = (
            orjson.dumps(pick.choice(avro)).decode(),
            orjson.dumps(pick.choice(avro)).decode(),
            self.mutated(orjson.dumps(self.avro())).decode(errors="replace"),
            "[" * 100_000,
            '{"type":"array","items":' * 900 + '"int"' + "}" * 900,
            "",
        )
        if pick.random() < 0.1:
            protos = (
                self.mutated(PROTO.encode()).decode(errors="replace"),
                'syntax = "proto3"; import "registry-schema.proto"; message A {}',
                "message " + "A { message " * 200,
                'syntax = "proto3"; message A {' + "".join(f"A f{n} = {n};" for n in range(1, 3000)) + "}",
            )
            return pick.choice(protos), "PROTOBUF"
        return pick.choice(texts), pick.choice(("AVRO", "AVRO", "AVRO", "JSON", "XML"))

    def avro_value(self, schema: Any) -> bytes:
        """A right value, as its writer has it."""
        parsed = fastavro.parse_schema(orjson.loads(orjson.dumps(schema)))
        stream = BytesIO()
        fastavro.schemaless_writer(stream, parsed, self._value(schema))
        return stream.getvalue()

    def _value(self, schema: Any) -> Any:
        pick = self.random
        if isinstance(schema, list):
            return self._value(pick.choice(schema))
        kind = schema if isinstance(schema, str) else schema["type"]
        logical = None if isinstance(schema, str) else schema.get("logicalType")
        if logical == "decimal":
            return pick.randbytes(pick.randrange(1, 12))
        if logical == "time-millis":
            return pick.randrange(86_400_000)
        makers: dict[str, Callable[[], Any]] = {
            "null": lambda: None,
            "boolean": lambda: pick.random() < 0.5,
            "int": lambda: pick.randrange(-(2**31), 2**31),
            "long": lambda: pick.randrange(-(2**63), 2**63),
            "float": pick.random,
            "double": lambda: pick.choice((pick.random(), float("nan"), float("inf"))),
            "bytes": lambda: pick.randbytes(pick.randrange(20)),
            "string": lambda: "é\n" * pick.randrange(9),
            "array": lambda: [self._value(schema["items"]) for _ in range(pick.randrange(5))],
            "map": lambda: {f"k{n}": self._value(schema["values"]) for n in range(pick.randrange(4))},
            "enum": lambda: pick.choice(schema["symbols"]),
            "record": lambda: {field["name"]: self._value(field["type"]) for field in schema["fields"]},
        }
        return makers[kind]()

    def poison(self, ids: Sequence[int], good: Sequence[bytes]) -> bytes:
        """A value that is wrong, or right by chance."""
        pick = self.random
        number = pick.choice((*ids, *ids, 0, 2**32 - 1, pick.randrange(2**32)))
        front = b"\x00" + number.to_bytes(4, "big")
        content = pick.choice(good)
        bodies: tuple[Callable[[], bytes], ...] = (
            lambda: front + content[5:],
            lambda: content[: pick.randrange(len(content) + 1)],
            lambda: self.mutated(content),
            lambda: content + pick.randbytes(pick.randrange(1, 9)),
            lambda: front + pick.randbytes(pick.randrange(2000)),
            lambda: front + b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01" * pick.randrange(1, 9),
            lambda: front + b"\x02" * pick.choice((10, 50_000)),
            lambda: front + b"\x0a" * pick.choice((10, 50_000)),
            lambda: front + b"\x80" * pick.choice((10, 50_000)),
            lambda: front + b"[" * pick.choice((10, 50_000)),
            lambda: pick.randbytes(pick.randrange(12)),
        )
        if pick.random() < 0.02:
            return front + pick.choice((b"\x00", b"\x02", b"\x02a", b"[", pick.randbytes(64))) * (10 * 2**20 // 2)
        return pick.choice(bodies)()

    def mutated(self, data: bytes) -> bytes:
        """The same, with some bytes changed, left out, doubled, or put in."""
        pick = self.random
        changed = bytearray(data)
        for _ in range(pick.choice((1, 1, 3, 10))):
            at = pick.randrange(len(changed) + 1)
            change = pick.randrange(4)
            if change == 0:
                changed[at : at + 1] = bytes([pick.randrange(256)])
            elif change == 1:
                del changed[at : at + pick.randrange(1, 20)]
            elif change == 2:
                changed[at:at] = changed[at : at + pick.randrange(1, 50)]
            else:
                changed[at:at] = pick.choice((b"\x00", b"\x02", b"\xff\x01", b"\x80\x80\x80\x01", b'"', b"{"))
        return bytes(changed)


def fuzz_schemas(seed: int, tell: Callable[[str], None], pairs: int = 120) -> list[str]:
    """One round: a few right schemas, a few bombs, and records of them all; returns what went wrong.

    Args:
        seed: The same gives the same.
        tell: Is called with a line for people.
        pairs: How many pairs of a good record and another there are.
    """
    failures: list[str] = []
    trio.run(_round, SchemaGenerator(seed), pairs, failures)
    if (resident := resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024) > MOST_BYTES:
        failures.append(f"resident memory grew to {resident} bytes")
    tell(f"schemas, seed {seed}: {pairs * 2} records")
    return failures


async def _round(generator: SchemaGenerator, pairs: int, failures: list[str]) -> None:
    async with serve_registry() as server:
        good, ids = _register(server, generator)
        schemas = Schemas(Registry(server.url))
        decoder = RecordDecoder(schemas, TOPICS, patient(60))
        values = [value for n in range(pairs) for value in (_control(n), generator.poison(ids, good))]
        topic = generator.random.choice([*TOPICS])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(schemas.run)
            with trio.move_on_after(patient(120)) as scope:
                await trio.to_thread.run_sync(_decode, decoder, topic, values, failures)
            if scope.cancelled_caught:
                failures.append("records still wait for schemas")
            nursery.cancel_scope.cancel()


def _register(server: RegistryServer, generator: SchemaGenerator) -> tuple[Sequence[bytes], Sequence[int]]:
    """Fill the registry; returns right values, and all ids."""
    server.add(CONTROL_ID, orjson.dumps(CONTROL).decode())
    good: list[bytes] = []
    number = CONTROL_ID
    for _ in range(5):
        number += 1
        schema = generator.avro()
        server.add(number, orjson.dumps(schema).decode())
        front = b"\x00" + number.to_bytes(4, "big")
        good += [front + generator.avro_value(schema) for _ in range(5)]
    if generator.random.random() < 0.3:  # protoc takes a while
        number += 1
        server.add(number, PROTO, "PROTOBUF")
        good.append(b"\x00" + number.to_bytes(4, "big") + b"\x00\x0a\x02\x1a\x00\x1a\x03abc\x20\x03")
    for _ in range(8):
        number += 1
        text, kind = generator.bomb()
        server.add(number, text, kind)
    return good, range(1, number + 1)


def _control(number: int) -> bytes:
    stream = BytesIO()
    fastavro.schemaless_writer(stream, fastavro.parse_schema({**CONTROL}), {"n": number})
    return b"\x00" + CONTROL_ID.to_bytes(4, "big") + stream.getvalue()


def _decode(decoder: RecordDecoder, topic: str, values: Sequence[bytes], failures: list[str]) -> None:
    """Decode as a poller does: waiting records are tried again."""
    left = Records(range(len(values)), [1] * len(values), [b"key"] * len(values), values, ((),) * len(values))
    done = 0
    while left:
        trio.from_thread.check_cancelled()
        before = time.thread_time()
        part = decoder.decode(topic, left)
        if (took := time.thread_time() - before) > patient(STEP_SECONDS):
            failures.append(f"a step took {took:.1f} s from record {done} on: {values[done][:200]!r}")
        if not part:
            time.sleep(0.002)
            continue
        found = part.decoded
        assert found is not None
        if list(part.offsets) != list(range(done, done + len(part))):
            failures.append(f"out of order at {done}")
        for at, (json, note) in enumerate(zip(found.values, found.value_notes, strict=True), start=done):
            _check(at, values[at], json, note, failures)
        done += len(part)
        left = left[len(part) :]


def _check(at: int, value: bytes, json: bytes | None, note: bytes, failures: list[str]) -> None:
    """A record's outcome: the right JSON of a good one; of others JSON on one line, or a reason."""
    if at % 2 == 0:
        if json != b'{"n":%d}' % (at // 2):
            failures.append(f"good record {at} became {json!r} {note!r}")
    elif json is None:
        if b"decode_error" not in note or not isinstance(orjson.loads(b"{" + note[1:] + b"}"), dict):
            failures.append(f"no reason for {value[:200]!r}: {note!r}")
    elif b"\n" in json or b"\r" in json or len(json) > MAX_DECODED_BYTES:
        failures.append(f"not on one line, or too long: {json[:200]!r} of {value[:200]!r}")
    elif len(json) < 2**20:
        try:
            orjson.loads(json)
        except orjson.JSONDecodeError as error:
            if "recursion" not in str(error).lower() and "depth" not in str(error).lower():
                failures.append(f"not JSON ({error}): {json[:200]!r} of {value[:200]!r}")
