"""The schemas that a replica knows: each id is fetched once and kept.

*Thread*: any thread may call `Schemas.decoder`, `Schemas.look_up` and `Schemas.statistics`; `Schemas.run` belongs to
Trio's. Threads share dicts, and change them only by single operations that the interpreter carries out atomically.
"""

import math
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from heapq import nsmallest
from typing import Protocol

import structlog
import trio

from dispatcher.errors import DispatcherError
from dispatcher.schemas.availability import Availability
from dispatcher.schemas.framing import SchemaKey, UndecodableError
from dispatcher.schemas.registry import RegisteredSchema, Registry, RegistryUnavailableError
from dispatcher.schemas.statistics import SchemasStatistics

log = structlog.get_logger(__name__)

RETRY_SECONDS = 2.0
"""How long to wait before a schema is asked for again after the registry gave no answer."""

MISSING_SECONDS = 30.0
"""How long a schema counts as missing before the registry is asked again: a lagging registry may have it by then."""

FORGET_SECONDS = 20.0
"""How much later a failure is outdated: nobody has asked since, so the registry may be available again. Longer than
`ASK_SECONDS`, `RETRY_SECONDS` and a request's timeout together."""

MAX_SCHEMAS = 10_000
"""How many decoders are kept; producers choose ids, so a hostile one could name every id."""

ASK_SECONDS = 5.0
"""How often unanswered questions are repeated even if no record needs the schemas: otherwise nobody would notice that
the registry is back, or that a schema can be fetched now."""

MAX_SCHEMAS_BYTES = 64 * 1024 * 1024
"""How much memory all decoders may take; part of the README's formula."""

BYTES_PER_CHARACTER = 10
"""The memory of a decoder per character of its schema: 10 with Avro, 4 with Protobuf (resident memory, measured)."""

DECODER_OVERHEAD_BYTES = 2048

FETCHES_AT_ONCE = 4

MAX_WANTED = 1_000
"""How many schemas may wait to be fetched, those being fetched included: each partition waits for one at a time."""

LOG_SECONDS = 10.0
"""The least time between two log lines of a kind about schemas that cannot be used."""


class Decoder(Protocol):
    """Decodes what was written with one schema. *Thread*: any, several at the same time."""

    kind: str
    """``AVRO``, ``PROTOBUF`` or ``JSON``."""
    name: str

    def decode(
        self, content: bytes, indexes: bytes = b"", *, int64_strings: bool = False, avro_json: bool = False
    ) -> bytes:
        """Return the content as JSON; raises `UndecodableError` if it does not fit the schema."""


@dataclass(frozen=True, slots=True)
class Missing:
    """A schema without a decoder: why, and when it is worth asking for it again."""

    reason: str
    ask_again_at: float
    """A time of `time.monotonic`, in seconds."""
    since: float | None
    """Since when the schema, or any schema, could not be fetched, on the same clock; None if the registry answered that
    there is no such schema, or if nothing can be decoded with the schema."""


class Schemas:
    """Keeps a decoder for each schema that has been asked for.

    Args:
        registry: Where schemas are fetched.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._decoders: dict[SchemaKey, Decoder] = {}
        self._sizes: dict[SchemaKey, int] = {}
        """The size of each decoder, in bytes."""
        self._size_bytes = 0
        self.evictions = 0
        """How often decoders were evicted: a caller that keeps decoders has to drop its own then."""
        self._missing: dict[SchemaKey, Missing] = {}
        self._wanted: dict[SchemaKey, float] = {}
        """Schemas to fetch or being fetched, and since when."""
        self._queue: deque[SchemaKey] = deque()
        """Those of them that no task has taken yet."""
        self._idle = trio.lowlevel.ParkingLot()
        """Tasks that wait for the queue."""
        self._token: trio.lowlevel.TrioToken | None = None
        self._fetches = self._failures = 0
        self._availability = Availability(RETRY_SECONDS, FORGET_SECONDS)
        self._is_checking = False
        self._logged_at: dict[str, float] = {}

    def decoder(self, key: SchemaKey) -> Decoder | None:
        """Return the decoder of a schema, if it is known. Never waits."""
        return self._decoders.get(key)

    def look_up(self, key: SchemaKey) -> Missing | None:
        """Request an unknown schema. Never waits.

        Returns:
            Why there is no decoder; None while that is not known yet.
        """
        now = time.monotonic()
        missing, outage = self._missing.get(key), self._availability.outage
        # Look for a decoder last: it may have arrived since the caller looked.
        is_due = missing is None or now >= missing.ask_again_at
        if is_due and key not in self._wanted and key not in self._decoders:
            if missing is not None and now >= missing.ask_again_at + FORGET_SECONDS:
                missing = None
                self._missing.pop(key, None)
            self._want(key, now)
        if missing is not None or outage is None or now >= outage.outdated_at:
            return missing
        # A registry that responds may have this schema, whatever it says of others: wait until it was asked.
        is_asked = not outage.is_silent and key in self._wanted
        return None if is_asked else Missing(outage.reason, now, outage.since)

    @property
    def unavailable(self) -> str | None:
        """Say why no schema can be fetched; None while only single schemas fail, or none."""
        outage = self._availability.outage
        return None if outage is None else outage.reason

    def statistics(self) -> SchemasStatistics:
        """Return a snapshot."""
        return SchemasStatistics(
            len(self._decoders), len(self._missing), self._fetches, self._failures, self.unavailable
        )

    async def run(self) -> None:
        """Fetch requested schemas, a few at a time, until cancelled. *Cancellation*: safe."""
        self._token = trio.lowlevel.current_trio_token()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._ask_again)
                for _ in range(FETCHES_AT_ONCE):
                    nursery.start_soon(self._fetch_wanted)
        finally:
            self._token = None
            with trio.move_on_after(1, shield=True):
                await self._registry.close()

    async def _ask_again(self) -> None:
        """Repeat the questions that were not answered, a few at a time, those first that were asked longest ago."""
        while True:
            await trio.sleep(ASK_SECONDS)
            if not self._wanted:
                now = time.monotonic()
                due = [
                    (missing.ask_again_at, key)
                    for key, missing in self._missing.copy().items()
                    if missing.since is not None and now >= missing.ask_again_at
                ]
                for _, key in nsmallest(FETCHES_AT_ONCE, due, key=lambda one: one[0]):
                    self._want(key, time.monotonic())

    def _want(self, key: SchemaKey, now: float) -> None:
        """Queue a schema, if there is room. *Thread*: any."""
        # While the registry is silent, each request may last until its timeout and says the same: make one at a time.
        outage = self._availability.outage
        if outage is not None and (outage.rests(now) or (outage.is_silent and self._wanted)):
            return
        # Another thread may want it at the same moment: only one of them finds its own number, and queues the schema.
        if len(self._wanted) < MAX_WANTED and self._wanted.setdefault(key, now) is now:
            self._queue.append(key)
            if self._token is not None:
                self._token.run_sync_soon(self._wake, idempotent=True)

    def _wake(self) -> None:
        self._idle.unpark(count=len(self._queue))

    async def _fetch_wanted(self) -> None:
        while True:
            while not self._queue:
                await self._idle.park()
            key, outage = self._queue.popleft(), self._availability.outage
            if outage is not None and outage.rests(time.monotonic()):
                # What was queued before the registry fell silent need not try it: `look_up` says why.
                del self._wanted[key]
                await trio.lowlevel.checkpoint()
            else:
                await self._fetch(key)

    async def _fetch(self, key: SchemaKey) -> None:
        began, is_answered = time.monotonic(), True
        try:
            decoder, size_bytes = await self._fetched(key)
        except UndecodableError as error:
            self._answered()
            self._note(key, Missing(str(error), time.monotonic() + MISSING_SECONDS, None))
            self._warn("schema cannot be used", schema=str(key), reason=str(error))
        except RegistryUnavailableError as error:
            is_answered = False
            self._fail(key, error, began)
        else:
            self._answered()
            self._missing.pop(key, None)
            self._keep(key, decoder, size_bytes)
        # Do this last: once a schema is no longer wanted, its decoder must be there, or the reason why there is none.
        del self._wanted[key]
        if not is_answered:
            await self._check()

    async def _check(self) -> None:
        """After a question failed, ask for a schema that is known: is the registry away, or does one schema fail?"""
        key, began = next(reversed(self._decoders), None), time.monotonic()
        if key is None or self._is_checking or self._availability.failing_since is None:
            return
        self._is_checking = True
        try:
            await self._requested(key)
        except UndecodableError:
            self._answered()
        except RegistryUnavailableError as error:
            self._note_failure(error, began, began, is_decisive=True)
        else:
            self._answered()
        finally:
            self._is_checking = False

    def _keep(self, key: SchemaKey, decoder: Decoder, size_bytes: int) -> None:
        self._decoders[key] = decoder
        self._sizes[key] = size_bytes
        self._size_bytes += size_bytes
        while len(self._decoders) > MAX_SCHEMAS or (self._size_bytes > MAX_SCHEMAS_BYTES and len(self._decoders) > 1):
            oldest = next(iter(self._decoders))
            del self._decoders[oldest]
            self._size_bytes -= self._sizes.pop(oldest)
            self.evictions += 1

    async def _fetched(self, key: SchemaKey) -> tuple[Decoder, int]:
        schema = await self._requested(key)
        characters = len(schema.text) + sum(map(len, schema.references.values()))
        with _blamed_on(key):
            return await _made(schema), DECODER_OVERHEAD_BYTES + BYTES_PER_CHARACTER * characters

    async def _requested(self, key: SchemaKey) -> RegisteredSchema:
        self._fetches += 1
        with _blamed_on(key):
            return await self._registry.fetch(key)

    def _answered(self) -> None:
        if self._availability.answered():
            log.info("schema registry available again", url=self._registry.url)

    def _fail(self, key: SchemaKey, error: RegistryUnavailableError, began: float) -> None:
        now, before = time.monotonic(), self._missing.get(key)
        since = before.since if before is not None and before.since is not None else self._wanted[key]
        # If a schema is known, `_check` decides.
        self._note_failure(error, self._wanted[key], began, is_decisive=not self._decoders)
        if (outage := self._availability.outage) is None:
            self._warn("schema cannot be fetched", schema=str(key), reason=str(error))
        else:
            since = min(since, outage.since)
        self._note(key, Missing(str(error), now + RETRY_SECONDS, since))

    def _note_failure(
        self, error: RegistryUnavailableError, wanted_at: float, began: float, *, is_decisive: bool
    ) -> None:
        reason, is_silent = str(error), error.is_away
        if self._availability.failed(reason, wanted_at, began, is_silent=is_silent, is_decisive=is_decisive):
            self._warn("schema registry unavailable", reason=reason)

    def _note(self, key: SchemaKey, missing: Missing) -> None:
        self._failures += 1
        self._missing[key] = missing
        while len(self._missing) > MAX_SCHEMAS:
            del self._missing[next(iter(self._missing))]

    def _warn(self, event: str, **details: object) -> None:
        now = time.monotonic()
        if now - self._logged_at.get(event, -math.inf) >= LOG_SECONDS:
            self._logged_at[event] = now
            log.warning(event, **details)


@contextmanager
def _blamed_on(key: SchemaKey) -> Iterator[None]:
    """Raise `UndecodableError` for what nobody expected."""
    try:
        yield
    except DispatcherError:
        raise
    except Exception as error:
        # Anybody who registers schemas chooses their texts and names: nothing in them may end the replica.
        log.exception("schema failed", schema=str(key))
        raise UndecodableError(f"its schema cannot be used: {type(error).__name__}: {error}") from error


async def _made(schema: RegisteredSchema) -> Decoder:
    """Make a decoder in a worker thread: a large schema takes a while, and protoc a fifth of a second."""
    return await trio.to_thread.run_sync(decoder_of, schema, abandon_on_cancel=True)


def decoder_of(schema: RegisteredSchema) -> Decoder:
    """Make the decoder of a schema. Blocks.

    Raises:
        UndecodableError: the schema is wrong or unsafe to decode with, or a library is not installed.
    """
    # Import libraries when they are first needed: each belongs to an extra that may not be installed.
    try:
        if schema.kind == "AVRO":
            from dispatcher.schemas.avro import AvroDecoder  # noqa: PLC0415

            return AvroDecoder(schema.text, tuple(schema.references.values()))
        if schema.kind == "PROTOBUF":
            from dispatcher.schemas.protobuf import ProtobufDecoder  # noqa: PLC0415

            return ProtobufDecoder(schema.text, schema.references)
    except ImportError as error:
        extra = schema.kind.lower()
        raise UndecodableError(f"install the extra that it needs: pip install 'kafka-dispatcher[{extra}]'") from error
    from dispatcher.schemas.json_schema import JsonDecoder  # noqa: PLC0415

    return JsonDecoder(schema.text)
