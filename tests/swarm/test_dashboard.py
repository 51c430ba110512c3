"""The dashboard of the Swarm stack: that Grafana can take it, and that Prometheus has what its panels ask for."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trio
import yaml

from testbed.broker import leash
from testbed.broker.cluster import _free_ports
from testbed.clients import open_sse, sse_records
from testbed.producing import produce_numbered
from testbed.replicas import Replica
from testbed.tools import need
from tests.conftest import Kafka
from tests.swarm.panels import DASHBOARD, read_panels
from tests.swarm.picture import SOURCES
from tests.swarm.test_edge import edge
from tests.swarm.test_monitoring import MONITORING
from tests.swarm.test_stack_files import FOLDER, stack

PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
TIMES = {"scrape_interval": "1s", "evaluation_interval": "1s"}
DATA_SECONDS = 60.0


def read(name: str) -> Any:
    """A file of the monitoring."""
    return yaml.safe_load((MONITORING / name).read_text())


@contextmanager
def prometheus(folder: Path, **targets: str) -> Iterator[str]:
    """Prometheus with the stack's alerts until the block ends, and its address.

    Args:
        folder: For its data.
        targets: The address of each job's one target.
    """
    (port,) = _free_ports(1)
    jobs = [{"job_name": job, "static_configs": [{"targets": [target]}]} for job, target in targets.items()]
    configuration = {"global": TIMES, "rule_files": [str(MONITORING / "alerts.yml")], "scrape_configs": jobs}
    (folder / "prometheus.yml").write_text(json.dumps(configuration))
    process = subprocess.Popen(
        [
            *(sys.executable, leash.__file__, str(os.getpid()), need("prometheus")),
            *(f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb"),
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.parametrize("workers", [1, 2])
async def test_every_panel_has_data(
    kafka: Kafka, replicas: Callable[..., Replica], tmp_path: Path, workers: int
) -> None:
    """Each query of each panel returns series, for a replica with a subscriber behind an edge, by replica one each."""
    topic = kafka.create_topic(1)
    several = {"workers": workers, "default_scope": "topic", "operations_bind": "127.0.0.1:0", "max_subscribers": 50}
    replica = replicas(kafka.bootstrap_servers, topic, settings=several)
    await trio.to_thread.run_sync(replica.wait_until_ready)
    host, port = replica.address
    began = time.time()
    operations = urlsplit(replica.operations_url).netloc
    with (
        edge(tmp_path, f"server replica1 {host}:{port}") as front,
        prometheus(tmp_path, dispatcher=operations, edge=f"127.0.0.1:{front.operations}") as address,
    ):
        async with open_sse(replica) as stream:
            await trio.to_thread.run_sync(produce_numbered, kafka.bootstrap_servers, topic, 1, 1, 0, 7)
            await sse_records(stream, 1)
            empty = ["not asked"]
            with trio.move_on_after(DATA_SECONDS):
                while empty:
                    await trio.sleep(0.5)
                    try:
                        panels = await trio.to_thread.run_sync(read_panels, address, began, time.time())
                    except OSError:
                        continue  # it starts
                    empty = [panel.title for panel in panels if not panel.has_data]
    assert empty == []
    lines = [one["metric"] for panel in panels for answer in panel.answers.values() for one in answer]
    assert {line["replica"] for line in lines if "replica" in line} == {replica.client_id}


def test_grafana_can_tell_panels_and_queries_apart() -> None:
    """Ids and letters are unique, and no two panels overlap."""
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(numbers) == len(set(numbers))
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        grid = panel["gridPos"]
        place = {(grid["x"] + x, grid["y"] + y) for x in range(grid["w"]) for y in range(grid["h"])}
        assert (panel["title"], {x for x, _ in place} - set(range(24))) == (panel["title"], set())
        assert (panel["title"], place & taken) == (panel["title"], set())
        taken |= place
    for panel in PANELS:
        letters = [target["refId"] for target in panel["targets"]]
        assert (panel["title"], len(letters)) == (panel["title"], len(set(letters)))


def test_panels_ask_the_data_source_that_is_provisioned() -> None:
    """They use its uid, and it uses the stack's Prometheus at the port that this listens on."""
    (source,) = read("datasource.yml")["datasources"]
    asked = [one["datasource"] for panel in PANELS for one in (panel, *panel["targets"])]
    assert [one for one in asked if one != {"type": source["type"], "uid": source["uid"]}] == []
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in stack("stack.monitoring.yml")["services"]
    assert source["jsonData"]["timeInterval"] == read("prometheus.yml")["global"]["scrape_interval"]


def test_a_number_has_the_colours_of_its_own() -> None:
    """Grafana's default colours turn red at 80, even if that is good."""
    for panel in PANELS:
        if panel["type"] == "stat":
            first, *others = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
            assert (panel["title"], first["value"], bool(others)) == (panel["title"], None, True)
            assert (panel["title"], sorted(others, key=lambda step: step["value"])) == (panel["title"], others)


def test_grafana_and_prometheus_find_their_files() -> None:
    """Each file is mounted where the other file expects it."""
    monitoring = stack("stack.monitoring.yml")
    mounted = {
        one["target"]: FOLDER / monitoring["configs"][one["source"]]["file"]
        for service in monitoring["services"].values()
        for one in service["configs"]
    }
    (provider,) = read("dashboards.yml")["providers"]
    dashboard = f"{provider['options']['path']}/dispatcher.json"
    assert mounted[dashboard].samefile(MONITORING / "dashboard.json")
    environment = monitoring["services"]["grafana"]["environment"]
    assert environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == dashboard
    (rules,) = read("prometheus.yml")["rule_files"]
    assert mounted[rules].samefile(MONITORING / "alerts.yml")
    folders = {Path(path).parent: file.name for path, file in mounted.items() if "provisioning" in path}
    assert folders == {
        Path("/etc/grafana/provisioning/datasources"): "datasource.yml",
        Path("/etc/grafana/provisioning/dashboards"): "dashboards.yml",
    }


def test_prometheus_looks_for_services_that_there_are() -> None:
    """It uses their names in Docker's DNS."""
    jobs = read("prometheus.yml")["scrape_configs"]
    names = {name for job in jobs for found in job.get("dns_sd_configs", []) for name in found["names"]}
    assert names == set(stack("stack.yml")["services"])


def test_the_picture_is_of_the_grafana_that_the_stack_runs() -> None:
    """The libraries that draw it have the version of the image."""
    image = stack("stack.monitoring.yml")["services"]["grafana"]["image"]
    pinned = json.loads((SOURCES / "package.json").read_text())["dependencies"]
    assert {f"grafana/grafana:{pinned[name]}" for name in ("@grafana/data", "@grafana/ui")} == {image}
