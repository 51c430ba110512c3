"""Serves ``/livez``, ``/readyz``, ``/status`` and ``/metrics`` to people and orchestrators."""

from collections.abc import Mapping
from typing import Any, Protocol

import orjson
from prometheus_client import CONTENT_TYPE_LATEST
from prometheus_client.openmetrics import exposition as openmetrics
from quart import Quart, request
from quart_trio.wrappers import TrioResponse


class Operations(Protocol):
    """What the supervisor knows about the replica."""

    def why_not_ready(self) -> list[str]:
        """Reasons why no new subscribers should be sent here; empty if ready."""

    def degraded(self) -> list[str]:
        """What is wrong with topics and the group, even if the replica is ready."""

    @property
    def has_been_ready(self) -> bool:
        """Whether any readiness check has ever succeeded."""

    async def status_page(self) -> bytes:
        """Everything that a person may want to see, as JSON; the previous page if requests are too frequent."""

    async def metrics_page(self, *, openmetrics: bool = False) -> bytes:
        """The metrics, as Prometheus text or in OpenMetrics; the previous page if requests are too frequent."""


def add_health(app: Quart, operations: Operations, *, in_public: bool = False) -> None:
    """Add ``/livez`` and ``/readyz``.

    Args:
        app: The app.
        operations: What the replica reports about itself.
        in_public: Whether anybody may ask; reasons are then left out, because they contain addresses and errors.
    """

    @app.get("/livez")
    async def livez() -> TrioResponse:
        """Show that the loop runs, by answering."""
        return _json(200, {"live": True})

    @app.get("/readyz")
    async def readyz() -> TrioResponse:
        reasons = operations.why_not_ready()
        body: dict[str, Any] = {"ready": not reasons, "has_been_ready": operations.has_been_ready}
        if not in_public:
            body["reasons"] = reasons
            body["degraded"] = operations.degraded()
        return _json(503 if reasons else 200, body)


def add_operations(app: Quart, operations: Operations) -> None:
    """Add ``/status`` and ``/metrics``."""

    @app.get("/status")
    async def status() -> TrioResponse:
        response = _json_page(200, await operations.status_page())
        # Then repeated requests, such as those of the live page, reach other replicas even if the load balancer assigns
        # connections, not requests.
        response.headers["Connection"] = "close"
        return response

    @app.get("/metrics")
    async def metrics() -> TrioResponse:
        accepted = {part.partition(";")[0].strip() for part in request.headers.get("Accept", "").lower().split(",")}
        wants_openmetrics = "application/openmetrics-text" in accepted
        return TrioResponse(
            await operations.metrics_page(openmetrics=wants_openmetrics),
            headers={"Vary": "Accept"},
            content_type=openmetrics.CONTENT_TYPE_LATEST if wants_openmetrics else CONTENT_TYPE_LATEST,
        )


def _json(status: int, body: Mapping[str, Any]) -> TrioResponse:
    return _json_page(status, orjson.dumps(body, option=orjson.OPT_INDENT_2))


def _json_page(status: int, page: bytes) -> TrioResponse:
    return TrioResponse(
        page,
        status,
        {"Cache-Control": "no-store"},
        content_type="application/json",
    )
