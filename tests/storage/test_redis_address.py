"""What a URL of Redis says, and what is wrong with it."""

from __future__ import annotations

import pytest

from storage.redis_address import Address


def test_sentinels_are_asked_for_the_primary_of_a_name_with_its_own_access() -> None:
    address = Address.parse(
        "sentinels://me:p%40ss@one:1,two,[::1]:3/my%20name/4"
        "?ssl_ca_certs=ca.pem&sentinel_password=other"
    )
    assert address.sentinels == (("one", 1), ("two", 26379), ("::1", 3))
    assert (address.name, address.tls) == ("my name", True)
    access = {"username": "me", "password": "p@ss", "db": 4, "ssl_ca_certs": "ca.pem"}
    assert address.options == access
    assert address.asking == {"password": "other", "ssl_ca_certs": "ca.pem"}
    primary = address.primary()
    assert primary is not None
    assert primary.service_name == "my name"


@pytest.mark.parametrize(
    ("url", "tls", "options"),
    [
        ("redis://:secret@host:7/1", False, {"host": "host", "port": 7, "password": "secret"}),
        ("rediss://host", True, {"host": "host"}),
        ("unix:///run/redis.sock?db=2", False, {"path": "/run/redis.sock", "db": 2}),
    ],
)
def test_a_plain_address_needs_no_sentinel(url: str, tls: bool, options: dict[str, object]) -> None:  # noqa: FBT001  a parameter
    address = Address.parse(url)
    assert (address.tls, address.sentinels, address.primary()) == (tls, (), None)
    assert options.items() <= dict(address.options).items()
    assert options.items() <= address.async_pool_options().items()


@pytest.mark.parametrize(
    "url",
    ["sentinel://", "sentinel://host", "sentinel:///name", "sentinel://a,,b/name", "http://host"],
)
def test_what_is_no_address_is_refused_with_what_was_expected(url: str) -> None:
    with pytest.raises(ValueError, match=r"expected an address such as|must specify one of"):
        Address.parse(url)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://host/other", "the number of a database, got 'other'"),
        ("rediss://host/1/2", "the number of a database, got '1/2'"),
        ("sentinel://host/name/other", "the number of a database, got 'other'"),
        ("redis://host/0?colour=red", "options of a connection of redis-py: .*'colour'"),
        ("redis://host/0?ssl_ca_certs=ca.pem", "options of a connection .*'ssl_ca_certs'"),
        ("sentinel://host/name?colour=red", "options of a connection of redis-py: .*'colour'"),
        ("unix://", "an address such as unix:///run/redis.sock, got no path"),
        ("unix://redis.sock", "an address such as unix:///run/redis.sock, got no path"),
    ],
)
def test_what_nobody_could_connect_by_is_refused_before_anybody_tries(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=f"expected {said}"):
        Address.parse(url)


def test_an_address_may_say_how_large_pools_are() -> None:
    assert Address.parse("redis://host/3?max_connections=9&timeout=2").options["db"] == 3


def test_a_bad_port_of_a_sentinel_is_refused() -> None:
    with pytest.raises(ValueError, match=r"[Pp]ort"):
        Address.parse("sentinel://host:none/name")
