from __future__ import annotations

import socket

import pytest

from tusd_py.cli import CommandError
from tusd_py.cli.sockets import listen, multiply
from tusd_py.cli.web import Neighbours


def test_a_name_is_bound_at_all_its_addresses_with_one_port() -> None:
    bound = listen("localhost", 0)
    try:
        assert len({one.getsockname()[1] for one in bound}) == 1
    finally:
        for one in bound:
            one.close()


def test_a_port_bound_but_not_closed_is_refused() -> None:
    (first,) = listen("127.0.0.1", 0)
    with first, pytest.raises(CommandError, match="is taken"):
        listen("127.0.0.1", first.getsockname()[1])


def test_a_port_that_is_multiplied_is_listened_on_by_all_and_taken_for_others() -> None:
    first = listen("localhost", 0)
    shares = multiply(first, 3)
    sockets = [one for share in shares for one in share]
    try:
        assert {len(share) for share in shares} == {len(first)}
        assert len({one.getsockname()[1] for one in sockets}) == 1
        with pytest.raises(CommandError, match="is taken"):
            listen("localhost", first[0].getsockname()[1])
    finally:
        for one in sockets:
            one.close()


def test_who_waits_at_a_neighbours_socket_is_taken_when_nobody_came_in_between() -> None:
    (listening,) = listen("127.0.0.1", 0)
    with listening:
        neighbours = Neighbours([listening])
        assert neighbours.waiting() == []
        with socket.create_connection(listening.getsockname()) as peer:
            assert neighbours.waiting() == []
            (taken,) = neighbours.waiting()
            with taken:
                assert taken.getpeername() == peer.getsockname()
        assert neighbours.waiting() == []


def test_who_was_welcomed_by_the_neighbour_is_left_to_it() -> None:
    (listening,) = listen("127.0.0.1", 0)
    with listening:
        neighbours = Neighbours([listening])
        with socket.create_connection(listening.getsockname()):
            assert neighbours.waiting() == []
            listening.accept()[0].close()
            assert neighbours.waiting() == []
