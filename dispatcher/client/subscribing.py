"""``subscribe``: checks what the caller asks for, and runs a subscription for as long as the block lasts."""

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

    It connects within the block, and again whenever a connection ends: it resumes where it was, on whatever replica
    answers, and drops repeats. The iteration never ends by itself. An exception of the block is raised as it was, not
    in a group.

    Args:
        url: ``http://host:port``; with ``/events`` or ``/ws`` if you like, and with the query of docs/protocol.md.
        topics: Topics to read; all that the dispatcher serves by default.
        since: Where partitions begin of which nothing was seen: ``earliest``, ``now``, a duration such as
            ``-10m``, an RFC 3339 time, a datetime, or milliseconds since 1970. Without it they begin where the
            dispatcher has not dispatched yet; a connection that follows others, of which none said where it began, asks
            for what came since the first one.
        last_event_id: Where to resume: an earlier `Subscription.position`.
        scope: ``topic`` for every partition of the topics, whichever replica owns them; ``replica`` for those of the
            replica that answers. By default what the dispatcher is set to.
        observe: Whether to look on only: nothing that is sent to an observer counts as dispatched.
        last: Begin with the newest records, at most this many of each partition.
        decode: ``json`` for values in Avro, Protobuf or JSON Schema as JSON, of topics that the dispatcher can decode;
            ``avro-json`` for Avro's own JSON, where its settings say so. It refuses topics that it cannot decode.
        keys: Only records with one of these keys. With several of these four, a record has to pass each.
        record_headers: Only records whose headers have these values, by name; several values are alternatives.
        fields: The same of the JSON in the value, by JSON pointer: ``{"/tenant": "t1"}``.
        filter: A filter in the dialect of docs/filters.md. A position holds no filter: to resume with another one is
            another view, without what the new one would have had before.
        ack: Whether the server waits for acknowledgements, over a WebSocket. ``auto``: a record is acknowledged when
            the next one is asked for, so the body of the loop is done with it; ``manual``: by `Subscription.ack`.
        window: How many records may be outstanding then; 1,000 by default.
        window_bytes: How many bytes of them; the server's ``ack_window_bytes`` by default, and at most. One record
            always fits.
        transport: By default a WebSocket for ``ws:``, ``wss:`` and a path that ends with ``/ws``, else SSE.
        headers: Headers for every request; they are not sent to another origin after a redirect.
        token: A bearer token, or an async function that returns one: it is called before each attempt, and when the
            server says that a WebSocket's token is about to end. A token is sent to no other origin after a redirect.
            A function is asked once more when the server refuses what it returned.
        ssl_context: For ``https`` and ``wss``; the system's certificates by default.
        connect_timeout_seconds: From the look-up of the name to the head of the answer.
        first_wait_seconds: The most that the first wait of the backoff takes, until the server says ``retry``.
        max_wait_seconds: The most that the backoff grows to.
        max_failures: Failed attempts in a row before `UnreachableError`; None for no limit.

    Raises:
        WrongAddressError: at once, when an argument cannot be right.
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
        raise WrongAddressError("token and a header Authorization: leave out one of the two")
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
            # First: a task that waits to hand something out must not find that nobody takes it.
            nursery.cancel_scope.cancel()
            stream._close()  # noqa: SLF001
    if failed is not None:
        raise failed
