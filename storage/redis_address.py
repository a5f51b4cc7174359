"""Where Redis is: one server by its URL, or the primary that sentinels name at each connecting.

`sentinel://user:password@host1:26379,host2:26379/name/0` asks those sentinels for the primary of
that name; user, password and database are the primary's. With `sentinels://` both speak TLS.
Options follow as in a redis:// URL; `sentinel_username` and `sentinel_password` are for the
sentinels.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import redis.asyncio.connection
import redis.asyncio.sentinel
import redis.connection
import redis.sentinel

if TYPE_CHECKING:
    from collections.abc import Mapping

_PORT = 26379
_SCHEMES = {"sentinel": "redis", "sentinels": "rediss"}
_FORM = "sentinel://host1:26379,host2:26379/name/0"
_DATABASE = re.compile(r"/?([0-9]+/?)?", re.ASCII)
# What a URL may say of pools, not of one connection.
_OF_POOLS = {"connection_class", "max_connections", "timeout"}
# Seconds.
_PATIENCE = 1.0


@dataclass(frozen=True, slots=True)
class Address:
    """Hold what a URL says: options of connections and, behind sentinels, whose primary it is."""

    options: Mapping[str, Any]
    tls: bool = False
    sentinels: tuple[tuple[str, int], ...] = ()
    name: str = ""
    #: Options of connections to the sentinels.
    asking: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, url: str) -> Address:
        """Read a URL; raise ValueError that says what was expected."""
        parts = urlsplit(url)
        if parts.scheme not in _SCHEMES:
            options = _parsed(url)
            _check_options(options)
            return cls(options, tls=parts.scheme == "rediss")
        access, _, hosts = parts.netloc.rpartition("@")
        name, _, database = parts.path.strip("/").partition("/")
        if not hosts or not name:
            raise ValueError(f"expected an address such as {_FORM}, got no host or no name")
        plain = f"{_SCHEMES[parts.scheme]}://{access}@localhost/{database}?{parts.query}"
        options = _parsed(plain)
        own = {one: options.pop(f"sentinel_{one}", None) for one in ("username", "password")}
        _check_options(options)
        for one in ("host", "port", "connection_class"):
            options.pop(one, None)
        tls = parts.scheme == "sentinels"
        secured = {one: value for one, value in options.items() if one.startswith("ssl_")}
        asking = {**{one: value for one, value in own.items() if value}, **secured}
        return cls(options, tls, _hosts(hosts), unquote(name), asking)

    def pool_options(self) -> dict[str, Any]:
        """Return what a pool of blocking connections is made with."""
        if not self.sentinels:
            return dict(self.options)
        module: Any = redis.sentinel
        manager = module.Sentinel(self.sentinels, sentinel_kwargs=self._asking())
        return self._managed(module, BlockingPrimary(manager, self.name))

    def async_pool_options(self) -> dict[str, Any]:
        """Return what a pool of asyncio's connections is made with."""
        if not self.sentinels:
            options = dict(self.options)
            if kind := options.pop("connection_class", None):
                options["connection_class"] = getattr(redis.asyncio.connection, kind.__name__)
            return options
        return self._managed(redis.asyncio.sentinel, self.primary())

    def primary(self) -> Primary | None:
        """Return what tells where the primary is, behind sentinels."""
        if not self.sentinels:
            return None
        module: Any = redis.asyncio.sentinel
        return Primary(module.Sentinel(self.sentinels, sentinel_kwargs=self._asking()), self.name)

    def _asking(self) -> dict[str, Any]:
        waits = {"socket_timeout": _PATIENCE, "socket_connect_timeout": _PATIENCE}
        return {**waits, **self.asking, **({"ssl": True} if self.tls else {})}

    def _managed(self, module: Any, primary: Primary | BlockingPrimary | None) -> dict[str, Any]:
        kinds = (module.SentinelManagedConnection, module.SentinelManagedSSLConnection)
        # These connections ask what they take for their pool where to connect to.
        managed = {"connection_class": kinds[self.tls], "connection_pool": primary}
        return {**self.options, **managed}


@dataclass(frozen=True, slots=True)
class BlockingPrimary:
    """Find the primary for redis-py's managed connections."""

    manager: Any
    service_name: str
    is_master: bool = True
    check_connection: bool = False

    def get_master_address(self) -> tuple[str, int]:
        """Ask the sentinels, one after the other; raise redis-py's ConnectionError."""
        host, port = self.manager.discover_master(self.service_name)
        return host, port


@dataclass(frozen=True, slots=True)
class Primary:
    """Find the primary, as BlockingPrimary does, for asyncio."""

    manager: Any
    service_name: str
    is_master: bool = True
    check_connection: bool = False

    async def get_master_address(self) -> tuple[str, int]:
        """Ask the sentinels, one after the other; raise redis-py's ConnectionError."""
        host, port = await self.manager.discover_master(self.service_name)
        return host, port


def _parsed(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    # redis-py would take database 0, which may be another one's.
    if parts.scheme in {"redis", "rediss"} and not _DATABASE.fullmatch(unquote(parts.path)):
        raise ValueError(f"expected the number of a database, got {parts.path[1:]!r}")
    return dict(redis.connection.parse_url(url))  # type: ignore[no-untyped-call]


def _check_options(options: Mapping[str, Any]) -> None:
    """Refuse what no connection could be made with; none is opened."""
    kind = options.get("connection_class", redis.connection.Connection)
    if kind is redis.connection.UnixDomainSocketConnection and not options.get("path"):
        raise ValueError("expected an address such as unix:///run/redis.sock, got no path")
    try:
        kind(**{one: value for one, value in options.items() if one not in _OF_POOLS})
    except (TypeError, redis.RedisError) as error:
        raise ValueError(f"expected options of a connection of redis-py: {error}") from None


def _hosts(text: str) -> tuple[tuple[str, int], ...]:
    found = [urlsplit(f"//{one}") for one in text.split(",")]
    if not all(one.hostname for one in found):
        raise ValueError(f"expected an address such as {_FORM}, got an empty host")
    return tuple((one.hostname or "", one.port or _PORT) for one in found)
