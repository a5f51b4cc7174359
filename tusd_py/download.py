"""GET of a finished upload: a file that a browser may show or save, and never a page of ours.

Ranges and the sending are starlette's; names, types and the other preconditions are made here.
"""

from __future__ import annotations

import os
import re
from contextlib import asynccontextmanager
from email.utils import parsedate
from http import HTTPStatus
from typing import TYPE_CHECKING, BinaryIO
from unicodedata import category
from urllib.parse import quote

import structlog
from anyio import to_thread, wrap_file
from starlette.responses import FileResponse, Response

from storage.errors import JournalDamaged, StorageError
from tusd_py import protocol
from tusd_py.headers import Headers, InvalidHeader, build_date, media_type, parse_metadata
from tusd_py.problems import problem
from tusd_py.protocol import Code, ProtocolError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from anyio import AsyncFile
    from starlette.requests import Request
    from starlette.types import Message, Receive, Scope, Send

    from storage.interfaces import DataStore, InfoStore
    from storage.upload import Upload

log = structlog.get_logger()

# What no browser takes for a program, as it takes image/svg+xml.
_INLINE = frozenset(
    {
        *(f"image/{name}" for name in ("apng", "avif", "bmp", "gif", "heic", "jpeg", "png")),
        *("image/tiff", "image/webp", "image/x-icon"),
        *(f"video/{name}" for name in ("3gpp", "matroska", "mp4", "mpeg", "ogg", "quicktime")),
        *("video/webm", "video/x-flv", "video/x-m4v", "video/x-matroska", "video/x-msvideo"),
        *(f"audio/{name}" for name in ("aac", "flac", "mp4", "mpeg", "ogg", "opus", "wav")),
        *("audio/wave", "audio/webm", "audio/x-m4a", "audio/x-wav"),
        *("application/pdf", "text/plain"),
    }
)
_SANDBOX = "sandbox; default-src 'none'"
# A browser makes a page around a video, and that page has to be allowed to load it.
_PLAYER = f"{_SANDBOX}; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'"
# Viewers of PDF do not run in a sandbox, and are one.
_PDF_VIEWER = "default-src 'none'; object-src 'self'; style-src 'unsafe-inline'"

_PRIVATE = {"cache-control": "private, no-cache"}
_RANGE_REFUSED = {
    400: "Range: expected bytes=first-last, bytes=first- or bytes=-last_so_many",
    416: "Range: these bytes are not in this upload",
}

# RFC 8187, section 3.2.1: what stands for itself, beside letters and digits.
_ATTR_CHAR = "!#$&+-.^_`|~"
# Quotes and backslashes need escapes, and "%" looks like one (RFC 6266, appendix D).
_NOT_PLAIN = re.compile(r'[^ -~]|["%\\]')
_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
# They are of category Cf too, but make one emoji of several and words of Persian.
_JOINERS = "\u200c\u200d"
_NAME_BYTES = 240
_SUFFIX = re.compile(r"\.[^.]{1,16}$")


class Downloads:
    """Serve `GET /files/{id}`; takes no lock and changes nothing."""

    def __init__(self, info: InfoStore, data: DataStore) -> None:
        self._info = info
        self._data = data

    async def download(self, request: Request) -> Response:
        """Return the bytes; 404 before the upload is finished, 410 once they were removed."""
        try:
            upload = await self._find(request.path_params["upload_id"].rstrip("/"))
            file = wrap_file(await to_thread.run_sync(self._open, upload))
        except ProtocolError as error:
            return problem(error.code.status, str(error))
        except StorageError as error:
            return _refused(error)
        etag, modified = f'"{upload.id}"', build_date(upload.created_at)
        headers = _PRIVATE | {"etag": etag, "last-modified": modified}
        status = failed_precondition(Headers(request.scope["headers"]), etag, modified)
        if status is None:
            return _StoredFile(upload, file, headers)
        await file.aclose()
        if status is HTTPStatus.NOT_MODIFIED:
            return Response(status_code=status, headers=headers)
        return problem(status, "this upload is not the one that the request is about")

    async def _find(self, upload_id: str) -> Upload:
        if not protocol.is_upload_id(upload_id):
            raise ProtocolError(Code.NOT_FOUND)
        upload = await self._info.find(upload_id)
        if upload is None or not upload.complete:
            # Redis has lost it, was rolled back, or it was removed: the journal knows.
            upload = await to_thread.run_sync(self._journalled, upload_id)
        if not upload.complete or upload.partial:
            raise ProtocolError(Code.NOT_FOUND, "this upload is not finished, or only a part")
        return upload

    def _journalled(self, upload_id: str) -> Upload:
        # A GET restores nothing.
        upload = self._data.recover(upload_id)[0]
        if upload.complete:
            # Whoever completed it may wait for the disk still.
            self._data.settle(upload_id)
        return upload

    def _open(self, upload: Upload) -> BinaryIO:
        file = self._data.read(upload.id)
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        if size != upload.offset:
            file.close()
            raise JournalDamaged(f"the record counts {upload.offset} bytes, the file has {size}")
        return file


class _StoredFile(FileResponse):
    """Send a file that is open already, so that whoever removes it does no harm, and close it."""

    chunk_size = 256 * 1024

    def __init__(self, upload: Upload, file: AsyncFile[bytes], headers: Mapping[str, str]) -> None:
        metadata = _metadata(upload)
        size = upload.offset
        super().__init__(
            upload.id,
            headers={**headers, **content_headers(metadata), **_offset_headers(size)},
            # Only the size is asked for: the other headers are there.
            stat_result=os.stat_result((0, 0, 0, 0, 0, 0, size, 0, 0, 0)),
            media_type=inline_type(metadata) or "application/octet-stream",
        )
        self._file = file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusals: list[Response] = []

        async def send_or_refuse(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] in _RANGE_REFUSED:
                refusals.append(_range_refused(message))
            if not refusals:
                await send(message)

        try:
            await super().__call__(_readable(scope), receive, send_or_refuse)
        finally:
            await self._file.aclose()
        for refusal in refusals:
            await refusal(scope, receive, send)

    @asynccontextmanager
    async def _open_file(self) -> AsyncIterator[AsyncFile[bytes]]:
        # FileResponse's own would open a path: after the response has begun, and only one file.
        yield self._file


def failed_precondition(headers: Headers, etag: str, modified: str) -> HTTPStatus | None:
    """Evaluate the preconditions but If-Range in their order (RFC 9110, section 13.2.2).

    `etag` is strong and without commas. Returns 412, 304 or None.
    """
    if (wanted := headers.joined("if-match")) is not None:
        if not {"*", etag} & _tags(wanted):
            return HTTPStatus.PRECONDITION_FAILED
    elif _date(headers, "if-unmodified-since", modified) < _parsed(modified):
        return HTTPStatus.PRECONDITION_FAILED
    if (known := headers.joined("if-none-match")) is not None:
        if {"*", etag, f"W/{etag}"} & _tags(known):
            return HTTPStatus.NOT_MODIFIED
    elif _date(headers, "if-modified-since", "") >= _parsed(modified):
        return HTTPStatus.NOT_MODIFIED
    return None


def _tags(value: str) -> set[str]:
    return {tag.strip(" \t") for tag in value.split(",")}


def _date(headers: Headers, name: str, otherwise: str) -> tuple[int, ...]:
    return _parsed(headers.joined(name) or "") or _parsed(otherwise)


def _parsed(date: str) -> tuple[int, ...]:
    # All of them are in GMT, so they compare as they stand; what is no date is (): the oldest.
    return (parsedate(date) or ())[:6]


def inline_type(metadata: Mapping[str, bytes]) -> str | None:
    """Return the media type of an upload if a browser may show it, or None."""
    named = media_type(metadata.get("filetype", b"").decode("latin-1"))
    return named if named in _INLINE else None


def content_headers(metadata: Mapping[str, bytes]) -> dict[str, str]:
    """Build the headers that say what a browser may do with an upload, beside its type."""
    shown = inline_type(metadata)
    policy = _PLAYER if shown else _SANDBOX
    return {
        "content-disposition": content_disposition(
            "inline" if shown else "attachment", metadata.get("filename", b"")
        ),
        "content-security-policy": _PDF_VIEWER if shown == "application/pdf" else policy,
        "x-content-type-options": "nosniff",
    }


def content_disposition(kind: str, filename: bytes) -> str:
    """Build Content-Disposition (RFC 6266, RFC 8187) with a name as a client sent it.

    `filename` is UTF-8 or something like it; where nothing is left of it there is no name.
    """
    name = _file_name(filename.decode(errors="replace"))
    if not name:
        return kind
    plain = _NOT_PLAIN.sub("_", name)
    header = f'{kind}; filename="{plain}"'
    if plain != name:
        header += f"; filename*=UTF-8''{quote(name, safe=_ATTR_CHAR)}"
    return header


def _file_name(sent: str) -> str:
    """Return what of a name may name a file: no folders, nothing unseen, a length that fits."""
    last = re.split(r"[/\\]", sent)[-1]
    seen = "".join(char for char in last if char in _JOINERS or category(char) not in _HIDDEN)
    name = seen.strip(" .")
    return name if len(name.encode()) <= _NAME_BYTES else _shortened(name)


def _shortened(name: str) -> str:
    suffix = _SUFFIX.search(name)
    end = suffix[0].encode() if suffix else b""
    stem = name.encode()[: _NAME_BYTES - len(end)]
    return stem.decode(errors="ignore") + end.decode()


def _metadata(upload: Upload) -> dict[str, bytes]:
    try:
        return parse_metadata(upload.metadata or "")
    except InvalidHeader:
        return {}


def _offset_headers(size: int) -> dict[str, str]:
    """Say what HEAD says, as draft-ietf-httpbis-resumable-upload wants it of a GET too."""
    return {
        "upload-complete": "?1",
        "upload-length": str(size),
        "upload-offset": str(size),
    }


def _readable(scope: Scope) -> Scope:
    """Take out of a request what FileResponse would not read as it has to be read."""
    # A Range of any other unit is ignored (RFC 9110, section 14.2); nobody but us opens the file.
    headers = [field for field in scope["headers"] if field[0] != b"range" or _in_bytes(field[1])]
    return {**scope, "headers": headers, "extensions": {}}


def _in_bytes(value: bytes) -> bool:
    return value.partition(b"=")[0].strip().lower() == b"bytes"


def _range_refused(message: Message) -> Response:
    status = message["status"]
    fields = dict(message["headers"])
    of_what = fields.get(b"content-range")
    headers = {"content-range": of_what.decode()} if of_what else {}
    return problem(status, _RANGE_REFUSED[status], headers)


def _refused(error: StorageError) -> Response:
    refusal = protocol.as_protocol_error(error)
    status = refusal.code.status
    if status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return problem(status, str(refusal))
    log.warning("download.refused", status=status, reason=str(error))
    unavailable = status == HTTPStatus.SERVICE_UNAVAILABLE
    return problem(status, str(refusal), {"retry-after": "1"} if unavailable else {})
