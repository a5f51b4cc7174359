"""What pages of other origins may do and read (the Fetch standard's CORS protocol)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from tusd_py.headers import Headers

# Every header of ours that a page may want to read; a browser hides the others.
EXPOSED = (
    "Accept-Patch",
    "Accept-Ranges",
    "Allow",
    "Content-Disposition",
    "Content-Location",
    "Content-Range",
    "ETag",
    "Location",
    "Preference-Applied",
    "Repr-Digest",
    "Retry-After",
    "Tus-Checksum-Algorithm",
    "Tus-Extension",
    "Tus-Max-Size",
    "Tus-Resumable",
    "Tus-Version",
    "Upload-Complete",
    "Upload-Concat",
    "Upload-Defer-Length",
    "Upload-Draft-Interop-Version",
    "Upload-Expires",
    "Upload-Incomplete",
    "Upload-Length",
    "Upload-Limit",
    "Upload-Metadata",
    "Upload-Offset",
    "WWW-Authenticate",
    "X-Request-ID",
)


class Cors:
    """Let pages upload and read every header; no credentials are involved."""

    def __init__(self, origins: str) -> None:
        """Take CORS_ORIGINS: origins with commas between them, `*` for all or `none`."""
        allowed = [origin.strip() for origin in origins.split(",") if origin.strip()]
        self._options: dict[str, Any] = {
            "allow_origins": allowed,
            "allow_methods": ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"],
            "allow_headers": ["*"],
            "expose_headers": EXPOSED,
            # Into a private network pages from outside are let only where they are named.
            "allow_private_network": "*" not in allowed,
            "max_age": 86_400,
        }
        self._allows = allowed != ["none"]
        self._rules = CORSMiddleware(_no_app, **self._options)

    @property
    def middleware(self) -> list[Middleware]:
        """Return what an app is wrapped in."""
        return [Middleware(CORSMiddleware, **self._options)] if self._allows else []

    def fields(self, headers: Headers) -> list[tuple[str, str]]:
        """Return what the middleware adds to the answer to a request with these headers."""
        origin = headers.joined("origin")
        if origin is None or not self._allows:
            return []
        rules, fields = self._rules, MutableHeaders(self._rules.simple_headers)
        named = not rules.allow_all_origins and rules.is_allowed_origin(origin)
        if named or (rules.allow_all_origins and "cookie" in headers):
            rules.allow_explicit_origin(fields, origin)
        return fields.items()


async def _no_app(scope: Scope, receive: Receive, send: Send) -> None:
    """Stand for the app that only the middleware has."""
