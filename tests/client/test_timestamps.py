"""Any timestamp is shown as something sensible: the cases that all clients share."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.client.timestamps import read_timestamp, time_of_day

CASES = json.loads((Path(__file__).parents[1] / "client_cases" / "timestamps.json").read_text())["timestamps"]


@pytest.fixture(params=["UTC"])
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The reader's time zone."""
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["timestamp"]))
@pytest.mark.usefixtures("zone")
def test_each_case(case: dict[str, Any]) -> None:
    """Each case of the table is read and shown as it says."""
    moment = read_timestamp(case["timestamp"])
    assert (moment and moment.ms, moment and moment.unit) == (case.get("ms"), case.get("unit"))
    assert time_of_day(case["timestamp"]) == case["text"]


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "Etc/GMT+12"], indirect=True)
@pytest.mark.usefixtures("zone")
def test_every_number_of_64_bits_in_every_zone() -> None:
    """Every number can be shown in every time zone, including those without a date."""

    @given(st.integers(-(2**63), 2**63 - 1) | st.sampled_from([case["timestamp"] for case in CASES]))
    def check(timestamp: int | None) -> None:
        moment = read_timestamp(timestamp)
        assert moment is None or 1 <= moment.utc.astimezone().year <= 9999
        assert time_of_day(timestamp) or timestamp in {None, -1}

    check()
