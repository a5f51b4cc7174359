"""Structured fields, digests and dispositions are read as their RFCs say; nothing else passes."""

from __future__ import annotations

import base64
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tusd_py import fields
from tusd_py.headers import Headers, InvalidHeader

SHA256 = "sha-256=:" + base64.b64encode(bytes(32)).decode() + ":"
SHA512 = "sha-512=:" + base64.b64encode(bytes(64)).decode() + ":"


def headers(*pairs: tuple[str, str]) -> Headers:
    return Headers([(name.encode(), value.encode("latin-1")) for name, value in pairs])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("?1", True),
        ("?0", False),
        pytest.param("?1;x=y", True, id="R11-parameters-are-legal"),
        (" ?1 ", True),
        *[
            pytest.param(text, None, id=f"R10-{text}")
            for text in ("?2", "true", "1", "?0, ?1", "?", "", "?1;X=1", "?1?1", "ü")
        ],
    ],
)
def test_a_boolean_is_an_item(text: str, *, value: bool | None) -> None:
    assert fields.parse_boolean(text) is value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("9" * 15, 10**15 - 1),
        pytest.param("5;p=1", 5, id="R13-parameters-are-legal"),
        *[
            pytest.param(text, None, id=f"R12-{text[:20]}")
            for text in ("5.0", '"5"', "abc", "1" * 16, "9" * 9000, "-5", "?1", "", "5, 5")
        ],
    ],
)
def test_an_integer_is_an_item_and_not_negative(text: str, value: int | None) -> None:
    assert fields.parse_integer(text) == value


def test_equal_lines_of_an_item_count_once_and_unlike_ones_are_no_item() -> None:
    twice = ("upload-offset", "5"), ("upload-offset", "5")
    assert fields.integer(headers(*twice), "upload-offset") == 5
    assert fields.integer(headers(*twice, ("upload-offset", "6")), "upload-offset") is None
    assert fields.integer(headers(), "upload-offset") is None


def test_limits_are_integers_even_when_they_are_too_large_or_fractions() -> None:
    limits = {"min-size": 0, "max-size": 10**18, "max-age": 59.9}
    assert fields.build_limits(limits) == f"min-size=0, max-size={'9' * 15}, max-age=59"


def test_digests_are_read_by_algorithm_and_unknown_ones_left_out() -> None:
    value = f"md5=:YQ==:, {SHA256};q=1, {SHA512}, unixsum=3, other=(1 2)"
    found = fields.parse_digests("repr-digest", value)
    assert found == {"sha-512": bytes(64), "sha-256": bytes(32)}
    assert fields.parse_digests("repr-digest", fields.build_digests(found)) == found


@pytest.mark.parametrize(
    "value", ["sha-256=:YQ==:", "sha-256=abc", "sha-256", "sha-256=(1 2)", "sha-256=:?:", "SHA=1"]
)
def test_a_digest_that_cannot_be_read_is_refused(value: str) -> None:
    with pytest.raises(InvalidHeader, match="content-digest: expected"):
        fields.parse_digests("content-digest", value)


def test_the_best_digest_of_a_body_checks_it() -> None:
    checksum = fields.content_checksum(headers(("content-digest", f"{SHA256}, {SHA512}")))
    assert checksum is not None
    assert (checksum.algorithm, checksum.digest) == ("sha512", bytes(64))
    assert fields.content_checksum(headers(("content-digest", "md5=:YQ==:"))) is None
    assert fields.content_checksum(headers()) is None


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("sha-256=10, sha-512=3", ("sha-256", "sha-512")),
        ("sha-256=1, sha-512=1", ("sha-512", "sha-256")),
        ("sha-256=0, sha-512=?1, md5=10", ()),
        ("sha-256=10;;", ()),
        ("", ()),
    ],
)
def test_wanted_digests_come_in_the_order_of_their_weights(
    value: str, wanted: tuple[str, ...]
) -> None:
    assert fields.parse_wanted_digests(value) == wanted


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("inline; filename*=UTF-8''na%C3%AFve%20clip.mp4", "naïve clip.mp4"),
        ("inline; filename=\"a b.mp4\"; filename*=UTF-8''c%20d.mp4", "c d.mp4"),
        ("inline; filename*=utf-8'en'a.mp4; filename=b.mp4", "a.mp4"),
        ("Attachment ; FileName = a.mp4", "a.mp4"),
        ("inline; filename*=iso-8859-1''na%EFve", "naïve"),
        (r'inline; filename="a\"b;c.mp4"', 'a"b;c.mp4'),
        ("inline; filename=a; filename*=UTF-8''%FF", "a"),
        ("inline; filename=a; filename*=UTF-16''b", "a"),
        ('inline; filename="naïve"'.encode().decode("latin-1"), "naïve"),
        ('inline; filename="naïve"', "naïve"),
        (r'inline; filename="C:\\videos\\a.mp4"', "a.mp4"),
        ('inline; filename="../../etc/a.mp4"', "a.mp4"),
        ("inline", None),
        ('inline; filename="a', None),
        ("inline; filename", None),
        ("inline; filename=a b", None),
        ("inline; filename=a; filename=b", None),
        ("inline filename=a", None),
        ("; filename=a", None),
        ('inline; filename=".."', None),
        ("inline; filename*=UTF-8''a%00b", None),
        ("", None),
    ],
)
def test_a_filename_is_read_and_a_malformed_one_ignored(value: str, name: str | None) -> None:
    assert fields.parse_filename(value) == name


TEXT = st.text(st.characters(max_codepoint=255)) | st.text(
    st.sampled_from("?01;=:,\"'()@%ab*.- \\\tfilename"), max_size=60
)


@given(TEXT)
def test_nothing_but_an_invalid_header_is_raised(text: str) -> None:
    given = headers(("content-digest", text), ("content-disposition", f"inline; {text}"))
    fields.parse_boolean(text)
    fields.parse_integer(text)
    fields.parse_wanted_digests(text)
    fields.parse_filename(text)
    fields.build_metadata(given, "video/mp4")
    with suppress(InvalidHeader):
        fields.content_checksum(given)
