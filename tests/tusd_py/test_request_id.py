"""A request has one name: its client's if it is sane, else one that nobody else gives."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from starlette.responses import PlainTextResponse

from tusd_py.headers import Headers
from tusd_py.request_id import Named, RequestIds, sent

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("name", ["a", "req-1", "Root=1-67891233-abcdef01", "a" * 128])
def test_a_sane_name_is_taken(name: str) -> None:
    assert sent(Headers([(b"x-request-id", name.encode())])) == name
    assert RequestIds().begin(Headers([(b"x-request-id", name.encode())])) == name


@pytest.mark.parametrize(
    "lines", [[], [b""], [b"a b"], [b"a" * 129], [b"a\xe9"], [b'a"'], [b"a", b"b"], [b"a", b"a"]]
)
def test_any_other_is_replaced_by_a_new_one(lines: list[bytes]) -> None:
    headers = Headers((b"x-request-id", line) for line in lines)
    first, second = RequestIds(), RequestIds()
    names = [first.begin(headers), first.begin(headers), second.begin(headers)]
    assert len(set(names)) == 3
    assert all(sent(Headers([(b"x-request-id", name.encode())])) == name for name in names)


async def ask(app: ASGIApp, *headers: tuple[bytes, bytes]) -> list[Any]:
    said: list[Any] = []

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        said.append(message)

    scope = {"type": "http", "method": "GET", "path": "/", "headers": list(headers)}
    await Named(app, RequestIds())(scope, receive, send)
    return said


async def test_the_answer_bears_the_name_and_so_does_each_line_of_the_log() -> None:
    lines: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        lines.append(structlog.contextvars.get_contextvars())
        await PlainTextResponse("")(scope, receive, send)

    start, _ = await ask(app, (b"x-request-id", b"mine"))
    assert (b"x-request-id", b"mine") in start["headers"]
    assert lines == [{"request": "mine"}]


async def test_an_app_that_breaks_is_answered_for() -> None:
    async def app(*_: object) -> None:
        raise RuntimeError

    start, body = await ask(app)
    assert start["status"] == 500
    assert (b"content-type", b"application/problem+json") in start["headers"]
    assert b'"status":500' in body["body"]
