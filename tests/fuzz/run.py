"""Sends what the generator makes to a replica, and checks that it takes no harm."""

import signal
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx2
import psutil
import trio

from dispatcher.command.configuration import load
from dispatcher.errors import SettingsError
from dispatcher.settings import Settings
from testbed.patience import seconds as patient
from testbed.replicas import Replica
from testbed.tokens import AUDIENCE, ISSUER, SCOPE, SECRET
from tests.fuzz.generator import Generator

NO_BROKER = "127.0.0.1:9"
AUTH = """
[auth]
issuer = "{issuer}"
audience = "{audience}"
algorithms = ["HS256"]
secret_file = "{secret}"
[[auth.grants]]
require = {{ scope = "{scope}" }}
topics = ["assets"]
"""
"""Of every second replica: requests to it carry tokens."""

SIGNATURE_BYTES = 30
"""No signature that is longer than this may be in the log. The beginning of a token may: the start of a wrong Host is
shown, and a client whose line end was lost has its next field in there."""
SETTINGS = {
    "trusted_proxies": "127.0.0.2",
    "forwarded": "proxy-protocol",
    "request_timeout_seconds": 1,
    "heartbeat_seconds": 0.2,
    "stall_timeout_seconds": 2,
}
AT_A_TIME = 20
GONE = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)


async def one(replica: Replica, generator: Generator, failures: list[str]) -> None:
    """One connection: what it sends, and whether the answer is one of a server that is well."""
    source = generator.random.choice(("127.0.0.1", "127.0.0.2"))
    pieces = list(generator.pieces())
    said = b""
    with suppress(*GONE):
        stream = await trio.open_tcp_stream("127.0.0.1", replica.port, local_address=source)
        try:
            with trio.move_on_after(0.3):
                for piece in pieces:
                    await stream.send_all(piece)
                while data := await stream.receive_some(65536):
                    said += data
        finally:
            stream.socket.close()
    if b"HTTP/1.1 500" in said:
        failures.append(f"500 for {b''.join(pieces)[:2000]!r}")


async def attack(replica: Replica, generator: Generator, seconds: float, failures: list[str]) -> int:
    """Connections for a time; returns how many."""
    number = 0
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not failures:
        async with trio.open_nursery() as nursery:
            for _ in range(AT_A_TIME):
                nursery.start_soon(one, replica, generator, failures)
                number += 1
    return number


def fuzz(seed: int, seconds: float, tell: Callable[[str], None]) -> list[str]:
    """Fuzz a replica and the settings; returns what went wrong."""
    failures: list[str] = []
    settings(Generator(seed), failures)
    has_tokens = seed % 2 == 0
    generator = Generator(seed, has_tokens=has_tokens)
    with tempfile.TemporaryDirectory() as folder:
        given = SETTINGS | ({"config": _configure(Path(folder))} if has_tokens else {})
        replica = Replica(NO_BROKER, "assets", settings=given)
        failures += _fuzz(seed, replica, generator, seconds, tell)
    return failures


def _configure(folder: Path) -> Path:
    """A file that asks for tokens."""
    (folder / "secret").write_bytes(SECRET)
    path = folder / "dispatcher.toml"
    path.write_text(AUTH.format(issuer=ISSUER, audience=AUDIENCE, secret=folder / "secret", scope=SCOPE))
    return path


def _fuzz(seed: int, replica: Replica, generator: Generator, seconds: float, tell: Callable[[str], None]) -> list[str]:
    failures: list[str] = []
    try:
        process = psutil.Process(replica.process.pid)
        before = replica.wait_for("quiet", lambda status: status["connections"] == 1)
        descriptors = process.num_fds()
        number = trio.run(attack, replica, generator, seconds, failures)
        tell(f"seed {seed}: {number} connections, {len(generator.tokens)} tokens")
        replica.wait_for(
            "nothing is left",
            lambda status: (
                status["connections"] == 1
                and status["subscribers"]["total"] == 0
                and status["tasks"] <= before["tasks"]
                and process.num_fds() <= descriptors + 8
            ),
        )
        if httpx2.get(f"{replica.url}/livez", timeout=patient(10)).status_code != 200:
            failures.append("not live")
        lines = replica.log.splitlines()
        secrets = {end for token in generator.tokens if len(end := token.rpartition(".")[2]) > SIGNATURE_BYTES}
        failures += [f"a token is in the log: {line[:3000]}" for line in lines if any(end in line for end in secrets)]
        failures += [line[:3000] for line in lines if '"level": "error"' in line or "Traceback" in line]
        replica.signal(signal.SIGTERM)
        if (code := replica.wait()) != 0:
            failures.append(f"exit code {code}")
    finally:
        replica.end()
    return failures


def settings(generator: Generator, failures: list[str], number: int = 300) -> None:
    """Wrong settings are problems with a remedy, and nothing else."""
    names = [*Settings.model_fields, "sasl.password", "nonsense", ""]
    for _ in range(number):
        environment = generator.setting(names)
        try:
            load({}, environment)
        except SettingsError:
            pass
        except Exception as error:  # noqa: BLE001 - whatever it is
            failures.append(f"{type(error).__name__}: {error} for {environment}")
