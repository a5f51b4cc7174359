"""No header that anybody can send breaks a parser; what we build we can read.

Few examples, the same ones each time; `make soak` takes many new ones.
"""

from __future__ import annotations

import base64
import re
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, cast

import http_sf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.upload import Upload
from tusd_py import fields, headers, protocol, resumable
from tusd_py.download import content_disposition
from tusd_py.headers import Headers, InvalidHeader
from tusd_py.origin import Origin, TrustedPeers
from tusd_py.protocol import Limits, ProtocolError
from tusd_py.resumable import Dialect
from tusd_py.tus import APPEND_TYPE, Tus

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypothesis.strategies import SearchStrategy

    from tusd_py.protocol import Response

ID = "8ad1f0b4-6d0e-4b0a-9c0a-1f3f8a3ad6a7"
LIMITS = Limits(1000, 60)
UPLOAD = Upload(id=ID, length=10, metadata=None, created_at=0, expires_at=60, offset=4)

NAMES = [
    *("host", "content-type", "content-length", "transfer-encoding", "content-disposition"),
    *("content-encoding", "content-digest", "repr-digest", "want-repr-digest", "idempotency-key"),
    *("tus-resumable", "upload-offset", "upload-length", "upload-defer-length", "upload-metadata"),
    *("upload-checksum", "upload-concat", "upload-complete", "upload-incomplete", "forwarded"),
    *("upload-draft-interop-version", "x-http-method-override", "x-forwarded-host"),
    *("x-forwarded-proto", "x-forwarded-port", "x-forwarded-prefix"),
]
WORDS = [
    *(b"0", b"1", b"4", b"05", b"+1", b"-1", b"1_0", b"1e3", b"1.0", b"0x1", b"\xb2", b"8"),
    *(b"9" * 15, b"9" * 16, b"9" * 19, b"9" * 20, b"9" * 5000, b"?0", b"?1", b"1.0.0", b"PATCH"),
    *(b";", b"=", b",", b":", b'"', b"\\", b"'", b"(", b")", b"@", b"*", b" ", b"\t", b"%", b"-"),
    *(
        b"\0",
        b"\r\n",
        b"\x7f",
        b"\x80",
        b"\xff",
        b"\xc3\xa4",
        b"%C3%A4",
        b"%00",
        b"//",
        b"..",
        b"[",
    ),
    *(b"sha1", b"sha1 ", b"sha-256=:", b"AAAA", b"YQ==", b":", b"inline; ", b"filename=", b"k "),
    *(b"filename*=", b"UTF-8''", b"final;", b"partial", b"/files/", ID.encode(), b"http://", b"]"),
    *(b"chunked", b"multipart/form-data", b"host=", b"proto=https", b"for=", b"a.example", b":1"),
    *(APPEND_TYPE.encode(), resumable.PARTIAL_TYPE.encode()),
]

VALUES = (
    st.sampled_from(WORDS)
    | st.lists(st.sampled_from(WORDS), max_size=8).map(b"".join)
    | st.binary(max_size=40)
)
METHODS = st.sampled_from(
    ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "patch", "FOO", ""]
)
IDS = st.none() | st.just(ID) | st.text() | st.sampled_from([ID.upper(), f"{ID}/", "..", "a\0b"])


def _pairs(usual: dict[str, list[str]]) -> SearchStrategy[Headers]:
    """Build requests that look real but for some fields, which may come twice or be anything."""
    real = st.fixed_dictionaries(
        {}, optional={name: st.sampled_from(values) for name, values in usual.items()}
    )
    odd = st.lists(st.tuples(st.sampled_from(NAMES), VALUES), max_size=6)
    return st.builds(
        lambda given, more: Headers(
            [(name.encode(), value.encode()) for name, value in given.items()]
            + [(name.encode(), value) for name, value in more]
        ),
        real,
        odd,
    )


LENGTHS = ["0", "5", "10", "9" * 19]
REQUESTS = _pairs(
    {
        "tus-resumable": ["1.0.0"],
        "upload-length": LENGTHS,
        "upload-offset": ["0", "4", "5"],
        "upload-concat": ["partial", f"final;/files/{ID}", f"final;http://a.example/{ID} /{ID}"],
        "upload-complete": ["?0", "?1"],
        "upload-incomplete": ["?0", "?1"],
        "upload-draft-interop-version": ["3", "4", "5", "6", "7", "8"],
        "upload-metadata": ["k", "a YQ==,b"],
        "content-type": [APPEND_TYPE, resumable.PARTIAL_TYPE, "video/mp4"],
        "content-length": LENGTHS,
        "host": ["a.example", "a.example:8000"],
    }
)


def check(response: Response) -> None:
    """Check that a refusal says it was the client's mistake, and can be sent."""
    assert 400 <= response.status < 500
    for name, value in response.headers.items():
        assert re.fullmatch(r"[A-Za-z-]+", name)
        value.encode("latin-1")
        assert not re.search(r"[\x00-\x08\x0a-\x1f\x7f]", value), (name, value)


@given(METHODS, IDS, REQUESTS)
def test_a_tus_request_is_read_or_refused_by_a_client_error(
    method: str, upload_id: str | None, request: Headers
) -> None:
    try:
        action = Tus().parse(method, upload_id, request)
        if isinstance(action, protocol.Create):
            protocol.admit_create(action, ID, 0, LIMITS)
        if isinstance(action, protocol.Append):
            protocol.admit_append(action, UPLOAD, 0, LIMITS)
    except ProtocolError as error:
        check(Tus().refused(error, LIMITS, head=method == "HEAD"))


@given(METHODS, IDS, REQUESTS)
def test_an_ietf_request_is_read_or_refused_by_a_client_error(
    method: str, upload_id: str | None, request: Headers
) -> None:
    resumable.speaks(method, request)
    resumable.unmarked(request)
    dialect, action = Dialect.of(request), None
    try:
        action = dialect.parse(method, upload_id, request)
        if isinstance(action, protocol.Append):
            resumable.admit_append(action, UPLOAD)
            protocol.admit_append(action, UPLOAD, 0, LIMITS)
    except ProtocolError as error:
        head = method == "HEAD"
        check(dialect.refused(error, LIMITS, head=head, action=action, upload=UPLOAD))


@given(st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=20)), max_size=20))
def test_any_list_of_fields_is_taken(pairs: list[tuple[bytes, bytes]]) -> None:
    made = Headers(pairs)
    for name in ("host", *(name.decode("latin-1") for name, _ in pairs)):
        made.joined(name)
        with suppress(InvalidHeader):
            made.one(name)


@pytest.mark.parametrize(
    "parser",
    [
        lambda text: headers.parse_number("upload-offset", text),
        headers.parse_metadata,
        headers.parse_checksum,
        headers.parse_final,
        lambda text: fields.parse_digests("content-digest", text),
    ],
    ids=["number", "metadata", "checksum", "final", "digests"],
)
@given(value=VALUES)
def test_a_strict_parser_raises_nothing_but_invalid_header(
    parser: Callable[[str], object], value: bytes
) -> None:
    with suppress(InvalidHeader):
        parser(value.decode("latin-1"))


@pytest.mark.parametrize(
    "parser",
    [
        *(headers.media_type, fields.parse_boolean, fields.parse_integer, fields.parse_filename),
        fields.parse_wanted_digests,
    ],
    ids=["media type", "boolean", "integer", "filename", "wanted digests"],
)
@given(value=VALUES)
def test_a_lenient_parser_raises_nothing(parser: Callable[[str], object], value: bytes) -> None:
    parser(value.decode("latin-1"))


@given(REQUESTS)
def test_a_field_of_many_lines_is_read_or_refused(request: Headers) -> None:
    fields.build_metadata(request, "video/mp4")
    fields.integer(request, "upload-length")
    for parser in (fields.content_checksum, fields.content_length):
        with suppress(InvalidHeader):
            parser(request)


@given(REQUESTS, st.sampled_from(["", "/api", "/ä b"]), st.text(max_size=40))
def test_no_proxy_can_put_anything_but_an_address_into_a_location(
    request: Headers, root: str, url: str
) -> None:
    origin = Origin(trusted=TrustedPeers.parse("unix"))
    reach = origin.of({"client": None, "scheme": "http", "root_path": root}, request)
    location = reach.location(ID)
    authority = r"([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?"
    path = r"(/[A-Za-z0-9._~!$&'()*+;=:@%-]+)+"
    assert re.fullmatch(rf"(https?://{authority})?{path}", location), location
    assert reach.owns(location)
    reach.owns(url)


def test_the_largest_numbers_fit() -> None:
    assert headers.parse_number("upload-length", "9" * 19) == 10**19 - 1
    assert fields.parse_integer("9" * 15) == fields.MAX_INTEGER


KEYS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters=","))


@given(st.dictionaries(KEYS.filter(bool), st.binary(max_size=30), max_size=5))
def test_metadata_is_read_as_it_was_encoded(pairs: dict[str, bytes]) -> None:
    encoded = [f"{key} {base64.b64encode(value).decode()}" for key, value in pairs.items()]
    assert headers.parse_metadata(",".join(encoded)) == pairs


@given(
    st.lists(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1), min_size=1)
)
def test_the_parts_of_a_final_are_read_in_their_order(urls: list[str]) -> None:
    assert headers.parse_final(f"final;{' '.join(urls)}") == urls


@given(st.integers(0, 4_000_000_000))
def test_a_date_is_read_as_it_was_built(seconds: int) -> None:
    assert parsedate_to_datetime(headers.build_date(seconds)).timestamp() == seconds


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=64, max_size=64))
def test_digests_are_read_as_they_were_built(short: bytes, long: bytes) -> None:
    digests = {"sha-512": long, "sha-256": short}
    assert fields.parse_digests("repr-digest", fields.build_digests(digests)) == digests


@given(
    st.dictionaries(
        st.sampled_from(["min-size", "max-size", "max-age", "expires"]),
        st.integers(0, 10**19) | st.floats(0, 1e300),
        min_size=1,
    )
)
def test_limits_are_integers_that_anybody_can_read(limits: dict[str, float]) -> None:
    built = fields.build_limits(limits).encode()
    read = cast("dict[str, tuple[int, object]]", http_sf.parse(built, tltype="dictionary"))
    assert {key: item[0] for key, item in read.items()} == {
        key: int(min(value, fields.MAX_INTEGER)) for key, value in limits.items()
    }


NAME = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40)


@given(NAME)
def test_a_download_is_named_as_its_upload_was(name: str) -> None:
    built = content_disposition("attachment", name.encode())
    built.encode("ascii")
    assert not re.search(r"[\x00-\x1f\x7f]", built)
    once = fields.parse_filename(built)
    if once is None:
        assert built == "attachment", "nothing but what names no file"
    else:
        assert fields.parse_filename(content_disposition("attachment", once.encode())) == once
