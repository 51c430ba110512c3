"""``/livez``, ``/readyz``, ``/status`` and ``/metrics``: what people and orchestrators ask."""

from collections.abc import Mapping
from typing import Any, Protocol

import orjson
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from quart import Quart
from quart_trio.wrappers import TrioResponse


class Operations(Protocol):
    """What the supervisor knows about the replica."""

    @property
    def registry(self) -> CollectorRegistry:
        """The metrics."""

    def why_not_ready(self) -> list[str]:
        """Reasons why no new subscriber should be sent here; empty when ready."""

    @property
    def has_been_ready(self) -> bool:
        """Whether it was ready at any time that somebody asked."""

    def status(self) -> Mapping[str, Any]:
        """Everything that a person may want to see."""


def add_operations(app: Quart, operations: Operations) -> None:
    """Add the routes."""

    @app.get("/livez")
    async def livez() -> TrioResponse:
        """The loop runs: it answers."""
        return _json(200, {"live": True})

    @app.get("/readyz")
    async def readyz() -> TrioResponse:
        reasons = operations.why_not_ready()
        body = {"ready": not reasons, "has_been_ready": operations.has_been_ready, "reasons": reasons}
        return _json(503 if reasons else 200, body)

    @app.get("/status")
    async def status() -> TrioResponse:
        response = _json(200, operations.status())
        # Who asks again, as the live page does, comes to the next replica behind a balancer of connections.
        response.headers["Connection"] = "close"
        return response

    @app.get("/metrics")
    async def metrics() -> TrioResponse:
        return TrioResponse(generate_latest(operations.registry), content_type=CONTENT_TYPE_LATEST)


def _json(status: int, body: Mapping[str, Any]) -> TrioResponse:
    return TrioResponse(
        orjson.dumps(body, option=orjson.OPT_INDENT_2),
        status,
        {"Cache-Control": "no-store"},
        content_type="application/json",
    )
