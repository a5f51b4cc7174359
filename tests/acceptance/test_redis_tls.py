"""Server and worker on a Redis that speaks TLS only, under a certificate of one's own."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import pytest

from tests.acceptance.process import eventually
from tests.acceptance.raw import Tus
from tests.storage.front import CERTIFICATE, tls_before

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.acceptance.process import Site


@pytest.fixture
def port(redis_url: str) -> Iterator[int]:
    with tls_before(unquote(urlsplit(redis_url).path)) as port:
        yield port


def test_an_upload_becomes_a_job_that_ends_over_tls(
    new_site: Callable[..., Site], port: int
) -> None:
    site = new_site(REDIS_URL=f"rediss://localhost:{port}/0?ssl_ca_certs={CERTIFICATE}")
    tus = Tus(site.serve().port)
    site.work()
    upload = tus.upload(b"no video")
    assert tus.wait_for_job(upload)["status"] == "failed"
    assert tus.request("GET", "/ready").json()["workers"] == 1


def test_a_certificate_that_nobody_vouches_for_is_refused(
    new_site: Callable[..., Site], port: int
) -> None:
    server = new_site(REDIS_URL=f"rediss://localhost:{port}/0").serve()
    tus = Tus(server.port)
    answer = eventually(
        lambda: tus.request("GET", "/ready") if "redis.away" in server.log else None, "an answer"
    )
    assert answer.status == 503
    assert "certificate" in server.wait_for(r"redis\.away.*")[0].lower()
