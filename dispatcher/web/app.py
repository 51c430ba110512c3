"""The Quart-Trio app: routes, and the one place where errors become responses."""

import math
from collections.abc import Callable

import structlog
import trio
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, ASGISendEvent
from quart import Quart, request, websocket
from quart.asgi import ASGIWebsocketConnection
from quart.typing import ResponseTypes
from quart.wrappers.base import BaseRequestWebsocket
from quart_trio import QuartTrio
from quart_trio.asgi import TrioASGIHTTPConnection, TrioASGIWebsocketConnection
from quart_trio.wrappers import TrioResponse
from werkzeug.exceptions import BadHost, HTTPException
from werkzeug.routing import MapAdapter

from dispatcher.errors import DispatcherError
from dispatcher.hub.hub import Hub
from dispatcher.settings import Settings
from dispatcher.web.admin import Admin, add_admin
from dispatcher.web.authentication import Authentication
from dispatcher.web.contract import add_contract
from dispatcher.web.direct import DirectStreams
from dispatcher.web.events import EventsOpener, add_events
from dispatcher.web.limits import Entrance, Limits
from dispatcher.web.operations import Operations, add_health, add_operations
from dispatcher.web.origin_check import add_origin_check
from dispatcher.web.origins import Policy
from dispatcher.web.page import add_page
from dispatcher.web.problems import FAILED, problem_response
from dispatcher.web.proxies import Proxies
from dispatcher.web.refusals import Refusals, count_in, note_refusal
from dispatcher.web.tasks import WHOLE
from dispatcher.web.visits import Visits
from dispatcher.web.websocket import WebSocketOpener, add_websocket

log = structlog.get_logger(__name__)

LAST_MESSAGE_SECONDS = 5.0


class HTTPConnection(TrioASGIHTTPConnection):
    """quart-trio's connection, with its last message shielded from cancellation.

    While Hypercorn handles the last message, it sends the app ``http.disconnect``, on which quart-trio cancels itself.
    Without the shield the connection was never closed or reused (in 0 of 16 cases; with it, in 16 of 16).
    """

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Answer one request; a whole one (`tasks.WHOLE`) needs no nursery and no listening task."""
        if WHOLE not in self.scope["extensions"]:
            await super().__call__(receive, send)
            return
        request = self._create_request_from_scope(send)
        request.body.set_complete()
        response = await self.app.handle_request(request)
        timeout_seconds = response.timeout if isinstance(response, TrioResponse) else Ellipsis
        if timeout_seconds is Ellipsis:
            timeout_seconds = self.app.config["RESPONSE_TIMEOUT"]
        with trio.move_on_after(math.inf if timeout_seconds is None else timeout_seconds):
            await super()._send_response(send, response)

    async def _send_response(self, send: ASGISendCallable, response: ResponseTypes) -> None:
        async def send_whole(message: ASGISendEvent) -> None:
            if message["type"] == "http.response.body" and not message["more_body"]:
                with trio.move_on_after(LAST_MESSAGE_SECONDS, shield=True):
                    await send(message)
            else:
                await send(message)

        await super()._send_response(send_whole, response)


class WebsocketConnection(TrioASGIWebsocketConnection):
    """quart-trio's connection, without channel, nursery and listening task if nothing follows a handshake."""

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Answer one handshake."""
        if WHOLE not in self.scope["extensions"]:
            await super().__call__(receive, send)
            return
        await ASGIWebsocketConnection.handle_websocket(self, self._create_websocket_from_scope(send), send)


class App(QuartTrio):
    """Quart-Trio with the repaired connections."""

    asgi_http_class = HTTPConnection
    asgi_websocket_class = WebsocketConnection
    direct: DirectStreams | None = None
    """Begins ordinary streams, for which the server need not ask the app."""

    def create_url_adapter(self, request: BaseRequestWebsocket | None) -> MapAdapter | None:
        """Match routes, whatever the host.

        Werkzeug raises if a host cannot be a name, and does so outside the code that handles errors. Here such a host
        is treated like any other foreign one: `add_origin_check` refuses it where hosts matter.
        """
        try:
            return super().create_url_adapter(request)
        except BadHost:
            assert request is not None  # noqa: S101 - only a request has a host
            return self.url_map.bind(
                "localhost",
                request.root_path,
                url_scheme=request.scheme,
                default_method=request.method,
                path_info=request.path,
            )


def create_app(
    hub: Hub,
    settings: Settings,
    operations: Operations,
    limits: Limits | None = None,
    authentication: Authentication | None = None,
    *,
    visits: Visits | None = None,
    is_draining: Callable[[], bool] = lambda: False,
    refusals: Refusals | None = None,
) -> App:
    """Build the app of `bind`.

    Args:
        hub: Where to subscribe.
        settings: What clients may ask for.
        operations: What the replica reports about itself.
        limits: The limits of each client.
        authentication: Required if the settings require tokens.
        visits: Where streams are listed.
        is_draining: Whether new streams are refused.
        refusals: Counts refused requests.
    """
    assert bool(settings.auth_issuer) == (authentication is not None)  # noqa: S101 - no stream without a token
    app = _app(refusals)
    proxies = Proxies.of(settings)
    entrance = Entrance(limits or Limits(settings), proxies, visits, is_draining)
    policy = Policy.of(settings)
    add_origin_check(app, policy, proxies)
    refuse_other_spellings(app)
    events = EventsOpener(hub, settings, entrance, authentication)
    websockets = WebSocketOpener(hub, settings, entrance, authentication)
    add_events(app, events)
    add_websocket(app, websockets)
    app.direct = DirectStreams(policy, proxies, events, websockets)
    if settings.operations_bind:
        add_health(app, operations, in_public=True)
    else:
        add_health(app, operations)
        add_operations(app, operations)
    add_page(app)
    add_contract(app)
    return app


def create_operations_app(settings: Settings, operations: Operations, admin: Admin | None = None) -> App:
    """Build the app of `operations_bind`; `admin` is None unless somebody can be an administrator."""
    app = _app()
    add_origin_check(app, Policy.of(settings, settings.operations_bind), Proxies())
    refuse_other_spellings(app)
    add_health(app, operations)
    add_operations(app, operations)
    if admin is not None and admin.access.is_open:
        add_admin(app, admin)
    add_contract(app)
    return app


def refuse_other_spellings(app: Quart) -> None:
    """Answer 404 to a path that is not spelled as its route is, such as ``/%73tatus`` or ``//status``.

    Hypercorn decodes paths, and Werkzeug removes slashes from their beginning. A proxy in front compares the path as
    the client wrote it, so its rule for ``/status`` would not apply to what is the same path here.
    """
    # Werkzeug would redirect from `/admin//drain`.
    app.url_map.merge_slashes = False

    def refused(asked: BaseRequestWebsocket) -> TrioResponse | None:
        return None if asked.scope["raw_path"] == asked.path.encode() else problem_response(404)

    @app.before_request
    async def check_request() -> TrioResponse | None:
        return refused(request)

    @app.before_websocket
    async def check_websocket() -> TrioResponse | None:
        return refused(websocket)


def _app(refusals: Refusals | None = None) -> App:
    app = App("dispatcher", static_folder=None)
    count_in(app, refusals or Refusals())

    @app.errorhandler(DispatcherError)
    async def on_our_error(error: DispatcherError) -> TrioResponse:
        note_refusal(error.http_status)
        headers = {"WWW-Authenticate": error.challenge, "Cache-Control": "no-store"} if error.challenge else {}
        return problem_response(error.http_status, str(error), headers)

    @app.errorhandler(HTTPException)
    async def on_http_error(error: HTTPException) -> TrioResponse:
        status = error.code or 500
        headers = {name: value for name, value in error.get_headers() if name == "Allow"}
        # The request holds the error of its routing, whose traceback would hold the request.
        error.__traceback__ = error.__context__ = None
        return problem_response(status, None, headers)

    @app.errorhandler(Exception)
    async def on_unexpected_error(_error: Exception) -> TrioResponse:
        log.exception("request failed")
        return problem_response(500, FAILED)

    @app.after_request
    async def add_nosniff(response: TrioResponse) -> TrioResponse:
        # Values come from producers: no browser may interpret them as a script or a page.
        response.headers.setdefault("X-Content-Type-Options", "nosniff")
        return response

    return app
