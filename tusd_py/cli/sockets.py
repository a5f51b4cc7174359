"""The sockets that `serve` listens on: one for each address of a host and each web process."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

from tusd_py.cli import CommandError, Exit

if TYPE_CHECKING:
    from collections.abc import Sequence

_BACKLOG = 2048


def listen(host: str, port: int) -> list[socket.socket]:
    """Bind every address of a host to one port; port 0 takes a free one.

    Raises:
        CommandError: the host has no address here, or the port cannot be had.
    """
    try:
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise CommandError(
            f"HOST: expected an address of this machine, got {host!r} ({error.strerror})",
            Exit.STARTUP,
        ) from error
    bound: list[socket.socket] = []
    refused: OSError | None = None
    for family, kind, protocol, _, address in dict.fromkeys(found):
        taken = bound[0].getsockname()[1] if bound else port
        try:
            bound.append(_bound(socket.socket(family, kind, protocol), (address[0], taken)))
        except OSError as error:
            # A name may stand for an address this machine lacks, as localhost for ::1.
            if error.errno not in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT} and bound:
                for other in bound:
                    other.close()
                raise _unavailable(host, port, error) from error
            refused = refused or error
    if not bound and refused is not None:
        raise _unavailable(host, port, refused) from refused
    return bound


def _bound(one: socket.socket, address: tuple[str | int, int]) -> socket.socket:
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if one.family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind(address)
        # Bound alone, two with SO_REUSEADDR may share a port; listening says whose it is.
        one.listen(_BACKLOG)
    except OSError:
        one.close()
        raise
    return one


def multiply(sockets: Sequence[socket.socket], count: int) -> list[list[socket.socket]]:
    """Return sockets for `count` processes, the given ones among them: the kernel spreads peers.

    One queue for all would leave a burst of connections to whoever wakes up first. The first ones
    were bound alone, so that no other server had the port; from now on they are shared.
    """
    for one in sockets:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    more = [[_bound_beside(one) for one in sockets] for _ in range(count - 1)]
    return [list(sockets), *more]


def _bound_beside(first: socket.socket) -> socket.socket:
    one = socket.socket(first.family, first.type, first.proto)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return _bound(one, first.getsockname()[:2])


def _unavailable(host: str, port: int, error: OSError) -> CommandError:
    choose = "choose another with --port or PORT (0 takes a free one)"
    says = {
        errno.EADDRINUSE: f"Port {port} on {host} is taken: stop that program, or {choose}",
        errno.EACCES: f"Port {port} needs the rights of root: {choose}",
        errno.EADDRNOTAVAIL: f"HOST: expected an address of this machine, got {host!r}",
    }
    said = says.get(error.errno or 0, f"{host}:{port} cannot be listened on: {error.strerror}")
    return CommandError(said, Exit.STARTUP)


def shown(host: str) -> str:
    """Return a host as a URL holds it; every interface is reached on this machine's own."""
    if host in {"", "0.0.0.0", "::"}:  # noqa: S104  compared, not bound
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host
