"""Values that compress like those of real topics: what the vehicles of a fleet report, as JSON."""

import json
import random
import time
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import cycle

VEHICLE_BYTES = 263
"""The mean size of a stamped one."""


@cache
def vehicles(number: int) -> Sequence[tuple[bytes, bytes]]:
    """Return keys and values of this many records, the same at each call."""
    chance = random.Random(22)  # noqa: S311 - the same for all that are compared
    found = []
    for _ in range(number):
        asset = f"A{chance.randrange(10**6):06d}"
        minute, second, ms = chance.randrange(60), chance.randrange(60), chance.randrange(1000)
        value = {
            "assetId": asset,
            "name": f"{chance.choice(('Excavator', 'Crane', 'Truck', 'Loader'))} {chance.randrange(999)}",
            "status": chance.choice(("idle", "moving", "offline")),
            "lat": round(chance.uniform(47, 55), 6),
            "lon": round(chance.uniform(6, 15), 6),
            "speedKmh": round(chance.uniform(0, 90), 1),
            "heading": chance.randrange(360),
            "battery": chance.randrange(100),
            "updatedAt": f"2026-11-27T18:{minute:02d}:{second:02d}.{ms:03d}Z",
            "driver": {"id": chance.randrange(10**5), "shift": chance.choice("ABC")},
        }
        found.append((asset.encode(), json.dumps(value).encode()))
    return found


def stamped_vehicle() -> bytes:
    """Return the next vehicle's value, with the mark and the time for `benchmarks.load`."""
    return f'{{"sentAt": "§{time.time_ns()}", '.encode() + next(_members())


@cache
def _members() -> Iterator[bytes]:
    return cycle([value.removeprefix(b"{") for _key, value in vehicles(5000)])
