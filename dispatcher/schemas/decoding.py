"""Decodes records before the fan-out: each record once, in the thread that received it.

Rules of this module:

* No record is left out, and none overtakes another. A record whose schema is being fetched ends the result: the caller
  keeps it and the records that follow it in the partition, and asks again.
* A record that cannot be decoded is passed on undecoded, with a note that says why. So is a record whose schema the
  registry has not delivered within `wait_seconds`.
* A key is decoded if it is in the wire format. If not, that is no error: most keys are plain text.
* Nothing in a record can raise an exception. A step ends after `STEP_SECONDS` or `STEP_BYTES` and leaves the rest to
  the next step, so that the poller can poll.

*Thread*: any, several at a time.
"""

import time
from collections import Counter
from collections.abc import Mapping

import orjson

from dispatcher.sansio.decoded import KEY_HEADER, Decoded
from dispatcher.sansio.records import NO_RECORDS, Headers, Records
from dispatcher.schemas.framing import ID_BYTES, VALUE_HEADER, Framed, SchemaKey, UndecodableError, unframe
from dispatcher.schemas.rules import Rules
from dispatcher.schemas.schemas import Decoder, Schemas
from dispatcher.schemas.statistics import DecodingStatistics

STEP_SECONDS = 0.1
"""How long one step may take: the poller must poll, and shares the interpreter with Trio's thread."""

STEP_BYTES = 4 * 1024 * 1024
"""How many bytes of JSON one step may produce."""

MAX_CONTENT_BYTES = 8 * 1024 * 1024
"""Larger keys and values are not decoded: decoding them takes a second and ten times the memory."""

MAX_REASON_CHARACTERS = 300

MAX_NAME_CHARACTERS = 300
"""The longest name of a schema: each record repeats it."""

MAX_NOTES = 10_000
"""How many notes are kept for records to share."""

_NOTHING = (None, b"")

Result = tuple[bytes | None, bytes]
"""The JSON, and a note."""


class RecordDecoder:
    """Decodes the records of some topics.

    Args:
        schemas: Provides the decoders.
        topics: How the records of each topic are decoded for everybody, by topic.
        wait_seconds: How long a record waits for a registry that does not answer.
        askable: How the records of other topics are decoded if subscribers ask.
    """

    def __init__(
        self, schemas: Schemas, topics: Mapping[str, Rules], wait_seconds: float, askable: Mapping[str, Rules] = {}
    ) -> None:
        self.topics = frozenset(topics)
        self.asked: frozenset[str] = frozenset()
        """The askable topics for which some subscriber asks now. Replaced, never changed, because threads read it."""
        self._schemas = schemas
        self._rules = {**askable, **topics}
        self._wait_seconds = wait_seconds
        self._notes: dict[tuple[str, SchemaKey], bytes] = {}
        self._known: dict[bytes, tuple[Decoder, bytes]] = {}
        """Decoders and notes of values, by the bytes that name their schemas: the short cut for most records."""
        self._evictions = 0
        """The count of evictions when those were found."""
        self._decoded: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()

    def decode(self, topic: str, records: Records) -> Records:
        """Decode records of one partition.

        Args:
            topic: A topic of `topics` or of `askable`.
            records: In the order of the partition.

        Returns:
            The records that are decoded, up to the first that has to wait; empty if the first record has to.
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
            # A key without the magic byte is plain text, as most keys are.
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
        if framed.schema == 0:  # ids begin at 1, and a key that is a number may begin with zeros
            return _NOTHING
        return self._result("key_", framed, rules)

    def _result(self, prefix: str, framed: Framed, rules: Rules) -> Result | None:
        """Return what was decoded, or why it was not; None while the schema is being fetched."""
        schema = framed.schema
        decoder = self._schemas.decoder(schema)
        if decoder is None:
            missing = self._schemas.look_up(schema)
            # The schema may have arrived meanwhile.
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
            # An id never changes its meaning, so a decoder that was found stays right.
            self._known[b"\x00" + schema.to_bytes(4, "big")] = decoder, note
        return note


def _decoded(decoder: Decoder, framed: Framed, note: bytes, prefix: str, rules: Rules) -> Result:
    """Return what was decoded, or why it was not."""
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
