"""A download is what was uploaded, under a name that does no harm, asked for as in RFC 9110."""

from __future__ import annotations

import asyncio
import re
from base64 import b64encode
from contextlib import closing
from dataclasses import dataclass, replace
from email.message import Message
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from storage.errors import StorageError, StoreUnavailable
from storage.filestore import FileStore
from storage.upload import Upload
from tusd_py.download import (
    Downloads,
    content_disposition,
    content_headers,
    failed_precondition,
    inline_type,
)
from tusd_py.headers import Headers

if TYPE_CHECKING:
    from pathlib import Path

    from storage.interfaces import InfoStore

CONTENT = bytes(range(256)) * 4
UNKNOWN = "00000000-0000-4000-8000-000000000000"
ETAG = '"here"'
MODIFIED = "Tue, 15 Nov 1994 12:45:26 GMT"
EARLIER = "Tue, 15 Nov 1994 12:45:25 GMT"


class Records:
    """Keep records as an InfoStore would (find)."""

    def __init__(self) -> None:
        self.uploads: dict[str, Upload] = {}
        self.error: StorageError | None = None

    async def find(self, upload_id: str) -> Upload | None:
        if self.error:
            raise self.error
        return self.uploads.get(upload_id)


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Place:
    """One store, its records, and who asks for downloads."""

    data: FileStore
    records: Records
    directory: Path

    def upload(self, content: bytes = CONTENT, **metadata: bytes) -> Upload:
        """Store a finished upload."""
        pairs = ",".join(f"{name} {b64encode(text).decode()}" for name, text in metadata.items())
        upload = Upload(str(uuid4()), len(content), pairs or None, 784903526.5, 9e9)
        self.data.create(upload)
        with closing(self.data.open(upload)) as writer:
            writer.write([content])
            complete = replace(writer.upload, offset=len(content), complete=True)
            writer.commit(complete)
        self.records.uploads[upload.id] = complete
        return complete

    async def get(self, upload_id: str, extensions: Any = None, **headers: str) -> Answer:
        raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        scope = {"type": "http", "method": "GET", "headers": raw, "extensions": extensions or {}}
        sent: list[Any] = []

        async def receive() -> Any:
            await asyncio.Event().wait()

        async def send(message: Any) -> None:
            sent.append(message)

        downloads = Downloads(cast("InfoStore", self.records), self.data)
        request = Request({**scope, "path_params": {"upload_id": upload_id}})
        response = await downloads.download(request)
        await response(scope, receive, send)
        start, *bodies = sent
        fields = {name.decode(): value.decode() for name, value in start["headers"]}
        return Answer(start["status"], fields, b"".join(one.get("body", b"") for one in bodies))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    data = FileStore(tmp_path)
    data.prepare()
    return Place(data, Records(), tmp_path)


async def test_a_finished_upload_comes_whole_with_what_a_browser_may_do(place: Place) -> None:
    upload = place.upload(filename=b"cars.mp4", filetype=b"video/mp4")
    answer = await place.get(upload.id)
    assert (answer.status, answer.body) == (200, CONTENT)
    assert answer.headers == {
        "accept-ranges": "bytes",
        "cache-control": "private, no-cache",
        "content-disposition": 'inline; filename="cars.mp4"',
        "content-length": str(len(CONTENT)),
        "content-security-policy": (
            "sandbox; default-src 'none'; img-src 'self'; media-src 'self'; "
            "style-src 'unsafe-inline'"
        ),
        "content-type": "video/mp4",
        "etag": f'"{upload.id}"',
        "last-modified": MODIFIED,
        "upload-complete": "?1",
        "upload-length": str(len(CONTENT)),
        "upload-offset": str(len(CONTENT)),
        "x-content-type-options": "nosniff",
    }


async def test_a_page_is_saved_and_never_shown(place: Place) -> None:
    upload = place.upload(b"<script>", filename=b"x.html", filetype=b"text/html")
    answer = await place.get(upload.id)
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"] == 'attachment; filename="x.html"'
    assert answer.headers["content-security-policy"] == "sandbox; default-src 'none'"
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("sent", "first", "last"),
    [
        *(("bytes=0-0", 0, 0), ("bytes=5-", 5, 1023), ("bytes=-1", 1023, 1023)),
        *(("bytes=1000-9999", 1000, 1023), ("bytes=-9999", 0, 1023), ("Bytes = 1-2", 1, 2)),
        ("bytes=10-20,15-30", 10, 30),
    ],
)
async def test_one_range_is_206(place: Place, sent: str, first: int, last: int) -> None:
    answer = await place.get(place.upload().id, range=sent)
    assert (answer.status, answer.body) == (206, CONTENT[first : last + 1])
    assert answer.headers["content-range"] == f"bytes {first}-{last}/1024"
    assert answer.headers["content-length"] == str(last + 1 - first)


async def test_several_ranges_are_parts_of_one_answer(place: Place) -> None:
    upload = place.upload(filetype=b"video/mp4")
    answer = await place.get(upload.id, range="bytes=0-1,-2")
    assert answer.status == 206
    assert answer.headers["content-length"] == str(len(answer.body))
    kind, _, boundary = answer.headers["content-type"].partition("; boundary=")
    assert kind == "multipart/byteranges"
    first, second = answer.body.split(b"--" + boundary.encode())[1:-1]
    assert first.split(b"\r\n\r\n")[1] == CONTENT[:2] + b"\r\n"
    assert second.split(b"\r\n\r\n")[1] == CONTENT[-2:] + b"\r\n"
    assert b"Content-Type: video/mp4\r\nContent-Range: bytes 0-1/1024" in first


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        *(("bytes=1024-", 416), ("bytes=-0", 416), ("bytes=x", 400), ("bytes=9-5", 400)),
        # Of a unit that is not known, nothing is read.
        *(("lines=0-1", 200), ("bytes 0-1", 200), ("", 200)),
    ],
)
async def test_a_range_that_cannot_be(place: Place, sent: str, status: int) -> None:
    answer = await place.get(place.upload().id, range=sent)
    assert answer.status == status
    if status == 200:
        assert answer.body == CONTENT
        return
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers.get("content-range") == ("bytes */1024" if status == 416 else None)


@pytest.mark.parametrize(
    ("validator", "status"),
    [
        *(('"{}"', 206), (MODIFIED, 206)),
        *(('W/"{}"', 200), ('"other"', 200), (EARLIER, 200)),
    ],
)
async def test_a_range_of_another_file_is_not_given(
    place: Place, validator: str, status: int
) -> None:
    upload = place.upload()
    if_range = validator.format(upload.id)
    answer = await place.get(upload.id, range="bytes=0-3", if_range=if_range)
    assert (answer.status, answer.body) == (status, CONTENT if status == 200 else CONTENT[:4])


async def test_what_the_client_has_is_304_without_content(place: Place) -> None:
    upload = place.upload()
    answer = await place.get(upload.id, if_none_match=f'"{upload.id}"', range="bytes=0-3")
    assert (answer.status, answer.body) == (304, b"")
    assert answer.headers == {
        "cache-control": "private, no-cache",
        "etag": f'"{upload.id}"',
        "last-modified": MODIFIED,
    }


async def test_a_range_of_what_is_not_this_is_412(place: Place) -> None:
    answer = await place.get(place.upload().id, if_match='"other"', range="bytes=0-3")
    assert answer.status == 412
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, None),
        *(({"if-none-match": text}, 304) for text in (ETAG, f"W/{ETAG}", "*", f'"a" , {ETAG}')),
        *(({"if-none-match": text}, None) for text in ('"x"', "here", "", '"here', "W/*")),
        *(({"if-match": text}, None) for text in (ETAG, "*", f'"a",{ETAG}')),
        *(({"if-match": text}, 412) for text in ('"x"', f"W/{ETAG}", "", "here")),
        ({"if-modified-since": MODIFIED}, 304),
        ({"if-modified-since": "Tuesday, 15-Nov-94 12:45:26 GMT"}, 304),
        ({"if-modified-since": "Tue Nov 15 12:45:26 1994"}, 304),
        *(({"if-modified-since": text}, None) for text in (EARLIER, "", "yesterday", "0")),
        ({"if-unmodified-since": EARLIER}, 412),
        *(({"if-unmodified-since": text}, None) for text in (MODIFIED, "", "yesterday")),
        # The tag says more than the date, and If-Match goes first.
        ({"if-none-match": '"x"', "if-modified-since": MODIFIED}, None),
        ({"if-match": ETAG, "if-unmodified-since": EARLIER}, None),
        ({"if-match": ETAG, "if-none-match": ETAG}, 304),
        ({"if-match": '"x"', "if-none-match": ETAG}, 412),
    ],
)
def test_preconditions(fields: dict[str, str], status: int | None) -> None:
    headers = Headers([(name.encode(), value.encode()) for name, value in fields.items()])
    assert failed_precondition(headers, ETAG, MODIFIED) == status


PARTS = ["Tue,", "15", "Nov", "1994", "12:45:26", "GMT", "9" * 30, "+99999", ":", "(", '"', "-"]


@given(
    st.dictionaries(
        st.sampled_from(["if-match", "if-none-match", "if-modified-since", "if-unmodified-since"]),
        st.binary() | st.lists(st.sampled_from(PARTS)).map(lambda parts: " ".join(parts).encode()),
    )
)
def test_preconditions_raise_nothing(fields: dict[str, bytes]) -> None:
    headers = Headers([(name.encode(), value) for name, value in fields.items()])
    assert failed_precondition(headers, ETAG, MODIFIED) in {None, 304, 412}


@pytest.mark.parametrize(
    ("filename", "header"),
    [
        (b"", ""),
        (b"cars.mp4", '; filename="cars.mp4"'),
        (b"my cars; best.mp4", '; filename="my cars; best.mp4"'),
        ("Größe €.mp4".encode(),
         "; filename=\"Gr__e _.mp4\"; filename*=UTF-8''Gr%C3%B6%C3%9Fe%20%E2%82%AC.mp4"),
        (b'a"b\\c%41.mp4', "; filename=\"c_41.mp4\"; filename*=UTF-8''c%2541.mp4"),
        (b'a"b.mp4', "; filename=\"a_b.mp4\"; filename*=UTF-8''a%22b.mp4"),
        (b"a'(b)*.mp4", "; filename=\"a'(b)*.mp4\""),
        (b"x.mp4\r\nSet-Cookie: a=b", '; filename="x.mp4Set-Cookie: a=b"'),
        (b"a\x00b\x7f\x1b[0m.mp4", '; filename="ab[0m.mp4"'),
        (b"../../etc/passwd", '; filename="passwd"'),
        (b"C:\\fakepath\\cars.mp4", '; filename="cars.mp4"'),
        *((name, "") for name in (b"..", b". .", b"a/", b"\r\n", b"  ", "\u202e".encode())),
        (b".profile ", '; filename="profile"'),
        (b"\xff\xfe.mp4", "; filename=\"__.mp4\"; filename*=UTF-8''%EF%BF%BD%EF%BF%BD.mp4"),
        # Written backwards it would look like a picture.
        ("cars\u202egpj.exe".encode(), '; filename="carsgpj.exe"'),
        ("👩\u200d🚗.mp4".encode(),
         "; filename=\"___.mp4\"; filename*=UTF-8''%F0%9F%91%A9%E2%80%8D%F0%9F%9A%97.mp4"),
        (b"a" * 999 + b".mp4", f'; filename="{"a" * 236}.mp4"'),
        (b"." + b"a" * 999, f'; filename="{"a" * 240}"'),
        (b"a" * 999 + b"." + b"b" * 17, f'; filename="{"a" * 240}"'),
    ],
)  # fmt: skip
def test_names_in_content_disposition(filename: bytes, header: str) -> None:
    assert content_disposition("attachment", filename) == f"attachment{header}"


def test_a_long_name_is_cut_between_characters() -> None:
    header = content_disposition("attachment", ("ü" * 999 + ".webm").encode())
    assert unquote(header.partition("''")[2]) == "ü" * 117 + ".webm"


names = st.binary() | st.text().map(lambda text: text.encode(errors="surrogatepass"))


@given(filename=names)
def test_any_name_is_one_line_that_parsers_read(filename: bytes) -> None:
    header = content_disposition("attachment", filename)
    assert re.fullmatch(r"[ -~]{10,1100}", header)
    message = Message()
    message["Content-Disposition"] = header
    assert message.get_content_disposition() == "attachment"
    plain = message.get_filename()
    # The strict grammar of RFC 6266: no escapes, so nothing to read in two ways.
    quoted, extended = r'; filename="([ !#-\[\]-~]+)"', r"; filename\*=UTF-8''([\w!#$&+.^`|~%-]+)"
    read = re.fullmatch(f"attachment(?:{quoted}(?:{extended})?)?", header, re.ASCII)
    assert read
    assert plain == read[1]
    name = unquote(read[2], errors="strict") if read[2] else read[1]
    if name is not None:
        assert not set(name) & set("/\\\r\n\0")
        assert name not in {".", ".."}
        assert len(name.encode()) <= 240


@given(
    name=st.text(st.characters(categories=["L", "N", "S"], exclude_characters="/\\"), min_size=1)
)
def test_an_ordinary_name_comes_back_as_it_is(name: str) -> None:
    header = content_disposition("inline", name[:50].encode())
    _, _, extended = header.partition("filename*=")
    message = Message()
    message["Content-Disposition"] = f"inline; filename*={extended}" if extended else header
    assert message.get_filename() == name[:50]


@pytest.mark.parametrize(
    ("filetype", "shown"),
    [
        *((one, one) for one in ("video/mp4", "image/png", "audio/mpeg", "application/pdf")),
        *((one, "video/webm") for one in ("Video/WebM", ' video/webm ; codecs="vp8"')),
        *(
            (one, None)
            for one in ("", "text/html", "image/svg+xml", "application/xhtml+xml", "text/xml")
        ),
        *((one, None) for one in ("video/mp4\r\nX: y", "video/mp4,text/html", "video/\xff", "*/*")),
    ],
)
def test_only_what_is_no_program_is_shown(filetype: str, shown: str | None) -> None:
    assert inline_type({"filetype": filetype.encode("latin-1")}) == shown


@given(st.dictionaries(st.sampled_from(["filename", "filetype"]), names))
def test_no_metadata_breaks_a_header(metadata: dict[str, bytes]) -> None:
    assert inline_type(metadata) is None or re.fullmatch(
        r"[\w+./-]+", str(inline_type(metadata)), re.ASCII
    )
    assert all(re.fullmatch(r"[ -~]+", value) for value in content_headers(metadata).values())


def test_a_document_is_shown_where_its_viewer_runs() -> None:
    policy = content_headers({"filetype": b"application/pdf"})["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "sandbox" not in policy


async def test_plain_text_is_taken_for_utf_8(place: Place) -> None:
    answer = await place.get(place.upload(filetype=b"text/plain").id)
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"


async def test_metadata_that_cannot_be_read_is_as_none(place: Place) -> None:
    upload = place.upload()
    place.records.uploads[upload.id] = replace(upload, metadata="filename !")
    answer = await place.get(upload.id)
    assert (answer.status, answer.headers["content-disposition"]) == (200, "attachment")


async def test_an_upload_of_nothing_is_downloaded_as_nothing(place: Place) -> None:
    upload = place.upload(b"")
    assert (await place.get(upload.id)).headers["content-length"] == "0"
    assert (await place.get(upload.id, range="bytes=0-")).status == 416


async def test_an_upload_of_several_files_is_downloaded_as_one(place: Place) -> None:
    upload = Upload(str(uuid4()), len(CONTENT), None, 1.0, 9e9)
    place.data.create(upload)
    upload = replace(upload, token=1)
    # The one that is asleep keeps its file, so whoever goes on takes another.
    with closing(place.data.open(upload)) as asleep:
        asleep.write([CONTENT[:500]])
        part = replace(asleep.upload, offset=500)
        asleep.commit(part)
        with closing(place.data.open(replace(part, token=2))) as writer:
            writer.write([CONTENT[500:]])
            whole = replace(writer.upload, offset=len(CONTENT), complete=True)
            writer.commit(whole)
    assert len(whole.segments) == 2
    place.records.uploads[upload.id] = whole
    assert (await place.get(upload.id)).body == CONTENT
    assert (await place.get(upload.id, range="bytes=490-509")).body == CONTENT[490:510]
    parts = (await place.get(upload.id, range="bytes=0-9,495-504")).body
    assert CONTENT[495:505] in parts


@pytest.mark.parametrize("upload_id", ["x", UNKNOWN, "../etc/passwd", f"{UNKNOWN}.log"])
async def test_what_was_never_here_is_404(place: Place, upload_id: str) -> None:
    answer = await place.get(upload_id)
    assert answer.status == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert b"there is no such upload" in answer.body


async def test_an_unfinished_upload_is_404(place: Place) -> None:
    upload = Upload(str(uuid4()), len(CONTENT), None, 784903526.5, 9e9)
    place.data.create(upload)
    place.records.uploads[upload.id] = upload
    answer = await place.get(upload.id)
    assert (answer.status, b"not finished" in answer.body) == (404, True)


async def test_a_video_that_was_removed_is_410_and_so_is_an_upload(place: Place) -> None:
    upload = place.upload()
    place.data.remove_bytes(upload.id)
    assert (await place.get(upload.id, if_none_match="*")).status == 410
    place.data.remove(upload.id)
    del place.records.uploads[upload.id]
    assert (await place.get(upload.id)).status == 410


async def test_a_record_that_was_lost_is_read_from_the_journal(place: Place) -> None:
    upload = place.upload()
    place.records.uploads.clear()
    assert (await place.get(upload.id)).body == CONTENT
    assert not place.records.uploads


async def test_a_record_that_was_rolled_back_is_read_from_the_journal(place: Place) -> None:
    upload = place.upload()
    earlier = replace(upload, offset=1, complete=False)
    place.records.uploads[upload.id] = earlier
    assert (await place.get(upload.id)).body == CONTENT
    assert place.records.uploads[upload.id] == earlier


async def test_without_records_it_is_503_and_to_be_tried_again(place: Place) -> None:
    place.records.error = StoreUnavailable("Redis is away")
    answer = await place.get(str(uuid4()))
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert b"Redis" not in answer.body


async def test_a_file_of_another_length_is_not_passed_off_as_the_upload(place: Place) -> None:
    upload = place.upload()
    (place.directory / upload.id).write_bytes(CONTENT[:-1])
    assert (await place.get(upload.id)).status == 410


async def test_a_server_that_would_open_the_path_is_not_told_one(place: Place) -> None:
    upload = place.upload()
    answer = await place.get(upload.id, extensions={"http.response.pathsend": {}})
    assert answer.body == CONTENT


async def test_whatever_the_answer_the_file_is_closed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    read = place.data.read

    def remember(upload_id: str) -> Any:
        opened.append(read(upload_id))
        return opened[-1]

    monkeypatch.setattr(place.data, "read", remember)
    upload = place.upload()
    asked = [{}, {"range": "bytes=0-1"}, {"range": "bytes=0-1,5-6"}, {"range": "bytes=9999-"}]
    asked += [{"if_none_match": "*"}, {"if_match": '"x"'}]
    statuses = [(await place.get(upload.id, **headers)).status for headers in asked]
    (place.directory / upload.id).write_bytes(b"")
    statuses.append((await place.get(upload.id)).status)
    assert statuses == [200, 206, 206, 416, 304, 412, 410]
    assert [file.closed for file in opened] == [True] * 7
