"""Refused requests are counted by their reason, and so are fetches of the issuer's keys."""

from collections.abc import Callable
from pathlib import Path

import httpx2

from dispatcher.web.refusals import REASONS
from testbed.clients import open_ws, ws_close_code
from testbed.patience import seconds
from testbed.replicas import Replica
from testbed.tokens import AUDIENCE, ISSUER, grant, jwks, token

TOPIC = "assets"


async def test_each_refusal_is_counted_by_its_reason(replicas: Callable[..., Replica], tmp_path: Path) -> None:
    """Each reason has a request over HTTP or WebSocket, and unused reasons are shown as 0."""
    (tmp_path / "keys.json").write_bytes(jwks())
    replica = replicas(
        "127.0.0.1:9",
        TOPIC,
        settings={
            "auth_issuer": ISSUER,
            "auth_audience": AUDIENCE,
            "auth_keys_file": tmp_path / "keys.json",
            "max_subscribers_per_subject": 1,
        },
    )
    good = token(authorization_details=[grant(TOPIC)])
    bearer = {"Authorization": f"Bearer {good}"}
    async with httpx2.AsyncClient(timeout=seconds(20)) as client:

        async def status(path: str, **headers: str) -> int:
            return (await client.get(replica.url + path, headers=headers)).status_code

        assert await status("/events", Origin="https://evil.example") == 403
        assert await status("/events", Host="evil.example") == 421
        assert await status("/events") == 401
        assert await status("/events", Authorization=f"Bearer {token()}") == 403
        assert await status("/events?format=xml", **bearer) == 400
        expired = token(authorization_details=[grant(TOPIC)], exp=1)
        assert await status("/events", Authorization=f"Bearer {expired}") == 401
        async with open_ws(replica) as websocket:
            assert await ws_close_code(websocket) == 4401
        async with client.stream("GET", f"{replica.url}/events", headers=bearer):
            assert "4429" in (await client.get(f"{replica.url}/events", headers=bearer)).text
        text = (await client.get(f"{replica.url}/metrics")).text
    counted = {
        reason: float(text.split(f'dispatcher_refused_requests_total{{reason="{reason}"}} ')[1].split("\n")[0])
        for reason in REASONS
    }
    assert counted == {
        "origin": 1,
        "host": 1,
        "token": 3,
        "grant": 1,
        "request": 1,
        "limit": 1,
        "unavailable": 0,
        "expired-token": 0,
    }
    assert "dispatcher_issuer_keys 1.0" in text
    assert "dispatcher_failed_issuer_key_fetches_total 0.0" in text
    assert 'dispatcher_ended_streams_total{why="client left"}' in text
