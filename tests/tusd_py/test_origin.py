"""Addresses are paths unless PUBLIC_URL or a trusted proxy says more."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from settings import Settings
from tusd_py.headers import Headers
from tusd_py.origin import Origin, Reach, TrustedPeers

PROXY = ("10.1.2.3", 40_000)
STRANGER = ("192.0.2.7", 40_000)
TRUSTING = Origin(trusted=TrustedPeers.parse("10.0.0.0/8"))


def reach(
    origin: Origin,
    *fields: tuple[str, str],
    client: tuple[str, int] | None = PROXY,
    **scope: Any,
) -> Reach:
    raw = [("host", "inner:8000"), *fields]
    headers = Headers([(name.encode(), value.encode("latin-1")) for name, value in raw])
    return origin.of({"scheme": "http", "root_path": "", "client": client, **scope}, headers)


def test_a_location_is_a_path_by_default() -> None:
    assert reach(Origin()).location("abc") == "/files/abc"


@pytest.mark.parametrize("path", ["/up/loads", "/up/loads/"])
def test_an_upload_path_counts_with_and_without_its_last_slash(path: str) -> None:
    assert Origin(upload_path=path).creation_path == "/up/loads"
    assert reach(Origin(upload_path=path)).location("abc") == "/up/loads/abc"


@pytest.mark.parametrize("url", ["https://host.example/api", "https://host.example/api/"])
def test_a_public_url_wins_over_every_header_and_root_path(url: str) -> None:
    origin = Origin(public_url=url, trusted=TRUSTING.trusted)
    made = reach(origin, ("x-forwarded-host", "other.example"), root_path="/api")
    assert made.location("abc") == "https://host.example/api/files/abc"
    assert made.address("/jobs/abc") == "https://host.example/api/jobs/abc"


@pytest.mark.parametrize("client", [STRANGER, None, ("", 0), ("not an address", 1)])
def test_headers_of_somebody_else_are_ignored(client: tuple[str, int] | None) -> None:
    fields = [
        ("forwarded", "host=a.example;proto=https"),
        ("x-forwarded-host", "a.example"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-prefix", "/api"),
    ]
    made = reach(TRUSTING, *fields, client=client)
    assert made.location("abc") == "/files/abc"
    assert not made.owns("https://a.example/files/abc")


TOLD = [
    ([("x-forwarded-host", "a.example")], "http://a.example"),
    ([("x-forwarded-host", "a.example"), ("x-forwarded-proto", "https")], "https://a.example"),
    ([("x-forwarded-host", "a.example, b.example")], "http://a.example"),
    ([("x-forwarded-host", "a.example"), ("x-forwarded-host", "b.example")], "http://a.example"),
    ([("x-forwarded-proto", "https,http")], "https://inner:8000"),
    ([("x-forwarded-proto", "HTTPS"), ("x-forwarded-host", "A.example")], "https://a.example"),
    ([("x-forwarded-host", "a.example:8443")], "http://a.example:8443"),
    ([("x-forwarded-host", "a.example"), ("x-forwarded-port", "8080")], "http://a.example:8080"),
    ([("x-forwarded-host", "a.example:1"), ("x-forwarded-port", "2")], "http://a.example:1"),
    (
        [("x-forwarded-host", "[2001:db8::1]"), ("x-forwarded-port", "81")],
        "http://[2001:db8::1]:81",
    ),
    ([("x-forwarded-host", "[2001:db8::1]:82")], "http://[2001:db8::1]:82"),
    (
        [("x-forwarded-host", "a"), ("x-forwarded-proto", "https"), ("x-forwarded-port", "443,80")],
        "https://a",
    ),
    ([("x-forwarded-prefix", "/api/")], "/api"),
    ([("x-forwarded-prefix", "/api, /other"), ("x-forwarded-host", "a")], "http://a/api"),
    ([("forwarded", "host=a.example;proto=https")], "https://a.example"),
    (
        [("forwarded", 'for="[::1]:9";Host="a.example:8443" ; PROTO=https')],
        "https://a.example:8443",
    ),
    ([("forwarded", "host=a.example;proto=https, host=b.example")], "https://a.example"),
    ([("forwarded", "host=a.example"), ("forwarded", "host=b.example")], "http://a.example"),
    ([("forwarded", r'host="a\.example"')], "http://a.example"),
    ([("forwarded", 'by="x, host=evil;y";host=a.example;')], "http://a.example"),
    ([("forwarded", "host=a.example"), ("x-forwarded-host", "b.example")], "http://a.example"),
    ([("forwarded", "for=192.0.2.1"), ("x-forwarded-host", "b.example")], "http://b.example"),
    ([("forwarded", "host=a;proto=https"), ("x-forwarded-prefix", "/api")], "https://a/api"),
]


@pytest.mark.parametrize(("fields", "base"), TOLD)
def test_a_trusted_proxy_makes_the_location(fields: list[tuple[str, str]], base: str) -> None:
    assert reach(TRUSTING, *fields).location("abc") == f"{base}/files/abc"


HOSTILE = [
    *(
        ("x-forwarded-host", host)
        for host in [
            *("a b", "a/b", "a\\b", "user@a", "a?b", "a#b", "a:0", "a:65536", "a:x", "[::1", "é"),
            *("a%0d%0aX: y", "", " ", ",a", "a\r\nX: y", "a\r", "a\n", "\x00", "<a>", "http://a"),
        ]
    ),
    *(("x-forwarded-proto", scheme) for scheme in ["ftp", "javascript", "", "https:", "http\n"]),
    *(("forwarded", f'host="{host}"') for host in ["a/b", "user@a", "a b", "a\r\n"]),
    *(
        ("forwarded", value)
        for value in ['host="a', "host=a b", "host", "host=a;host=b", "=", ";", "host=a x=", '"']
    ),
    *(
        ("x-forwarded-prefix", prefix)
        for prefix in ["//evil", "/a//b", "api", "/a/../b", "/..", "/a b", "/a?b", "/a\r\nb", "/"]
    ),
]


@pytest.mark.parametrize(("name", "value"), HOSTILE)
def test_hostile_values_are_ignored(name: str, value: str) -> None:
    assert reach(TRUSTING, (name, value)).location("abc") == "/files/abc"


@pytest.mark.parametrize("port", ["0", "65536", "-1", "x", "8\n", "٣".encode().decode("latin-1")])
def test_a_hostile_port_is_ignored(port: str) -> None:
    fields = [("x-forwarded-host", "a"), ("x-forwarded-port", port)]
    assert reach(TRUSTING, *fields).location("abc") == "http://a/files/abc"


def test_a_proto_without_any_host_makes_nothing() -> None:
    made = TRUSTING.of({"client": PROXY}, Headers([(b"x-forwarded-proto", b"https")]))
    assert made.location("abc") == "/files/abc"


@pytest.mark.parametrize(
    ("root", "prefix", "base"),
    [
        ("/api", "", "/api"),
        ("/api/", "", "/api"),
        ("/ä", "", "/%C3%A4"),
        ("/inner", "/outer", "/outer/inner"),
        ("/api", "/api", "/api"),
        ("/apis", "/api", "/api/apis"),
    ],
)
def test_a_root_path_counts_as_a_prefix(root: str, prefix: str, base: str) -> None:
    made = reach(TRUSTING, ("x-forwarded-prefix", prefix), root_path=root)
    assert made.location("abc") == f"{base}/files/abc"


@pytest.mark.parametrize(
    ("trusted", "client", "answer"),
    [
        ("10.1.2.3", PROXY, True),
        ("10.1.2.4", PROXY, False),
        ("192.0.2.0/24, 10.0.0.0/8", PROXY, True),
        ("10.0.0.0/8", ("::ffff:10.1.2.3", 1), True),
        ("2001:db8::/32", ("2001:db8::5", 1), True),
        ("2001:db8::/32", PROXY, False),
        ("fe80::/10", ("fe80::1%eth0", 1), True),
        ("unix", None, True),
        ("unix", PROXY, False),
        ("none", PROXY, False),
        ("none", None, False),
        ("0.0.0.0/0", None, False),
    ],
)
def test_only_the_named_peers_are_trusted(
    trusted: str, client: tuple[str, int] | None, answer: object
) -> None:
    assert TrustedPeers.parse(trusted).trust(client) is answer


@pytest.mark.parametrize(
    "url",
    [
        *("/files/abc", "abc", "../abc", "//inner:8000/files/abc", "http://inner:8000/files/abc"),
        *("HTTP://INNER:8000/files/abc", "https://a.example/files/abc", "http://a.example:80/f"),
        *("https://a.example:443/files/abc", "/api/files/abc"),
    ],
)
def test_addresses_under_our_hosts_are_ours(url: str) -> None:
    assert reach(TRUSTING, ("forwarded", "host=a.example;proto=https")).owns(url)


@pytest.mark.parametrize(
    "url",
    [
        *("https://evil.example/files/abc", "//evil.example/files/abc", "http://inner/files/abc"),
        *("http://inner:8001/files/abc", "http://inner:8000@evil.example/files/abc", "ftp://inner"),
        *(
            "/files/abc?x",
            "/files/abc?",
            "/files/abc#x",
            "/files/abc#",
            "http://[",
            "//[",
            "http:x",
        ),
        *("https:/files/abc", "\\\\evil\\abc", "http://inner:8000\\@evil/abc", "javascript:abc"),
        *("http://user@inner:8000/files/abc", "http://inner:99999/files/abc", "http:///files/abc"),
    ],
)
def test_other_addresses_are_not_ours(url: str) -> None:
    assert not reach(TRUSTING).owns(url)


def test_addresses_under_the_public_url_are_ours() -> None:
    made = reach(Origin(public_url="https://host.example/api"), client=STRANGER)
    assert made.owns("https://host.example/api/files/abc")
    assert made.owns("https://host.example:443/api/files/abc")
    assert not made.owns("http://host.example/api/files/abc")


def test_requests_with_unlike_hosts_own_only_paths() -> None:
    made = reach(Origin(), ("host", "other"))
    assert made.owns("/files/abc")
    assert not made.owns("http://other/files/abc")


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("public_url", "ftp://host", "expected an address such as https://host/api"),
        ("public_url", "https://", "expected an address such as https://host/api"),
        ("public_url", "https://host?x", "expected an address such as https://host/api"),
        ("public_url", "https://user@host", "expected an address such as https://host/api"),
        ("public_url", "https://host\r\nX: y", "expected an address such as https://host/api"),
        ("upload_path", "files", "expected a path such as /files/"),
        ("upload_path", "/fi les", "expected a path such as /files/"),
        ("upload_path", "/a/../b", "expected a path such as /files/"),
        ("upload_path", "//files", "expected a path such as /files/"),
        ("upload_path", "/{id}", "expected a path such as /files/"),
        ("upload_path", "/", "clash with /docs, /events, /health, /jobs, /openapi.json"),
        ("upload_path", "/jobs/", "clash with /docs, /events, /health, /jobs, /openapi.json"),
        ("upload_path", "/docs", "clash with /docs, /events, /health, /jobs, /openapi.json"),
        ("upload_path", "/health/x", "clash with /docs, /events, /health, /jobs, /openapi.json"),
        ("trusted_proxies", "proxy.example", "expected an address, a network such as 10.0.0.0/8"),
        ("trusted_proxies", "10.0.0.1/8", "has host bits set"),
        ("trusted_proxies", "10.0.0.1,,unix", "expected an address, a network such as 10.0.0.0/8"),
        ("trusted_proxies", "*", "expected an address, a network such as 10.0.0.0/8"),
    ],
)
def test_a_bad_setting_is_refused_with_a_sentence(name: str, value: str, sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        Settings.model_validate({name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("public_url", "http://localhost:8000"),
        ("public_url", "https://[::1]:8443/a/b/"),
        ("upload_path", "/api/v1/files"),
        ("upload_path", "/jobs-of-mine/"),
        ("trusted_proxies", "10.0.0.1, 2001:db8::/32,unix"),
    ],
)
def test_a_good_setting_is_taken(name: str, value: str) -> None:
    settings = Settings.model_validate({name: value})
    assert getattr(settings, name) == value
    TrustedPeers.parse(settings.trusted_proxies)
