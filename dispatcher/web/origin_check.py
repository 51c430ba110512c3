"""Asks `origins` about every request and every WebSocket handshake, before anything else is done for it."""

import structlog
import trio
from quart import Quart, g, request, websocket
from quart.wrappers.base import BaseRequestWebsocket
from quart_trio.wrappers import TrioResponse

from dispatcher.web.connection import Connection
from dispatcher.web.contract import FILES as CONTRACT
from dispatcher.web.origins import Policy, Verdict, decide
from dispatcher.web.page import FILES
from dispatcher.web.problems import problem_response
from dispatcher.web.proxies import Proxies
from dispatcher.web.refusals import KEY, Refusals

log = structlog.get_logger(__name__)

FREE = frozenset({*FILES, *CONTRACT, "/livez", "/readyz"})
"""Paths that any page may GET."""

LOG_SECONDS = 10.0
"""Minimum time between two log lines: any page in the world can cause refusals."""


class _Refusals:
    """Logs refusals at a bounded rate, because browsers hide the reason from pages."""

    def __init__(self) -> None:
        self._next_at = 0.0
        self._unlogged = 0

    def log(self, path: str, verdict: Verdict) -> None:
        """Log or count one refusal."""
        now = trio.current_time()
        if now < self._next_at:
            self._unlogged += 1
            return
        log.warning("request refused", path=path, status=verdict.status, reason=verdict.detail, others=self._unlogged)
        self._next_at = now + LOG_SECONDS
        self._unlogged = 0


def add_origin_check(app: Quart, policy: Policy, proxies: Proxies) -> None:
    """Add the check, which also applies to routes that are added later, and to paths without a route.

    Args:
        app: The app.
        policy: What the settings allow.
        proxies: The proxies that are trusted to name the host that a client asked for.
    """
    refusals = _Refusals()

    def host_of(asked: BaseRequestWebsocket) -> str | None:
        connection: Connection = asked.scope["state"]["connection"]
        return proxies.host(connection.client, asked.headers)

    def answered(path: str, verdict: Verdict) -> TrioResponse | None:
        if verdict.status is None:
            return None
        if not verdict.detail:
            return TrioResponse(b"", verdict.status)
        refusals.log(path, verdict)
        counts: Refusals = app.extensions[KEY]
        counts.note("origin" if verdict.status == 403 else "host")
        return problem_response(verdict.status, verdict.detail)

    @app.before_request
    async def check_request() -> TrioResponse | None:
        g.verdict = decide(policy, FREE, request.method, request.path, request.headers, forwarded_host=host_of(request))
        return answered(request.path, g.verdict)

    @app.before_websocket
    async def check_websocket() -> TrioResponse | None:
        # A refusal is an HTTP response, not an upgrade.
        g.verdict = decide(policy, FREE, "GET", websocket.path, websocket.headers, forwarded_host=host_of(websocket))
        return answered(websocket.path, g.verdict)

    @app.after_request
    async def add_headers(response: TrioResponse) -> TrioResponse:
        # An allowed page must be able to read errors, too.
        verdict: Verdict | None = g.get("verdict")
        if verdict is not None:
            response.headers.extend(verdict.headers)
        return response
