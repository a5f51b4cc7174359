"""Forms are read as RFC 7578 has them, however they are cut, and what is none is told."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from processing.container import HEAD_SIZE
from tests.tusd_py.test_exchange import ListWriter
from tusd_py.multipart import BESIDES, FileTooLarge, Form, InvalidForm, parse_boundary

if TYPE_CHECKING:
    from collections.abc import Sequence

BOUNDARY = b"----of-a-form"
TYPE = f"multipart/form-data; boundary={BOUNDARY.decode()}"
NAMED = b'form-data; name="file"; filename="cars.mp4"'
# What nearly is a delimiter, again and again.
TRICKY = b"\r\n--" + BOUNDARY[:-1] + b"\r\n\r\n--" + BOUNDARY[:-1] + b"--\r\n\r\n-\r"


def part(disposition: bytes, content: bytes, *headers: bytes) -> bytes:
    lines = b"\r\n".join([b"Content-Disposition: " + disposition, *headers])
    return b"--" + BOUNDARY + b"\r\n" + lines + b"\r\n\r\n" + content + b"\r\n"


def option(name: str, value: str) -> bytes:
    return part(f'form-data; name="{name}"'.encode(), value.encode())


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--" + BOUNDARY + b"--\r\n"


@dataclass
class Read:
    """What came of a form."""

    form: Form = field(default_factory=lambda: Form(BOUNDARY, most=10_000))
    writer: ListWriter = field(default_factory=ListWriter)

    def feed(self, pieces: Sequence[bytes]) -> Read:
        self.form.sink = self.writer
        for piece in pieces:
            self.form.write([piece])
        return self


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def read(data: bytes, size: int = 1 << 20) -> Read:
    return Read().feed(cut(data, size))


@pytest.mark.parametrize("size", [1, 2, 7, 64, 10_000])
@pytest.mark.parametrize("content", [b"", b"x", b"\r\n", b"--", TRICKY, TRICKY * 9, bytes(5000)])
def test_a_file_is_what_was_sent_however_its_form_is_cut(content: bytes, size: int) -> None:
    whole = form(option("frame_skip", "2"), part(NAMED, content), option("min_confidence", ".5"))
    found = read(whole, size)
    assert found.writer.content == content
    assert (found.form.received, found.form.offset) == (len(content), len(whole))
    assert (found.form.has_file, found.form.ended) == (True, True)
    said = {"frame_skip": "2", "min_confidence": ".5", "filename": "cars.mp4"}
    assert found.form.described == said


@given(st.binary(max_size=300), st.lists(st.integers(1, 80), max_size=30))
@example(b"\r\n--" + BOUNDARY[:5], [1])
def test_a_file_is_what_was_sent_wherever_its_form_is_cut(content: bytes, sizes: list[int]) -> None:
    if BOUNDARY in content:
        return
    rest, pieces = form(part(NAMED, content), option("frame_skip", "3")), []
    for size in sizes:
        pieces.append(rest[:size])
        rest = rest[size:]
    found = Read().feed([*pieces, rest])
    assert found.writer.content == content
    assert found.form.described["frame_skip"] == "3"


def test_the_beginning_of_a_file_waits_until_somebody_wants_it() -> None:
    found, content = Form(BOUNDARY, most=10_000), bytes(range(200))
    whole = form(part(NAMED, content))
    found.write([whole[:150]])
    assert found.is_telling is (len(found.head) >= HEAD_SIZE)
    found.write([whole[150:250]])
    assert (found.is_telling, content.startswith(found.head)) == (True, True)
    found.sink = writer = ListWriter()
    found.write([whole[250:]])
    assert writer.content == content


@pytest.mark.parametrize(
    ("before", "behind"),
    [(b"", b""), (b"\r\n", b""), (b"for readers without MIME\r\n", b"nor here"), (b"-", b"\r\n--")],
)
def test_what_stands_before_and_behind_a_form_is_none_of_it(before: bytes, behind: bytes) -> None:
    separator = b"" if before.endswith(b"\n") or not before else b"\r\n"
    found = read(before + separator + form(part(NAMED, b"content")) + behind, 3)
    assert (found.writer.content, found.form.ended) == (b"content", True)


@pytest.mark.parametrize(
    ("disposition", "headers", "described"),
    [
        (b'form-data; name="file"', (), {}),
        (b"form-data; name=file; filename=a.mp4", (), {"filename": "a.mp4"}),
        (b'form-data; filename="a;b.mp4"; name="file"', (), {"filename": "a;b.mp4"}),
        (b'form-data; name="file"; filename="a\\"b.mp4"', (), {"filename": 'a"b.mp4'}),
        ('form-data; name="file"; filename="ü.mp4"'.encode(), (), {"filename": "ü.mp4"}),
        (
            b'form-data; name="file"; filename="\xff.mp4"',
            (),
            {"filename": "\N{REPLACEMENT CHARACTER}.mp4"},
        ),
        # RFC 7578, section 4.2: the extended form is not for forms.
        (
            b"form-data; name=\"file\"; filename=\"a.mp4\"; filename*=UTF-8''b.mp4",
            (),
            {"filename": "a.mp4"},
        ),
        (b'form-data; name="file"; filename="../../etc/passwd"', (),
         {"filename": "../../etc/passwd"}),
        (b'form-data; name="file"; filename=""', (), {}),
        (b'form-data; name="file"; filename="' + b"a" * 999 + b'"', (), {"filename": "a" * 255}),
        (NAMED, (b"Content-Type: video/mp4",), {"filename": "cars.mp4", "filetype": "video/mp4"}),
        (NAMED, (b"content-transfer-encoding: BINARY", b"X-Else: 1"), {"filename": "cars.mp4"}),
    ],
)  # fmt: skip
def test_name_and_type_of_a_file_are_kept_as_text(
    disposition: bytes, headers: tuple[bytes, ...], described: dict[str, str]
) -> None:
    found = read(form(part(disposition, b"content", *headers)))
    assert (found.form.described, found.writer.content) == (described, b"content")


def test_other_parts_are_passed_over() -> None:
    other = part(b'form-data; name="notes"; filename="b.mp4"', b"other" * 99)
    nested = part(
        b'form-data; name="more"', b"--in\r\n\r\nx\r\n--in--", b"Content-Type: multipart/mixed"
    )
    found = read(form(other, part(NAMED, b"content"), nested), 11)
    assert (found.writer.content, found.form.described) == (b"content", {"filename": "cars.mp4"})


def test_a_form_that_lacks_its_last_delimiter_has_not_ended() -> None:
    found = read(form(part(NAMED, b"content"))[:-6])
    assert (found.form.has_file, found.form.ended) == (False, False)
    assert not read(b"").form.ended
    assert read(form()).form.ended


FILE = part(NAMED, b"content")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (form(FILE, FILE), "file: expected one part of this name, got another one"),
        (form(option("frame_skip", "2"), option("frame_skip", "2")), "frame_skip: expected one"),
        (form(option("frame_skip", "0")), "frame_skip: expected an integer from 1 to 1000, got"),
        (form(option("min_confidence", "2")), "min_confidence: expected a number from 0 to 1"),
        (form(option("frame_skip", "1" * 9999)), "frame_skip: expected at most 256 bytes"),
        (form(part(b"form-data", b"")), "content-disposition: expected form-data with a name"),
        (form(part(b'attachment; name="file"', b"")), "content-disposition: expected form-data"),
        (b"--" + BOUNDARY + b"\r\n\r\ncontent\r\n", "content-disposition: expected form-data"),
        (
            form(part(NAMED, b"Y29udGVudA==", b"Content-Transfer-Encoding: base64")),
            "content-transfer-encoding: expected none, got 'base64'",
        ),
        (form(part(NAMED, b"", b"X: " + b"x" * 9999)), "expected a form, got what is none"),
        (form(part(NAMED, b"", *[b"X: y"] * 99)), "expected a form, got what is none"),
        (form(part(NAMED, b"", b"no header at all")), "expected a form, got what is none"),
        (form(*[option("x", "y")] * 10_000), f"expected a form of {BESIDES} bytes beside its file"),
        (b"x" * (BESIDES + 1), f"expected a form of {BESIDES} bytes beside its file"),
        (form(FILE).replace(BOUNDARY, b"another") * 2000, "bytes beside its file, got more"),
        (form(FILE) + b"x" * (BESIDES + 1), "bytes beside its file, got more"),
        (b"--" + BOUNDARY + b"nothing", "expected a form, got what is none"),
    ],
)
@pytest.mark.parametrize("size", [97, 1 << 20])
def test_what_is_no_form_is_told_from_one(data: bytes, said: str, size: int) -> None:
    with pytest.raises(InvalidForm, match=said):
        read(data, size)


def test_a_file_is_as_large_as_it_may_be_and_not_larger() -> None:
    assert read(form(part(NAMED, bytes(10_000)))).form.received == 10_000
    with pytest.raises(FileTooLarge, match="file: expected at most 10000 bytes, got more"):
        read(form(part(NAMED, bytes(10_001))))


def test_a_file_that_comes_last_ends_where_its_length_says() -> None:
    whole = form(option("frame_skip", "2"), part(NAMED, bytes(5000)))
    found = Form(BOUNDARY, most=10_000)
    found.write([whole[:1000]])
    assert found.file_end(len(whole)) == 5000


@given(st.binary(max_size=400), st.integers(1, 50))
@example(b"\r\n--" + BOUNDARY + b"--", 1)
@example(b"--" + BOUNDARY + b"\r\n:\r\n\r\n", 3)
def test_reading_raises_nothing_but_its_error(data: bytes, size: int) -> None:
    with suppress(InvalidForm):
        read(data, size)


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        (TYPE, BOUNDARY),
        ('Multipart/Form-Data; charset=utf-8; boundary="a b"', b"a b"),
        ("multipart/form-data;boundary=" + "b" * 70, b"b" * 70),
    ],
)
def test_a_boundary_is_found(content_type: str, boundary: bytes) -> None:
    assert parse_boundary(content_type) == boundary


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "application/json",
        "multipart/mixed; boundary=x",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=" + "b" * 71,
        "multipart/form-data; boundary*=x",
    ],
)
def test_a_type_without_a_boundary_is_none_of_a_form(content_type: str) -> None:
    with pytest.raises(InvalidForm, match="content-type: expected"):
        parse_boundary(content_type)
