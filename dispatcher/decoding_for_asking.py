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
"""After this time nothing more is begun: what was decoded by then can be sent."""

CHUNKS_AT_ONCE = 2
"""How many chunks that were read again are decoded at a time: the interpreter is shared with the loop."""


class DecodingForAsking:
    """Decodes what the poll has not decoded, and what is read again (`hub.asked_decoding.AskedDecoder`).

    Args:
        decoder: Shared with whoever polls.
    """

    def __init__(self, decoder: RecordDecoder) -> None:
        self._decoder = decoder
        self._one = trio.CapacityLimiter(1)
        self._chunks = trio.CapacityLimiter(CHUNKS_AT_ONCE)

    def ask(self, topics: frozenset[str]) -> None:
        """Decode these topics from now on when they are polled, and none but these."""
        self._decoder.asked = topics

    async def decode(self, topic: str, several: Sequence[Records]) -> Sequence[Records]:
        """The first of each of several runs of records, decoded. *Cancellation*: late, by one step.

        Returns:
            As many as were begun: nothing is begun after one that has to wait, or after `STEP_SECONDS`.
        """
        return await trio.to_thread.run_sync(self._decode, topic, several, limiter=self._one)

    async def decode_chunk(self, chunk: Chunk, topics: AbstractSet[str]) -> Chunk:
        """What was read again, decoded, up to the first record of each partition that has to wait."""
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
