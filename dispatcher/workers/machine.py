"""What the operating system grants this process: cores by affinity and cgroup quota, memory by the cgroup.

Reads cgroups of versions 1 and 2. The limits of every group above this one apply as well (cgroups(7), ``cpu.max``,
``memory.max``).
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from dispatcher.workers.plan import Machine

UNLIMITED_BYTES = 2**60
"""Version 1 expresses "no limit" as a number near 2**63."""


def read_machine(groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> Machine:
    """Ask the operating system; a limit that cannot be read counts as no limit.

    Args:
        groups: The file that lists the groups of this process.
        root: Where cgroups are mounted.
    """
    quotas, limits = [], []
    for controllers, path in _memberships(groups):
        mounts = [root / controller for controller in controllers] if controllers else [root, root / "unified"]
        for mount in mounts:
            for folder in _upwards(mount, path):
                quotas += [*_quota(folder)]
                limits += [*_limit(folder)]
    try:
        affinity = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        affinity = os.cpu_count() or 1
    return Machine(affinity, min(quotas, default=None), min(limits, default=None))


def _memberships(groups: Path) -> Iterator[tuple[list[str], str]]:
    """Yield the controllers (of version 1; none for version 2) and the path of each group."""
    with suppress(OSError):
        for line in groups.read_text().splitlines():
            _number, controllers, path = line.split(":", 2)
            if not controllers.startswith("name="):
                yield controllers.split(",") if controllers else [], path


def _upwards(mount: Path, path: str) -> Iterator[Path]:
    """Yield the group's folder and its parents; a container may see the path of the host, and only the mount."""
    folder = mount / path.lstrip("/")
    while folder != mount and mount in folder.parents:
        yield folder
        folder = folder.parent
    yield mount


def _quota(folder: Path) -> Iterator[float]:
    with suppress(OSError, ValueError):
        quota, period = (folder / "cpu.max").read_text().split()
        yield int(quota) / int(period)
    with suppress(OSError, ValueError):
        quota_us = int((folder / "cpu.cfs_quota_us").read_text())
        if quota_us > 0:
            yield quota_us / int((folder / "cpu.cfs_period_us").read_text())


def _limit(folder: Path) -> Iterator[int]:
    for name in ("memory.max", "memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            limit = int((folder / name).read_text())
            if limit < UNLIMITED_BYTES:
                yield limit
