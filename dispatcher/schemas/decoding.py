"""Decodes records before they are fanned out: once each, in the thread that has received them.

Rules of this module:

* A record is never left out and never overtakes another. One whose schema is on its way ends what is handed on: the
  caller keeps it and what follows it of its partition, and asks again.
* What cannot be decoded is handed on as it is, with a note that says why. So is a record whose schema the registry has
  not given for `wait_seconds`.
* A key is decoded if it is in the wire format, and is no error otherwise: most keys are plain text.
* Nothing that a record holds raises, and a step ends after `STEP_SECONDS` or `STEP_BYTES`: what is left is for the
  next one, so that whoever polls can poll.

*Thread*: any, several at a time.
"""

import time
from collections import Counter
from collections.abc import Mapping

import orjson

from dispatcher.sansio.decoded import Decoded
from dispatcher.sansio.records import NO_RECORDS, Headers, Records
from dispatcher.schemas.framing import ID_BYTES, KEY_HEADER, VALUE_HEADER, Framed, SchemaKey, UndecodableError, unframe
from dispatcher.schemas.rules import Rules
from dispatcher.schemas.schemas import Decoder, Schemas
from dispatcher.schemas.statistics import DecodingStatistics

STEP_SECONDS = 0.1
"""How long one step may take: the poller must poll, and the interpreter is shared with the loop."""

STEP_BYTES = 4 * 1024 * 1024
"""How many bytes of JSON one step may make."""

MAX_CONTENT_BYTES = 8 * 1024 * 1024
"""Larger keys and values are not decoded: it takes a second and ten times the memory."""

MAX_REASON_CHARACTERS = 300

MAX_NAME_CHARACTERS = 300
"""Of a schema's name: each record repeats it."""

MAX_NOTES = 10_000
"""How many notes are kept to be shared by records."""

_NOTHING = (None, b"")

Result = tuple[bytes | None, bytes]
"""JSON, and a note."""


class RecordDecoder:
    """Decodes the records of some topics.

    Args:
        schemas: Has the decoders.
        topics: How each is decoded for everybody, by name.
        wait_seconds: How long a record waits for a registry that does not answer.
        askable: How others are decoded for subscribers that ask.
    """

    def __init__(
        self, schemas: Schemas, topics: Mapping[str, Rules], wait_seconds: float, askable: Mapping[str, Rules] = {}
    ) -> None:
        self.topics = frozenset(topics)
        self.asked: frozenset[str] = frozenset()
        """Those of the others for which some subscriber asks now. Replaced, never changed: threads read it."""
        self._schemas = schemas
        self._rules = {**askable, **topics}
        self._wait_seconds = wait_seconds
        self._notes: dict[tuple[str, SchemaKey], bytes] = {}
        self._known: dict[bytes, tuple[Decoder, bytes]] = {}
        """Decoders and notes of values by the bytes that name their schemas: what most records need."""
        self._evictions = 0
        """Of the schemas, when those were found."""
        self._decoded: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()

    def decode(self, topic: str, records: Records) -> Records:
        """Decode records of one partition.

        Args:
            topic: One of `topics`, or one for which subscribers may ask.
            records: In the order of the partition.

        Returns:
            The records with what was decoded, up to the first that has to wait; none if that is the first.
        """
        rules = self._rules[topic]
        if self._evictions != self._schemas.evictions:
            self._evictions = self._schemas.evictions
            self._known.clear()
            self._notes.clear()
        key_jsons: list[bytes | None] = []
        key_notes: list[bytes] = []
        value_jsons: list[bytes | None] = []
        value_notes: list[bytes] = []
        ends_at, room_bytes, now = time.monotonic() + STEP_SECONDS, STEP_BYTES, time.monotonic
        for key, value, headers in zip(records.keys, records.values, records.headers, strict=True):
            if value_jsons and (room_bytes <= 0 or now() >= ends_at):
                break
            value_result = _NOTHING if value is None else self._value(value, headers, rules)
            # A key without the magic byte is text: most are.
            key_result = (
                _NOTHING if key is None or not (headers or key[:1] == b"\x00") else self._key(key, headers, rules)
            )
            if value_result is None or key_result is None:
                break
            json, note = value_result
            value_jsons.append(json)
            value_notes.append(note)
            if json is not None:
                room_bytes -= len(json)
            json, note = key_result
            key_jsons.append(json)
            key_notes.append(note)
            if json is not None:
                room_bytes -= len(json)
        if not value_jsons:
            return NO_RECORDS
        part = records if len(value_jsons) == len(records) else records[: len(value_jsons)]
        without = value_jsons.count(None)
        self._failed[topic] += without - part.values.count(None)
        self._decoded[topic] += len(value_jsons) - without
        return part.with_decoded(Decoded(key_jsons, value_jsons, key_notes, value_notes))

    def statistics(self) -> DecodingStatistics:
        """A snapshot."""
        return DecodingStatistics(self._decoded.copy(), self._failed.copy(), self._schemas.statistics(), self.asked)

    def _value(self, value: bytes, headers: Headers, rules: Rules) -> Result | None:
        if not headers and (known := self._known.get(value[:ID_BYTES])) is not None:
            decoder, note = known
            return _decoded(decoder, Framed(0, value[ID_BYTES:], b""), note, "", rules)
        try:
            framed = unframe(value, headers, VALUE_HEADER)
        except UndecodableError as error:
            return None, _error("", b"", str(error))
        return self._result("", framed, rules)

    def _key(self, key: bytes, headers: Headers, rules: Rules) -> Result | None:
        try:
            framed = unframe(key, headers, KEY_HEADER)
        except UndecodableError:
            return _NOTHING
        if framed.schema == 0:  # ids begin at 1; so does a key that is a number begin
            return _NOTHING
        return self._result("key_", framed, rules)

    def _result(self, prefix: str, framed: Framed, rules: Rules) -> Result | None:
        """What was decoded, or why not; None while the schema is on its way."""
        schema = framed.schema
        decoder = self._schemas.decoder(schema)
        if decoder is None:
            missing = self._schemas.look_up(schema)
            # It may have come since.
            decoder = self._schemas.decoder(schema)
            if decoder is None:
                if missing is None or (
                    missing.since is not None and time.monotonic() < missing.since + self._wait_seconds
                ):
                    return None
                return None, _error(prefix, b',"%bschema":{"id":%b}' % (prefix.encode(), _id(schema)), missing.reason)
        note = self._notes.get((prefix, schema)) or self._note(prefix, schema, decoder)
        return _decoded(decoder, framed, note, prefix, rules)

    def _note(self, prefix: str, schema: SchemaKey, decoder: Decoder) -> bytes:
        described = {"type": decoder.kind, "name": decoder.name[:MAX_NAME_CHARACTERS]}
        note = b',"%bschema":{"id":%b,%b}' % (prefix.encode(), _id(schema), orjson.dumps(described)[1:-1])
        if len(self._notes) >= MAX_NOTES:
            self._notes.clear()
            self._known.clear()
        self._notes[prefix, schema] = note
        if not prefix and isinstance(schema, int):
            # An id never changes its meaning, so neither does a decoder that was found once.
            self._known[b"\x00" + schema.to_bytes(4, "big")] = decoder, note
        return note


def _decoded(decoder: Decoder, framed: Framed, note: bytes, prefix: str, rules: Rules) -> Result:
    """What was decoded, or why not."""
    _, content, indexes = framed
    if len(content) > MAX_CONTENT_BYTES:
        return None, _error(prefix, note, f"it has {len(content)} bytes; at most {MAX_CONTENT_BYTES} are allowed")
    try:
        return decoder.decode(content, indexes, int64_strings=rules[0], avro_json=rules[1]), note
    except UndecodableError as error:
        return None, _error(prefix, note, str(error))
    except Exception as error:  # noqa: BLE001 - a record must not end the thread that received it
        return None, _error(prefix, note, f"{type(error).__name__}: {error}")


def _id(schema: SchemaKey) -> bytes:
    return orjson.dumps(schema)


def _error(prefix: str, note: bytes, reason: str) -> bytes:
    reason = reason.encode(errors="replace").decode()[:MAX_REASON_CHARACTERS]
    return b'%b,"%bdecode_error":%b' % (note, prefix.encode(), orjson.dumps(reason))
