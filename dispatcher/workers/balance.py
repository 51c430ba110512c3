"""Decides when a worker that is late sends some of its subscribers on to the other workers.

The kernel spreads new connections evenly, but they are long-lived: after a worker was restarted, or by chance, one
worker can have many more subscribers than the others, and be late while the others are idle.

Pure: no I/O, no clock; `workers.parent` takes the samples and gives the orders.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

SAMPLE_SECONDS = 1.0
"""The time between two samples; each worker reports twice in that time."""

LATE_SECONDS = 0.05
"""A worker that is late by less has no problem."""

LATE_RATIO = 2.0
"""It must be this many times as late as each of the others: if all are late, the machine is too small."""

LATE_SAMPLES = 5
"""This many samples in a row must agree: everything is late now and then."""

UNEVEN_RATIO = 1.2
"""It must have this many times the mean number of subscribers: with fewer it would not be late because of them."""

STEP = 0.1
"""The largest share of its subscribers that it sends on at once: they all catch up elsewhere."""

REST_SECONDS = 10.0
"""The time after a step in which no other step begins: clients need a few seconds to reconnect and to catch up."""


@dataclass(frozen=True, slots=True)
class Load:
    """A sample of one worker."""

    late_seconds: float
    """The longest time that records waited in the worker until they were handed out."""
    subscribers: int


class SendOn(NamedTuple):
    """An order."""

    worker: str
    number: int
    """How many subscribers it sends on."""


class Balance:
    """Decides, from samples of all workers, which one sends subscribers on, and how many.

    A worker sends subscribers on if, in each of the last `LATE_SAMPLES` samples,

    * all workers were ready and have reported,
    * it was late by `LATE_SECONDS` or more, and
    * every other worker was at most 1 / `LATE_RATIO` as late;

    and if it has at least `UNEVEN_RATIO` times the mean number of subscribers. It sends on those above the mean, but at
    most the share `STEP` at once. The kernel gives most of them to other workers. The next step follows once that one
    has taken effect, if the rules still apply. With even shares nobody is sent on, however late the workers are.

    Args:
        spread_seconds: How long a worker takes to send subscribers on.
    """

    def __init__(self, spread_seconds: float) -> None:
        self._rest_samples = (spread_seconds + REST_SECONDS) / SAMPLE_SECONDS
        self._resting = 0.0
        """The number of samples after which the next step may begin."""
        self._worker: str | None = None
        """The worker that was late in the last sample, while the others were not."""
        self._samples = 0
        """In how many samples in a row it was."""

    def observe(self, loads: Mapping[str, Load | None]) -> SendOn | None:
        """Take the next sample; returns the order to give.

        Args:
            loads: Every worker's load, by its name; None if the worker is not ready or has not reported.
        """
        self._resting = max(0.0, self._resting - 1)
        known = {name: load for name, load in loads.items() if load is not None}
        worker = _late_one(known) if len(known) == len(loads) else None
        self._samples = self._samples + 1 if worker == self._worker else 1
        self._worker = worker
        if worker is None or self._samples < LATE_SAMPLES or self._resting:
            return None
        subscribers = known[worker].subscribers
        mean = sum(load.subscribers for load in known.values()) / len(known)
        number = min(int(subscribers - mean), max(1, int(STEP * subscribers)))
        if subscribers < UNEVEN_RATIO * mean or not number:
            return None
        self._resting = self._rest_samples
        return SendOn(worker, number)


def _late_one(loads: Mapping[str, Load]) -> str | None:
    """The worker that is late while the others are not, if there is one."""
    latest = max(loads, key=lambda name: loads[name].late_seconds)
    late_seconds = loads[latest].late_seconds
    others = [load.late_seconds for name, load in loads.items() if name != latest]
    is_alone = all(LATE_RATIO * other <= late_seconds for other in others)
    return latest if late_seconds >= LATE_SECONDS and is_alone else None
