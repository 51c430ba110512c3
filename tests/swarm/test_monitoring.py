"""The dashboard and the alerts of the Swarm stack ask for metrics that there are."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import trio

from dispatcher.settings import Settings
from dispatcher.workers.pages import WorkersStatus
from testbed.replicas import Replica
from testbed.tools import need
from tests.conftest import Kafka

MONITORING = Path(__file__).parents[2] / "deploy/swarm/monitoring"


def test_every_metric_exists(kafka: Kafka, replicas: Callable[..., Replica]) -> None:
    """A running replica, or the parent of workers, has every metric under the name used."""
    replica = replicas(kafka.bootstrap_servers, kafka.create_topic(1))
    replica.wait_until_ready()
    of_workers = trio.run(WorkersStatus(Settings(), []).metrics_page).decode()
    told = set(re.findall(r"^# TYPE (\w+) ", replica.get("/metrics").text + of_workers, re.MULTILINE))
    text = "".join((MONITORING / name).read_text() for name in ("dashboard.json", "alerts.yml"))
    asked = set(re.findall(r"(?<![:\w])(?:dispatcher|process)_\w+", text))
    assert "dispatcher_group_lag_records" in asked
    told |= {f"{name}_bucket" for name in told}
    assert asked - told == set()


def test_alerts_fire_when_they_should(tmp_path: Path) -> None:
    """They do not fire otherwise: Prometheus's own tool plays the cases of alerts.test.yml."""
    for path in (MONITORING / "alerts.yml", Path(__file__).parent / "alerts.test.yml"):
        shutil.copy(path, tmp_path)
    command = [need("promtool", package="prometheus"), "test", "rules", "alerts.test.yml"]
    played = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert (played.returncode, played.stderr) == (0, ""), played.stdout + played.stderr
    told = set(re.findall(r"alert: (\w+)", (MONITORING / "alerts.yml").read_text()))
    played_names = set(re.findall(r"alertname: (\w+)", (Path(__file__).parent / "alerts.test.yml").read_text()))
    assert told - played_names == set()
