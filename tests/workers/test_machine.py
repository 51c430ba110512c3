"""Cores and memory, as cgroups of both versions state them."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from dispatcher.workers.machine import read_machine


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n", "memory.max": "1048576\n"}, (1.5, 1048576)),
        ("0::/\n", {"cpu.max": "max 100000\n", "memory.max": "max\n"}, (None, None)),
        (
            # The group above limits this one.
            "0::/system.slice/dispatcher.service\n",
            {
                "system.slice/cpu.max": "200000 100000",
                "system.slice/dispatcher.service/cpu.max": "max 100000",
                "system.slice/dispatcher.service/memory.max": "2000",
                "system.slice/memory.max": "3000",
            },
            (2.0, 2000),
        ),
        (
            # A container without a namespace: the path is the host's, and only the mount is its own.
            "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n0::/\n",
            {
                "memory/memory.limit_in_bytes": "5000",
                "cpu/cpu.cfs_quota_us": "300000",
                "cpu/cpu.cfs_period_us": "100000",
            },
            (3.0, 5000),
        ),
        (
            "4:memory:/\n3:cpu,cpuacct:/\n9:name=systemd:/\n",
            {"memory/memory.limit_in_bytes": "9223372036854771712", "cpu/cpu.cfs_quota_us": "-1"},
            (None, None),
        ),
        ("", {}, (None, None)),
    ],
)
def test_limits_of_all_groups_count(
    tmp_path: Path, groups: str, files: Mapping[str, str], expected: tuple[float | None, int | None]
) -> None:
    """The lowest of each kind counts; missing ones and "no limit" do not."""
    root = tmp_path / "cgroup"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (tmp_path / "groups").write_text(groups)
    machine = read_machine(tmp_path / "groups", root)
    assert (machine.quota, machine.memory_bytes) == expected
    assert machine.affinity >= 1


def test_without_cgroups_there_is_no_limit(tmp_path: Path) -> None:
    """This is the case on other operating systems."""
    machine = read_machine(tmp_path / "nothing", tmp_path)
    assert (machine.quota, machine.memory_bytes) == (None, None)
