"""What makes the head of a request one of HTTP/1.1, and a response's head: RFC 9112 without I/O."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from uvicorn.protocols.http.httptools_impl import HEADER_RE, HEADER_VALUE_RE

from tusd_py.headers import InvalidHeader, parse_number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tusd_py.headers import Headers

# Bytes of a request line and its header fields; of trailer fields; of one chunk's extensions.
HEAD_MOST = 64 * 1024
_LENGTH_MOST = 2**63 - 1
# Phrases that the standard library does not know yet.
_PHRASES = {104: "Upload Resumption Supported"}


class Refused(Exception):
    """A request is not HTTP as this server takes it."""

    def __init__(self, status: HTTPStatus, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def build_head(status: int, fields: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Build the head of a response.

    Raises:
        RuntimeError: a field is not one.
    """
    phrase = _PHRASES.get(status) or HTTPStatus(status).phrase
    lines = [f"HTTP/1.1 {status} {phrase}".encode()]
    for name, value in fields:
        if HEADER_RE.search(name) or HEADER_VALUE_RE.search(value):
            raise RuntimeError(f"expected a header field, got {name!r}: {value!r}")
        lines.append(b"%b: %b" % (name, value))
    return b"\r\n".join([*lines, b"", b""])


def head_too_long() -> Refused:
    return Refused(
        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"expected at most {HEAD_MOST} bytes of head"
    )


def check_head(method: bytes, version: str, headers: Headers) -> bool:
    """Check a request's head (RFC 9112); return whether it waits for 100 Continue."""
    if version not in {"1.0", "1.1"}:
        raise Refused(HTTPStatus.BAD_REQUEST, f"expected HTTP/1.1, got HTTP/{version}")
    if method == b"CONNECT":
        raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, "this server is no proxy")
    hosts = len(headers.lines("host"))
    if hosts > 1 or (hosts == 0 and version == "1.1"):
        raise Refused(HTTPStatus.BAD_REQUEST, f"expected one Host, got {hosts}")
    _check_framing(version, headers)
    if "expect" not in headers:
        return False
    expected = {value.strip().lower() for value in (headers.joined("expect") or "").split(",")}
    expected.discard("")
    if version == "1.0" or not expected:
        return False
    if expected != {"100-continue"}:
        raise Refused(HTTPStatus.EXPECTATION_FAILED, "expected no Expect but 100-continue")
    return True


def _check_framing(version: str, headers: Headers) -> None:
    coding = headers.joined("transfer-encoding")
    if coding is None and "content-length" not in headers:
        return
    if coding is not None and version == "1.0":
        raise Refused(HTTPStatus.BAD_REQUEST, "expected no Transfer-Encoding in HTTP/1.0")
    if coding is not None and coding.strip().lower() != "chunked":
        raise Refused(HTTPStatus.BAD_REQUEST, f"expected chunked, got {coding[:100]!a}")
    length = headers.joined("content-length")
    try:
        fits = length is None or parse_number("content-length", length) <= _LENGTH_MOST
    except InvalidHeader as error:
        raise Refused(HTTPStatus.BAD_REQUEST, str(error)) from None
    if not fits:
        raise Refused(HTTPStatus.BAD_REQUEST, f"content-length: expected less than 2**63: {length}")
