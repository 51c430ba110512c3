"""``subscribe``: checks the caller's arguments, and runs a subscription for the duration of the block."""

import random
import ssl
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Literal

import trio

from dispatcher.client.acks import FLUSH_SECONDS
from dispatcher.client.address import checked_headers, checked_seconds, filter_parameters, read_address
from dispatcher.client.backoff import Backoff
from dispatcher.client.errors import WrongAddressError
from dispatcher.client.subscription import Subscription
from dispatcher.client.tokens import Token, Tokens


@asynccontextmanager
async def subscribe(
    url: str,
    *,
    topics: Iterable[str] = (),
    since: str | int | datetime | None = None,
    last_event_id: str | None = None,
    scope: Literal["replica", "topic"] | None = None,
    observe: bool | None = None,
    last: int | None = None,
    decode: Literal["json", "avro-json"] | None = None,
    keys: str | Iterable[str] = (),
    record_headers: Mapping[str, str | Iterable[str]] | None = None,
    fields: Mapping[str, str | Iterable[str]] | None = None,
    filter: Mapping[str, Any] | Iterable[Any] | str | None = None,  # noqa: A002 - the name of the parameter
    ack: Literal["auto", "manual"] | None = None,
    window: int | None = None,
    window_bytes: int | None = None,
    transport: Literal["auto", "sse", "websocket"] = "auto",
    headers: Mapping[str, str] | None = None,
    token: Token | None = None,
    ssl_context: ssl.SSLContext | None = None,
    connect_timeout_seconds: float = 10.0,
    first_wait_seconds: float = 1.0,
    max_wait_seconds: float = 30.0,
    max_failures: int | None = None,
) -> AsyncIterator[Subscription]:
    """Subscribe to a dispatcher, and stay subscribed.

    ::

        async with subscribe("http://127.0.0.1:8000") as stream:
            async for record in stream:
                print(record.offset, record.text)

    It connects within the block, and reconnects whenever a connection ends: it resumes where it was, on whichever
    replica answers, and drops repeats. The iteration never ends by itself. An exception of the block is raised
    unchanged, not in a group.

    Args:
        url: ``http://host:port``, optionally with ``/events`` or ``/ws``, and with the query of docs/protocol.md.
        topics: Topics to read; by default all that the dispatcher serves.
        since: Where to begin in partitions that the position does not name: ``earliest``, ``now``, a duration such as
            ``-10m``, an RFC 3339 time, a datetime, or milliseconds since 1970. By default they begin at the first
            record that has not been dispatched yet; if no earlier connection reported where it began, a reconnect asks
            for records since the first attempt.
        last_event_id: Where to resume: an earlier `Subscription.position`.
        scope: ``topic`` for every partition of the topics, whichever replica owns it; ``replica`` for those of the
            replica that answers. The default is the dispatcher's setting.
        observe: Whether to observe only: records sent to an observer do not count as dispatched.
        last: Begin with the newest records, at most this many of each partition.
        decode: ``json`` for Avro, Protobuf and JSON Schema values as JSON; ``avro-json`` for Avro's own JSON, if the
            dispatcher's settings say so. Topics that cannot be decoded are refused.
        keys: Only records with one of these keys. If several of these four arguments are given, a record has to match
            each.
        record_headers: Only records whose headers have these values, by name; several values are alternatives.
        fields: The same for fields of a JSON value, by JSON pointer: ``{"/tenant": "t1"}``.
        filter: A filter in the dialect of docs/filters.md. A position does not contain the filter: if you resume with
            another filter, earlier records that it would have matched are not sent.
        ack: Whether to acknowledge records, over a WebSocket. ``auto``: each record is acknowledged when the next one
            is requested, which is when the body of the loop is done with it; ``manual``: by `Subscription.ack`.
        window: With ``ack``, how many records may be outstanding; 1,000 by default.
        window_bytes: The same in bytes; the server's ``ack_window_bytes`` is the default and the maximum. One record
            always fits.
        transport: By default a WebSocket for ``ws:``, ``wss:`` and a path that ends with ``/ws``, otherwise SSE.
        headers: Headers for every request; they are not sent to another origin after a redirect.
        token: A bearer token, or an async function that returns one: it is called before each attempt, and when a
            WebSocket's token is about to expire. Tokens are not sent to another origin after a redirect. If the server
            refuses a token, the function is called once more.
        ssl_context: The TLS context; by default one with the system's certificates.
        connect_timeout_seconds: Maximum time from the name lookup to the head of the response.
        first_wait_seconds: Maximum first wait of the backoff, unless the server sends ``retry``.
        max_wait_seconds: Maximum wait of the backoff.
        max_failures: Failed attempts in a row before `UnreachableError`; None for no limit.

    Raises:
        WrongAddressError: at once, if an argument is invalid.
    """
    request = read_address(
        url,
        transport=transport,
        topics=topics,
        since=since,
        last_event_id=last_event_id,
        scope=scope,
        observe=observe,
        last=last,
        decode=decode,
        wanted=filter_parameters(keys=keys, record_headers=record_headers, fields=fields, record_filter=filter),
        window=window,
        window_bytes=window_bytes,
        acks=ack is not None,
    )
    checked_seconds(
        connect_timeout_seconds=connect_timeout_seconds,
        first_wait_seconds=first_wait_seconds,
        max_wait_seconds=max_wait_seconds,
    )
    if token is not None and any(name.lower() == "authorization" for name in headers or {}):
        raise WrongAddressError("there are both a token and an Authorization header: leave one out")
    stream = Subscription(
        request,
        tokens=Tokens(token),
        headers=checked_headers(headers or {}),
        ssl_context=ssl_context,
        connect_timeout_seconds=connect_timeout_seconds,
        backoff=Backoff(first_wait_seconds, max_wait_seconds, random.random),
        max_failures=max_failures,
        ack=ack,
    )
    failed: BaseException | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream._run)  # noqa: SLF001 - its other half
        if stream._acks is not None:  # noqa: SLF001
            nursery.start_soon(stream._acks.run)  # noqa: SLF001
        try:
            yield stream
        except trio.Cancelled:
            raise
        except BaseException as error:  # noqa: BLE001 - also GeneratorExit: raised below, outside of the nursery that would wrap it
            failed = error
        finally:
            if stream._acks is not None:  # noqa: SLF001
                with trio.move_on_after(FLUSH_SECONDS, shield=True):
                    await stream._acks.send()  # noqa: SLF001
                    await stream._leave()  # noqa: SLF001
            # Cancelled first: a task that waits to hand out an item must not find that nobody takes it.
            nursery.cancel_scope.cancel()
            stream._close()  # noqa: SLF001
    if failed is not None:
        raise failed
