"""Every case of tus 1.0.0 on the wire, by number: one request, its answer, what HEAD says then.

A case is here, or ELSEWHERE names the test that proves it.
"""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from tests import proofs
from tests.acceptance.process import Server, Site, eventually, new_directory
from tests.acceptance.raw import APPEND, TUS, Connection, Response, Tus
from tusd_py.tus import EXTENSIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Bytes. So small that a body can be too large at no cost.
MOST = 1000
LARGEST = 2**63 - 1
HELLO, WORLD = b"hello", b"world"
BODY = HELLO + WORLD
OURS = "/files/[0-9a-f-]{36}"
DATE = r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT"
TYPE = "Content-Type: application/offset+octet-stream"
CHUNKED = "Transfer-Encoding: chunked"
DISCOVERED = {
    "Tus-Version": r"1\.0\.0",
    "Tus-Extension": ",".join(EXTENSIONS),
    "Tus-Max-Size": str(MOST),
    "Tus-Checksum-Algorithm": "sha1,.+",
}
OLD = {"Tus-Version": r"1\.0\.0"}

Fields = Mapping[str, str | None]
NOTHING: Fields = {}


@dataclass(frozen=True, slots=True)
class Case:
    """Ask once; patterns of `answer` and `after` match whole values, None: the field is absent.

    `{state}` in request and lines stands for the path of an upload in that state.
    """

    request: str
    lines: tuple[str, ...]
    body: bytes
    status: int
    answer: Fields = field(default_factory=dict)
    #: What HEAD then says of the upload: the one in the path, or else the one just created.
    after: Fields | int | None = None
    version: tuple[str, ...] = ("Tus-Resumable: 1.0.0",)


def at(offset: int, length: int | None = 10, **more: str | None) -> Fields:
    """Describe where an upload stands."""
    known = None if length is None else str(length)
    return {"Upload-Offset": str(offset), "Upload-Length": known, **_named(more)}


def _named(fields: Mapping[str, str | None]) -> Fields:
    return {name.replace("_", "-"): value for name, value in fields.items()}


def chunked(*pieces: bytes) -> bytes:
    """Encode a body in chunks (RFC 9112, section 7.1)."""
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (*pieces, b""))


def options(path: str, *lines: str, version: tuple[str, ...] = ()) -> Case:
    return Case(f"OPTIONS {path}", lines, b"", 200, DISCOVERED, version=version)


def head(path: str, where: Fields = NOTHING, status: int = 200, **answer: str | None) -> Case:
    return Case(f"HEAD {path}", (), b"", status, {**where, **_named(answer)})


def patch(
    state: str, offset: str, body: bytes, status: int, after: Fields | int | None, *more: str
) -> Case:
    """Append to an upload in that state."""
    lines = (TYPE, f"Upload-Offset: {offset}", *more)
    answer: Fields = {}
    if status == 204 and isinstance(after, dict):
        told = after["Upload-Offset"]
        # What is complete does not expire.
        expires = None if told == after["Upload-Length"] else DATE
        answer = {"Upload-Offset": told, "Upload-Expires": expires}
    return Case(f"PATCH {{{state}}}", lines, body, status, answer, after)


def post(
    *lines: str,
    status: int = 201,
    body: bytes = b"",
    after: Fields | None = None,
    **answer: str | None,
) -> Case:
    """Create an upload."""
    location = {"Location": OURS if status == 201 else None}
    return Case("POST /files/", lines, body, status, {**location, **_named(answer)}, after)


def final(urls: str, status: int, *more: str, after: Fields | None = None) -> Case:
    return post(f"Upload-Concat: final;{urls}", *more, status=status, after=after)


def checksum(body: bytes, algorithm: str = "sha1") -> str:
    digest = hashlib.new(algorithm, body, usedforsecurity=False).digest()
    return f"Upload-Checksum: {algorithm} {base64.b64encode(digest).decode()}"


def metadata(number: str, value: str, status: int = 201, after: str | None = "") -> dict[str, Case]:
    """Create with this metadata; it is echoed as it came, unless `after` says otherwise."""
    echoed = re.escape(value) if after == "" else after
    then = {"Upload-Metadata": echoed} if status == 201 else None
    lines = ("Upload-Length: 5", f"Upload-Metadata: {value}")
    return {number: post(*lines, status=status, after=then)}


def each(number: str, values: list[str], make: Callable[[str], Case]) -> dict[str, Case]:
    return {f"{number}-{value[:24]}": make(value) for value in values}


LEN5, LEN10 = "Upload-Length: 5", "Upload-Length: 10"

CASES: dict[str, Case] = {
    # OPTIONS, versions
    "1": options("/files/"),
    "2": options("/files/", version=("Tus-Resumable: 0.0.1",)),
    "3": options("{fresh}"),
    "4": options("/files/unknown"),
    "5": options("/files/", "Origin: https://page.example"),
    "6": Case("POST /files/", (LEN5,), b"", 412, OLD, version=()),
    "7": Case("POST /files/", (LEN5,), b"", 412, OLD, version=("Tus-Resumable: 0.2.2",)),
    "8": Case("HEAD {fresh}", (), b"", 412, OLD, version=()),
    "9-none": Case("PATCH {half}", (TYPE, "Upload-Offset: 5"), WORLD, 412, OLD, at(5), ()),
    "9-other": Case(
        "PATCH {half}",
        (TYPE, "Upload-Offset: 5"),
        WORLD,
        412,
        OLD,
        at(5),
        ("Tus-Resumable: 0.2.2",),
    ),
    "10": Case("DELETE {half}", (), b"", 412, OLD, at(5), ()),
    "11-joined": Case("POST /files/", (LEN5,), b"", 201, version=("Tus-Resumable: 1.0.0, 1.0.0",)),
    "11-lines": Case("POST /files/", (LEN5,), b"", 201, version=("Tus-Resumable: 1.0.0",) * 2),
    "11-unlike": Case(
        "POST /files/", (LEN5,), b"", 412, OLD, version=("Tus-Resumable: 1.0.0, 2.0.0",)
    ),
    "12": Case("GET {whole}", (), b"", 200, {"Content-Length": "10"}, version=()),
    "14": Case("PUT {fresh}", (), b"", 405, {"Allow": "OPTIONS, GET, HEAD, PATCH, DELETE"}),
    # HEAD
    "15": head(
        "{fresh}",
        at(0),
        Cache_Control="no-store",
        Content_Length=None,
    ),
    "16": head(
        "/files/6f1c1ad4-6d2c-4b2e-9a53-0f6dbb1c8a11",
        status=404,
        Upload_Offset=None,
        Cache_Control="no-store",
    ),
    "17": head("{whole}", at(10)),
    "18": head("{fresh}", Upload_Metadata=None),
    "20": head("{half}/", at(5)),
    "21": head("/files/", status=405, Allow="OPTIONS, POST"),
    "22": head("{deferred}", at(0, None), Upload_Defer_Length="1"),
    "23-partial": head("{partial}", Upload_Concat="partial"),
    "23-final": head("{final}", at(10), Upload_Concat=f"final;{OURS} {OURS}"),
    "27": head("{half}", Upload_Expires=DATE),
    # PATCH
    "31": patch("half", "5", WORLD[:2], 204, at(7)),
    "32": Case(
        "PATCH {half}",
        ("Content-Type: application/octet-stream", "Upload-Offset: 5"),
        WORLD,
        415,
        {},
        at(5),
    ),
    "33": Case("PATCH {half}", ("Upload-Offset: 5",), WORLD, 415, {}, at(5)),
    "34": Case(
        "PATCH {half}",
        (f"{TYPE}; charset=utf-8", "Upload-Offset: 5"),
        WORLD,
        204,
        {},
        at(10),
    ),
    "35": Case(
        "PATCH {half}",
        ("Content-Type: Application/Offset+Octet-Stream", "Upload-Offset: 5"),
        WORLD,
        204,
        {},
        at(10),
    ),
    "36": Case("PATCH {half}", (TYPE,), WORLD, 400, {}, at(5)),
    **each(
        "37",
        ["-1", "abc", "1.0", "0x0", "1e1", "", "\u00b2", "5,5"],
        lambda value: patch("half", value, WORLD, 400, at(5)),
    ),
    "37-arabic": patch("half", "\u0665".encode().decode("latin-1"), WORLD, 400, at(5)),
    "38-plus": patch("half", "+5", WORLD, 400, at(5)),
    "38-underscore": patch("half", "0_5", WORLD, 400, at(5)),
    "38-zero": patch("half", "05", WORLD[:1], 204, at(6)),
    "39": patch("half", "  5 \t", WORLD[:1], 204, at(6)),
    "40": patch("half", str(LARGEST), WORLD, 409, at(5)),
    "41-26": patch("half", "9" * 26, WORLD, 400, at(5)),
    "41-5000": patch("half", "9" * 5000, WORLD, 400, at(5)),
    "42": patch("half", "0", WORLD, 400, at(5), "Upload-Offset: 5"),
    "43": Case(
        "PATCH {half}", (TYPE, "Upload-Offset: 4"), WORLD, 409, {"Upload-Offset": "5"}, at(5)
    ),
    "44": Case(
        "PATCH {half}", (TYPE, "Upload-Offset: 6"), WORLD, 409, {"Upload-Offset": "5"}, at(5)
    ),
    "45": patch("half", "5", WORLD + b"!", 413, at(5)),
    "46": patch("half", "5", chunked(WORLD, b"!"), 413, at(5), CHUNKED),
    "47": patch("half", "5", chunked(WORLD[:2], WORLD[2:4]), 204, at(9), CHUNKED),
    "48": patch("half", "5", b"", 204, at(5)),
    "49": patch("whole", "10", b"", 204, at(10)),
    "50": patch("whole", "10", b"!", 413, at(10)),
    "51": patch("unknown", "0", WORLD, 404, 404),
    "52": Case("PATCH /files/", (TYPE, "Upload-Offset: 0"), WORLD, 405, {"Allow": "OPTIONS, POST"}),
    "53": patch("half", "5", WORLD[:1], 204, at(6), LEN10),
    "54": patch("half", "5", WORLD, 400, at(5), "Upload-Length: 11"),
    "56": Case(
        "PATCH {half} HTTP/1.0",
        (TYPE, "Upload-Offset: 5"),
        WORLD,
        204,
        {"Upload-Offset": "10"},
        at(10),
    ),
    # Method override
    "71": Case(
        "POST {half}",
        (TYPE, "Upload-Offset: 5", "X-HTTP-Method-Override: PATCH"),
        WORLD,
        204,
        {"Upload-Offset": "10"},
        at(10),
    ),
    "72": Case("POST {half}", ("X-HTTP-Method-Override: DELETE",), b"", 204, {}, 410),
    "73": Case(
        "POST {half}",
        (TYPE, "Upload-Offset: 5", "X-HTTP-Method-Override: patch"),
        WORLD,
        204,
        {"Upload-Offset": "10"},
        at(10),
    ),
    "74-post": Case("POST {half}", ("X-HTTP-Method-Override: HEAD",), b"", 200, at(5)),
    "74-get": Case(
        "GET {whole}",
        ("X-HTTP-Method-Override: DELETE",),
        b"",
        200,
        {"Content-Length": "10"},
        at(10),
    ),
    "75": Case("POST {half}", ("X-HTTP-Method-Override: FOO",), b"", 405, {"Allow": ".+"}, at(5)),
    "76": options("{half}", "X-HTTP-Method-Override: DELETE"),
    # Creation, deferral, creation with upload
    "77": post(LEN5, Upload_Offset=None, Upload_Expires=DATE, after=at(0, 5)),
    "78": post(status=400),
    **each("79", ["-1"], lambda value: post(f"Upload-Length: {value}", status=400)),
    **each(
        "80",
        ["abc", "1.5", "0x10", "1e3", "", "5,5"],
        lambda value: post(f"Upload-Length: {value}", status=400),
    ),
    "81-plus": post("Upload-Length: +5", status=400),
    "81-zero": post("Upload-Length: 05", after=at(0, 5)),
    "82": post(f"Upload-Length: {2**53 + 1}", status=413, Tus_Max_Size=str(MOST)),
    "83": post(f"Upload-Length: {LARGEST}", status=413),
    "84-63": post(f"Upload-Length: {2**63}", status=413),
    "84-64": post(f"Upload-Length: {10**20}", status=400),
    "84-300": post(f"Upload-Length: {10**300}", status=400),
    "85": post("Upload-Length: 0", after=at(0, 0)),
    "86": post(f"Upload-Length: {MOST}", after=at(0, MOST)),
    "87": post(f"Upload-Length: {MOST + 1}", status=413, Tus_Max_Size=str(MOST)),
    "88": post(LEN5, "Upload-Defer-Length: 1", status=400),
    **each(
        "89",
        ["0", "2", "true", ""],
        lambda value: post(f"Upload-Defer-Length: {value}", status=400),
    ),
    "91": Case("POST /files", (LEN5,), b"", 201, {"Location": OURS}, at(0, 5)),
    "92": post(LEN5, "Content-Type: application/x-www-form-urlencoded", body=HELLO, after=at(0, 5)),
    "92-other": post(LEN5, "Content-Type: text/plain", body=HELLO, status=415),
    "93": post(LEN5, TYPE, body=HELLO, Upload_Offset="5", after=at(5, 5)),
    "94": post(LEN10, TYPE, body=HELLO, Upload_Offset="5", Upload_Expires=DATE, after=at(5)),
    "95": post(LEN5, TYPE, body=BODY, status=413),
    "95-chunked": post(LEN5, TYPE, CHUNKED, body=chunked(BODY), status=413),
    "96": post(
        "Upload-Defer-Length: 1",
        TYPE,
        body=HELLO,
        Upload_Offset="5",
        after=at(5, None, Upload_Defer_Length="1"),
    ),
    "97": post(LEN5, TYPE, Upload_Offset="0", after=at(0, 5)),
    "98": post(LEN5, TYPE, CHUNKED, body=chunked(HELLO), Upload_Offset="5", after=at(5, 5)),
    "100": patch(
        "begun", "5", WORLD, 204, at(10, 12, Upload_Defer_Length=None), "Upload-Length: 12"
    ),
    "101": patch("begun", "5", b"", 400, at(5, None, Upload_Defer_Length="1"), "Upload-Length: 3"),
    "104": patch(
        "begun", "5", b"", 413, at(5, None, Upload_Defer_Length="1"), f"Upload-Length: {MOST + 1}"
    ),
    "105": patch("begun", "5", b"x" * (MOST - 4), 413, at(5, None)),
    "106": patch("begun", "5", chunked(b"x" * (MOST - 4)), 413, at(5, None), CHUNKED),
    "109": post(LEN5, after=at(0, 5)),
    **{
        f"111-{name}": post(LEN5, *lines, Location=f"{where}{OURS}")
        for name, lines, where in [
            ("host", ["X-Forwarded-Host: a.example"], "http://a.example"),
            (
                "both",
                ["X-Forwarded-Host: a.example", "X-Forwarded-Proto: https"],
                "https://a.example",
            ),
        ]
    },
    "112": post(
        LEN5,
        "Forwarded: for=9.9.9.9;host=a.example;proto=https",
        Location=f"https://a.example{OURS}",
    ),
    "113": post(LEN5, "X-Forwarded-Host: a.example, b.example", Location=f"http://a.example{OURS}"),
    "114": post(
        LEN5,
        "X-Forwarded-Host: a.example",
        "X-Forwarded-Proto: https,http",
        Location=f"https://a.example{OURS}",
    ),
    "115": post(
        LEN5,
        "X-Forwarded-Host: a.example",
        "X-Forwarded-Prefix: /api",
        Location=f"http://a.example/api{OURS}",
    ),
    # Metadata
    **metadata("116-last", "a YQ==,k"),
    **metadata("116-first", "k,a YQ=="),
    **metadata("116-space", "k ,a YQ=="),
    **metadata("117", "a YQ==,a Yg==", 400),
    **metadata("118-bad", "a !!!!", 400),
    **metadata("118-unpadded", "a YQ", 400),
    **metadata("118-urlsafe", "a _-8=", 400),
    **metadata("119", "n\u00e4me YQ==", 400),
    **metadata("120", "bin /wA="),
    **metadata("121", "lines DQpTZXQtQ29va2llOiB4"),
    **metadata("122", "a YQ==, b Yg=="),
    **metadata("123", "", after=None),
    **metadata("124-middle", "a YQ==,,b Yg==", 400),
    **metadata("124-last", "a YQ==,", 400),
    **metadata("125-three", "a YQ== x", 400),
    **metadata("125-commas", ",,,", 400),
    "126": post(
        LEN5,
        "Upload-Metadata: a YQ==",
        "Upload-Metadata: b Yg==",
        after={"Upload-Metadata": "a YQ==,b Yg=="},
    ),
    **metadata("127", "__proto__ YQ==,emoji 8J+alw==,path Li4vLi4vZXRjL3Bhc3N3ZA=="),
    **metadata("128", f"large {base64.b64encode(bytes(7168)).decode()}"),
    **metadata("128-more", f"large {base64.b64encode(bytes(20_000)).decode()}", 431),
    # Concatenation
    "129": post(LEN5, "Upload-Concat: partial", after={"Upload-Concat": "partial"}),
    "130": final("{partial} {partial}", 201, after=at(10, Upload_Concat=f"final;{OURS} {OURS}")),
    "131": final("http://acceptance{partial}", 201, after=at(5, 5)),
    "132": final("http://other.example{partial}", 400),
    "133": patch("final", "10", b"!", 403, at(10)),
    "134": final("{partial}", 400, LEN5),
    "135": final("{open}", 201, after={"Upload-Offset": None, "Upload-Length": "5"}),
    "136": final("{unknown}", 404),
    "137-empty": final("", 400),
    "137-bogus": post("Upload-Concat: bogus", status=400),
    "140": final("{whole}", 400),
    "141": final("/files/../../etc/passwd", 404),
    "142": Case("POST /files/", ("Upload-Concat: final;{partial}", TYPE), HELLO, 403),
    "143": final("{large} {large}", 413),
    # Checksum
    **{
        f"147-{name}": patch("half", "5", WORLD, 204, at(10), checksum(WORLD, name))
        for name in ("sha1", "md5", "sha256", "sha512", "blake2b")
    },
    "147-crc32": patch("half", "5", WORLD, 204, at(10), "Upload-Checksum: crc32 OncRQw=="),
    "148": patch("half", "5", WORLD, 460, at(5), checksum(HELLO)),
    **each(
        "149",
        ["sha1", "sha1 !!", "sha0 YQ==", ""],
        lambda value: patch("half", "5", WORLD, 400, at(5), f"Upload-Checksum: {value}"),
    ),
    "149-short": patch("half", "5", WORLD, 460, at(5), "Upload-Checksum: sha1 YQ=="),
    "150-right": post(LEN10, TYPE, checksum(HELLO), body=HELLO, Upload_Offset="5", after=at(5)),
    "150-wrong": post(LEN10, TYPE, checksum(WORLD), body=HELLO, status=460),
    "152-right": patch("half", "5", b"", 204, at(5), checksum(b"")),
    "152-wrong": patch("half", "5", b"", 460, at(5), checksum(HELLO)),
    "154": patch(
        "half",
        "5",
        chunked(WORLD),
        400,
        at(5),
        CHUNKED,
        "Trailer: Upload-Checksum",
        checksum(WORLD),
    ),
    # Termination, expiration
    "156-half": Case("DELETE {half}", (), b"", 204, {}, 410),
    "156-head": head("{gone}", status=410, Upload_Offset=None),
    "156-patch": patch("gone", "0", WORLD, 410, 410),
    "156-delete": Case("DELETE {gone}", (), b"", 410, {}, 410),
    "157": Case("DELETE {whole}", (), b"", 204, {}, 410),
    "159": Case("DELETE /files/", (), b"", 405, {"Allow": "OPTIONS, POST"}),
    "160": patch("half", "5", WORLD[:1], 204, at(6)),
    # Downloads
    "169": Case("GET {half}", (), b"", 404, {}, at(5)),
    # What clients want
    "183": Case("DELETE {half}", (), b"", 204, {"Tus-Resumable": ".+"}, 410),
    "185": post(LEN5, "Upload-Metadata:", after=at(0, 5, Upload_Metadata=None)),
    "186": Case(
        "PATCH {half}",
        (TYPE, "Upload-Offset: 5", "Upload-Complete: ?1"),
        WORLD,
        204,
        {"Upload-Offset": "10"},
        at(10),
        ("TUS-Resumable: 1.0.0", "Upload-Draft-Interop-Version: 6"),
    ),
    "187": Case(
        "POST {half}",
        (TYPE, "Upload-Offset: 5", "X-HTTP-Method-Override: PATCH", CHUNKED),
        chunked(WORLD),
        204,
        {"Upload-Offset": "10"},
        at(10),
        ("Tus-Resumable: 1.0.0", "Expect: 100-continue"),
    ),
}

_WIRE = "tests/acceptance/test_wire.py::"
_DOWNLOAD = "tests/acceptance/test_download.py::"
_CONCATENATION = "tests/acceptance/test_concatenation.py::"
_RESUMABLE = "tests/acceptance/test_resumable.py::"
_PROTOCOL = "tests/tusd_py/test_protocol.py::"
_HERE = "tests/acceptance/test_wire_cases.py::"

#: Cases that one request cannot show.
ELSEWHERE = {
    13: _WIRE + "test_every_response_carries_the_version",
    19: _WIRE + "test_metadata_is_echoed_byte_for_byte",
    24: _WIRE + "test_head_takes_over_from_a_stalled_patch_that_is_told_to_try_again",
    25: _WIRE + "test_an_expired_upload_is_gone",
    26: _PROTOCOL + "test_an_unfinished_upload_expires_and_a_complete_one_does_not",
    28: _PROTOCOL + "test_head_never_sees_a_temporary_5xx",
    29: "tests/acceptance/test_serve.py::"
    "test_sigterm_ends_a_server_with_an_open_patch_whose_client_is_told_to_go_on",
    30: _WIRE + "test_a_hostile_id_is_not_found",
    55: _HERE + "test_a_body_with_two_lengths_is_refused_and_the_connection_closed",
    57: _WIRE + "test_an_admitted_body_is_asked_for",
    58: _WIRE + "test_a_refused_body_is_not_asked_for",
    59: _WIRE + "test_bytes_before_a_cut_are_kept",
    60: _WIRE + "test_bytes_before_a_cut_are_kept",
    61: _HERE + "test_chunks_before_a_cut_are_kept",
    62: _HERE + "test_a_burst_before_a_cut_is_kept",
    # How much of a burst survives a reset is the kernel's to say.
    63: _WIRE + "test_bytes_before_a_cut_are_kept",
    64: _WIRE + "test_a_stalled_body_ends_and_what_came_is_kept",
    65: "tests/tusd_py/test_exchange.py::test_a_trickle_is_handed_on_at_each_pulse",
    66: "tests/storage/test_filestore.py::test_a_full_disk_keeps_what_fitted_and_says_so",
    67: "tests/acceptance/test_crash.py::"
    "test_a_server_killed_in_mid_upload_goes_on_from_the_offset_and_the_job_runs_once",
    68: "tests/acceptance/test_serve.py::"
    "test_sigterm_ends_a_server_with_an_open_patch_whose_client_is_told_to_go_on",
    69: _WIRE + "test_a_refusal_in_front_of_a_long_body_reaches_the_client",
    # Uploads over HTTP/2 come through a proxy, which ends the connection behind it.
    70: _WIRE + "test_bytes_before_a_cut_are_kept",
    90: _WIRE + "test_a_deferred_length_may_come_with_any_append",
    99: _RESUMABLE + "test_a_creation_with_a_key_is_made_once",
    102: _WIRE + "test_an_empty_append_that_declares_the_length_completes",
    103: "tests/acceptance/test_conformance.py::test_a_case_of_the_public_suite_holds",
    107: _WIRE + "test_a_length_declared_by_a_refused_append_does_not_count",
    108: _WIRE + "test_a_length_declared_by_a_refused_append_does_not_count",
    110: "tests/tusd_py/test_origin.py::test_headers_of_somebody_else_are_ignored",
    138: _CONCATENATION + "test_parts_become_one_upload_without_a_copy",
    139: "tests/storage/test_finals.py::test_a_part_may_come_twice_and_in_other_final_uploads_too",
    144: _HERE + "test_a_partial_upload_has_no_job",
    145: _CONCATENATION
    + "test_a_final_upload_of_unfinished_parts_is_complete_with_the_last_of_them",
    146: _CONCATENATION + "test_a_part_removed_after_its_last_byte_takes_nothing_away",
    151: _WIRE + "test_bytes_that_cannot_be_verified_are_not_kept",
    153: _RESUMABLE + "test_a_checksum_may_come_behind_the_body",
    155: _WIRE + "test_bytes_that_cannot_be_verified_are_not_kept",
    158: _WIRE + "test_delete_stops_a_running_patch_and_nothing_comes_back",
    161: _HERE + "test_what_has_expired_can_be_removed_and_nothing_else",
    162: _WIRE + "test_the_time_of_an_unfinished_upload_begins_anew_with_what_comes",
    163: "tests/storage/test_sweeper.py::"
    "test_an_upload_under_a_lock_is_not_swept_and_nobody_is_interrupted",
    164: _WIRE + "test_a_preflight_is_answered_for_every_header_and_unknown_uploads_too",
    165: _WIRE + "test_a_page_may_read_what_it_needs_of_refusals_too",
    166: _WIRE + "test_a_page_may_read_what_it_needs_of_refusals_too",
    167: _WIRE + "test_only_named_origins_may_upload",
    168: _WIRE + "test_a_page_may_read_what_it_needs_of_refusals_too",
    170: _DOWNLOAD + "test_a_page_is_saved_and_cannot_act_for_this_origin",
    171: _WIRE + "test_head_takes_over_from_a_stalled_patch_that_is_told_to_try_again",
    172: _WIRE + "test_patch_takes_over_from_a_stalled_patch",
    173: _HERE + "test_a_stalled_body_is_in_nobodys_way",
    174: _WIRE + "test_of_two_equal_patches_one_is_taken",
    175: "tests/storage/conformance.py::"
    "test_a_writer_that_only_sleeps_never_reaches_what_its_successor_writes",
    176: _WIRE + "test_a_server_takes_over_from_another_one",
    177: "tests/storage/test_redis_locker.py::test_a_dead_holder_of_this_host_is_not_waited_for",
    178: _WIRE + "test_a_redis_emptied_in_mid_body_costs_no_byte",
    179: "tests/storage/test_leases.py::test_ten_that_only_look_cost_one_interruption",
    180: _DOWNLOAD + "test_readers_do_not_wait_for_each_other",
    181: _HERE + "test_equal_creations_are_uploads_of_their_own",
    182: "tests/storage/test_leases.py::"
    "test_a_holder_that_does_not_let_go_is_waited_for_only_so_long",
    184: _RESUMABLE + "test_a_creation_in_parts_is_complete_when_it_says_so",
    188: _RESUMABLE + "test_a_whole_body_is_announced_taken_and_answered_with_its_job",
    189: _WIRE + "test_an_expired_upload_is_gone",
}


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    settings = {
        "KEEP_UPLOADS_SECONDS": "-1",
        "MAX_FILE_SIZE": str(MOST),
        "TRUSTED_PROXIES": "127.0.0.1",
    }
    with Site(new_directory(), **settings) as site:
        yield site
    shutil.rmtree(site.directory)


@pytest.fixture(scope="module")
def server(site: Site) -> Server:
    return site.serve()


class Uploads:
    """Make an upload in the state that its name tells."""

    def __init__(self, tus: Tus) -> None:
        self._tus = tus

    def make(self, state: str) -> str:
        """Return the path of a new upload."""
        made: str = getattr(self, state)()
        return made

    def fresh(self) -> str:
        return self._tus.create(10)

    def half(self) -> str:
        return self._created(LEN10, TYPE, body=HELLO)

    def whole(self) -> str:
        return self._tus.upload(BODY)

    def deferred(self) -> str:
        return self._created("Upload-Defer-Length: 1")

    def begun(self) -> str:
        return self._created("Upload-Defer-Length: 1", TYPE, body=HELLO)

    def gone(self) -> str:
        path = self.half()
        assert self._tus.delete(path).status == 204
        return path

    def unknown(self) -> str:
        return "/files/6f1c1ad4-6d2c-4b2e-9a53-0f6dbb1c8a11"

    def partial(self) -> str:
        return self._created(LEN5, "Upload-Concat: partial", TYPE, body=HELLO)

    def open(self) -> str:
        return self._created(LEN5, "Upload-Concat: partial")

    def large(self) -> str:
        return self._created(f"Upload-Length: {MOST}", "Upload-Concat: partial")

    def final(self) -> str:
        return self._created(f"Upload-Concat: final;{self.partial()} {self.partial()}")

    def _created(self, *lines: str, body: bytes = b"") -> str:
        answer = self._tus.request("POST", "/files/", TUS | _split(lines), body)
        assert answer.status == 201, answer
        return answer.headers["location"]


def _split(lines: tuple[str, ...]) -> dict[str, str]:
    pairs = (line.partition(": ") for line in lines)
    return {name: value for name, _, value in pairs}


def ask(port: int, request: str, lines: list[str], body: bytes) -> Response:
    """Send a request of these lines and return its final answer."""
    method = request.partition(" ")[0]
    version = "" if request.endswith(" HTTP/1.0") else " HTTP/1.1"
    if CHUNKED not in lines and method in {"POST", "PATCH"}:
        lines = [*lines, f"Content-Length: {len(body)}"]
    text = "\r\n".join([f"{request}{version}", "Host: acceptance", *lines, "", ""])
    with Connection(port) as connection:
        connection.send(text.encode("latin-1") + body)
        answer = connection.receive(head=method == "HEAD")
        while answer.status < 200:
            answer = connection.receive(head=method == "HEAD")
        return answer


def check(answer: Response, fields: Fields, said: str) -> None:
    """Compare header fields with patterns."""
    for name, pattern in fields.items():
        came = answer.headers.get(name.lower())
        if pattern is None:
            assert came is None, f"{name}: {said}"
        else:
            assert came is not None, f"no {name}: {said}"
            assert re.fullmatch(pattern, came), f"{name}: {said}"


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_case_is_answered_and_leaves_the_upload_as_it_should(tus: Tus, case: Case) -> None:
    uploads = Uploads(tus)
    asked = "\n".join([case.request, *case.version, *case.lines])
    for state in re.findall(r"\{(\w+)\}", asked):
        asked = asked.replace(f"{{{state}}}", uploads.make(state), 1)
    request, *lines = asked.split("\n")
    answer = ask(tus.port, request, lines, case.body)
    said = f"{request} {lines}: {answer}"
    assert answer.status == case.status, said
    assert request.startswith("GET") or answer.headers["tus-resumable"] == "1.0.0", said
    check(answer, case.answer, said)
    if case.after is None:
        return
    path = answer.headers["location"] if answer.status == 201 else request.split(" ")[1]
    then = tus.head(path)
    assert then.status == (case.after if isinstance(case.after, int) else 200), then
    if not isinstance(case.after, int):
        check(then, case.after, f"{said}, then {then}")


def test_every_case_is_here_or_names_its_proof() -> None:
    here = {int(name.partition("-")[0]) for name in CASES}
    assert here.isdisjoint(ELSEWHERE)
    assert here | ELSEWHERE.keys() == set(range(1, 190))
    assert proofs.missing(" ".join(ELSEWHERE.values())) == []


def test_a_body_with_two_lengths_is_refused_and_the_connection_closed(tus: Tus) -> None:
    path = Uploads(tus).half()
    headers = {**TUS, **APPEND, "Upload-Offset": "5", "Content-Length": "5"}
    with Connection(tus.port) as connection:
        connection.begin("PATCH", path, {**headers, "Transfer-Encoding": "chunked"})
        connection.send(chunked(WORLD))
        assert connection.receive().status == 400
        with pytest.raises(ConnectionError):
            connection.receive()
    assert tus.offset(path) == 5


@pytest.fixture(scope="module")
def roomy(site: Site) -> Tus:
    """Return a client of a server that takes larger uploads."""
    return Tus(site.serve(MAX_FILE_SIZE="10000000").port)


def wait_for_message(tus: Tus, path: str, share: str) -> None:
    """Wait until so much is counted, without disturbing who sends."""
    eventually(lambda: share in tus.job(path)["message"] or None, share)


def test_chunks_before_a_cut_are_kept(roomy: Tus) -> None:
    path = roomy.create(1000)
    headers = {**TUS, **APPEND, "Upload-Offset": "0", "Transfer-Encoding": "chunked"}
    with Connection(roomy.port) as connection:
        connection.begin("PATCH", path, headers)
        connection.send(chunked(b"x" * 400)[: -len(b"0\r\n\r\n")])
    wait_for_message(roomy, path, "(40%)")
    assert roomy.offset(path) == 400


def test_a_burst_before_a_cut_is_kept(roomy: Tus, site: Site) -> None:
    content = bytes(range(250)) * 6_000
    path = roomy.create(2 * len(content))
    with roomy.begin_patch(path, 0, 2 * len(content)) as connection:
        connection.send(content)
    wait_for_message(roomy, path, "(50%)")
    assert roomy.offset(path) == len(content)
    assert site.stored(path).read_bytes() == content


def test_a_partial_upload_has_no_job(tus: Tus) -> None:
    path = Uploads(tus).partial()
    assert tus.request("GET", f"/jobs/{path.rpartition('/')[2]}").status == 404


def test_what_has_expired_can_be_removed_and_nothing_else(site: Site) -> None:
    tus = Tus(site.serve(UPLOAD_EXPIRATION_SECONDS="0.1").port)
    path = tus.create(5)
    eventually(lambda: tus.head(path).status == 410 or None, "410")
    assert tus.patch(path, 0, HELLO).status == 410
    assert tus.delete(path).status in {204, 410}
    # The tombstone does not live longer here than an upload, and the sweeper may be quick.
    assert tus.head(path).status in {404, 410}


def test_a_stalled_body_is_in_nobodys_way(tus: Tus) -> None:
    path = Uploads(tus).half()
    with tus.begin_patch(path, 5, 5) as stalled:
        stalled.send(WORLD[:1])
        assert tus.offset(tus.upload(BODY)) == 10
        stalled.send(WORLD[1:])
        assert stalled.receive().status == 204


def test_equal_creations_are_uploads_of_their_own(tus: Tus) -> None:
    assert tus.create(5) != tus.create(5)
