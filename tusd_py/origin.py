"""Where clients reach this server, and which addresses are its own; without I/O.

`PUBLIC_URL` is the last word. Without it addresses are paths, which every client resolves against
the one it asked; only a trusted proxy makes them absolute, by `Forwarded` (RFC 7239) or by
`X-Forwarded-Host`, `-Proto`, `-Port` and `-Prefix`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote, urlsplit

from tusd_py.headers import InvalidHeader

if TYPE_CHECKING:
    from collections.abc import Mapping
    from ipaddress import IPv4Network, IPv6Network

    from tusd_py.headers import Headers

_DEFAULT_PORTS = {"http": "80", "https": "443"}
_HOST = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?")
_PREFIX = re.compile(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._~!$&'()*+;=:@%-]+)+/?")
_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # noqa: S105  RFC 9110's token, no secret
# RFC 7239, section 4; what proxies send without quotes (host:port, IPv6) is taken too.
_PAIR = rf'({_TOKEN})=(?:"((?:[^"\\]|\\.)*)"|([^",; \t]*))'
_PAIRS = re.compile(rf"[ \t]*(?:{_PAIR}[ \t]*)?(?:;[ \t]*(?:{_PAIR}[ \t]*)?)*(?=,|$)")
_PORT_MOST = 65535


@dataclass(frozen=True, slots=True)
class TrustedPeers:
    """Tell whose forwarding headers count."""

    networks: tuple[IPv4Network | IPv6Network, ...] = ()
    unix: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `TRUSTED_PROXIES`: addresses and networks, `unix`, or `none`; raise ValueError."""
        names = {name.strip() for name in text.split(",")} - {"", "none"}
        networks = sorted(names - {"unix"})
        return cls(tuple(ip_network(name) for name in networks), "unix" in names)

    def trust(self, client: tuple[str, int] | None) -> bool:
        """Tell whether an ASGI scope's `client` is one of them; a Unix socket has none."""
        if client is None:
            return self.unix
        if not self.networks:
            return False
        try:
            address = ip_address(client[0])
        except ValueError:
            return False
        # An IPv6 socket shows its IPv4 peers so.
        mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
        return any((mapped or address) in network for network in self.networks)


@dataclass(frozen=True, slots=True)
class Reach:
    """Hold how one client reaches us: `base` is what every path is put behind, perhaps nothing."""

    base: str
    upload_path: str
    #: The names, as in a URL, by which we were asked.
    names: tuple[str, ...]

    def location(self, upload_id: str) -> str:
        """Return the address of an upload."""
        return self.address(f"{self.upload_path}/{upload_id}")

    def address(self, path: str) -> str:
        """Return the address of a path of ours, such as /jobs/{id}."""
        return f"{self.base}{path}"

    def owns(self, url: str) -> bool:
        """Tell whether a URL names something of ours: a path, or an address under our hosts."""
        try:
            parts = urlsplit(url)
        except ValueError:
            return False
        if "?" in url or "#" in url or "\\" in url or parts.scheme not in {"", "http", "https"}:
            return False
        if not parts.netloc:
            return not parts.scheme
        schemes = (parts.scheme,) if parts.scheme else ("http", "https")
        hosts = self._hosts()
        return any(_host(parts.netloc, scheme) in hosts for scheme in schemes)

    def _hosts(self) -> set[tuple[str, str]]:
        made = urlsplit(self.base)
        found = {_host(name, scheme) for name in self.names for scheme in _DEFAULT_PORTS}
        found.add(_host(made.netloc, made.scheme))
        return {host for host in found if host}


@dataclass(frozen=True, slots=True)
class Origin:
    """Hold what the settings say of it; `upload_path` counts with and without its last slash."""

    public_url: str | None = None
    upload_path: str = "/files/"
    trusted: TrustedPeers = TrustedPeers()

    #: The path at which uploads are created, without a slash at its end.
    creation_path: str = field(init=False)
    #: Whether addresses are paths, whatever comes.
    is_plain: bool = field(init=False)

    def __post_init__(self) -> None:
        """Find out once what every request asks."""
        object.__setattr__(self, "creation_path", self.upload_path.rstrip("/"))
        trusting = bool(self.trusted.networks or self.trusted.unix)
        object.__setattr__(self, "is_plain", self.public_url is None and not trusting)

    def of(self, scope: Mapping[str, Any], headers: Headers) -> Reach:
        """Tell how the client of one request (an ASGI scope) reaches us."""
        asked = _asked(headers)
        if self.is_plain and not scope.get("root_path"):
            return _plain_reach(self.creation_path, asked)
        trusted = self.trusted.trust(scope.get("client"))
        told = _told(headers) if trusted else _NOTHING
        return Reach(self._base(scope, told, asked), self.creation_path, (asked, told.host))

    def _base(self, scope: Mapping[str, Any], told: _Told, asked: str) -> str:
        if self.public_url is not None:
            return self.public_url.rstrip("/")
        root = scope.get("root_path", "")
        root = quote(root.rstrip("/")) if root else ""
        # Often the server was told the prefix too.
        path = root if f"{root}/".startswith(f"{told.prefix}/") else told.prefix + root
        if not told.host and not told.scheme:
            return path
        return _origin(told, asked, scope.get("scheme", "http")) + path


@lru_cache(maxsize=16)
def _plain_reach(creation_path: str, asked: str) -> Reach:
    # Every request asks; hardly two of them by different names.
    return Reach("", creation_path, (asked, ""))


@dataclass(frozen=True, slots=True)
class _Told:
    """Hold what a proxy said that can be believed; empty is what it did not say."""

    host: str = ""
    scheme: str = ""
    port: str = ""
    prefix: str = ""


_NOTHING = _Told()


def _told(headers: Headers) -> _Told:
    prefix = _first(headers, "x-forwarded-prefix")
    prefix = prefix.rstrip("/") if _PREFIX.fullmatch(prefix) else ""
    pairs = _forwarded(headers.joined("forwarded") or "")
    host, scheme, port = pairs.get("host", ""), pairs.get("proto", ""), ""
    if not host and not scheme:
        host, scheme, port = (
            _first(headers, f"x-forwarded-{name}") for name in ("host", "proto", "port")
        )
    scheme = scheme.lower()
    return _Told(
        host if _host(host, "http") else "",
        scheme if scheme in _DEFAULT_PORTS else "",
        port if port.isascii() and port.isdigit() and _host(f"a:{port}", "") else "",
        prefix,
    )


def _first(headers: Headers, name: str) -> str:
    """Return the first element of a list: the proxy that is nearest to the client put it there."""
    return (headers.joined(name) or "").partition(",")[0].strip(" \t")


def _forwarded(value: str) -> dict[str, str]:
    """Parse the first element of `Forwarded`; nothing where it is malformed."""
    element = _PAIRS.match(value)
    pairs: dict[str, str] = {}
    for name, quoted, plain in re.findall(_PAIR, element[0]) if element else ():
        if name.lower() in pairs:
            return {}
        pairs[name.lower()] = plain or re.sub(r"\\(.)", r"\1", quoted)
    return pairs


def _origin(told: _Told, asked: str, scheme: str) -> str:
    """Return scheme and authority; nothing where no host is known."""
    host = told.host or asked
    scheme = told.scheme or scheme
    known = _host(host, scheme)
    if known is None or scheme not in _DEFAULT_PORTS:
        return ""
    says = host.rpartition("]")[2].partition(":")[2] or told.port
    port = "" if says in {"", _DEFAULT_PORTS[scheme]} else f":{says}"
    return f"{scheme}://{known[0]}{port}"


def _host(netloc: str, scheme: str) -> tuple[str, str] | None:
    """Return host and port of an authority, to compare; None for what no proxy may tell."""
    found = _HOST.fullmatch(netloc)
    if not found or int(found[2] or 1) not in range(1, _PORT_MOST + 1):
        return None
    return found[1].lower(), str(int(found[2])) if found[2] else _DEFAULT_PORTS.get(scheme, "")


def _asked(headers: Headers) -> str:
    try:
        return headers.one("host") or ""
    except InvalidHeader:
        return ""
