"""Every rule of tus 1.0.0, without a server."""

from __future__ import annotations

from base64 import b64encode
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import errors
from storage.upload import Upload
from tusd_py import protocol
from tusd_py.headers import Checksum, Headers
from tusd_py.protocol import (
    Append,
    Code,
    Concatenate,
    Create,
    Discover,
    Head,
    Limits,
    ProtocolError,
    Terminate,
)
from tusd_py.tus import APPEND_TYPE, Tus

if TYPE_CHECKING:
    from collections.abc import Mapping

ID = "6f1c1ad4-6d2c-4b2e-9a53-0f6dbb1c8a11"
LIMITS = Limits(max_size=1000, expiration=60.0)
UPLOAD = Upload(ID, 10, "filename YQ==", 100.0, 160.0, offset=4, token=1)
# Of "hello".
SHA1 = Checksum("sha1", bytes.fromhex("aaf4c61ddcc5e8a2dabede0f3b482cd9aea9434d"))
APPEND = {"content-type": "application/offset+octet-stream", "upload-offset": "4"}


def parse(
    method: str,
    upload_id: str | None,
    fields: Mapping[str, str],
    version: str | None = "1.0.0",
) -> protocol.Action:
    given = dict(fields) | ({} if version is None else {"tus-resumable": version})
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in given.items()]
    return Tus().parse(method, upload_id, Headers(pairs))


def code_of(method: str, upload_id: str | None, fields: Mapping[str, str], **more: str) -> Code:
    with pytest.raises(ProtocolError) as caught:
        parse(method, upload_id, fields, **more)
    return caught.value.code


@pytest.mark.parametrize(
    ("method", "upload_id", "fields", "action"),
    [
        ("OPTIONS", None, {}, Discover()),
        ("OPTIONS", ID, {}, Discover()),
        ("OPTIONS", "unknown", {"x-http-method-override": "PATCH"}, Discover()),
        ("HEAD", ID, {}, Head(ID)),
        ("DELETE", ID, {}, Terminate(ID)),
        ("PATCH", ID, APPEND, Append(ID, 4, None)),
        ("PATCH", ID, APPEND | {"content-length": "6"}, Append(ID, 4, 6)),
        ("PATCH", ID, APPEND | {"content-type": "Application/Offset+octet-stream; x=y"},
         Append(ID, 4, None)),
        ("PATCH", ID, APPEND | {"upload-length": "10"}, Append(ID, 4, None, 10)),
        ("POST", ID, APPEND | {"x-http-method-override": "PATCH"}, Append(ID, 4, None)),
        ("POST", ID, APPEND | {"x-http-method-override": "patch"}, Append(ID, 4, None)),
        ("POST", ID, {"x-http-method-override": "DELETE"}, Terminate(ID)),
        ("POST", ID, {"x-http-method-override": "HEAD"}, Head(ID)),
        ("POST", None, {"upload-length": "5"}, Create(5, None, body=False, content_length=None)),
        ("POST", None, {"upload-length": "0"}, Create(0, None, body=False, content_length=None)),
        ("POST", None, {"upload-length": "05"}, Create(5, None, body=False, content_length=None)),
        ("POST", None, {"upload-length": "5", "upload-metadata": ""},
         Create(5, None, body=False, content_length=None)),
        ("POST", None, {"upload-length": "5", "upload-metadata": "k,a YQ=="},
         Create(5, "k,a YQ==", body=False, content_length=None)),
        ("POST", None, {"upload-length": "5", "content-type": APPEND_TYPE,
                        "content-length": "3"}, Create(5, None, body=True, content_length=3)),
        ("POST", None, {"upload-length": "5", "content-type": "multipart/form-data; boundary=x"},
         Create(5, None, body=False, content_length=None)),
        ("POST", None, {"upload-length": "5", "content-type": "text/plain", "content-length": "0"},
         Create(5, None, body=False, content_length=0)),
        ("POST", None, {"upload-length": "5", "upload-concat": "partial"},
         Create(5, None, body=False, content_length=None, partial=True)),
        ("POST", None, {"upload-concat": f"final;/files/{ID} /files/{ID}/", "upload-metadata": "k"},
         Concatenate((ID, ID), f"final;/files/{ID} /files/{ID}/", "k")),
        ("POST", None, {"upload-concat": f"final;http://here:1/api/files/{ID}", "host": "here:1"},
         Concatenate((ID,), f"final;http://here:1/api/files/{ID}", None)),
        ("POST", None, {"upload-defer-length": "1"},
         Create(None, None, body=False, content_length=None)),
        ("PATCH", ID, APPEND | {"upload-checksum": "sha1 qvTGHdzF6KLavt4PO0gs2a6pQ00="},
         Append(ID, 4, None, checksum=SHA1)),
        ("POST", None, {"upload-length": "5", "content-type": APPEND_TYPE,
                        "upload-checksum": "sha1 qvTGHdzF6KLavt4PO0gs2a6pQ00="},
         Create(5, None, body=True, content_length=None, checksum=SHA1)),
    ],
)  # fmt: skip
def test_a_request_is_read_as_its_action(
    method: str, upload_id: str | None, fields: Mapping[str, str], action: protocol.Action
) -> None:
    assert parse(method, upload_id, fields) == action


@pytest.mark.parametrize(
    ("method", "upload_id", "fields", "code"),
    [
        ("PUT", ID, {}, Code.METHOD_NOT_ALLOWED),
        ("GET", ID, {}, Code.METHOD_NOT_ALLOWED),
        ("POST", ID, {}, Code.METHOD_NOT_ALLOWED),
        ("POST", ID, {"x-http-method-override": "FOO"}, Code.METHOD_NOT_ALLOWED),
        ("HEAD", None, {}, Code.METHOD_NOT_ALLOWED),
        ("PATCH", None, APPEND, Code.METHOD_NOT_ALLOWED),
        ("DELETE", None, {}, Code.METHOD_NOT_ALLOWED),
        ("HEAD", "..%2f..%2fetc%2fpasswd", {}, Code.NOT_FOUND),
        ("HEAD", "../../etc/passwd", {}, Code.NOT_FOUND),
        ("HEAD", f"{ID}.log", {}, Code.NOT_FOUND),
        ("HEAD", f"{ID}\0", {}, Code.NOT_FOUND),
        ("HEAD", ID.upper(), {}, Code.NOT_FOUND),
        ("HEAD", ID.replace("-", ""), {}, Code.NOT_FOUND),
        ("PATCH", "nothing", APPEND, Code.NOT_FOUND),
        ("PATCH", ID, {"upload-offset": "4"}, Code.INVALID_CONTENT_TYPE),
        ("PATCH", ID, APPEND | {"content-type": "application/octet-stream"},
         Code.INVALID_CONTENT_TYPE),
        ("PATCH", ID, {"content-type": APPEND_TYPE}, Code.INVALID_HEADER),
        ("POST", None, {"upload-length": "5", "content-type": "text/plain", "content-length": "5"},
         Code.INVALID_CONTENT_TYPE),
        ("POST", None, {"upload-length": "5", "content-type": "text/plain",
                        "transfer-encoding": "chunked"}, Code.INVALID_CONTENT_TYPE),
        ("POST", None, {"upload-concat": "final;http://[/files/x"}, Code.INVALID_HEADER),
        *(
            ("PATCH", ID, APPEND | {"upload-offset": text}, Code.INVALID_HEADER)
            for text in ("-1", "abc", "1.0", "0x0", "1e1", "", "+0", "0,0", "9" * 26)
        ),
        ("POST", None, {}, Code.INVALID_HEADER),
        *(
            ("POST", None, {"upload-length": text}, Code.INVALID_HEADER)
            for text in ("-1", "abc", "1.5", "0x10", "1e3", "", "5,5", "+5", "1" * 301)
        ),
        ("POST", None, {"upload-length": "5", "upload-metadata": "k !"}, Code.INVALID_HEADER),
        ("POST", None, {"upload-length": "5", "upload-defer-length": "1"}, Code.INVALID_HEADER),
        *(
            ("POST", None, {"upload-concat": text, "host": "here"}, Code.INVALID_HEADER)
            for text in ("final", "final;", "final; ", "bogus", "", f"final;http://there/files/{ID}")
        ),
        ("POST", None, {"upload-concat": f"final;/files/{ID}", "upload-length": "5"},
         Code.INVALID_HEADER),
        ("POST", None, {"upload-concat": "final;/files/../../etc/passwd"}, Code.NOT_FOUND),
        ("POST", None, {"upload-concat": f"final;/files/{ID}", "content-length": "5"},
         Code.FINAL_IS_FIXED),
        *(
            ("POST", None, {"upload-defer-length": text}, Code.INVALID_HEADER)
            for text in ("0", "2", "true", "")
        ),
        *(
            ("PATCH", ID, APPEND | {"upload-checksum": text}, Code.INVALID_HEADER)
            for text in ("sha1", "sha1 !!", "", " YQ==", "sha3 YQ==", "SHA1 YQ==")
        ),
        ("POST", None, {"upload-length": "5", "upload-metadata": "k,k"}, Code.INVALID_HEADER),
        ("POST", None, {"upload-length": "5", "upload-metadata": f"k {'A' * 20_000}"},
         Code.HEADERS_TOO_LARGE),
    ],
)  # fmt: skip
def test_a_bad_request_is_refused_with_its_code(
    method: str, upload_id: str | None, fields: Mapping[str, str], code: Code
) -> None:
    assert code_of(method, upload_id, fields) is code


@pytest.mark.parametrize("version", [None, "0.2.2", "1.0", "", "1.0.0, 2.0.0"])
@pytest.mark.parametrize(
    ("method", "upload_id"), [("POST", None), ("HEAD", ID), ("PATCH", ID), ("DELETE", ID)]
)
def test_another_version_is_refused_and_ours_is_named(
    method: str, upload_id: str | None, version: str | None
) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse(method, upload_id, APPEND | {"upload-length": "5"}, version)
    response = Tus().refused(caught.value, LIMITS, head=method == "HEAD")
    assert response.status == 412
    assert response.headers["Tus-Version"] == "1.0.0"
    assert response.headers["Tus-Resumable"] == "1.0.0"


def test_a_version_that_a_proxy_doubled_is_accepted() -> None:
    assert parse("HEAD", ID, {}, "1.0.0, 1.0.0") == Head(ID)


@pytest.mark.parametrize("version", [None, "0.0.1", "nonsense"])
def test_discovery_ignores_the_version(version: str | None) -> None:
    assert parse("OPTIONS", None, {}, version) == Discover()


def test_discovery_is_true_to_the_configuration() -> None:
    response = Tus().discovered(LIMITS)
    assert response.status == 200
    assert response.headers == {
        "Tus-Resumable": "1.0.0",
        "Tus-Version": "1.0.0",
        "Tus-Extension": (
            "creation,creation-with-upload,creation-defer-length,expiration,checksum,"
            "checksum-trailer,termination,concatenation,concatenation-unfinished"
        ),
        "Tus-Max-Size": "1000",
        "Tus-Checksum-Algorithm": "sha1,md5,crc32,crc32c,sha256,sha512,blake2b",
    }


def test_a_creation_makes_a_record() -> None:
    action = Create(1000, "k", body=False, content_length=None)
    assert protocol.admit_create(action, ID, 100.0, LIMITS) == Upload(ID, 1000, "k", 100.0, 160.0)


@pytest.mark.parametrize("length", [1001, 2**53 + 1, 2**63, 10**19 - 1])
def test_a_creation_above_the_limit_is_413_and_names_the_limit(length: int) -> None:
    action = Create(length, None, body=False, content_length=None)
    with pytest.raises(ProtocolError) as caught:
        protocol.admit_create(action, ID, 0.0, LIMITS)
    response = Tus().refused(caught.value, LIMITS, head=False)
    assert (response.status, response.headers["Tus-Max-Size"]) == (413, "1000")


def base64(text: str) -> str:
    return b64encode(text.encode("latin-1")).decode()


@pytest.mark.parametrize(
    "metadata",
    [
        f"frame_skip {base64('2')},min_confidence {base64('0.5')}",
        # An empty value is as good as none, and other keys are the client's own.
        f"frame_skip,other_frame_skip {base64('0')}",
        f"{base64('frame_skip')} {base64('0')}",
    ],
)
def test_options_in_range_are_kept_as_they_came(metadata: str) -> None:
    create = Create(5, metadata, body=False, content_length=None)
    assert protocol.admit_create(create, ID, 1.0, LIMITS).metadata == metadata


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("frame_skip", "0", "an integer from 1 to 1000"),
        ("frame_skip", "1001", "an integer from 1 to 1000"),
        ("frame_skip", "2.5", "an integer from 1 to 1000"),
        ("frame_skip", "\xff", "an integer from 1 to 1000"),
        ("min_confidence", "1.01", "a number from 0 to 1"),
        ("min_confidence", "-0.1", "a number from 0 to 1"),
        ("min_confidence", "nan", "a number from 0 to 1"),
    ],
)
def test_an_option_out_of_range_is_refused_at_creation_with_what_was_expected(
    name: str, value: str, expected: str
) -> None:
    metadata = f"filename YQ==,{name} {base64(value)}"
    with pytest.raises(ProtocolError, match=f"{name}: expected {expected}") as caught:
        protocol.admit_create(Create(5, metadata, body=False, content_length=None), ID, 1.0, LIMITS)
    assert caught.value.code is Code.INVALID_HEADER
    final = Concatenate((ID,), "final;/files/x", metadata)
    with pytest.raises(ProtocolError, match=f"{name}: expected {expected}"):
        protocol.admit_final(final, [PART], ID, 150.0, LIMITS)


def test_a_creation_with_more_body_than_length_is_413() -> None:
    with pytest.raises(ProtocolError) as caught:
        protocol.admit_create(Create(5, None, body=True, content_length=6), ID, 0.0, LIMITS)
    assert caught.value.code is Code.BODY_TOO_LONG


@pytest.mark.parametrize(
    ("append", "code"),
    [
        (Append(ID, 3, 1), Code.MISMATCHED_OFFSET),
        (Append(ID, 5, 1), Code.MISMATCHED_OFFSET),
        (Append(ID, 2**63 - 1, 1), Code.MISMATCHED_OFFSET),
        (Append(ID, 4, 7), Code.BODY_TOO_LONG),
        (Append(ID, 4, 6, 11), Code.INVALID_HEADER),
        # The offset is told first: a client heals itself from it.
        (Append(ID, 3, 100), Code.MISMATCHED_OFFSET),
    ],
)
def test_an_append_that_does_not_fit_is_refused(append: Append, code: Code) -> None:
    with pytest.raises(ProtocolError) as caught:
        protocol.admit_append(append, UPLOAD, 150.0, LIMITS)
    assert caught.value.code is code


@pytest.mark.parametrize(
    "append", [Append(ID, 4, 6), Append(ID, 4, 0), Append(ID, 4, None), Append(ID, 4, 1, 10)]
)
def test_an_append_that_fits_is_admitted(append: Append) -> None:
    protocol.admit_append(append, UPLOAD, 150.0, LIMITS)


DEFERRED = replace(UPLOAD, length=None)


@pytest.mark.parametrize(
    ("append", "length"),
    [
        (Append(ID, 4, 6), None),
        (Append(ID, 4, 996), None),
        (Append(ID, 4, 6, 10), 10),
        (Append(ID, 4, 6, 20), 20),
        (Append(ID, 4, 0, 4), 4),
        (Append(ID, 4, 0, 1000), 1000),
    ],
)
def test_a_deferred_length_is_declared_with_an_append(append: Append, length: int | None) -> None:
    assert protocol.admit_append(append, DEFERRED, 150.0, LIMITS) == length


@pytest.mark.parametrize(
    ("append", "code"),
    [
        (Append(ID, 4, 0, 3), Code.INVALID_HEADER),
        (Append(ID, 4, 0, 1001), Code.TOO_LARGE),
        (Append(ID, 4, 6, 5), Code.BODY_TOO_LONG),
        (Append(ID, 4, 997), Code.BODY_TOO_LONG),
        (Append(ID, 3, 0, 10), Code.MISMATCHED_OFFSET),
    ],
)
def test_a_length_that_does_not_fit_is_not_declared(append: Append, code: Code) -> None:
    with pytest.raises(ProtocolError) as caught:
        protocol.admit_append(append, DEFERRED, 150.0, LIMITS)
    assert caught.value.code is code


def test_a_creation_with_more_body_than_the_limit_is_413() -> None:
    with pytest.raises(ProtocolError) as caught:
        protocol.admit_create(Create(None, None, body=True, content_length=1001), ID, 0.0, LIMITS)
    assert caught.value.code is Code.BODY_TOO_LONG


def test_head_says_that_the_length_is_not_known() -> None:
    headers = Tus().stands_at(DEFERRED, LIMITS, 0.0).headers
    assert headers["Upload-Defer-Length"] == "1"
    assert "Upload-Length" not in headers


def test_a_method_that_is_not_allowed_is_answered_with_those_that_are() -> None:
    with pytest.raises(ProtocolError) as caught:
        parse("PUT", ID, {})
    narrow = replace(LIMITS, download=False, termination=False)
    allowed = [
        Tus().refused(caught.value, limits, head=False).headers["Allow"]
        for limits in (LIMITS, narrow)
    ]
    assert allowed == ["OPTIONS, GET, HEAD, PATCH, DELETE", "OPTIONS, HEAD, PATCH"]


def test_a_mismatched_offset_tells_the_right_one() -> None:
    with pytest.raises(ProtocolError) as caught:
        protocol.admit_append(Append(ID, 0, 1), UPLOAD, 150.0, LIMITS)
    response = Tus().refused(caught.value, LIMITS, head=False)
    assert (response.status, response.headers["Upload-Offset"]) == (409, "4")


def test_an_unfinished_upload_expires_and_a_complete_one_does_not() -> None:
    with pytest.raises(ProtocolError) as caught:
        protocol.admit_head(UPLOAD, 160.0)
    assert caught.value.code is Code.GONE
    protocol.admit_head(replace(UPLOAD, offset=10, complete=True), 9e9)


PART = replace(UPLOAD, offset=10, complete=True, concat="partial")


def admit_final(*parts: Upload) -> Upload:
    action = Concatenate(tuple(part.id for part in parts), "final;/files/x", "k")
    return protocol.admit_final(action, parts, ID, 150.0, LIMITS)


def test_a_final_upload_is_as_long_as_its_parts_once_they_all_say_how_long_they_are() -> None:
    unfinished = replace(PART, offset=3, complete=False)
    final = admit_final(PART, unfinished)
    assert (final.waiting, final.concat, final.metadata) == (True, "final;/files/x", "k")
    assert (final.offset, final.length) == (0, 20)
    assert admit_final(PART, replace(unfinished, length=None)).length is None


def test_a_final_upload_that_waits_has_no_offset_and_does_not_expire() -> None:
    final = admit_final(PART, replace(PART, length=None, complete=False))
    protocol.admit_head(final, 9e9)
    assert Tus().stands_at(final, LIMITS, 0.0).headers == {
        "Tus-Resumable": "1.0.0",
        "Cache-Control": "no-store",
        "Upload-Concat": "final;/files/x",
        "Upload-Metadata": "k",
    }
    known = Tus().stands_at(replace(final, length=20), LIMITS, 0.0)
    assert known.headers["Upload-Length"] == "20"
    with pytest.raises(ProtocolError) as caught:
        protocol.admit_append(Append(ID, 0, 0), final, 9e9, LIMITS)
    assert caught.value.code is Code.FINAL_IS_FIXED


def test_parts_are_found_again_in_what_was_received() -> None:
    concat = f"final;/files/{ID}/ http://here/api/files/{ID} {ID}"
    action = parse("POST", None, {"upload-concat": concat, "host": "here"})
    assert isinstance(action, Concatenate)
    assert replace(UPLOAD, concat=concat).parts == action.parts == (ID, ID, ID)


@pytest.mark.parametrize(
    ("part", "code"),
    [
        (replace(PART, concat=None), Code.INVALID_HEADER),
        (replace(PART, concat="final;/files/x"), Code.INVALID_HEADER),
        (replace(PART, length=991, complete=False), Code.TOO_LARGE),
        (replace(PART, length=None, offset=991, complete=False), Code.TOO_LARGE),
        (replace(PART, expires_at=150.0), Code.GONE),
    ],
)
def test_a_final_upload_is_made_of_partial_ones_only(part: Upload, code: Code) -> None:
    with pytest.raises(ProtocolError) as caught:
        admit_final(PART, part)
    assert caught.value.code is code


def test_nothing_is_appended_to_a_final_upload() -> None:
    final = replace(PART, concat="final;/files/x")
    with pytest.raises(ProtocolError) as caught:
        protocol.admit_append(Append(ID, 10, 0), final, 150.0, LIMITS)
    assert caught.value.code is Code.FINAL_IS_FIXED


def test_concatenation_is_told_as_it_was_received_and_partials_expire() -> None:
    headers = Tus().stands_at(PART, LIMITS, 0.0).headers
    assert headers["Upload-Concat"] == "partial"
    assert "Upload-Expires" in headers
    headers = Tus().stands_at(replace(PART, concat="final;/files/x"), LIMITS, 0.0).headers
    assert headers["Upload-Concat"] == "final;/files/x"
    assert "Upload-Expires" not in headers


def test_head_tells_all_and_is_not_cached() -> None:
    response = Tus().stands_at(UPLOAD, LIMITS, 0.0)
    assert response.status == 200
    assert response.body == b""
    assert response.headers == {
        "Tus-Resumable": "1.0.0",
        "Upload-Offset": "4",
        "Upload-Length": "10",
        "Upload-Metadata": "filename YQ==",
        "Upload-Expires": "Thu, 01 Jan 1970 00:02:40 GMT",
        "Cache-Control": "no-store",
    }


def test_head_of_a_complete_upload_without_metadata_names_neither_it_nor_an_expiry() -> None:
    response = Tus().stands_at(
        replace(UPLOAD, metadata=None, offset=10, complete=True), LIMITS, 0.0
    )
    assert "Upload-Metadata" not in response.headers
    assert "Upload-Expires" not in response.headers


@pytest.mark.parametrize("code", list(Code))
def test_head_never_sees_a_temporary_5xx(code: Code) -> None:
    response = Tus().refused(ProtocolError(code), LIMITS, head=True)
    assert response.status < 500 or response.status == 507
    assert response.body == b""
    assert response.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("code", [Code.LOCKED, Code.TAKEN_OVER, Code.STALLED, Code.UNAVAILABLE])
def test_what_passes_says_when_to_try_again(code: Code) -> None:
    assert Tus().refused(ProtocolError(code), LIMITS, head=False).headers["Retry-After"] == "1"


@pytest.mark.parametrize("code", list(Code))
def test_every_refusal_is_a_sentence_under_the_protocols_version(code: Code) -> None:
    response = Tus().refused(ProtocolError(code), LIMITS, head=False)
    assert response.status == code.status
    assert response.body.decode().strip() == code.sentence
    assert response.headers["Tus-Resumable"] == "1.0.0"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.UploadNotFound(), 404),
        (errors.UploadGone(), 410),
        (errors.UploadLocked(), 423),
        (errors.LockLost(), 423),
        (errors.StorageFull(), 507),
        (errors.StoreUnavailable(), 503),
        (errors.RecordBehind(UPLOAD), 423),
        (errors.JournalDamaged(), 410),
        (errors.DiskFailed(), 503),
        (errors.RecordTooNew(), 503),
        (errors.StorageError(), 503),
    ],
)
def test_what_a_store_says_has_one_status(error: errors.StorageError, status: int) -> None:
    assert protocol.as_protocol_error(error).code.status == status


@given(
    st.sampled_from(["GET", "HEAD", "POST", "PATCH", "DELETE", "PUT", "OPTIONS", "FOO", ""]),
    st.none() | st.text() | st.just(ID),
    st.dictionaries(
        st.sampled_from(
            ["upload-offset", "upload-length", "upload-metadata", "content-type", "content-length",
             "tus-resumable", "x-http-method-override"]
        ),
        st.text(st.characters(max_codepoint=255)) | st.sampled_from(["1.0.0", "PATCH", "5"]),
    ),
)  # fmt: skip
def test_parsing_raises_nothing_but_its_error(
    method: str, upload_id: str | None, fields: dict[str, str]
) -> None:
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in fields.items()]
    with suppress(ProtocolError):
        Tus().parse(method, upload_id, Headers(pairs))
