"""The IETF dialect over real connections; R names a case of the wire notes."""

from __future__ import annotations

import base64
import hashlib
import shutil
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests.acceptance.process import Server, Site, eventually, new_directory
from tests.acceptance.raw import TUS, Connection, Response, Tus

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

BODY = bytes(range(256)) * 4
PARTIAL = {"Content-Type": "application/partial-upload"}


def flags(version: int | None, *, complete: bool) -> dict[str, str]:
    """Return the headers that say version and completeness."""
    named = {} if version is None else {"Upload-Draft-Interop-Version": str(version)}
    if version == 3:
        return named | {"Upload-Incomplete": f"?{int(not complete)}"}
    return named | {"Upload-Complete": f"?{int(complete)}"}


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """Share one site: no test here minds the uploads of another."""
    with Site(new_directory(), KEEP_UPLOADS_SECONDS="-1") as site:
        yield site
    shutil.rmtree(site.directory)


@pytest.fixture(scope="module")
def server(site: Site) -> Server:
    return site.serve()


def path_of(response: Response) -> str:
    return urlsplit(response.headers["location"]).path


def creation(
    tus: Tus, headers: Mapping[str, str], body: bytes = b""
) -> tuple[list[Response], Response]:
    """Create an upload; return the interim responses and the final one."""
    interims = []
    with Connection(tus.port) as connection:
        connection.begin("POST", "/files/", {**headers, "Content-Length": str(len(body))})
        connection.send(body)
        while (answer := connection.receive()).status < 200:
            interims.append(answer)
    return interims, answer


def begun(tus: Tus, version: int = 8, **more: str) -> str:
    """Create an upload without bytes."""
    named = {name.replace("_", "-"): value for name, value in more.items()}
    _, answer = creation(tus, flags(version, complete=False) | named)
    assert answer.status == 201, answer
    return path_of(answer)


def head(tus: Tus, path: str, version: int = 8) -> Response:
    return tus.request("HEAD", path, {"Upload-Draft-Interop-Version": str(version)})


def append(
    tus: Tus, path: str, offset: int, body: bytes, *, complete: bool, version: int = 8, **more: str
) -> Response:
    named = {name.replace("_", "-"): value for name, value in more.items()}
    headers = {**PARTIAL, **flags(version, complete=complete), "Upload-Offset": str(offset)}
    return tus.request("PATCH", path, headers | named, body)


def digest(body: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"


@pytest.mark.parametrize("version", [3, 4, 5, 6, 7, 8])
def test_a_whole_body_is_announced_taken_and_answered_with_its_job(
    tus: Tus, site: Site, version: int
) -> None:  # R2, R6
    interims, answer = creation(tus, flags(version, complete=True), BODY)
    assert [interim.status for interim in interims] == [104]
    assert interims[0].headers["upload-draft-interop-version"] == str(version)
    assert interims[0].headers["location"] == answer.headers["location"]
    assert ("upload-limit" in interims[0].headers) is (version >= 6)
    assert answer.status == 201
    flag = "upload-incomplete" if version == 3 else "upload-complete"
    assert answer.headers[flag] == ("?0" if version == 3 else "?1")
    assert answer.offset == len(BODY)
    path = path_of(answer)
    assert answer.json()["job_id"] == path.rpartition("/")[2]
    assert site.stored(path).read_bytes() == BODY
    assert tus.job(path)["status"] == "pending"


def test_the_final_form_and_put_need_no_version_and_get_no_104(tus: Tus) -> None:  # R3, R9
    interims, answer = creation(tus, flags(None, complete=True), BODY)
    assert (interims, answer.status) == ([], 201)
    assert answer.headers["upload-complete"] == "?1"
    again = tus.request("PUT", "/files/", flags(None, complete=True), BODY)
    assert (again.status, again.headers["upload-complete"]) == (201, "?1")


def test_a_creation_in_parts_is_complete_when_it_says_so(tus: Tus, site: Site) -> None:
    # R7, R22, R26, R27, R30
    path = begun(tus, Upload_Length=str(len(BODY)))
    answer = append(tus, path, 0, BODY[:300], complete=False)
    assert (answer.status, answer.offset, answer.headers["upload-complete"]) == (204, 300, "?0")
    answer = append(tus, path, 300, BODY[300:], complete=False)
    assert (answer.offset, answer.headers["upload-complete"]) == (len(BODY), "?0")
    seen = head(tus, path)
    assert (seen.status, seen.offset) == (204, len(BODY))
    assert seen.headers["upload-complete"] == "?0"
    assert seen.headers["upload-length"] == str(len(BODY))
    assert "max-age=" in seen.headers["upload-limit"]
    assert seen.headers["cache-control"] == "no-store"
    assert tus.job(path)["status"] == "uploading"
    answer = append(tus, path, len(BODY), b"", complete=True)
    assert (answer.status, answer.headers["upload-complete"]) == (201, "?1")
    assert tus.job(path)["status"] == "pending"
    assert site.stored(path).read_bytes() == BODY


def test_a_length_not_known_is_where_the_last_append_ends(tus: Tus) -> None:  # R28
    path = begun(tus)
    append(tus, path, 0, BODY[:300], complete=False)
    answer = append(tus, path, 300, b"", complete=True)
    assert answer.headers["upload-complete"] == "?1"
    assert head(tus, path).headers["upload-length"] == "300"


def test_a_lost_final_response_is_told_again(tus: Tus) -> None:  # R53
    path = begun(tus)
    first = append(tus, path, 0, BODY, complete=True)
    assert head(tus, path).headers["upload-complete"] == "?1"
    again = append(tus, path, len(BODY), b"", complete=True)
    assert (again.status, again.headers["upload-complete"]) == (first.status, "?1")
    assert again.json()["job_id"] == first.json()["job_id"]


def test_an_append_to_a_complete_upload_is_a_problem(tus: Tus) -> None:  # R37
    path = begun(tus)
    append(tus, path, 0, BODY, complete=True)
    answer = append(tus, path, len(BODY), b"x", complete=True)
    assert answer.status == 400
    assert answer.json()["type"].endswith("#completed-upload")


def test_a_wrong_offset_is_told_the_right_one(tus: Tus) -> None:  # R33
    path = begun(tus)
    append(tus, path, 0, BODY[:300], complete=False)
    answer = append(tus, path, 7, BODY, complete=True)
    assert (answer.status, answer.offset, answer.headers["upload-complete"]) == (409, 300, "?0")
    document = answer.json()
    assert document["type"].endswith("#mismatching-upload-offset")
    assert (document["expected-offset"], document["provided-offset"]) == (300, 7)


@pytest.mark.parametrize("chunked", [False, True])
def test_bytes_beyond_the_length_are_refused_and_the_upload_is_kept(
    tus: Tus, *, chunked: bool
) -> None:  # R38, R39
    path = begun(tus, Upload_Length="100")
    with Connection(tus.port) as connection:
        headers = {**PARTIAL, **flags(8, complete=False), "Upload-Offset": "0"}
        more = {"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": "200"}
        connection.begin("PATCH", path, headers | more)
        connection.send(b"c8\r\n%b\r\n0\r\n\r\n" % BODY[:200] if chunked else BODY[:200])
        answer = connection.receive()
    assert answer.status in {400, 413}
    seen = head(tus, path)
    assert (seen.headers["upload-complete"], seen.headers["upload-length"]) == ("?0", "100")
    rest = BODY[seen.offset : 100]
    assert append(tus, path, seen.offset, rest, complete=True).headers["upload-complete"] == "?1"


def test_an_end_before_the_length_completes_nothing(tus: Tus) -> None:  # R29
    path = begun(tus, Upload_Length="100")
    answer = append(tus, path, 0, BODY[:50], complete=True)
    assert answer.status == 400
    assert answer.json()["type"].endswith("#inconsistent-upload-length")
    assert head(tus, path).headers["upload-complete"] == "?0"


def test_a_creation_that_is_too_large_leaves_nothing(tus: Tus, site: Site) -> None:  # R16
    before = set(site.uploads.iterdir())
    answer = tus.request("POST", "/files/", {**flags(8, complete=False), "Upload-Length": "10" * 7})
    assert answer.status == 413
    assert "max-size=" in answer.headers["upload-limit"]
    assert set(site.uploads.iterdir()) == before


@pytest.mark.parametrize("chunked", [False, True])
def test_a_creation_that_is_cut_goes_on_where_it_was(
    tus: Tus, site: Site, *, chunked: bool
) -> None:  # R20, R21
    with Connection(tus.port) as connection:
        more = {"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": str(len(BODY))}
        connection.begin("POST", "/files/", flags(8, complete=True) | more)
        path = path_of(connection.receive())
        connection.send(b"190\r\n" + BODY[:400] if chunked else BODY[:400])
        eventually(lambda: site.stored(path).stat().st_size >= 400 or None, "400 bytes")
    seen = head(tus, path)
    assert (seen.offset, seen.headers["upload-complete"]) == (400, "?0")
    assert seen.headers.get("upload-length") == (None if chunked else str(len(BODY)))
    answer = append(tus, path, 400, BODY[400:], complete=True)
    assert answer.headers["upload-complete"] == "?1"
    assert site.stored(path).read_bytes() == BODY


def test_progress_is_told_while_a_body_comes(tus: Tus) -> None:  # R18
    with Connection(tus.port) as connection:
        connection.begin(
            "POST", "/files/", flags(8, complete=True) | {"Content-Length": str(len(BODY))}
        )
        assert "location" in connection.receive().headers
        connection.send(BODY[:400])
        interim = connection.receive()
        assert (interim.status, interim.offset) == (104, 400)
        assert "location" not in interim.headers
        connection.send(BODY[400:])
        while (answer := connection.receive()).status < 200:
            pass
        assert answer.status == 201


def test_head_takes_over_from_a_stalled_body(tus: Tus) -> None:  # R44
    with Connection(tus.port) as connection:
        connection.begin(
            "POST", "/files/", flags(8, complete=True) | {"Content-Length": str(len(BODY))}
        )
        path = path_of(connection.receive())
        connection.send(BODY[:400])
        assert connection.receive().offset == 400
        assert head(tus, path).offset == 400
        assert connection.receive().status == 503
    assert append(tus, path, 400, BODY[400:], complete=True).headers["upload-complete"] == "?1"


def test_digests_are_checked_and_told(tus: Tus) -> None:  # R46, R47, R48
    path = begun(tus, Repr_Digest=digest(BODY))
    answer = append(tus, path, 0, BODY, complete=False, Content_Digest=digest(b"else"))
    assert (answer.status, head(tus, path).offset) == (400, 0)
    append(tus, path, 0, BODY, complete=False, Content_Digest=digest(BODY))
    answer = append(tus, path, len(BODY), b"", complete=True, Want_Repr_Digest="sha-256=1")
    assert answer.headers["repr-digest"] == digest(BODY)
    path = begun(tus, Repr_Digest=digest(b"else"))
    answer = append(tus, path, 0, BODY, complete=True)
    assert answer.status == 400
    assert answer.json()["type"].endswith("#digest-mismatching-values")
    assert tus.job(path)["status"] != "pending"


def test_what_names_no_dialect_is_of_the_uploads_own(tus: Tus) -> None:  # R43
    ours, theirs = begun(tus), tus.create(5)
    assert tus.request("HEAD", ours).status == 204
    assert tus.request("GET", ours).offset == 0  # R23
    assert tus.request("HEAD", theirs).status == 412
    assert tus.request("DELETE", theirs).status == 412
    assert tus.request("DELETE", ours).status == 204
    assert tus.request("HEAD", ours).status == 410
    assert head(tus, "/files/unknown").status == 404


def test_tus_wins_where_ios_adds_its_headers(tus: Tus) -> None:  # R1
    path = tus.create(len(BODY))
    headers = {
        "TUS-Resumable": "1.0.0",
        "Content-Type": "application/offset+octet-stream",
        **flags(6, complete=True),
        "Upload-Offset": "0",
    }
    answer = tus.request("PATCH", path, headers, BODY[:400])
    assert (answer.status, answer.offset) == (204, 400)
    assert answer.headers["tus-resumable"] == "1.0.0"
    assert tus.job(path)["status"] == "uploading"


def test_an_upload_goes_on_in_the_other_dialect(tus: Tus, site: Site) -> None:
    path = begun(tus, Upload_Length=str(len(BODY)))
    assert tus.patch(path, 0, BODY[:400]).offset == 400
    assert append(tus, path, 400, BODY[400:], complete=False).headers["upload-complete"] == "?0"
    assert tus.job(path)["status"] == "uploading"
    # To tus it is complete, so a HEAD of tus ends it.
    assert tus.offset(path) == len(BODY)
    assert tus.job(path)["status"] == "pending"
    other = tus.create(len(BODY))
    append(tus, other, 0, BODY[:400], complete=False)
    assert tus.patch(other, 400, BODY[400:]).status == 204
    assert append(tus, other, len(BODY), b"", complete=True).headers["upload-complete"] == "?1"
    assert site.stored(other).read_bytes() == BODY


def test_options_tell_limits_and_both_protocols(tus: Tus) -> None:  # R4, R5
    answer = tus.request("OPTIONS", "/files/")
    assert answer.headers["upload-limit"].startswith("min-size=0, max-size=")
    assert answer.headers["tus-version"] == "1.0.0"


KEY = {"Idempotency-Key": '"0123456789abcdef"'}


def test_a_creation_with_a_key_is_made_once(tus: Tus) -> None:
    headers = {**TUS, **KEY, "Upload-Length": "1024"}
    first = tus.request("POST", "/files/", headers)
    again = tus.request("POST", "/files/", headers)
    assert (first.status, again.status) == (201, 201)
    assert first.headers["location"] == again.headers["location"]
    other = tus.request("POST", "/files/", headers | {"Upload-Length": "5"})
    assert other.status == 409
    assert tus.request("POST", "/files/", headers | {"Idempotency-Key": "short"}).status == 400
    path = path_of(first)
    assert tus.patch(path, 0, BODY[:400]).offset == 400
    assert tus.request("POST", "/files/", headers).offset == 400
    assert tus.delete(path).status == 204
    assert tus.request("POST", "/files/", headers).status == 410


def test_a_whole_creation_with_a_key_goes_on_behind_what_is_here(tus: Tus, site: Site) -> None:
    headers = flags(8, complete=True) | {"Idempotency-Key": "another key of mine"}
    with Connection(tus.port) as connection:
        connection.begin("POST", "/files/", headers | {"Content-Length": str(len(BODY))})
        path = path_of(connection.receive())
        connection.send(BODY[:400])
        assert connection.receive().offset == 400
    _, answer = creation(tus, headers, BODY)
    assert (path_of(answer), answer.headers["upload-complete"]) == (path, "?1")
    assert site.stored(path).read_bytes() == BODY


def test_a_checksum_may_come_behind_the_body(tus: Tus, site: Site) -> None:  # 153
    def send(path: str, checksum: bytes) -> Response:
        sha1 = base64.b64encode(hashlib.sha1(checksum, usedforsecurity=False).digest())
        headers = {
            **TUS,
            "Content-Type": "application/offset+octet-stream",
            "Upload-Offset": "0",
            "Transfer-Encoding": "chunked",
            "Trailer": "Upload-Checksum",
        }
        with Connection(tus.port) as connection:
            connection.begin("PATCH", path, headers)
            connection.send(b"400\r\n%b\r\n0\r\nUpload-Checksum: sha1 %b\r\n\r\n" % (BODY, sha1))
            return connection.receive()

    path = tus.create(len(BODY))
    assert send(path, b"else").status == 460
    assert tus.offset(path) == 0
    assert send(path, BODY).status == 204
    assert site.stored(path).read_bytes() == BODY


def test_only_videos_are_taken_where_that_is_required(site: Site) -> None:
    tus = Tus(site.serve(REQUIRE_VIDEO="true").port)
    assert tus.post(5, {"filetype": "text/plain"}).status == 415
    path = tus.create(len(BODY))
    assert tus.patch(path, 0, b"%PDF-1.7" + BODY[8:]).status == 415
    assert tus.head(path).status == 410
    path = tus.create(len(BODY))
    assert tus.patch(path, 0, b"\x1a\x45\xdf\xa3" + BODY[4:]).status == 204
