"""Single requests, each on a connection of its own, without what `httpx2.get` makes for each of them.

That is a client, 1.2 ms of CPU, and the context of TLS, 27 ms more, for requests that do without TLS nearly always; and
conditions are asked for 20 times a second. Tests count connections, so none is kept.
"""

import httpx2

_client = httpx2.Client(limits=httpx2.Limits(max_connections=None, max_keepalive_connections=0))


def get(url: str, *, headers: dict[str, str] | None = None, timeout: float = 5.0) -> httpx2.Response:
    """GET, with a time limit in seconds. *Thread*: any."""
    return _client.get(url, headers=headers, timeout=timeout)
