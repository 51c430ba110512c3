"""The files of the Swarm stack: what can be checked without Docker; nox -s swarm does the rest."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from dispatcher.command.configuration import load
from dispatcher.settings import Settings
from testbed.replicas import Replica
from tests.conftest import Kafka

FOLDER = Path(__file__).parents[2] / "deploy/swarm"
FILES = sorted(FOLDER.glob("stack*.yml"))
MIB = 1024**2


def stack(name: str) -> dict[str, Any]:
    """A file of the stack, with the defaults of its variables."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", (FOLDER / name).read_text())
    content: dict[str, Any] = yaml.safe_load(text)
    return content


def settings() -> Settings:
    """What the replicas of the stack are set to."""
    environment = stack("stack.yml")["services"]["dispatcher"]["environment"]
    variables = {name: "" if value is None else str(value) for name, value in environment.items()}
    return load({}, {"DISPATCHER_BIND": "0.0.0.0:8000", **variables}, FOLDER / "dispatcher.toml").settings


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_variable_has_a_default_and_every_config_a_file(path: Path) -> None:
    """So four commands are enough; secrets are up to the user."""
    assert re.findall(r"\$\{\w+\}", path.read_text()) == []
    content = stack(path.name)
    configs = content.get("configs", {})
    assert [name for name, config in configs.items() if not (FOLDER / config["file"]).is_file()] == []
    for service in content["services"].values():
        assert {config["source"] for config in service.get("configs", [])} <= set(configs)
        assert set(service.get("secrets", [])) <= set(content.get("secrets", {}))


def test_a_replica_ends_by_itself_before_it_is_killed() -> None:
    """Swarm waits for it no longer than a minute."""
    grace = int(stack("stack.yml")["services"]["dispatcher"]["stop_grace_period"].removesuffix("s"))
    assert settings().shutdown_seconds < grace < 60


def test_operators_have_a_port_within_the_network() -> None:
    """Prometheus uses it, no port of a replica is published, and the edge does not forward it."""
    port = settings().operations_bind.rpartition(":")[2]
    jobs = yaml.safe_load((FOLDER / "monitoring/prometheus.yml").read_text())["scrape_configs"]
    job = next(job for job in jobs if job["job_name"] == "dispatcher")
    assert [str(names["port"]) for names in job["dns_sd_configs"]] == [port]
    assert "ports" not in stack("stack.yml")["services"]["dispatcher"]
    assert f"EXPOSE 8000 {port}\n" in (FOLDER / "Dockerfile").read_text()
    assert f":{port}" not in (FOLDER / "haproxy.cfg").read_text()


def test_the_memory_limit_holds_the_formula_of_the_readme() -> None:
    """It holds in the worst case, with the maximum number of subscribers."""
    ours = settings()
    each = ours.subscriber_buffer_bytes + ours.write_bytes + 64 * 1024
    fixed = 117 * MIB + ours.history_bytes + int(1.4 * 8 * MIB) + (8 + 28) * MIB + ours.replay_concurrency * 12 * MIB
    limit = stack("stack.yml")["services"]["dispatcher"]["deploy"]["resources"]["limits"]["memory"]
    assert limit == "1G"
    assert fixed + ours.max_subscribers * each <= 1024 * MIB


def test_an_update_notices_a_replica_that_is_never_ready() -> None:
    """Failures after the monitor's time are not noticed."""
    times = re.findall(r"--(interval|start-period|retries)=(\d+)", (FOLDER / "Dockerfile").read_text())
    check = {name: int(number) for name, number in times}
    update = stack("stack.yml")["services"]["dispatcher"]["deploy"]["update_config"]
    assert int(update["monitor"].removesuffix("s")) > check["start-period"] + check["interval"] * check["retries"]


def test_the_health_check_is_good_when_the_replica_is_ready(kafka: Kafka, replicas: Callable[..., Replica]) -> None:
    """It is bad if the replica never was ready, or does not answer."""
    never = replicas("127.0.0.1:1", "ofa_assets")
    ready = replicas(kafka.bootstrap_servers, kafka.create_topic(1))
    ready.wait_until_ready()
    assert [is_healthy(port) for port in (never.address[1], ready.address[1], 1)] == [False, True, False]


def is_healthy(port: int) -> bool:
    """What Docker would think."""
    command = [sys.executable, "-I", "-S", str(FOLDER / "healthcheck.py"), str(port)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def test_the_examples_of_tokens_are_settings(tmp_path: Path) -> None:
    """This covers the commented table, and the file for an application's own tokens."""
    text = (FOLDER / "dispatcher.toml").read_text()
    begin = text.index("# [auth]\n")
    lines = text[begin : text.index("# With a secret", begin)].splitlines()
    (tmp_path / "dispatcher.toml").write_text("\n".join(line.removeprefix("#").strip() for line in lines))
    assert load({}, {}, tmp_path / "dispatcher.toml").settings.auth_grants[0].topics == ("ofa_assets",)
    environment = stack("stack.auth.yml")["services"]["dispatcher"]["environment"]
    loaded = load({}, environment).settings
    assert loaded.algorithms == ("HS256",)
    assert loaded.auth_grants[0].topics == ("*",)
