"""Decodes for subscribers that ask, in a worker thread; joins the hub and the decoder, which do not know each other.

*Thread*: Trio's, except where it says otherwise.
"""

import time
from collections.abc import Sequence
from collections.abc import Set as AbstractSet

import trio

from dispatcher.kafka.held import RecordDecoder, decode_chunk
from dispatcher.sansio.ranges import Chunk
from dispatcher.sansio.records import Records

STEP_SECONDS = 0.1
"""After this time no further run is begun: decoded records can be sent."""

CHUNKS_AT_ONCE = 2
"""How many replayed chunks are decoded at a time: worker threads share the interpreter with the loop."""


class DecodingForAsking:
    """Decodes records that the poll has not decoded, and replayed ones (`hub.asked_decoding.AskedDecoder`).

    Args:
        decoder: The decoder, which the pollers use as well.
    """

    def __init__(self, decoder: RecordDecoder) -> None:
        self._decoder = decoder
        self._one = trio.CapacityLimiter(1)
        self._chunks = trio.CapacityLimiter(CHUNKS_AT_ONCE)

    def ask(self, topics: frozenset[str]) -> None:
        """From now on, decode exactly these topics when they are polled."""
        self._decoder.asked = topics

    async def decode(self, topic: str, several: Sequence[Records]) -> Sequence[Records]:
        """Decode the beginning of each of several runs of records. *Cancellation*: waits for the current step.

        Returns:
            The decoded part of each run that was begun: none is begun after a run that has to wait, or after
            `STEP_SECONDS`.
        """
        return await trio.to_thread.run_sync(self._decode, topic, several, limiter=self._one)

    async def decode_chunk(self, chunk: Chunk, topics: AbstractSet[str]) -> Chunk:
        """Decode replayed records, up to the first record of each partition that has to wait."""
        return await trio.to_thread.run_sync(decode_chunk, self._decoder, chunk, topics, limiter=self._chunks)

    def _decode(self, topic: str, several: Sequence[Records]) -> Sequence[Records]:
        """*Thread*: a worker's."""
        ends_at = time.monotonic() + STEP_SECONDS
        found: list[Records] = []
        for records in several:
            found.append(self._decoder.decode(topic, records))
            if len(found[-1]) < len(records) or time.monotonic() >= ends_at:
                break
        return found
