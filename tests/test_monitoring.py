"""The dashboard and the alerts of the Swarm stack ask for metrics that there are."""

import re
from collections.abc import Callable
from pathlib import Path

from tests.conftest import Kafka
from tests.replicas import Replica

MONITORING = Path(__file__).parents[1] / "deploy/swarm/monitoring"


def test_every_metric_exists(kafka: Kafka, replicas: Callable[..., Replica]) -> None:
    """By the very name that a running replica tells."""
    replica = replicas(kafka.bootstrap_servers, kafka.create_topic(1))
    replica.wait_until_ready()
    told = set(re.findall(r"^# TYPE (\w+) ", replica.get("/metrics").text, re.MULTILINE))
    text = "".join((MONITORING / name).read_text() for name in ("dashboard.json", "alerts.yml"))
    asked = set(re.findall(r"(?<![:\w])(?:dispatcher|process)_\w+", text))
    assert "dispatcher_lag_records" in asked
    assert asked - told == set()
