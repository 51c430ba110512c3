"""The ceiling of the load generator: a figure near it shows the generator's limit, not the service's."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.fan_out import BURSTS, RECORD_BYTES
from benchmarks.harness import Load
from benchmarks.tables import amount, median

PAGE = "performance"
SUBSCRIBERS = 1000
ROUNDS = 20
COLUMNS = ("connections", "records per write", "records/s taken", "MiB/s taken")


def run(*, quick: bool, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """Send to all connections of the load generator in a bare loop that never pauses."""
    rows = []
    turns, seconds = (1, 1.0) if quick else (5, 3.0)
    with Load() as load:
        for burst in BURSTS:
            tell(f"{burst} records per write")
            rows.append({"burst": burst, "per_second": taken(load, burst, turns, seconds)})
    return rows


def taken(load: Load, burst: int, turns: int, seconds: float) -> list[float]:
    """Return the records per second that reached the load generator, for each turn."""
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.bare"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as bare:
        assert bare.stdin is not None
        assert bare.stdout is not None
        load.open(
            "all", SUBSCRIBERS, ("127.0.0.1", json.loads(bare.stdout.readline())["port"]), "GET / HTTP/1.1\r\n\r\n"
        )
        found = []
        for _ in range(turns):
            load.report()
            began = time.monotonic()
            while time.monotonic() < began + seconds:
                bare.stdin.write(f"{RECORD_BYTES} {burst} {ROUNDS} 0\n")
                bare.stdin.flush()
                bare.stdout.readline()
            found.append(load.report()["groups"]["all"]["records"] / (time.monotonic() - began))
        load.close("all")
        bare.kill()
    return found


def cells(row: Mapping[str, Any]) -> Sequence[str]:
    """Return one row for people, with medians."""
    per_second = median(row["per_second"])
    return (
        f"{SUBSCRIBERS:,}",
        str(row["burst"]),
        amount(per_second),
        f"{per_second * RECORD_BYTES / 2**20:,.0f}",
    )


def series(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Mapping[str, float]]:
    """Return the figures for the picture."""
    return {"records per second": {f"{row['burst']} per write": median(row["per_second"]) for row in rows}}
