"""Every rule of Resumable Uploads for HTTP that needs no server; R names a case of its table."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.upload import Upload
from tusd_py.headers import Headers, parse_metadata
from tusd_py.protocol import (
    Append,
    Code,
    Create,
    Discover,
    Head,
    Limits,
    ProtocolError,
    Response,
    Terminate,
)
from tusd_py.resumable import (
    Dialect,
    Problem,
    ProblemError,
    admit_append,
    check_complete,
    replays,
    speaks,
    unmarked,
)
from tusd_py.tus import APPEND_TYPE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tusd_py.protocol import Action

ID = "6f1c1ad4-6d2c-4b2e-9a53-0f6dbb1c8a11"
URL = f"/files/{ID}"
LIMITS = Limits(max_size=1000, expiration=60.0)
UPLOAD = Upload(ID, 10, None, created_at=100.0, expires_at=160.0, offset=4)
COMPLETE = replace(UPLOAD, offset=10, complete=True)
NOW = 110.0
VERSIONS = range(3, 9)
LIMIT = "min-size=0, max-size=1000"
PARTIAL = {"content-type": "application/partial-upload"}
APPEND = PARTIAL | {"upload-offset": "4", "upload-complete": "?0"}
FINAL = Response(201, {"Content-Type": "application/json"}, b'{"id": 1}')
SHA256 = base64.b64encode(bytes(32)).decode()


def headers(fields: Mapping[str, str], version: int | None = None) -> Headers:
    given = dict(fields)
    if version is not None:
        given["upload-draft-interop-version"] = str(version)
    return Headers([(name.encode(), value.encode("latin-1")) for name, value in given.items()])


def parse(
    method: str, upload_id: str | None, fields: Mapping[str, str], version: int | None = 8
) -> Action:
    given = headers(fields, version)
    return Dialect.of(given).parse(method, upload_id, given)


def refusal(
    method: str, upload_id: str | None, fields: Mapping[str, str], version: int | None = 8
) -> ProtocolError:
    with pytest.raises(ProtocolError) as caught:
        parse(method, upload_id, fields, version)
    return caught.value


def create(length: int | None, size: int | None, *, completes: bool) -> Create:
    return Create(length, None, body=True, content_length=size, completes=completes)


def append(length: int | None, size: int | None, *, completes: bool, offset: int = 4) -> Append:
    return Append(ID, offset, size, length=length, completes=completes)


def flags(version: int) -> tuple[dict[str, str], dict[str, str]]:
    """Return what says "not complete" and what says "complete" in a version."""
    name, values = ("Upload-Complete", ("?0", "?1"))
    if version == 3:
        name, values = ("Upload-Incomplete", ("?1", "?0"))
    return {name: values[0]}, {name: values[1]}


# Whose request it is.


@pytest.mark.parametrize(
    ("method", "fields", "version", "ours"),
    [
        pytest.param("PATCH", APPEND | {"tus-resumable": "1.0.0"}, 6, False, id="R1-PATCH"),
        pytest.param("POST", {"upload-complete": "?1", "tus-resumable": "1.0.0"}, 6, False,
                     id="R1-POST"),
        pytest.param("HEAD", {"tus-resumable": "0.2"}, 3, False, id="R1-HEAD"),
        *[pytest.param(m, {}, v, True, id=f"R2-{v}-{m}")
          for v in VERSIONS for m in ("POST", "HEAD", "GET", "PATCH", "DELETE", "OPTIONS")],
        pytest.param("POST", {"upload-complete": "?1"}, None, True, id="R3-POST"),
        pytest.param("PUT", {"upload-complete": "?0"}, None, True, id="R3-PUT"),
        pytest.param("POST", {"upload-complete": "?1"}, 9, True, id="R3-a-later-version"),
        pytest.param("POST", {"upload-incomplete": "?0"}, None, True, id="R3-Upload-Incomplete"),
        pytest.param("OPTIONS", {}, None, True, id="R4"),
        *[pytest.param("POST", {"upload-complete": value}, None, False, id=f"R10-{value}")
          for value in ("?2", "true", "1", "?0, ?1")],
        pytest.param("POST", {"upload-complete": "?1;x=y"}, None, True, id="R11"),
        *[pytest.param(method, {}, None, True, id=f"R43-{method}")
          for method in ("HEAD", "DELETE")],
        pytest.param("PATCH", PARTIAL, None, True, id="R43-PATCH"),
        ("GET", {}, None, False),
        ("POST", {}, None, False),
        ("POST", {}, 2, False),
        ("PATCH", {"content-type": APPEND_TYPE, "upload-offset": "0"}, None, False),
    ],
)  # fmt: skip
def test_a_request_is_of_this_dialect_when_it_says_so(
    method: str, fields: Mapping[str, str], version: int | None, *, ours: bool
) -> None:
    assert speaks(method, headers(fields, version)) is ours


def test_a_request_without_any_marks_leaves_it_to_the_upload() -> None:
    assert unmarked(headers(PARTIAL))
    assert not unmarked(headers({}, 6))
    assert not unmarked(headers({"upload-complete": "?1"}))
    assert not unmarked(headers({"tus-resumable": "1.0.0"}))


@pytest.mark.parametrize(
    ("fields", "version", "dialect"),
    [
        *[({}, version, Dialect(version)) for version in VERSIONS],
        ({}, None, Dialect(8, announced=False)),
        ({"upload-complete": "?1"}, 9, Dialect(8, announced=False)),
        ({"upload-incomplete": "?1"}, None, Dialect(3, announced=False)),
        ({"upload-draft-interop-version": "6;a=b"}, None, Dialect(6)),
        ({"upload-draft-interop-version": '"6"'}, None, Dialect(8, announced=False)),
    ],
)
def test_a_version_is_told_by_its_header(
    fields: Mapping[str, str], version: int | None, dialect: Dialect
) -> None:
    assert Dialect.of(headers(fields, version)) == dialect


# What it asks for.

ONE, ZERO = {"upload-complete": "?1"}, {"upload-complete": "?0"}
FIVE = {"content-length": "5"}


@pytest.mark.parametrize(
    ("method", "upload_id", "fields", "version", "action"),
    [
        pytest.param("OPTIONS", None, {}, None, Discover(), id="R4"),
        pytest.param("OPTIONS", ID, {}, 6, Discover(), id="R4-upload"),
        pytest.param("POST", None, ONE | FIVE, 8, create(5, 5, completes=True), id="R6"),
        pytest.param("POST", None, ZERO | {"content-length": "0"}, 8,
                     create(None, 0, completes=False), id="R7"),
        pytest.param("POST", None, ZERO | FIVE | {"upload-length": "10"}, 8,
                     create(10, 5, completes=False), id="R8"),
        pytest.param("PUT", None, ONE, 8, create(None, None, completes=True), id="R9-PUT"),
        pytest.param("PATCH", None, ONE, 8, create(None, None, completes=True), id="R9-PATCH"),
        pytest.param("POST", None, {"upload-complete": "?1;x=y"}, 8,
                     create(None, None, completes=True), id="R11"),
        *[pytest.param("POST", None, ZERO | {"upload-length": value}, 8,
                       create(None, None, completes=False), id=f"R12-{value}")
          for value in ("5.0", '"5"', "abc", "1" * 16, "-5")],
        pytest.param("POST", None, ZERO | {"upload-length": "5;p=1"}, 8,
                     create(5, None, completes=False), id="R13"),
        pytest.param("POST", None, {"upload-incomplete": "?0"} | FIVE, 3,
                     create(5, 5, completes=True), id="R6-version-3"),
        pytest.param("POST", None, {"upload-incomplete": "?1"} | FIVE, 3,
                     create(None, 5, completes=False), id="R8-version-3"),
        pytest.param("HEAD", ID, {}, 8, Head(ID), id="R22"),
        pytest.param("GET", ID, {}, 8, Head(ID), id="R23"),
        pytest.param("HEAD", ID, {"upload-offset": "1"}, 6, Head(ID), id="R25-only-before-6"),
        pytest.param("PATCH", ID, APPEND | FIVE, 8, append(None, 5, completes=False), id="R26"),
        pytest.param("PATCH", ID, APPEND | ONE | FIVE, 8, append(9, 5, completes=True), id="R27"),
        pytest.param("PATCH", ID, APPEND | ONE | {"content-length": "0"}, 8,
                     append(4, 0, completes=True), id="R28"),
        pytest.param("PATCH", ID, {"upload-offset": "4"}, 3, append(None, None, completes=True),
                     id="R31-version-3"),
        pytest.param("PATCH", ID, {"upload-offset": "4", "upload-incomplete": "?1"}, 3,
                     append(None, None, completes=False), id="R36-version-3"),
        *[pytest.param("PATCH", ID, {"upload-offset": "4"} | ZERO, version,
                       append(None, None, completes=False), id=f"R36-version-{version}")
          for version in (4, 5)],
        pytest.param("PATCH", ID, APPEND | {"content-type": "Application/Partial-Upload; a=b"}, 8,
                     append(None, None, completes=False), id="R35"),
        pytest.param("DELETE", ID, {}, 8, Terminate(ID), id="R42"),
        pytest.param("HEAD", ID, {}, None, Head(ID), id="R43-HEAD"),
        pytest.param("DELETE", ID, {}, None, Terminate(ID), id="R43-DELETE"),
        pytest.param("PATCH", ID, APPEND, None, append(None, None, completes=False),
                     id="R43-PATCH"),
    ],
)  # fmt: skip
def test_a_request_is_read_as_its_action(
    method: str,
    upload_id: str | None,
    fields: Mapping[str, str],
    version: int | None,
    action: Action,
) -> None:
    assert parse(method, upload_id, fields, version) == action


@pytest.mark.parametrize(
    ("method", "upload_id", "fields", "version", "code"),
    [
        *[pytest.param("POST", None, {"upload-complete": value}, 8, Code.INVALID_HEADER,
                       id=f"R10-{value}") for value in ("?2", "true", "1", "?0, ?1")],
        *[pytest.param("PATCH", ID, APPEND | {"upload-offset": value}, 8, Code.INVALID_HEADER,
                       id=f"R12-R32-{value}")
          for value in ("5.0", '"5"', "abc", "1" * 16, "-5", "", "4, 4")],
        pytest.param("HEAD", None, {}, 8, Code.METHOD_NOT_ALLOWED, id="HEAD-of-the-target"),
        pytest.param("POST", ID, ONE, 8, Code.METHOD_NOT_ALLOWED, id="POST-to-an-upload"),
        pytest.param("HEAD", "../etc", {}, 8, Code.NOT_FOUND, id="R24"),
        *[pytest.param(method, ID, fields, version, Code.INVALID_HEADER,
                       id=f"R25-{method}-{version}-{next(iter(fields))}")
          for method in ("HEAD", "DELETE")
          for version, fields in [(3, {"upload-offset": "1"}), (3, {"upload-incomplete": "?1"}),
                                  (4, ZERO), (5, {"upload-offset": "1"})]],
        *[pytest.param("PATCH", ID, PARTIAL | {"upload-offset": "4"}, version,
                       Code.INVALID_HEADER, id=f"R31-{version}") for version in (6, 7, 8, None)],
        pytest.param("PATCH", ID, {"upload-offset": "4", "upload-incomplete": "?2"}, 3,
                     Code.INVALID_HEADER, id="R31-version-3-malformed"),
        pytest.param("PATCH", ID, PARTIAL | ZERO, 8, Code.INVALID_HEADER, id="R32"),
        *[pytest.param("PATCH", ID, APPEND | {"content-type": kind}, version,
                       Code.INVALID_CONTENT_TYPE, id=f"R34-{version}-{kind}")
          for version in (6, 7, 8)
          for kind in ("", "video/mp4", "application/offset+octet-stream")],
        pytest.param("POST", None, {}, 8, Code.INVALID_HEADER, id="creation-without-the-flag"),
        pytest.param("POST", None, {"upload-complete": "?0"}, 3, Code.INVALID_HEADER,
                     id="the-flag-of-another-version"),
        pytest.param("POST", None, ONE | {"content-length": "-5"}, 8, Code.INVALID_HEADER,
                     id="content-length"),
        pytest.param("POST", None, ONE | {"content-digest": "sha-256=:YQ==:"}, 8,
                     Code.INVALID_HEADER, id="R46-malformed"),
    ],
)  # fmt: skip
def test_what_the_draft_forbids_is_refused(
    method: str,
    upload_id: str | None,
    fields: Mapping[str, str],
    version: int | None,
    code: Code,
) -> None:
    assert refusal(method, upload_id, fields, version).code is code


def test_r14_a_body_and_an_upload_length_that_disagree_are_a_problem() -> None:
    for upload_id, fields in ((None, ONE), (ID, APPEND | ONE)):
        method = "PATCH" if upload_id else "POST"
        error = refusal(method, upload_id, fields | FIVE | {"upload-length": "10"})
        assert isinstance(error, ProblemError)
        assert error.problem is Problem.INCONSISTENT_LENGTH
        assert error.code.status == 400


def test_r34_says_what_it_would_take() -> None:
    error = refusal("PATCH", ID, {})
    assert error.headers == {"Accept-Patch": "application/partial-upload"}


def test_r46_a_content_digest_is_what_the_body_is_checked_by() -> None:
    for method, upload_id, fields in (("POST", None, ONE), ("PATCH", ID, APPEND)):
        digest = {"content-digest": f"sha-256=:{SHA256}:, unknown=1"}
        action = parse(method, upload_id, fields | digest)
        assert isinstance(action, Create | Append)
        assert action.checksum is not None
        assert action.checksum.algorithm == "sha256"
        assert action.checksum.digest == bytes(32)


@pytest.mark.parametrize(
    ("fields", "metadata"),
    [
        pytest.param({"content-disposition": "inline; filename*=UTF-8''a%20b.mp4",
                      "content-type": "Video/MP4; codecs=avc1"},
                     {"filename": b"a b.mp4", "filetype": b"video/mp4"}, id="R49"),
        pytest.param({"content-disposition": 'inline; filename="a'}, {}, id="R49-malformed"),
        pytest.param({"content-encoding": "gzip"}, {"contentencoding": b"gzip"}, id="R50"),
        ({"content-type": "application/partial-upload"}, {}),
        pytest.param({"content-type": "application/x-www-form-urlencoded"}, {}, id="curl"),
        ({"upload-metadata": "filename Yg==", "content-type": "video/mp4",
          "content-disposition": "inline; filename=a"},
         {"filename": b"b", "filetype": b"video/mp4"}),
        ({"upload-metadata": "filename ???", "content-disposition": "inline; filename=a"},
         {"filename": b"a"}),
    ],
)  # fmt: skip
def test_the_headers_of_the_representation_become_metadata(
    fields: dict[str, str], metadata: Mapping[str, bytes]
) -> None:
    action = parse("POST", None, ONE | fields)
    assert isinstance(action, Create)
    assert parse_metadata(action.metadata or "") == metadata


# Whether it may.


def test_an_append_that_fits_is_admitted() -> None:
    for action in (append(None, 5, completes=False), append(10, 6, completes=True)):
        admit_append(action, UPLOAD)
        admit_append(action, replace(UPLOAD, length=None))


@pytest.mark.parametrize(
    ("action", "upload"),
    [
        pytest.param(append(11, 7, completes=True), UPLOAD, id="R15-longer"),
        pytest.param(append(12, 0, completes=False), UPLOAD, id="R15-another-Upload-Length"),
        pytest.param(append(9, 5, completes=True), UPLOAD, id="R29"),
        pytest.param(append(3, 0, completes=False), replace(UPLOAD, length=None),
                     id="less-than-what-is-here"),
        pytest.param(append(11, 7, completes=True), UPLOAD, id="R38"),
    ],
)  # fmt: skip
def test_a_length_that_is_not_the_declared_one_is_a_problem(action: Append, upload: Upload) -> None:
    with pytest.raises(ProblemError) as caught:
        admit_append(action, upload)
    assert caught.value.problem is Problem.INCONSISTENT_LENGTH


@pytest.mark.parametrize("upload", [UPLOAD, COMPLETE], ids=["open", "complete"])
def test_r33_a_wrong_offset_is_told_before_anything_else(upload: Upload) -> None:
    with pytest.raises(ProtocolError) as caught:
        admit_append(append(99, 1, completes=True, offset=5), upload)
    assert caught.value.code is Code.MISMATCHED_OFFSET
    assert caught.value.headers == {"Upload-Offset": str(upload.offset)}


@pytest.mark.parametrize(
    ("action", "again"),
    [
        pytest.param(append(10, 0, completes=True, offset=10), True, id="R53"),
        pytest.param(append(None, None, completes=True, offset=10), True, id="R53-no-length"),
        pytest.param(append(None, 0, completes=False, offset=10), False, id="R37-?0"),
        pytest.param(append(11, 1, completes=True, offset=10), False, id="R37-more-bytes"),
    ],
)
def test_a_complete_upload_takes_nothing_but_gives_its_final_response_again(
    action: Append, *, again: bool
) -> None:
    assert replays(action, COMPLETE) is again
    if again:
        admit_append(action, COMPLETE)
        return
    with pytest.raises(ProblemError) as caught:
        admit_append(action, COMPLETE)
    assert caught.value.problem is Problem.COMPLETED_UPLOAD


def test_r53_only_a_complete_upload_has_a_final_response() -> None:
    assert not replays(append(4, 0, completes=True), UPLOAD)


def test_r29_what_completes_has_to_bring_the_whole_length() -> None:
    check_complete(append(None, None, completes=True), 10, 10)
    check_complete(append(None, None, completes=True), 7, None)
    check_complete(append(None, None, completes=False), 7, 10)
    with pytest.raises(ProblemError) as caught:
        check_complete(create(10, None, completes=True), 7, 10)
    assert caught.value.problem is Problem.INCONSISTENT_LENGTH


# What it is answered.


def test_r4_options_tells_the_limits_to_clients_of_both_protocols() -> None:
    response = Dialect.of(headers({})).discovered(LIMITS)
    assert response.status == 200
    assert response.headers["Upload-Limit"] == f"{LIMIT}, max-age=60"
    assert response.headers["Accept-Patch"] == "application/partial-upload"
    assert response.headers["Tus-Version"] == "1.0.0"
    assert Dialect(6).discovered(LIMITS).headers["Upload-Limit"] == f"{LIMIT}, expires=60"


@pytest.mark.parametrize("version", VERSIONS)
def test_r6_the_104_names_location_version_and_limits(version: int) -> None:
    response = Dialect(version).interim(UPLOAD, URL, LIMITS, NOW)
    assert response is not None
    expected = {"Location": URL, "Upload-Draft-Interop-Version": str(version)}
    if version >= 6:
        age = "expires" if version == 6 else "max-age"
        expected["Upload-Limit"] = f"{LIMIT}, {age}=50"
    assert (response.status, response.headers, response.body) == (104, expected, b"")


@pytest.mark.parametrize("version", VERSIONS)
def test_r18_progress_has_an_offset_and_no_location(version: int) -> None:
    response = Dialect(version).progress(UPLOAD)
    if version < 5:
        assert response is None
        return
    expected = {"Upload-Offset": "4", "Upload-Draft-Interop-Version": str(version)}
    assert response == Response(104, expected)


@pytest.mark.parametrize("fields", [ONE, {"upload-incomplete": "?0"}])
def test_r3_who_names_no_version_gets_no_104_but_an_answer(fields: Mapping[str, str]) -> None:
    dialect = Dialect.of(headers(fields))
    assert dialect.interim(UPLOAD, URL, LIMITS, NOW) is None
    assert dialect.progress(UPLOAD) is None
    assert dialect.created(COMPLETE, URL, LIMITS, NOW, FINAL).status == 201


@pytest.mark.parametrize("version", VERSIONS)
def test_r7_r8_an_open_creation_is_answered_with_where_to_go_on(version: int) -> None:
    response = Dialect(version).created(UPLOAD, URL, LIMITS, NOW, FINAL)
    expected = {"Location": URL, "Upload-Offset": "4"} | flags(version)[0]
    if version >= 6:
        age = "expires" if version == 6 else "max-age"
        expected["Upload-Limit"] = f"{LIMIT}, {age}=50"
    assert (response.status, response.headers, response.body) == (201, expected, b"")


@pytest.mark.parametrize("version", VERSIONS)
def test_r6_r27_what_completes_is_answered_with_the_result(version: int) -> None:
    dialect = Dialect(version)
    response = dialect.created(COMPLETE, URL, LIMITS, NOW, FINAL)
    expected = {"Location": URL, "Upload-Offset": "10", "Content-Type": "application/json"}
    expected |= flags(version)[1] | ({"Upload-Limit": LIMIT} if version >= 6 else {})
    assert (response.status, response.headers, response.body) == (201, expected, b'{"id": 1}')
    assert dialect.appended(COMPLETE, URL, LIMITS, NOW, FINAL) == response


def test_r54_the_result_may_name_a_location_but_not_the_state() -> None:
    final = Response(200, {"Location": "/jobs/1", "Upload-Complete": "?0"}, b"{}")
    response = Dialect(8).created(COMPLETE, URL, LIMITS, NOW, final)
    assert response.status == 200
    assert response.headers["Location"] == "/jobs/1"
    assert response.headers["Upload-Complete"] == "?1"


@pytest.mark.parametrize("version", VERSIONS)
def test_r26_an_append_is_acknowledged_with_flag_and_offset(version: int) -> None:
    response = Dialect(version).appended(UPLOAD, URL, LIMITS, NOW)
    assert response.status == (201 if version <= 6 else 204)
    assert "Location" not in response.headers
    assert response.headers.items() >= ({"Upload-Offset": "4"} | flags(version)[0]).items()


def test_r30_an_offset_at_the_length_is_not_complete_before_the_client_says_so() -> None:
    full = replace(UPLOAD, offset=10)
    assert Dialect(8).stands_at(full, LIMITS, NOW).headers["Upload-Complete"] == "?0"
    assert Dialect(8).appended(full, URL, LIMITS, NOW).headers["Upload-Complete"] == "?0"


@pytest.mark.parametrize("version", VERSIONS)
def test_r22_head_tells_all_there_is(version: int) -> None:
    response = Dialect(version).stands_at(UPLOAD, LIMITS, NOW)
    expected = {"Upload-Offset": "4", "Upload-Length": "10", "Cache-Control": "no-store"}
    expected |= flags(version)[0]
    if version >= 6:
        age = "expires" if version == 6 else "max-age"
        expected["Upload-Limit"] = f"{LIMIT}, {age}=50"
    assert response == Response(204, expected)


def test_r22_a_length_that_nobody_knows_is_not_told() -> None:
    response = Dialect(8).stands_at(replace(UPLOAD, length=None), LIMITS, NOW)
    assert "Upload-Length" not in response.headers


def test_r41_the_remaining_life_is_whole_seconds_and_never_negative() -> None:
    limit = Dialect(8).stands_at(UPLOAD, LIMITS, 200.0).headers["Upload-Limit"]
    assert limit == f"{LIMIT}, max-age=0"
    limit = Dialect(8).stands_at(UPLOAD, LIMITS, 110.7).headers["Upload-Limit"]
    assert limit == f"{LIMIT}, max-age=49"


def test_r42_delete_is_answered_204() -> None:
    assert Dialect(8).terminated() == Response(204)


# How it is refused.


def refused(
    error: ProtocolError,
    version: int = 8,
    *,
    action: Action | None = None,
    upload: Upload | None = None,
) -> tuple[Response, dict[str, Any]]:
    dialect, head = Dialect(version), isinstance(action, Head)
    response = dialect.refused(error, LIMITS, head=head, action=action, upload=upload)
    return response, json.loads(response.body or "{}")


@pytest.mark.parametrize("version", VERSIONS)
def test_r33_a_mismatching_offset_is_409_with_both_offsets(version: int) -> None:
    action = append(None, 5, completes=False, offset=7)
    error = ProtocolError(Code.MISMATCHED_OFFSET, Upload_Offset="4")
    response, problem = refused(error, version, action=action, upload=UPLOAD)
    assert response.status == 409
    expected = {"Upload-Offset": "4", "Content-Type": "application/problem+json"}
    assert response.headers == expected | flags(version)[0]
    uri = "https://iana.org/assignments/http-problem-types#mismatching-upload-offset"
    assert problem["type"] == uri
    assert (problem["expected-offset"], problem["provided-offset"]) == (4, 7)


def test_r14_r15_r29_an_inconsistent_length_is_400() -> None:
    error = ProblemError(Problem.INCONSISTENT_LENGTH, "why")
    response, problem = refused(error, action=append(11, 7, completes=True), upload=UPLOAD)
    assert response.status == 400
    assert response.headers["Upload-Complete"] == "?0"
    assert response.headers["Upload-Offset"] == "4"
    assert problem["type"].endswith("#inconsistent-upload-length")
    assert problem["detail"] == "why"


@pytest.mark.parametrize("code", [Code.TOO_LARGE, Code.BODY_TOO_LONG])
@pytest.mark.parametrize("action", [create(None, 9, completes=False), None], ids=["R16", "early"])
def test_r16_r17_what_is_beyond_the_limits_is_413_with_the_limits(
    code: Code, action: Action | None
) -> None:
    error = ProtocolError(code, Tus_Max_Size="1000")
    response, problem = refused(error, action=action)
    assert response.status == 413
    assert response.headers["Upload-Limit"] == LIMIT
    assert "Tus-Max-Size" not in response.headers
    assert "type" not in problem
    assert problem["status"] == 413


def test_r38_r39_what_is_beyond_the_declared_length_is_inconsistent_with_it() -> None:
    error = ProtocolError(Code.BODY_TOO_LONG)
    for action, upload in (
        (append(None, None, completes=False), UPLOAD),
        (create(5, None, completes=False), None),
    ):
        response, problem = refused(error, action=action, upload=upload)
        assert response.status == 400
        assert problem["type"].endswith("#inconsistent-upload-length")


def test_r37_a_complete_upload_is_a_problem_to_append_to() -> None:
    response, problem = refused(ProblemError(Problem.COMPLETED_UPLOAD, ""), upload=COMPLETE)
    assert response.status == 400
    assert response.headers["Upload-Complete"] == "?0"
    assert problem["type"].endswith("#completed-upload")


def test_r37_bytes_that_come_late_to_a_complete_upload_are_the_same_problem() -> None:
    action = append(None, None, completes=True)
    response, problem = refused(ProtocolError(Code.BODY_TOO_LONG), action=action, upload=COMPLETE)
    assert response.status == 400
    assert problem["type"].endswith("#completed-upload")


def test_r46_a_mismatching_digest_is_400() -> None:
    response, problem = refused(ProtocolError(Code.CHECKSUM_MISMATCH), upload=UPLOAD)
    assert response.status == 400
    assert problem["type"].endswith("#digest-mismatching-values")


@pytest.mark.parametrize("version", VERSIONS)
def test_r24_what_is_gone_is_404_up_to_version_6_and_410_then(version: int) -> None:
    gone = ProtocolError(Code.GONE)
    status = 404 if version <= 6 else 410
    for action in (Head(ID), Terminate(ID), append(None, 1, completes=False)):
        response, _ = refused(gone, version, action=action, upload=UPLOAD)
        assert response.status == status
        assert "Upload-Offset" not in response.headers
        assert refused(ProtocolError(Code.NOT_FOUND), version, action=action)[0].status == 404


@pytest.mark.parametrize("code", [Code.LOCKED, Code.TAKEN_OVER, Code.STALLED, Code.UNAVAILABLE])
def test_r44_what_can_be_tried_again_is_5xx_but_423_to_head(code: Code) -> None:
    action = append(None, 1, completes=False)
    response, _ = refused(ProtocolError(code, Upload_Offset="6"), action=action, upload=UPLOAD)
    assert response.status == 503
    assert response.headers["Retry-After"] == "1"
    assert response.headers["Upload-Offset"] == "6"
    response, _ = refused(ProtocolError(code), action=Head(ID))
    expected = {"Retry-After": "1", "Cache-Control": "no-store"}
    assert response == Response(423, expected)


def test_only_what_brings_a_representation_is_told_of_completeness() -> None:
    error = ProtocolError(Code.NOT_FOUND)
    assert "Upload-Complete" not in refused(error, action=Terminate(ID))[0].headers
    assert "Upload-Complete" not in refused(error, action=Head(ID))[0].headers
    assert refused(error)[0].headers["Upload-Complete"] == "?0"


@pytest.mark.parametrize("code", Code)
def test_every_refusal_is_a_problem_with_its_status_and_none_of_tus(code: Code) -> None:
    if code is Code.MISMATCHED_OFFSET:
        return
    response, problem = refused(ProtocolError(code, Tus_Version="1.0.0"))
    assert problem["status"] == response.status
    assert problem["title"]
    assert not [name for name in response.headers if name.startswith("Tus-")]


# Whatever comes.

NAMES = (
    "upload-draft-interop-version", "upload-complete", "upload-incomplete", "upload-offset",
    "upload-length", "upload-metadata", "content-type", "content-length", "content-disposition",
    "content-encoding", "content-digest", "tus-resumable",
)  # fmt: skip
VALUES = st.sampled_from(
    ["?0", "?1", "3", "6", "8", "4", "99", "application/partial-upload", "sha-256=:YQ==:", ""]
) | st.text(st.characters(max_codepoint=255), max_size=30)


@given(
    st.sampled_from(["OPTIONS", "POST", "PUT", "PATCH", "HEAD", "GET", "DELETE", "TRACE", ""]),
    st.none() | st.just(ID) | st.text(max_size=9),
    st.lists(st.tuples(st.sampled_from(NAMES), VALUES), max_size=9),
)
def test_nothing_but_a_protocol_error_is_raised(
    method: str, upload_id: str | None, fields: list[tuple[str, str]]
) -> None:
    given = Headers([(name.encode(), value.encode("latin-1")) for name, value in fields])
    speaks(method, given)
    unmarked(given)
    dialect = Dialect.of(given)
    action: Action | None = None
    try:
        action = dialect.parse(method, upload_id, given)
        if isinstance(action, Append):
            admit_append(action, UPLOAD)
    except ProtocolError as error:
        response = dialect.refused(error, LIMITS, head=method == "HEAD", action=action)
        assert 400 <= response.status < 500
    else:
        if isinstance(action, Create | Append):
            assert action.completes is not None
            assert action.length is None or action.length >= 0
        if isinstance(action, Create):
            parse_metadata(action.metadata or "")
