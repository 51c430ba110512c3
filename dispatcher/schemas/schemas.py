"""The schemas that a replica knows: each id is fetched once and kept.

*Thread*: any thread may call `Schemas.decoder`, `Schemas.look_up` and `Schemas.statistics`; `Schemas.run` belongs to
Trio's. Threads share dicts, and change them only by single operations that the interpreter carries out atomically.
"""

import time
from collections import deque
from dataclasses import dataclass
from typing import Protocol

import structlog
import trio

from dispatcher.errors import DispatcherError
from dispatcher.schemas.framing import SchemaKey, UndecodableError
from dispatcher.schemas.registry import RegisteredSchema, Registry, RegistryUnavailableError
from dispatcher.schemas.statistics import SchemasStatistics

log = structlog.get_logger(__name__)

RETRY_SECONDS = 2.0
"""How long to wait before a schema is asked for again after the registry gave no answer."""

MISSING_SECONDS = 30.0
"""How long a schema counts as missing before the registry is asked again: a lagging registry may have it by then."""

FORGET_SECONDS = 15.0
"""How much later a failure is outdated: nobody has asked since, so the registry may be available again."""

MAX_SCHEMAS = 10_000
"""How many decoders are kept; producers choose ids, so a hostile one could name every id."""

ASK_SECONDS = 5.0
"""How often an unavailable registry is asked even if no record needs it: otherwise nobody would notice its return."""

MAX_SCHEMAS_BYTES = 64 * 1024 * 1024
"""How much memory all decoders may take; part of the README's formula."""

BYTES_PER_CHARACTER = 10
"""The memory of a decoder per character of its schema: 10 with Avro, 4 with Protobuf (resident memory, measured)."""

DECODER_OVERHEAD_BYTES = 2048

FETCHES_AT_ONCE = 4

MAX_WANTED = 1_000
"""How many schemas may wait to be fetched, those being fetched included: each partition waits for one at a time."""

LOG_SECONDS = 10.0
"""The least time between two log lines about schemas that cannot be used."""


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
    """Since when the registry has not answered, on the same clock; None if it answered that there is no such schema, or
    if nothing can be decoded with the schema."""


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
        self._unavailable: str | None = None
        self._unavailable_since = self._failed_at = 0.0
        self._away_until = 0.0
        """Until when no connection is tried, after one failed."""
        self._is_silent = False
        """Whether the registry gave no response at all when it failed last."""
        self._log_at = -LOG_SECONDS

    def decoder(self, key: SchemaKey) -> Decoder | None:
        """Return the decoder of a schema, if it is known. Never waits."""
        return self._decoders.get(key)

    def look_up(self, key: SchemaKey) -> Missing | None:
        """Request an unknown schema. Never waits.

        Returns:
            Why there is no decoder; None while that is not known yet.
        """
        now = time.monotonic()
        missing, unavailable = self._missing.get(key), self._unavailable
        # Look for a decoder last: it may have arrived since the caller looked.
        is_due = missing is None or now >= missing.ask_again_at
        if is_due and key not in self._wanted and key not in self._decoders:
            if missing is not None and now >= missing.ask_again_at + FORGET_SECONDS:
                missing = None
                self._missing.pop(key, None)
            self._want(key, now)
        if missing is None and unavailable is not None and now < self._failed_at + FORGET_SECONDS:
            return Missing(unavailable, now, self._unavailable_since)
        return missing

    @property
    def unavailable(self) -> str | None:
        """Say why the registry cannot be asked; None while it can."""
        return self._unavailable

    def statistics(self) -> SchemasStatistics:
        """Return a snapshot."""
        return SchemasStatistics(
            len(self._decoders), len(self._missing), self._fetches, self._failures, self._unavailable
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
        """While the registry is away, repeat the last question that it did not answer."""
        while True:
            await trio.sleep(ASK_SECONDS)
            if self._unavailable is not None and not self._wanted:
                unanswered = [key for key, missing in self._missing.copy().items() if missing.since is not None]
                for key in unanswered[-1:]:
                    self._want(key, time.monotonic())

    def _want(self, key: SchemaKey, now: float) -> None:
        """Queue a schema, if there is room. *Thread*: any."""
        # While the registry is silent, each request may last until its timeout and says the same: make one at a time.
        if self._is_silent and (self._wanted or now < self._away_until):
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
            key = self._queue.popleft()
            if time.monotonic() < self._away_until:
                # What was queued before the registry fell silent need not try it: `look_up` says why.
                del self._wanted[key]
                await trio.lowlevel.checkpoint()
            else:
                await self._fetch(key)

    async def _fetch(self, key: SchemaKey) -> None:
        try:
            decoder, size_bytes = await self._fetched(key)
        except UndecodableError as error:
            self._answered()
            self._note(key, Missing(str(error), time.monotonic() + MISSING_SECONDS, None))
            self._warn("schema cannot be used", schema=str(key), reason=str(error))
        except RegistryUnavailableError as error:
            self._fail(key, error)
        else:
            self._answered()
            self._missing.pop(key, None)
            self._keep(key, decoder, size_bytes)
        # Do this last: once a schema is no longer wanted, its decoder must be there, or the reason why there is none.
        del self._wanted[key]

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
        self._fetches += 1
        try:
            schema = await self._registry.fetch(key)
            characters = len(schema.text) + sum(map(len, schema.references.values()))
            return await _made(schema), DECODER_OVERHEAD_BYTES + BYTES_PER_CHARACTER * characters
        except DispatcherError:
            raise
        except Exception as error:
            # Anybody who registers schemas chooses their texts and names: nothing in them may end the replica.
            log.exception("schema failed", schema=str(key))
            raise UndecodableError(f"its schema cannot be used: {type(error).__name__}: {error}") from error

    def _answered(self) -> None:
        if self._unavailable is not None:
            log.info("schema registry available again", url=self._registry.url)
        self._unavailable = None
        self._is_silent = False
        self._away_until = 0.0

    def _fail(self, key: SchemaKey, error: RegistryUnavailableError) -> None:
        now = time.monotonic()
        if self._unavailable is None or now >= self._failed_at + FORGET_SECONDS:
            self._unavailable_since = self._wanted[key]
            self._warn("schema registry unavailable", reason=str(error))
        self._unavailable, self._failed_at = str(error), now
        self._is_silent = error.is_away
        if error.is_away:
            self._away_until = now + RETRY_SECONDS
        before = self._missing.get(key)
        since = before.since if before is not None and before.since is not None else self._wanted[key]
        self._note(key, Missing(str(error), now + RETRY_SECONDS, min(since, self._unavailable_since)))

    def _note(self, key: SchemaKey, missing: Missing) -> None:
        self._failures += 1
        self._missing[key] = missing
        while len(self._missing) > MAX_SCHEMAS:
            del self._missing[next(iter(self._missing))]

    def _warn(self, event: str, **details: object) -> None:
        if time.monotonic() - self._log_at >= LOG_SECONDS:
            self._log_at = time.monotonic()
            log.warning(event, **details)


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
