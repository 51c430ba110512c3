"""What deploy/ has for other homes: proxies that run in front of a real replica, and files that are linted."""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import httpx2
import pytest
import yaml

from dispatcher.command.configuration import load
from testbed import requests
from testbed.broker import leash
from testbed.patience import seconds
from testbed.tools import need

Proxy = Callable[[Path, int, tuple[int, int]], tuple[tuple[str, ...], Mapping[str, str]]]
"""From a folder, its port and its replicas' ports to its command line and environment."""

DEPLOY = Path(__file__).parents[1] / "deploy"
NGINX = """
daemon off; pid {folder}/pid; error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder}; uwsgi_temp_path {folder};
    scgi_temp_path {folder};
    {included}
}}
"""


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def running(*command: str, port: int, **environment: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that ends with this one, once it listens on a port."""
    leashed = [sys.executable, leash.__file__, str(os.getpid()), *command]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(leashed, env={**os.environ, **environment}, stdout=quiet, stderr=quiet) as process:
        try:
            _until(lambda: requests.get(f"http://127.0.0.1:{port}/").status_code > 0)
            yield process
        finally:
            process.terminate()
            process.wait()


def _until(condition: Callable[[], bool]) -> None:
    """Wait for an answer that fits; a port that refuses is asked again."""
    deadline = time.monotonic() + seconds(20)
    while True:
        try:
            if condition():
                return
        except httpx2.TransportError:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.05)


def nginx(folder: Path, port: int, replicas: tuple[int, int]) -> tuple[tuple[str, ...], Mapping[str, str]]:
    """The recipe for nginx, on these ports."""
    text = (DEPLOY / "proxies" / "nginx.conf").read_text()
    addresses = {"listen 8000": f"listen {port}", "0.1:8001": f"0.1:{replicas[0]}", "0.1:8002": f"0.1:{replicas[1]}"}
    for documented, ours in addresses.items():
        assert documented in text
        text = text.replace(documented, ours)
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, included=text))
    return (need("nginx"), "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf")), {}


def haproxy(folder: Path, port: int, replicas: tuple[int, int]) -> tuple[tuple[str, ...], Mapping[str, str]]:
    """The recipe for HAProxy, on these ports."""
    del folder
    addresses = {f"REPLICA_{number}": f"127.0.0.1:{replica}" for number, replica in enumerate(replicas, start=1)}
    command = need("haproxy"), "-db", "-f", str(DEPLOY / "proxies" / "haproxy.cfg")
    return command, {"LISTEN": f"127.0.0.1:{port}", **addresses}


def tail(url: str) -> list[str]:
    """The topics of three records that `dispatcher tail` gets."""
    command = [sys.executable, "-m", "dispatcher", "tail", url, "-n", "3", "--quiet", "--format", "{topic}"]
    return subprocess.check_output(command, text=True, timeout=seconds(60)).split()


@contextmanager
def behind(proxy: Proxy, folder: Path, **settings: str) -> Iterator[int]:
    """The port of a proxy in front of a demo that is ready."""
    port, replica = free_port(), free_port()
    command, environment = proxy(folder, port, (replica, free_port()))
    demo = (sys.executable, "-m", "dispatcher", "demo", "--bind", f"127.0.0.1:{replica}", "--log-level", "error")
    given = {f"DISPATCHER_{name.upper()}": value for name, value in settings.items()}
    with running(*demo, port=replica, **given), running(*command, port=port, **environment):
        _until(lambda: requests.get(f"http://127.0.0.1:{port}/").status_code == 200)
        yield port


@contextmanager
def asked(port: int, target: str, client: str = "127.0.0.1", **fields: str) -> Iterator[HTTPResponse]:
    """The response to a request from one of this machine's addresses, for a target exactly as it is spelled."""
    connection = HTTPConnection("127.0.0.1", port, timeout=seconds(20), source_address=(client, 0))
    try:
        connection.request("GET", target, headers={name.replace("_", "-"): value for name, value in fields.items()})
        yield connection.getresponse()
    finally:
        connection.close()


def begins(stream: HTTPResponse) -> str:
    """The first named event of a stream."""
    assert stream.status == 200
    return next(line for line in stream if line.startswith(b"event: ")).decode().removeprefix("event: ").strip()


@pytest.mark.parametrize("proxy", [nginx, haproxy])
def test_a_proxy_passes_streams_and_asks_event_sources_to_retry(proxy: Proxy, tmp_path: Path) -> None:
    """Both transports and the page pass, operators' pages do not; without a replica SSE gets `retry:`."""
    port, replica, nobody = free_port(), free_port(), free_port()
    command, environment = proxy(tmp_path, port, (replica, nobody))
    url = f"http://127.0.0.1:{port}"
    demo = (sys.executable, "-m", "dispatcher", "demo", "--bind", f"127.0.0.1:{replica}", "--log-level", "error")
    with ExitStack() as stack:
        with running(*demo, port=replica):
            stack.enter_context(running(*command, port=port, **environment))
            _until(lambda: requests.get(f"{url}/").status_code == 200)
            assert tail(url) == tail(f"ws://127.0.0.1:{port}/ws") == ["ofa_assets"] * 3
            for path in ("metrics", "status", "livez", "readyz"):
                assert requests.get(f"{url}/{path}").status_code in {403, 404}
        _until(lambda: requests.get(f"{url}/").status_code >= 500)
        answer = requests.get(f"{url}/events")
        assert (answer.status_code, answer.text) == (200, "retry: 2000\n\n")
        assert answer.headers["content-type"] == "text/event-stream"
        assert requests.get(f"{url}/ws").status_code >= 500


@pytest.mark.parametrize("proxy", [nginx, haproxy])
def test_a_proxy_hides_operators_pages_in_every_spelling(proxy: Proxy, tmp_path: Path) -> None:
    """It refuses what decodes to their paths; what it passes on, such as dot segments, the replica refuses."""
    with behind(proxy, tmp_path) as port:
        for page in ("metrics", "status", "livez", "readyz"):
            encoded = f"%{ord(page[0]):x}{page[1:]}"
            for target in (f"/{page}", f"/{page}?x", f"//{page}", f"/{encoded}", f"//{encoded}", f"/%2f{page}"):
                with asked(port, target) as response:
                    assert (target, response.status) in {(target, 403), (target, 404)}
                    assert response.headers["Content-Type"] == "text/html"
            for target in (f"/./{page}", f"/x/../{page}", f"/{page}/", f"/{page};x", f"/%25{encoded[1:]}"):
                with asked(port, target) as response:
                    assert (target, response.status) in {(target, 403), (target, 404)}


@pytest.mark.parametrize("proxy", [nginx, haproxy])
@pytest.mark.parametrize("form", ["x-forwarded-for", "forwarded"])
def test_a_proxy_lets_no_page_choose_its_host(proxy: Proxy, form: str, tmp_path: Path) -> None:
    """With DNS rebinding the browser's Host is what the proxy forwards; fields of the page do not replace it."""
    settings = {"trusted_proxies": "127.0.0.1", "forwarded": form, "allowed_hosts": "stream.example.org"}
    with behind(proxy, tmp_path, **settings) as port:
        for ours in ("stream.example.org", "localhost"):
            written = {"X_Forwarded_Host": ours, "Forwarded": f"for=192.0.2.1;host={ours}"}
            for path, own_status in (("/events", 200), ("/ws", 400), ("/client", 404)):
                for host, status in ((ours, own_status), ("rebound.example", 421)):
                    with asked(port, path, Host=host, Accept="text/event-stream", **written) as response:
                        assert (path, host, response.status) == (path, host, status)


@pytest.mark.parametrize("proxy", [nginx, haproxy])
def test_a_proxy_lets_no_client_choose_its_address(proxy: Proxy, tmp_path: Path) -> None:
    """The replica counts the address that the proxy sees, even if the client has one of a trusted network."""
    settings = {"trusted_proxies": "127.0.0.0/8", "max_subscribers_per_address": "1"}
    one, another = "127.0.0.2", "127.0.0.3"
    with behind(proxy, tmp_path, **settings) as port, asked(port, "/events", one) as first:
        assert begins(first) == "state"
        for written in ({}, {"X_Forwarded_For": "198.51.100.7"}, {"Forwarded": "for=198.51.100.7"}):
            with asked(port, "/events", one, **written) as response:
                assert (written, begins(response)) == (written, "goodbye")
        with asked(port, "/events", another, X_Forwarded_For=one) as response:
            assert begins(response) == "state"


def test_the_systemd_unit_is_valid_and_hardened(tmp_path: Path) -> None:
    """Tools of systemd accept it without a warning, and rate its exposure below 2 of 10."""
    program = need("systemd-analyze", package="systemd")
    text = (DEPLOY / "systemd" / "dispatcher.service").read_text()
    unit = tmp_path / "dispatcher.service"
    unit.write_text(text.replace("/opt/dispatcher/bin/dispatcher", sys.executable))
    checked = subprocess.run([program, "verify", str(unit)], capture_output=True, text=True, check=True)
    assert checked.stderr == ""
    rated = subprocess.check_output([program, "security", "--offline=true", "--no-pager", str(unit)], text=True)
    exposure = re.search(r"Overall exposure level for dispatcher.service: ([0-9.]+)", rated)
    assert exposure is not None
    assert float(exposure[1]) < 2


def test_compose_gives_each_replica_valid_settings() -> None:
    """The environment loads as settings; names differ, and the edge knows all of them."""
    stack = yaml.safe_load((DEPLOY / "compose" / "compose.yml").read_text())
    replicas = {name: service for name, service in stack["services"].items() if name.startswith("replica-")}
    loaded = [load({}, _substituted(service["environment"])).settings for service in replicas.values()]
    assert [settings.client_id for settings in loaded] == list(replicas)
    assert {(settings.topics, settings.bootstrap_servers) for settings in loaded} == {(("ofa_assets",), "kafka:9092")}
    edge = stack["services"]["edge"]["environment"]
    assert [edge["REPLICA_1"], edge["REPLICA_2"]] == [f"{name}:8000" for name in replicas]
    grace = {int(service["stop_grace_period"].rstrip("s")) for service in replicas.values()}
    assert min(grace) > max(settings.shutdown_seconds for settings in loaded)


def test_compose_reads_the_file() -> None:
    """Version 1 (in Debian), which refuses what it does not know, lists every service, too."""
    path = DEPLOY / "compose" / "compose.yml"
    answer = subprocess.check_output([need("docker-compose"), "-f", str(path), "config", "--services"], text=True)
    assert sorted(answer.split()) == ["edge", "kafka", "replica-1", "replica-2", "topic"]


def _substituted(environment: Mapping[str, object]) -> dict[str, str]:
    return {name: re.sub(r"\$\{\w+:-(.*?)\}", r"\1", str(value)) for name, value in environment.items()}


def test_kubernetes_manifests_fit_the_settings() -> None:
    """The settings are valid, probes use the operators' port, and Pods have enough time to stop."""
    folder = DEPLOY / "kubernetes"
    settings = load({}, {"DISPATCHER_BIND": "0.0.0.0:8000"}, folder / "dispatcher.toml").settings
    manifests = {each["kind"]: each for each in yaml.safe_load_all((folder / "dispatcher.yml").read_text())}
    pod = manifests["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": 8000, "operations": int(settings.operations_bind.rpartition(":")[2])}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "operations"}
    assert container["livenessProbe"]["httpGet"] == {"path": "/livez", "port": "operations"}
    assert pod["terminationGracePeriodSeconds"] > settings.shutdown_seconds + 3
    assert pod["enableServiceLinks"] is False
    selector = {"app.kubernetes.io/name": "dispatcher"}
    assert manifests["Service"]["spec"]["selector"] == selector
    assert manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == selector
    assert manifests["Deployment"]["spec"]["template"]["metadata"]["labels"] == selector


def test_kustomize_builds_what_is_applied() -> None:
    """The ConfigMap that the Deployment mounts is the one that is generated."""
    built = subprocess.check_output([need("kubectl"), "kustomize", str(DEPLOY / "kubernetes")], text=True)
    manifests = {each["kind"]: each for each in yaml.safe_load_all(built)}
    (volume,) = manifests["Deployment"]["spec"]["template"]["spec"]["volumes"]
    assert volume["configMap"]["name"] == manifests["ConfigMap"]["metadata"]["name"]
    assert "ofa_assets" in manifests["ConfigMap"]["data"]["dispatcher.toml"]
