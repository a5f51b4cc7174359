"""The cases of the public tus conformance suite as a table of our own, under its ids.

https://github.com/sagikazarmark/tus-conformance-tests, 123 cases in July 2026. Each is a short
dialogue: what is sent, which status and headers come back. Where one contradicts the specification
or another one, it is marked with the reason.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

import pytest

from tests.acceptance.process import Server, Site, new_directory
from tests.acceptance.raw import APPEND, TUS, Tus
from tusd_py.tus import EXTENSIONS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

T = TypeVar("T")

FOUND, CLIENT_ERROR, CREATED_OR_REFUSED = "200|204", "4..", "201|400"
ANY = ".*"
VERSIONS = r"\d+\.\d+\.\d+(,\d+\.\d+\.\d+)*"
DATE = r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT"
HELLO = b"Hello, tus!\n"
SHA1 = "sha1 E7X121m3do5RTtnrOi5XTG9Uq0A="
WRONG_SHA1 = f"sha1 {'A' * 28}"
UPLOAD = TUS | APPEND
FILENAME = "filename dGVzdC50eHQ="


@dataclass(frozen=True, slots=True)
class Step:
    """Send one request; expect a status and headers by patterns, None for a header's absence.

    `{a}` in a header is the address of the upload of that name; `{told}` in a pattern is the offset
    that was told last.
    """

    method: str
    name: str
    headers: Mapping[str, str]
    body: bytes
    status: str
    answer: Mapping[str, str | None] = field(default_factory=dict)


def create(
    length: int | None = 100,
    status: str = "201",
    answer: Mapping[str, str | None] | None = None,
    *,
    name: str = "a",
    body: bytes = b"",
    tus: Mapping[str, str] = TUS,
    **headers: str,
) -> Step:
    sized = {} if length is None else {"Upload-Length": str(length)}
    sent = {**tus, **sized, **_named(headers)}
    wanted = {"Location": ".+"} if status == "201" else {}
    return Step("POST", name, sent, body, status, {**wanted, **(answer or {})})


def patch(
    offset: int | None,
    body: bytes,
    status: str = "204",
    *,
    name: str = "a",
    base: Mapping[str, str] = UPLOAD,
    answer: Mapping[str, str | None] | None = None,
    **headers: str,
) -> Step:
    at = {} if offset is None else {"Upload-Offset": str(offset)}
    told = {"Upload-Offset": str((offset or 0) + len(body))} if status == "204" else {}
    sent = {**base, **at, **_named(headers)}
    return Step("PATCH", name, sent, body, status, {**told, **(answer or {})})


def head(
    offset: object = None,
    length: object = None,
    *,
    name: str = "a",
    status: str = "200",
    tus: Mapping[str, str] = TUS,
    **answer: str | None,
) -> Step:
    said = {"Upload-Offset": offset, "Upload-Length": length}
    known = {key: str(value) for key, value in said.items() if value is not None}
    return Step("HEAD", name, tus, b"", status, {**known, **_named(answer)})


def delete(status: str = "204", *, name: str = "a", tus: Mapping[str, str] = TUS) -> Step:
    answer = {"Tus-Version": ".+"} if status == "412" else {}
    return Step("DELETE", name, tus, b"", status, answer)


def options(**answer: str) -> Step:
    return Step("OPTIONS", "", {}, b"", "200", {"Tus-Version": VERSIONS, **_named(answer)})


def partial(name: str, body: bytes) -> list[Step]:
    """Create a partial upload and fill it."""
    return [create(len(body), name=name, Upload_Concat="partial"), patch(0, body, name=name)]


def final(urls: str, status: str = "201", length: int | None = None) -> Step:
    return create(length, status, name="final", Upload_Concat=f"final;{urls}")


def _named(headers: Mapping[str, T]) -> dict[str, T]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


TEN = b"test data\n"
FIRST, SECOND = b"first chunk\n", b"second chunk\n"
A, B, C, D = (letter * 10 + b"\n" for letter in (b"A", b"B", b"C", b"D"))
FIVE_A, FIVE_B, SIX_B = b"AAAAA\n", b"BBBBB\n", b"BBBBBB\n"
HUGE = 2**50
UNFINISHED = [
    create(name="p", Upload_Concat="partial"),
    patch(0, b"0123456789\n", name="p"),
]
ONE = r".*1\.0\.0.*"
WHOLE = [create(12), patch(0, HELLO), head(12, 12)]

CASES: dict[str, list[Step]] = {
    # Core
    "cp-err-001": [create(100, "412", tus={})],
    "cp-err-002": [create(-1, "400")],
    "cp-head-001": [create(), head(r"\d+", status=FOUND)],
    "cp-head-002": [create(), head(length=100, status=FOUND)],
    "cp-head-003": [create(), head(tus={}, status="412", Tus_Version=".+")],
    "cp-head-004": [create(), head(status=FOUND, Cache_Control=".*no-store.*")],
    "cp-head-005": [head(name="!", status="403|404|410", Upload_Offset=None)],
    "cp-head-006": [create(), head(status=FOUND, Tus_Resumable=r"1\.0\.0")],
    "cp-head-007": [create(), head(0, status=FOUND)],
    "cp-opt-001": [options()],
    "cp-opt-002": [options()],
    "cp-opt-003": [options(Tus_Version=rf"(?=\d){VERSIONS}")],
    "cp-opt-004": [options(Tus_Extension=ANY)],
    "cp-opt-005": [options(Tus_Max_Size=r"\d+")],
    "cp-patch-001": [create(), patch(0, TEN, "412", base=APPEND, answer={"Tus-Version": ".+"})],
    "cp-patch-002": [create(), patch(0, TEN, "415", base=TUS)],
    "cp-patch-003": [create(), patch(0, TEN, "415", Content_Type="text/plain")],
    "cp-patch-004": [create(), patch(None, TEN, "400")],
    "cp-patch-005": [create(), patch(50, TEN, "409")],
    "cp-patch-006": [create(12), patch(0, HELLO)],
    "cp-patch-007": [create(12), patch(0, HELLO)],
    "cp-patch-008": [patch(0, TEN, "404", name="!")],
    "cp-patch-009": [create(12), patch(0, HELLO, answer={"Tus-Resumable": r"1\.0\.0"})],
    "cp-patch-010": [create(5), patch(0, HELLO, "413")],
    "cp-ver-001": [
        create(),
        head(tus={"Tus-Resumable": "99.99.99"}, status="412", Tus_Version=ANY),
    ],
    "cp-ver-002": [create(), head(tus={"Tus-Resumable": "0.0.1"}, status="412", Tus_Version=ONE)],
    "cp-ver-003": [options(Tus_Version=ONE)],
    # Checksum
    "ext-csum-001": [options(Tus_Checksum_Algorithm=r"[a-z0-9-]+(,[a-z0-9-]+)*")],
    "ext-csum-002": [options(Tus_Checksum_Algorithm=r"(.*,)?sha1(,.*)?")],
    "ext-csum-003": [create(12), patch(0, HELLO, Upload_Checksum=SHA1)],
    "ext-csum-004": [create(12), patch(0, HELLO, "460", Upload_Checksum=WRONG_SHA1)],
    "ext-csum-005": [create(), patch(0, TEN, "460", Upload_Checksum=WRONG_SHA1), head(0)],
    "ext-csum-006": [create(12), patch(0, HELLO, "400", Upload_Checksum="unknownalgo AAAAAAAAAA")],
    "ext-csum-007": [create(12), patch(0, HELLO, Upload_Checksum=SHA1)],
    "ext-csum-008": [
        create(12),
        patch(0, HELLO, "460", Upload_Checksum=WRONG_SHA1),
        patch(0, HELLO, Upload_Checksum=SHA1),
    ],
    "opt-csum-001": [create(0), head(0)],
    "opt-csum-002": [create(12), patch(0, HELLO, Upload_Checksum=SHA1)],
    "opt-csum-003": [
        create(12, body=HELLO, answer={"Upload-Offset": "12"}, tus=UPLOAD, Upload_Checksum=SHA1)
    ],
    "scn-error-002": [
        create(12),
        patch(0, HELLO, "460", Upload_Checksum=WRONG_SHA1),
        head(0),
        patch(0, HELLO, Upload_Checksum=SHA1),
    ],
    "ext-csum-tr-001": [options(Tus_Extension=".*checksum-trailer.*")],
    "ext-csum-tr-002": [options(Tus_Extension=".*checksum-trailer.*")],
    # Concatenation
    "ext-concat-001": [create(10, Upload_Concat="partial")],
    "ext-concat-002": [*partial("p", FIVE_A), *partial("q", FIVE_B), final("{p} {q}")],
    "ext-concat-003": [
        *partial("p", FIVE_A),
        final("{p}"),
        *partial("q", FIVE_B),
        final("{q}", CLIENT_ERROR, 6),
    ],
    "ext-concat-004": [
        *partial("p", FIVE_A),
        *partial("q", SIX_B),
        final("{p} {q}"),
        head(13, 13, name="final"),
    ],
    "ext-concat-005": [
        *partial("p", FIVE_A),
        final("{p}"),
        patch(0, b"data\n", "403", name="final"),
    ],
    "ext-concat-006": [
        *partial("p", FIVE_A),
        final("{p}"),
        head(name="final", Upload_Concat="final.*"),
    ],
    "ext-concat-007": [*UNFINISHED, final("{p}", "400")],
    "ext-concat-008": [final("/files/non-existent-partial-12345", "400|404")],
    "ext-concat-009": [
        create(6, name="p", Upload_Concat="partial"),
        head(name="p", status=FOUND, Upload_Concat="partial"),
    ],
    "ext-concat-010": [
        *partial("p", FIVE_A),
        final("{p}"),
        head(6, 6, status=FOUND, name="final", Upload_Concat="final.*"),
    ],
    "scn-concat-001": [
        *(create(11, name=name, Upload_Concat="partial") for name in "pqr"),
        *(patch(0, body, name=name) for name, body in zip("pqr", (A, B, C), strict=True)),
        final("{p} {q} {r}"),
        head(33, 33, name="final", Upload_Concat="final.*"),
    ],
    "scn-concat-002": [
        *partial("p", FIVE_A),
        head(6, name="p"),
        *partial("q", SIX_B),
        head(7, name="q"),
        final("{p} {q}"),
        head(13, 13, name="final"),
    ],
    "ext-concat-uf-001": [*UNFINISHED, final("{p}")],
    "ext-concat-uf-002": [
        *UNFINISHED,
        final("{p}"),
        head(11, name="final"),
        patch(11, b"0123456789\n", name="p"),
        head(22, name="final"),
    ],
    # Creation, its length deferred
    "ext-defer-001": [create(None, Upload_Defer_Length="1")],
    "ext-defer-002": [
        create(None, Upload_Defer_Length="1"),
        head(r"\d+", status=FOUND, Upload_Defer_Length="1", Upload_Length=None),
    ],
    "ext-defer-003": [
        create(None, Upload_Defer_Length="1"),
        patch(0, HELLO, Upload_Length="12"),
        head(length=12),
    ],
    "ext-defer-004": [
        create(None, Upload_Defer_Length="1"),
        patch(0, b"test\n", Upload_Length="100"),
        patch(5, b"more\n", "400", Upload_Length="200"),
    ],
    "ext-defer-005": [create(100, "400", Upload_Defer_Length="1")],
    # Creation with upload
    "ext-cwu-001": [create(12, body=HELLO, answer={"Upload-Offset": ".+"}, tus=UPLOAD)],
    "ext-cwu-002": [create(12, "415", body=HELLO, Content_Type="text/plain")],
    "ext-cwu-003": [create(12, body=HELLO, answer={"Upload-Offset": r"\d+"}, tus=UPLOAD)],
    "ext-cwu-004": [
        create(body=b"test data for partial test\n", answer={"Upload-Offset": r"\d+"}, tus=UPLOAD),
        head("{told}"),
    ],
    "ext-cwu-005": [
        create(12, body=HELLO, answer={"Upload-Offset": "12"}, tus=UPLOAD),
        head(12, 12),
    ],
    # Creation
    "ext-create-001": [create()],
    "ext-create-002": [create(answer={"Location": "https?://.+"})],
    "ext-create-003": [create(100, "412", tus={}, answer={"Tus-Version": ".+"})],
    "ext-create-004": [create(Upload_Metadata=f"{FILENAME},filetype dGV4dC9wbGFpbg==")],
    "ext-create-005": [
        create(Upload_Metadata=f"{FILENAME},content-type dGV4dC9wbGFpbg==,size MTAw")
    ],
    "ext-create-006": [
        create(Upload_Metadata="name SGVsbG8gV29ybGQ=,description VGhpcyBpcyBhIHRlc3QgZmlsZQ==")
    ],
    "ext-create-007": [options(), create(HUGE, "201|413")],
    "ext-create-008": [create(0), head(0, 0)],
    "ext-create-009": [create()],
    "ext-create-010": [
        create(Upload_Metadata=f"{FILENAME},filetype dGV4dC9wbGFpbg=="),
        head(status=FOUND, Upload_Metadata=rf"(?=.*{FILENAME}).*filetype dGV4dC9wbGFpbg==.*"),
    ],
    "opt-comp-001": [create(12), patch(0, HELLO), patch(12, b"", "[1-4]..")],
    "opt-comp-002": WHOLE,
    "opt-comp-003": WHOLE,
    "opt-conc-001": [create(), patch(0, FIRST), patch(12, SECOND)],
    "opt-conc-002": [create(), patch(0, TEN), head(ANY)],
    "opt-conc-003": [
        create(Upload_Metadata=FILENAME),
        create(name="b", Upload_Metadata=FILENAME),
        head(),
        head(name="b"),
    ],
    "opt-err-002": [
        create(),
        patch(0, FIRST),
        patch(0, b"wrong offset\n", "409", answer={"Upload-Offset": r"\d+"}),
    ],
    "opt-meta-001": [
        create(100, CREATED_OR_REFUSED, Upload_Metadata="filename not_valid_base64!!!")
    ],
    "opt-meta-002": [
        create(100, CREATED_OR_REFUSED, Upload_Metadata=f"{FILENAME},filename ZHVwbGljYXRl")
    ],
    "opt-meta-003": [
        create(100, CREATED_OR_REFUSED, Upload_Metadata="emptykey"),
        create(100, CREATED_OR_REFUSED, Upload_Metadata="filename dGVzdA==,emptykey"),
    ],
    "opt-meta-004": [create(100, "201|400|413|431", Upload_Metadata=f"largedata {'QUFB' * 3000}")],
    "opt-meta-005": [create(Upload_Metadata=FILENAME)],
    "opt-meta-006": [
        create(Upload_Metadata=f"{FILENAME},contenttype dGV4dC9wbGFpbg=="),
        head(),
    ],
    "opt-partial-001": [create(1000), patch(0, b"test data chunk\n")],
    "opt-partial-002": [create(), patch(0, b"partial\n")],
    "opt-partial-003": [create(), patch(0, TEN), head("{told}")],
    "opt-store-001": [create(), patch(0, TEN)],
    "opt-store-002": [
        create(),
        patch(0, b"test\n", f"204|{CLIENT_ERROR}", Upload_Length="200"),
        head(length=100, status=FOUND),
    ],
    "opt-store-003": [options(), create(HUGE, "[2-4]..|500")],
    "opt-time-001": [create(), head()],
    "opt-time-002": [create(), patch(0, TEN)],
    "opt-time-003": [create(), patch(0, b"partial data here\n"), head("{told}")],
    "opt-url-001": [create()],
    "opt-url-002": [create(), create(name="b")],
    "opt-url-003": [options()],
    "scn-basic-001": WHOLE,
    "scn-basic-002": [create(33), patch(0, A), patch(11, B), patch(22, C), head(33, 33)],
    "scn-basic-003": [create(22), patch(0, A), head(11), patch(11, B), head(22, 22)],
    "scn-basic-004": [create(0), head(0, 0)],
    "scn-error-001": [
        create(22),
        patch(0, A),
        patch(0, b"WRONGOFFSET\n", "409"),
        head(11),
        patch(11, B),
    ],
    "scn-resume-001": [create(12), head(0), patch(0, HELLO)],
    "scn-resume-002": [create(22), patch(0, A), head(11), patch(11, B)],
    "scn-resume-003": [
        create(103),
        patch(0, b"A" * 100 + b"\n"),
        head(101),
        patch(101, b"Z\n"),
        head(103, 103),
    ],
    "scn-resume-004": [
        create(44),
        *(
            step
            for at, body in zip((0, 11, 22, 33), (A, B, C, D), strict=True)
            for step in (patch(at, body), head(at + 11))
        ),
        head(44, 44),
    ],
    # Expiration
    "ext-expire-001": [create()],
    "ext-expire-002": [create(), patch(0, TEN)],
    "ext-expire-003": [create(), head(Upload_Expires=DATE)],
    "ext-expire-004": [create(), head()],
    "ext-expire-005": [create(), head()],
    "opt-exp-001": [create(), patch(0, FIRST), patch(12, SECOND)],
    "opt-exp-002": WHOLE,
    "opt-exp-003": [create(), head()],
    "scn-error-003": [create(), patch(0, b"partial data\n"), head(), create(name="b")],
    # Termination
    "ext-term-001": [create(), delete()],
    "ext-term-002": [create(), delete("412", tus={})],
    "ext-term-003": [create(), delete(), head(status="404|410")],
    "ext-term-004": [delete("404", name="!")],
    "ext-term-005": [*WHOLE, delete()],
}

_UNFINISHED = "concatenation-unfinished" in EXTENSIONS
#: Why a case cannot hold; the suite runs an extension's cases where OPTIONS announces it.
EXCEPTIONS = {
    "ext-concat-007": "contradicts ext-concat-uf-001: unfinished partials are taken" * _UNFINISHED,
    "ext-concat-uf-001": "" if _UNFINISHED else "concatenation-unfinished is not announced",
    "ext-concat-uf-002": "tus 1.0.0: no Upload-Offset of a final before its parts are finished",
    **dict.fromkeys(
        ("ext-csum-tr-001", "ext-csum-tr-002"),
        "" if "checksum-trailer" in EXTENSIONS else "checksum-trailer is not announced",
    ),
}


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    # The suite wants absolute addresses.
    with Site(new_directory(), PUBLIC_URL="http://acceptance") as site:
        yield site
    shutil.rmtree(site.directory)


@pytest.fixture(scope="module")
def server(site: Site) -> Server:
    return site.serve()


def play(tus: Tus, steps: list[Step]) -> None:
    """Go through a dialogue; where an upload is named that is not there, none is meant."""
    locations = {"!": "http://acceptance/files/non-existent-upload-id-12345"}
    told = ""
    for number, step in enumerate(steps, 1):
        creates = step.method in {"POST", "OPTIONS"}
        path = "/files" if creates else urlsplit(locations[step.name]).path
        sent = {name: value.format(**locations) for name, value in step.headers.items()}
        response = tus.request(step.method, path, sent, step.body)
        said = f"step {number}, {step.method} {path} {sent}: {response}"
        assert re.fullmatch(step.status, str(response.status)), said
        for name, pattern in step.answer.items():
            came = response.headers.get(name.lower())
            if pattern is None:
                assert came is None, said
            else:
                assert came is not None, f"no {name}: {said}"
                assert re.fullmatch(pattern.replace("{told}", told), came), f"{name}: {said}"
        told = response.headers.get("upload-offset", told)
        locations[step.name] = response.headers.get("location", locations.get(step.name, ""))


def parameters() -> list[object]:
    marks = {
        case: pytest.mark.xfail(strict=True, reason=reason)
        for case, reason in EXCEPTIONS.items()
        if reason
    }
    return [
        pytest.param(steps, id=case, marks=marks.get(case, ())) for case, steps in CASES.items()
    ]


@pytest.mark.parametrize("steps", parameters())
def test_a_case_of_the_public_suite_holds(tus: Tus, steps: list[Step]) -> None:
    play(tus, steps)


def test_no_case_of_the_public_suite_is_missing() -> None:
    assert len(CASES) == 123
