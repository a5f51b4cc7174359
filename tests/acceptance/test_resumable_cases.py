"""The IETF dialect by table: each wrong and each rare request over a real connection, per version.

R names a case of docs/protocol-resumable.md. None minds whether 104 can be sent.
"""

from __future__ import annotations

import gzip
import re
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.process import Server, Site, eventually, new_directory
from tests.acceptance.raw import TUS, Connection, Response, Tus
from tests.acceptance.test_resumable import (
    BODY,
    PARTIAL,
    append,
    begun,
    digest,
    flags,
    head,
    path_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

VERSIONS = [3, 4, 5, 6, 7, 8]
MOST = 2000
WITH_BODY = {"POST", "PUT", "PATCH"}


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """Share one site: no test here minds the uploads of another."""
    with Site(new_directory(), KEEP_UPLOADS_SECONDS="-1", MAX_FILE_SIZE=str(MOST)) as site:
        yield site
    shutil.rmtree(site.directory)


@pytest.fixture(scope="module")
def server(site: Site) -> Server:
    return site.serve()


def final(connection: Connection, *, head: bool = False) -> Response:
    """Return the next response that is not interim."""
    while (answer := connection.receive(head=head)).status < 200:
        pass
    return answer


def ask(
    tus: Tus, method: str, path: str, headers: Mapping[str, str], body: bytes = b""
) -> Response:
    """Send a whole request and return its final response."""
    with Connection(tus.port) as connection:
        size = {"Content-Length": str(len(body))} if method in WITH_BODY else {}
        connection.begin(method, path, {**headers, **size})
        connection.send(body)
        return final(connection, head=method == "HEAD")


def named(version: int | None) -> dict[str, str]:
    return {} if version is None else {"Upload-Draft-Interop-Version": str(version)}


def is_limit(value: str) -> bool:
    return re.fullmatch(r"[a-z-]+=\d{1,15}(, [a-z-]+=\d{1,15})*", value) is not None


def is_refused(answer: Response, status: int) -> bool:
    """Tell whether it is a problem (RFC 9457) with this status, and not of tus."""
    document = answer.json()
    return (
        answer.status == document["status"] == status
        and answer.headers["content-type"] == "application/problem+json"
        and bool(document["title"] and document["detail"])
        and not [name for name in answer.headers if name.startswith("tus-")]
    )


# Whose request it is.


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ["Tus-Resumable", "TUS-Resumable"])
def test_tus_with_the_headers_of_ios_stays_tus(tus: Tus, version: int, name: str) -> None:  # R1
    ios = {name: "1.0.0", **flags(version, complete=True)}
    answer = tus.request("POST", "/files/", {**ios, "Upload-Length": "9"})
    assert (answer.status, answer.headers["tus-resumable"]) == (201, "1.0.0")
    assert "upload-complete" not in answer.headers
    path = path_of(answer)
    kind = {"Content-Type": "application/offset+octet-stream"}
    answer = tus.request("PATCH", path, {**ios, **kind, "Upload-Offset": "0"}, b"12345")
    assert (answer.status, answer.offset) == (204, 5)
    answer = tus.request("HEAD", path, ios)
    assert (answer.status, answer.offset, answer.headers["upload-length"]) == (200, 5, "9")
    assert tus.request("DELETE", path, ios).headers["tus-resumable"] == "1.0.0"


@pytest.mark.parametrize("version", ["2", "9", "99999999999999999999", "6.0", '"6"', "six", ""])
def test_who_names_no_version_of_ours_gets_no_104(tus: Tus, version: str) -> None:  # R3
    headers = {"Upload-Complete": "?1", "Upload-Draft-Interop-Version": version}
    answer = tus.request("POST", "/files/", headers, BODY)
    assert (answer.status, answer.headers["upload-complete"]) == (201, "?1")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
@pytest.mark.parametrize("version", [8, None])
def test_any_method_with_content_creates(tus: Tus, method: str, version: int | None) -> None:  # R9
    answer = ask(tus, method, "/files/", flags(version, complete=True), BODY)
    assert (answer.status, answer.headers["upload-complete"]) == (201, "?1")


@pytest.mark.parametrize("path", ["/files/", "/files/unknown"])
@pytest.mark.parametrize("version", [None, *VERSIONS])
def test_options_always_tells_the_limits(tus: Tus, path: str, version: int | None) -> None:
    # R4, R5, R55
    answer = tus.request("OPTIONS", path, named(version))
    assert answer.status in {200, 204}
    limit = answer.headers["upload-limit"]
    assert limit.startswith(f"min-size=0, max-size={MOST}")
    assert is_limit(limit)


@pytest.mark.parametrize("value", ["?2", "true", "1", "?0, ?1", "", "? 1", '"?1"'])
def test_a_flag_that_is_no_boolean_creates_nothing(tus: Tus, site: Site, value: str) -> None:
    # R10: 400 where the version says whose it is, else it is no request of this protocol.
    before = set(site.uploads.iterdir())
    answer = ask(tus, "POST", "/files/", {**named(8), "Upload-Complete": value}, BODY)
    assert is_refused(answer, 400)
    assert ask(tus, "POST", "/files/", {"Upload-Complete": value}, BODY).status == 412
    assert set(site.uploads.iterdir()) == before


def test_a_flag_with_parameters_is_one(tus: Tus) -> None:  # R11
    answer = ask(tus, "POST", "/files/", {**named(8), "Upload-Complete": "?1;x=y"}, BODY)
    assert answer.headers["upload-complete"] == "?1"


# What it says of its length.


@pytest.mark.parametrize("value", ["5.0", '"5"', "abc", "1" * 16, "-5", "5, 5", "\xb2", "0x5"])
def test_a_length_that_is_no_integer_is_ignored(tus: Tus, value: str) -> None:  # R12
    path = begun(tus, Upload_Length=value)
    seen = head(tus, path)
    assert "upload-length" not in seen.headers
    assert seen.offset == 0


@pytest.mark.parametrize("value", ["5;p=1", "05", " 5 "])
def test_a_length_may_have_parameters_and_zeros(tus: Tus, value: str) -> None:  # R13
    assert head(tus, begun(tus, Upload_Length=value)).headers["upload-length"] == "5"


@pytest.mark.parametrize("version", VERSIONS)
def test_two_lengths_that_differ_are_a_problem(tus: Tus, site: Site, version: int) -> None:  # R14
    before = set(site.uploads.iterdir())
    headers = {**flags(version, complete=True), "Upload-Length": "10"}
    answer = ask(tus, "POST", "/files/", headers, b"12345")
    assert is_refused(answer, 400)
    assert answer.json()["type"].endswith("#inconsistent-upload-length")
    assert set(site.uploads.iterdir()) == before


@pytest.mark.parametrize("length", ["11", "3"])
def test_a_length_declared_once_stays(tus: Tus, length: str) -> None:  # R15
    path = begun(tus, Upload_Length="10")
    answer = append(tus, path, 0, b"12345", complete=False, Upload_Length=length)
    assert is_refused(answer, 400)
    assert answer.json()["type"].endswith("#inconsistent-upload-length")
    seen = head(tus, path)
    assert (seen.offset, seen.headers["upload-length"]) == (0, "10")


def test_a_length_may_be_told_later(tus: Tus) -> None:  # R15
    path = begun(tus)
    assert append(tus, path, 0, b"12345", complete=False, Upload_Length="10").offset == 5
    assert head(tus, path).headers["upload-length"] == "10"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("chunked", [False, True])
def test_a_creation_beyond_the_limit_leaves_nothing(
    tus: Tus, site: Site, version: int, *, chunked: bool
) -> None:  # R16
    before = set(site.uploads.iterdir())
    body = bytes(MOST + 1)
    with Connection(tus.port) as connection:
        more = {"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": str(len(body))}
        connection.begin("POST", "/files/", flags(version, complete=True) | more)
        connection.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked else body)
        answer = final(connection)
    assert is_refused(answer, 413)
    assert ("upload-limit" in answer.headers) is (version >= 6)
    # A journal may stay as a tombstone; nothing may be found.
    left = {path for path in set(site.uploads.iterdir()) - before if path.suffix != ".log"}
    assert not left


@pytest.mark.parametrize("version", VERSIONS)
def test_an_append_beyond_the_limit_is_refused(tus: Tus, version: int) -> None:  # R17
    path = begun(tus, version)
    assert append(tus, path, 0, bytes(1500), complete=False, version=version).offset == 1500
    answer = append(tus, path, 1500, bytes(501), complete=False, version=version)
    assert is_refused(answer, 413)
    assert ("upload-limit" in answer.headers) is (version >= 6)
    assert head(tus, path, version).offset == 1500


# Whether its body is waited for.


@pytest.mark.parametrize("version", [None, *VERSIONS])
def test_a_client_that_waits_is_told_to_go_on(tus: Tus, version: int | None) -> None:  # R19
    with Connection(tus.port) as connection:
        size = {"Content-Length": str(len(BODY)), "Expect": "100-continue"}
        connection.begin("POST", "/files/", flags(version, complete=True) | size)
        seen = []
        while 100 not in seen:
            seen.append(connection.receive().status)
        assert set(seen) <= {100, 104}
        connection.send(BODY)
        assert final(connection).status == 201


@pytest.mark.parametrize("offset", [7, None])
def test_a_client_that_waits_is_refused_before_its_body(tus: Tus, offset: int | None) -> None:
    path = begun(tus)
    told = {} if offset is None else {"Upload-Offset": str(offset)}
    with Connection(tus.port) as connection:
        size = {"Content-Length": "5", "Expect": "100-continue"}
        connection.begin("PATCH", path, PARTIAL | flags(8, complete=False) | told | size)
        assert connection.receive().status == (400 if offset is None else 409)


def test_http_1_0_is_answered_by_the_final_response_alone(tus: Tus) -> None:  # R51, R52
    with Connection(tus.port) as connection:
        lines = ["POST /files/ HTTP/1.0", f"Content-Length: {len(BODY)}"]
        lines += [f"{name}: {value}" for name, value in flags(8, complete=True).items()]
        connection.send("\r\n".join([*lines, "", ""]).encode() + BODY)
        answer = connection.receive()
    assert (answer.status, answer.headers["upload-complete"]) == (201, "?1")
    assert head(tus, path_of(answer)).offset == len(BODY)


# Where it stands.


@pytest.mark.parametrize("method", ["HEAD", "GET"])
@pytest.mark.parametrize("version", [None, *VERSIONS])
def test_head_and_get_tell_where_an_upload_stands(
    tus: Tus, method: str, version: int | None
) -> None:  # R22, R23, R41, R43
    path = begun(tus, version or 8, Upload_Length="10")
    append(tus, path, 0, b"12345", complete=False)
    answer = ask(tus, method, path, named(version))
    assert (answer.status, answer.offset) == (204, 5)
    flag = "upload-incomplete" if version == 3 else "upload-complete"
    assert answer.headers[flag] == ("?1" if version == 3 else "?0")
    assert answer.headers["upload-length"] == "10"
    assert answer.headers["cache-control"] == "no-store"
    limit = answer.headers.get("upload-limit")
    if version is not None and version < 6:
        assert limit is None
        return
    assert limit is not None
    assert is_limit(limit)
    age = re.search(r"(expires|max-age)=(\d+)", limit)
    assert age
    assert age[1] == ("expires" if version == 6 else "max-age")
    assert 86_000 < int(age[2]) <= 86_400


@pytest.mark.parametrize("version", [None, *VERSIONS])
@pytest.mark.parametrize("method", ["HEAD", "GET", "PATCH", "DELETE"])
def test_what_was_never_there_is_404(tus: Tus, method: str, version: int | None) -> None:  # R24
    headers = named(version)
    if method == "PATCH":
        headers = {**PARTIAL, **flags(version, complete=True), "Upload-Offset": "0"}
    answer = ask(tus, method, "/files/0123456789abcdef", headers)
    assert answer.status == 404
    assert "upload-offset" not in answer.headers
    assert "location" not in answer.headers


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("method", ["HEAD", "GET", "PATCH", "DELETE"])
def test_what_was_removed_is_gone(tus: Tus, method: str, version: int) -> None:  # R24, R42
    path = begun(tus, version)
    assert ask(tus, "DELETE", path, named(version)).status == 204
    headers = named(version)
    if method == "PATCH":
        headers = {**PARTIAL, **flags(version, complete=True), "Upload-Offset": "0"}
    answer = ask(tus, method, path, headers)
    assert answer.status == (410 if version > 6 or method == "GET" else 404)
    assert "upload-offset" not in answer.headers


@pytest.mark.parametrize("version", [3, 4, 5])
@pytest.mark.parametrize("method", ["HEAD", "DELETE"])
@pytest.mark.parametrize("state", ["Upload-Offset", "flag"])
def test_old_drafts_forbid_state_in_what_asks_for_it(
    tus: Tus, version: int, method: str, state: str
) -> None:  # R25
    path = begun(tus, version)
    more = {state: "0"} if state != "flag" else flags(version, complete=True)
    assert ask(tus, method, path, named(version) | more).status == 400
    assert head(tus, path, version).offset == 0


# Appends.


@pytest.mark.parametrize("version", VERSIONS)
def test_parts_are_appended_and_the_last_one_completes(
    tus: Tus, site: Site, version: int
) -> None:  # R7, R26, R27, R30, R53
    path = begun(tus, version)
    flag = "upload-incomplete" if version == 3 else "upload-complete"
    yes, no = ("?0", "?1") if version == 3 else ("?1", "?0")
    answer = append(tus, path, 0, BODY[:300], complete=False, version=version)
    assert (answer.status, answer.offset) == (201 if version < 7 else 204, 300)
    assert answer.headers[flag] == no
    last = append(tus, path, 300, BODY[300:], complete=True, version=version)
    assert (last.status, last.offset, last.headers[flag]) == (201, len(BODY), yes)
    again = append(tus, path, len(BODY), b"", complete=True, version=version)
    assert (again.status, again.body, again.headers[flag]) == (last.status, last.body, yes)
    assert again.headers["location"] == last.headers["location"]
    assert site.stored(path).read_bytes() == BODY


@pytest.mark.parametrize("version", [None, *VERSIONS])
def test_an_append_says_whether_it_completes(tus: Tus, version: int | None) -> None:  # R31
    path = begun(tus, version or 8)
    headers = {**PARTIAL, **named(version), "Upload-Offset": "0"}
    answer = ask(tus, "PATCH", path, headers, BODY)
    if version in {3, 4, 5}:
        flag = "upload-incomplete" if version == 3 else "upload-complete"
        assert answer.headers[flag] == ("?0" if version == 3 else "?1")
        return
    assert is_refused(answer, 400)
    assert head(tus, path).offset == 0


@pytest.mark.parametrize("version", [3, 8])
@pytest.mark.parametrize("offset", [None, "-1", "0.0", '"0"', "abc", "1" * 16, "0, 0", "", "?0"])
def test_an_append_says_where(tus: Tus, version: int | None, offset: str | None) -> None:  # R32
    path = begun(tus, version or 8)
    told = {} if offset is None else {"Upload-Offset": offset}
    answer = ask(tus, "PATCH", path, {**PARTIAL, **flags(version, complete=True), **told}, BODY)
    assert is_refused(answer, 400)
    seen = head(tus, path, version or 8)
    assert seen.offset == 0


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("offset", [0, 299, 301, 999_999_999_999_999])
def test_only_the_right_offset_is_taken(tus: Tus, version: int, offset: int) -> None:  # R33
    path = begun(tus, version)
    append(tus, path, 0, BODY[:300], complete=False, version=version)
    answer = append(tus, path, offset, BODY[:5], complete=False, version=version)
    assert is_refused(answer, 409)
    assert answer.offset == 300
    flag = "upload-incomplete" if version == 3 else "upload-complete"
    assert answer.headers[flag] == ("?1" if version == 3 else "?0")
    document = answer.json()
    where = "https://iana.org/assignments/http-problem-types#mismatching-upload-offset"
    assert document["type"] == where
    assert (document["expected-offset"], document["provided-offset"]) == (300, offset)
    assert head(tus, path, version).offset == 300


@pytest.mark.parametrize(
    "kind", ["application/octet-stream", "application/offset+octet-stream", "video/mp4", None, ""]
)
@pytest.mark.parametrize("version", VERSIONS)
def test_appends_have_a_media_type_since_version_6(
    tus: Tus, version: int, kind: str | None
) -> None:  # R34, R36
    path = begun(tus, version)
    headers = {**flags(version, complete=False), "Upload-Offset": "0"}
    headers |= {} if kind is None else {"Content-Type": kind}
    answer = ask(tus, "PATCH", path, headers, BODY)
    if version < 6:
        assert (answer.status, answer.offset) == (201, len(BODY))
        return
    assert is_refused(answer, 415)
    assert answer.headers["accept-patch"] == "application/partial-upload"
    assert head(tus, path, version).offset == 0


@pytest.mark.parametrize(
    "kind", ["Application/Partial-Upload", "application/partial-upload; a=b",
             "application/partial-upload;charset=utf-8"]
)  # fmt: skip
def test_a_media_type_may_have_parameters_and_capitals(tus: Tus, kind: str) -> None:  # R35
    path = begun(tus)
    headers = {**flags(8, complete=False), "Upload-Offset": "0", "Content-Type": kind}
    assert ask(tus, "PATCH", path, headers, BODY).offset == len(BODY)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("chunked", [False, True])
def test_a_complete_upload_takes_no_more(tus: Tus, version: int, *, chunked: bool) -> None:  # R37
    path = begun(tus, version)
    append(tus, path, 0, BODY, complete=True, version=version)
    with Connection(tus.port) as connection:
        headers = PARTIAL | flags(version, complete=True) | {"Upload-Offset": str(len(BODY))}
        more = {"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": "1"}
        connection.begin("PATCH", path, headers | more)
        connection.send(b"1\r\nx\r\n0\r\n\r\n" if chunked else b"x")
        answer = final(connection)
    assert is_refused(answer, 400)
    assert answer.json()["type"].endswith("#completed-upload")
    seen = head(tus, path, version)
    assert seen.offset == len(BODY)
    assert tus.job(path)["status"] == "pending"


@pytest.mark.parametrize("complete", [False, True])
def test_an_empty_append_changes_nothing_that_it_does_not_say(tus: Tus, *, complete: bool) -> None:
    path = begun(tus)
    append(tus, path, 0, BODY, complete=False)
    answer = append(tus, path, len(BODY), b"", complete=complete)
    assert answer.headers["upload-complete"] == f"?{int(complete)}"
    assert head(tus, path).offset == len(BODY)


def test_an_empty_body_may_be_an_upload(tus: Tus) -> None:
    answer = ask(tus, "POST", "/files/", flags(8, complete=True))
    assert (answer.status, answer.offset, answer.headers["upload-complete"]) == (201, 0, "?1")


def test_what_tus_completed_is_replayed_to_the_drafts(tus: Tus) -> None:  # R53
    path = tus.upload(BODY)
    answer = append(tus, path, len(BODY), b"", complete=True)
    assert (answer.status, answer.headers["upload-complete"]) == (201, "?1")
    assert answer.json()["job_id"] == path.rpartition("/")[2]


# Whose turn it is.


@pytest.mark.parametrize("version", [None, 3, 8])
@pytest.mark.parametrize("method", ["HEAD", "PATCH", "DELETE"])
def test_a_newer_request_ends_the_one_that_stalls(
    tus: Tus, site: Site, method: str, version: int | None
) -> None:  # R42, R44
    path = begun(tus, version or 8)
    with Connection(tus.port) as old:
        headers = PARTIAL | flags(version, complete=True) | {"Upload-Offset": "0"}
        old.begin("PATCH", path, headers | {"Content-Length": str(len(BODY))})
        old.send(BODY[:400])
        eventually(lambda: site.stored(path).stat().st_size >= 400 or None, "400 bytes")
        if method == "PATCH":
            answer = append(tus, path, 400, BODY[400:], complete=True, version=version or 8)
            # Whoever comes first asks; what it finds it is told, and that is taken next.
            assert answer.status in {201, 409}
            assert answer.offset == (len(BODY) if answer.status == 201 else 400)
        else:
            answer = ask(tus, method, path, named(version))
            assert answer.status == 204
        ended = final(old)
    assert ended.status == (503 if method != "DELETE" else ended.status)
    assert ended.status >= 400
    if method == "DELETE":
        assert head(tus, path).status == 410
        assert not site.stored(path).exists()
    else:
        assert head(tus, path, version or 8).offset in {400, len(BODY)}


def test_a_newer_request_of_tus_ends_one_of_the_drafts(tus: Tus, site: Site) -> None:
    path = begun(tus, Upload_Length=str(len(BODY)))
    with Connection(tus.port) as old:
        headers = PARTIAL | flags(8, complete=True) | {"Upload-Offset": "0"}
        old.begin("PATCH", path, headers | {"Content-Length": str(len(BODY))})
        old.send(BODY[:400])
        eventually(lambda: site.stored(path).stat().st_size >= 400 or None, "400 bytes")
        assert tus.offset(path) == 400
        assert final(old).status == 503
    assert tus.patch(path, 400, BODY[400:]).offset == len(BODY)


# What it is of.


@pytest.mark.parametrize(
    ("disposition", "metadata"),
    [
        ("inline; filename*=UTF-8''na%C3%AFve%20car.mp4", "filename bmHDr3ZlIGNhci5tcDQ="),
        ('attachment; filename="car.mp4"', "filename Y2FyLm1wNA=="),
        ('attachment; filename="../../etc/passwd"', "filename cGFzc3dk"),
        ('inline; filename="car', None),
        ("inline; filename*=utf-9''%zz", None),
        ("\xff;;;=", None),
    ],
)
def test_a_name_is_taken_from_the_disposition(
    tus: Tus, disposition: str, metadata: str | None
) -> None:  # R49
    path = begun(tus, Content_Disposition=disposition)
    append(tus, path, 0, BODY, complete=True)
    assert tus.head(path).headers.get("upload-metadata") == metadata
    assert tus.request("GET", path).body == BODY


def test_offsets_count_coded_bytes_and_the_coding_is_kept(tus: Tus) -> None:  # R50
    coded = gzip.compress(BODY * 3)
    headers = {**flags(8, complete=True), "Content-Encoding": "gzip"}
    answer = ask(tus, "POST", "/files/", headers, coded)
    assert answer.offset == len(coded)
    path = path_of(answer)
    assert tus.head(path).headers["upload-metadata"].startswith("contentencoding ")
    assert tus.request("GET", path).body == coded


@pytest.mark.parametrize(
    "value",
    ["sha-256=:YQ==:", "sha-256=abc", "sha-256", "sha-256=:!:", "=", "sha-256=:" + "A" * 44],
)
@pytest.mark.parametrize("name", ["Content-Digest", "Repr-Digest"])
def test_a_digest_that_cannot_be_read_is_refused(
    tus: Tus, site: Site, name: str, value: str
) -> None:  # R46, R47
    before = set(site.uploads.iterdir())
    answer = ask(tus, "POST", "/files/", {**flags(8, complete=True), name: value}, BODY)
    assert is_refused(answer, 400)
    assert set(site.uploads.iterdir()) == before


@pytest.mark.parametrize("version", VERSIONS)
def test_a_digest_that_does_not_fit_appends_nothing(tus: Tus, version: int) -> None:  # R46
    path = begun(tus, version)
    answer = append(
        tus, path, 0, BODY, complete=True, version=version, Content_Digest=digest(b"else")
    )
    assert is_refused(answer, 400)
    assert answer.json()["type"].endswith("#digest-mismatching-values")
    assert head(tus, path, version).offset == 0
    answer = append(tus, path, 0, BODY, complete=True, version=version, Content_Digest=digest(BODY))
    assert (answer.status, answer.offset) == (201, len(BODY))


@pytest.mark.parametrize("wanted", ["sha-256=10", "sha-256=1, sha-512=0", "md5=9, sha-256=3"])
def test_a_digest_of_the_whole_is_told_where_it_is_wanted(tus: Tus, wanted: str) -> None:  # R48
    headers = {**flags(8, complete=True), "Want-Repr-Digest": wanted}
    assert ask(tus, "POST", "/files/", headers, BODY).headers["repr-digest"] == digest(BODY)


@pytest.mark.parametrize("wanted", ["sha-256=0", "md5=9", "?", "sha-256", ""])
def test_no_digest_is_told_where_none_of_ours_is_wanted(tus: Tus, wanted: str) -> None:  # R48
    headers = {**flags(8, complete=True), "Want-Repr-Digest": wanted}
    answer = ask(tus, "POST", "/files/", headers, BODY)
    assert answer.status == 201
    assert "repr-digest" not in answer.headers


def test_methods_that_make_no_sense_are_refused_with_what_would(tus: Tus) -> None:
    path = begun(tus)
    for method, where in (
        ("POST", path),
        ("PUT", path),
        ("DELETE", "/files/"),
        ("HEAD", "/files/"),
    ):
        answer = ask(tus, method, where, named(8) | {"Upload-Complete": "?1"})
        assert answer.status == 405
        assert "OPTIONS" in answer.headers["allow"]
    assert head(tus, path).offset == 0


def test_tus_is_not_told_of_the_drafts(tus: Tus) -> None:
    answer = tus.request("HEAD", tus.create(5), TUS)
    assert not {"upload-complete", "upload-limit"} & set(answer.headers)
