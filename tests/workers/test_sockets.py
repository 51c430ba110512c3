"""One port for several processes, and for nobody else."""

import socket
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest

from dispatcher.workers.sockets import begin_listening, end_listening, open_sockets
from testbed.patience import seconds

Groups = list[list[socket.socket]]

SECONDS = 30
"""When the kernel begins to probe silent connections."""


@pytest.fixture
def groups() -> Iterator[Groups]:
    """Sockets of two workers."""
    opened = open_sockets("127.0.0.1", 0, 2, SECONDS)
    yield opened
    close(opened)


def close(groups: Groups) -> None:
    """Close all."""
    for group in groups:
        for sock in group:
            sock.close()


def port_of(groups: Groups) -> int:
    """Where they listen."""
    return int(groups[0][0].getsockname()[1])


def accepted_by(groups: Groups, number: int) -> Counter[int]:
    """Which worker has got how many of some connections."""
    clients = [socket.create_connection(("127.0.0.1", port_of(groups)), seconds(5)) for _ in range(number)]
    found: Counter[int] = Counter()
    # Each connection is in one queue as soon as connect has returned.
    for worker, group in enumerate(groups):
        for sock in group:
            sock.setblocking(False)
            found[worker] += accept_all(sock)
    for client in clients:
        client.close()
    return found


def accept_all(sock: socket.socket) -> int:
    """How many connections wait."""
    number = 0
    while True:
        try:
            sock.accept()[0].close()
        except OSError:
            return number
        number += 1


def test_connections_are_spread_over_the_workers(groups: Groups) -> None:
    """The kernel does so: each gets a good part of 200."""
    found = accepted_by(groups, 200)
    assert sum(found.values()) == 200
    assert min(found.values()) > 20


def test_a_worker_that_listens_no_more_gets_none_until_it_listens_again(groups: Groups) -> None:
    """It keeps socket and port, even while its process hangs."""
    end_listening(groups[0])
    assert accepted_by(groups, 50) == {0: 0, 1: 50}
    end_listening(groups[0])  # once more changes nothing
    begin_listening(groups[0])
    found = accepted_by(groups, 200)
    assert sum(found.values()) == 200
    assert min(found.values()) > 20


def test_when_no_worker_listens_connections_are_refused(groups: Groups) -> None:
    """They are refused at once, so that a client tries elsewhere."""
    for group in groups:
        end_listening(group)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port_of(groups)), seconds(5))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_second_service_on_the_port_is_refused(groups: Groups, workers: int) -> None:
    """The kernel would silently let it share the port."""
    with pytest.raises(OSError, match=f"in use: 127.0.0.1 port {port_of(groups)}"):
        open_sockets("127.0.0.1", port_of(groups), workers, SECONDS)


def test_a_port_of_another_program_is_refused() -> None:
    """Its sockets are not shared."""
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        open_sockets("127.0.0.1", taken.getsockname()[1], 2, SECONDS)


def families(groups: Sequence[Sequence[socket.socket]]) -> list[list[int]]:
    """Of each worker's sockets."""
    return [[sock.family for sock in group] for group in groups]


def test_two_colons_mean_both_versions_of_the_protocol() -> None:
    """This is as with one process; it needs a machine with IPv6."""
    try:
        opened = open_sockets("::", 0, 2, SECONDS)
    except OSError:
        pytest.skip("this machine has no IPv6")
    try:
        assert families(opened) == [[socket.AF_INET6]] * 2
        accepted = accepted_by(opened, 20)  # to 127.0.0.1
        assert sum(accepted.values()) == 20
    finally:
        close(opened)


def test_all_addresses_of_a_name_have_one_port() -> None:
    """This holds for whatever addresses the machine has for it."""
    opened = open_sockets("localhost", 0, 3, SECONDS)
    try:
        assert len({sock.getsockname()[1] for group in opened for sock in group}) == 1
        assert len(opened) == 3
    finally:
        close(opened)


@pytest.mark.parametrize(("asked", "given"), [(SECONDS, SECONDS), (86_400, 32_767)])
def test_connections_are_probed_from_the_first_one_on(asked: int, given: int) -> None:
    """Even one that came before its worker; the kernel has a maximum."""
    (listening,), *_ = open_sockets("127.0.0.1", 0, 1, asked)
    with listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == given
