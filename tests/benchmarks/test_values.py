"""Values that benchmarks produce."""

import json
import statistics

from benchmarks.inflating import MARK
from benchmarks.values import VEHICLE_BYTES, stamped_vehicle, vehicles


def test_a_vehicle_is_json_with_one_mark() -> None:
    """The load generator counts marks, and other services parse the JSON."""
    values = [stamped_vehicle() for _ in range(5000)]
    assert {value.count(MARK) for value in values} == {1}
    assert {type(json.loads(value)) for value in values} == {dict}
    assert round(statistics.mean(map(len, values))) == VEHICLE_BYTES


def test_vehicles_are_the_same_each_time() -> None:
    """What is compared is about the same records."""
    assert vehicles(3) == vehicles(100)[:3]
