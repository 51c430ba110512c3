"""Tokens with a real Kafka: who is refused moves no offset, and grants and keys are read again on SIGHUP."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
import orjson
import pytest
import trio

from testbed.clients import open_sse, open_ws, sse_records
from testbed.patience import seconds
from testbed.producing import produce_numbered
from testbed.replicas import Replica
from testbed.tokens import AUDIENCE, ISSUER, jwks, sign, signing_key, token
from tests.conftest import Kafka

CONFIG = """
[auth]
issuer = "{issuer}"
audience = "{audience}"
keys_file = "{keys}"
[[auth.grants]]
require = {{ scope = "{scope}" }}
topics = ["assets-*"]
"""


def configure(folder: Path, scope: str) -> Path:
    """A file that allows tokens with a scope."""
    (folder / "keys.json").write_bytes(jwks())
    path = folder / "dispatcher.toml"
    path.write_text(CONFIG.format(issuer=ISSUER, audience=AUDIENCE, keys=folder / "keys.json", scope=scope))
    return path


async def test_whoever_is_refused_moves_no_offset(
    kafka: Kafka, replicas: Callable[..., Replica], tmp_path: Path
) -> None:
    """Each kind of wrong token is refused on both protocols; a valid one gets the very first record."""
    topic = kafka.create_topic(1)
    path = configure(tmp_path, "orders:read")
    replica = replicas(kafka.bootstrap_servers, topic, settings={"config": path})
    await trio.to_thread.run_sync(replica.wait_until_ready)
    await trio.to_thread.run_sync(produce_numbered, kafka.bootstrap_servers, topic, 1, 5)
    wrong = {
        "": 401,
        "x": 401,
        token()[:-6] + "AAAAAA": 401,
        token(aud="billing"): 401,
        token(exp=time.time() - 90_000): 401,
        sign({"iss": ISSUER}, signing_key("ES256", 3)): 401,
        token(scope="nothing"): 403,
    }
    async with httpx2.AsyncClient(timeout=30) as client:
        for text, status in wrong.items():
            fields = {"Authorization": f"Bearer {text}"} if text else {}
            assert (await client.get(f"{replica.url}/events", headers=fields)).status_code == status
        expired = {"Authorization": f"Bearer {token(exp=time.time() - 60)}"}
        answer = await client.get(f"{replica.url}/events", headers=expired)
        assert (answer.status_code, "4419" in answer.text) == (200, True)
    async with open_ws(replica) as websocket:
        with pytest.raises(Exception, match="4401"):
            await websocket.get_message()
    seen = await trio.to_thread.run_sync(replica.status)
    assert seen["records"]["dispatched"] == 0
    rows = await trio.to_thread.run_sync(kafka.group_offsets, replica.group)
    assert {row.current_offset for row in rows.values()} <= {0, None}
    async with open_sse(replica, headers={"Authorization": f"Bearer {token()}"}) as stream:
        [first] = await sse_records(stream, 1)
        assert first.own == (0, 0)
    for text in wrong:
        assert len(text) < 20 or text.split(".")[1] not in replica.log


async def test_grants_are_read_again_on_sighup(kafka: Kafka, replicas: Callable[..., Replica], tmp_path: Path) -> None:
    """A stream that they no longer allow ends with 4403, and a wrong file changes nothing."""
    topic = kafka.create_topic(1)
    path = configure(tmp_path, "orders:read")
    replica = replicas(kafka.bootstrap_servers, topic, settings={"config": path})
    await trio.to_thread.run_sync(replica.wait_until_ready)
    fields = {"Authorization": f"Bearer {token()}"}
    with trio.fail_after(seconds(60)):
        async with open_sse(replica, headers=fields) as stream:
            await stream.next_control("state")
            right = path.read_text()
            path.write_text(right.replace('topics = ["assets-*"]', 'topics = ["a*b"]'))
            replica.signal(signal.SIGHUP)
            await trio.to_thread.run_sync(replica.wait_until_logged, "reload failed")
            await trio.to_thread.run_sync(produce_numbered, kafka.bootstrap_servers, topic, 1, 1)
            await sse_records(stream, 1)
            configure(tmp_path, "another")
            replica.signal(signal.SIGHUP)
            assert (await stream.next_control("goodbye"))["code"] == 4403
    answer = await trio.to_thread.run_sync(lambda: httpx2.get(f"{replica.url}/events", headers=fields, timeout=30))
    assert answer.status_code == 403
    assert orjson.loads(answer.content)["status"] == 403
