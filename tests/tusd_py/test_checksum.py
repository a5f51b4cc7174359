"""Every announced algorithm computes what its specification says, in any pieces."""

from __future__ import annotations

import pytest

from tests.tusd_py.test_exchange import ListWriter
from tusd_py.checksum import DigestingSink, new_digest
from tusd_py.tus import ALGORITHMS

# Of the nine bytes "123456789": the check values of the CRC catalogue, and coreutils'.
KNOWN = {
    "md5": "25f9e794323b453885f5181f1b624d0b",
    "sha1": "f7c3bc1d808e04732adf679965ccc34ca7ae3441",
    "sha256": "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225",
    "crc32": "cbf43926",
    "crc32c": "e3069283",
}


@pytest.mark.parametrize("algorithm", KNOWN)
def test_an_algorithm_gives_its_known_value(algorithm: str) -> None:
    digest = new_digest(algorithm)
    digest.update(b"1234")
    digest.update(memoryview(b"56789"))
    assert digest.digest().hex() == KNOWN[algorithm]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_is_written_through_is_digested(algorithm: str) -> None:
    writer, digest, whole = ListWriter(), new_digest(algorithm), new_digest(algorithm)
    through = DigestingSink(writer, digest)
    through.write([b"ab", b"", b"cd"])
    through.write([b"e"])
    whole.update(b"abcde")
    assert writer.content == b"abcde"
    assert through.offset == 5
    assert digest.digest() == whole.digest()
