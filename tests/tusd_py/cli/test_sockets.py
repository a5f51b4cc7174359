from __future__ import annotations

import pytest

from tusd_py.cli import CommandError
from tusd_py.cli.sockets import listen


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
