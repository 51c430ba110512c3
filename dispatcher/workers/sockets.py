"""The listening sockets of several workers on one port: the kernel spreads connections over them (``SO_REUSEPORT``).

The parent opens the sockets and keeps them bound as long as it lives, so a restarted worker finds the port as it was.
``shutdown`` stops a socket from listening in every process that has it, even while the worker hangs: the kernel then
gives new connections to the other workers. ``listen`` reverses it (socket(7), tcp(7); tried on Linux 6.18).
"""

import errno
import os
import socket
from collections.abc import Sequence
from contextlib import suppress

from dispatcher.web.listening import BACKLOG
from dispatcher.web.sockets import keep_alive


def open_sockets(host: str, port: int, workers: int, keep_alive_seconds: float) -> list[list[socket.socket]]:
    """Open, for each worker, a listening socket for each address of the host.

    ``::`` means IPv4 as well. With port 0 the first address decides the port. Connections inherit keep-alive.

    Raises:
        OSError: the address cannot be listened on, for example because another ``serve`` does.
    """
    groups: list[list[socket.socket]] = [[] for _ in range(workers)]
    try:
        for family, address in _addresses(host, port):
            # Without SO_REUSEPORT: with it, this would share the port with another service of the same user.
            _bound(family, address, port, shared=False).close()
            with _bound(family, address, port, shared=True) as holder:
                # A socket that was bound to port 0 itself would get another port when it listens again.
                port = holder.getsockname()[1]
                for group in groups:
                    group.append(_bound(family, address, port, shared=True))
        for sock in (sock for group in groups for sock in group):
            keep_alive(sock, keep_alive_seconds)
            sock.listen(BACKLOG)
    except BaseException:
        for sock in (sock for group in groups for sock in group):
            sock.close()
        raise
    return groups


def begin_listening(sockets: Sequence[socket.socket]) -> None:
    """Let the kernel give new connections to these sockets, if it does not do so yet."""
    for sock in sockets:
        sock.listen(BACKLOG)


def end_listening(sockets: Sequence[socket.socket]) -> None:
    """Let the kernel give new connections to other sockets; connections that nobody has accepted are reset."""
    for sock in sockets:
        with suppress(OSError):  # it does not listen
            sock.shutdown(socket.SHUT_RDWR)


def _addresses(host: str, port: int) -> list[tuple[int, str]]:
    """Return families and addresses, each once."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((int(family), str(address[0])) for family, _, _, _, address in found))


def _bound(family: int, address: str, port: int, *, shared: bool) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if address == "::" else 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((address, port))
    except OSError as error:
        sock.close()
        number = error.errno or errno.EADDRINUSE
        raise OSError(number, f"{os.strerror(number)}: {address} port {port}") from error
    except BaseException:
        sock.close()
        raise
    return sock
