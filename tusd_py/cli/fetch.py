"""One file of a known size and SHA-256 into a folder: whole and right, or not at all."""

from __future__ import annotations

import os
import secrets
from contextlib import closing
from hashlib import file_digest, sha256
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urlsplit

import requests
from urllib3.exceptions import HTTPError

from tusd_py.cli import CommandError, Exit

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from processing.weights import WeightFile

CHUNK = 65_536
# Seconds to connect, and to wait for the next bytes.
TIMEOUTS = (30, 60)
# Who asks that nothing is compressed knows how many bytes will come.
HEADERS = {"Accept-Encoding": "identity"}


def is_there(file: WeightFile, folder: Path) -> bool:
    """Tell whether the folder holds the file, whole and right; raise OSError."""
    path = folder / file.name
    if not path.is_file() or path.stat().st_size != file.size:
        return False
    with path.open("rb") as stream:
        return file_digest(stream, "sha256").hexdigest() == file.sha256


def fetch(file: WeightFile, source: Path | str, folder: Path, tell: Callable[[int], None]) -> None:
    """Put the file into the folder, in place of another of its name.

    Args:
        file: what it has to be.
        source: a path, or an address of http or https.
        folder: where it is put.
        tell: is called with the bytes that have come.

    Raises:
        CommandError: it could not be had or written, or is another; the folder is as before.
    """
    target = folder / file.name
    beside = folder / f".{file.name}.{secrets.token_hex(4)}.part"
    try:
        with beside.open("xb") as stream:
            _take(file, source, stream, tell)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(target)
        _sync(folder)
    except OSError as error:
        raise CommandError(f"{target} cannot be written: {error.strerror or error}") from error
    finally:
        beside.unlink(missing_ok=True)


def _take(
    file: WeightFile, source: Path | str, stream: BinaryIO, tell: Callable[[int], None]
) -> None:
    """Copy what comes and check it; no more than one block too many is taken."""
    digest, count = sha256(), 0
    with closing(_blocks(source)) as blocks:
        for block in blocks:
            stream.write(block)
            digest.update(block)
            count += len(block)
            tell(min(count, file.size))
            if count > file.size:
                break
    if (count, digest.hexdigest()) != (file.size, file.sha256):
        got = "more" if count > file.size else f"{count} bytes with SHA-256 {digest.hexdigest()}"
        raise CommandError(
            f"{shown(source)}: expected {file.size} bytes with SHA-256 {file.sha256}, got {got}"
        )


def _blocks(source: Path | str) -> Generator[bytes, None, None]:
    return _of_path(source) if isinstance(source, Path) else _of_address(source)


def _of_path(path: Path) -> Generator[bytes, None, None]:
    try:
        if not path.is_file():
            # To open a pipe would wait for its other end.
            said = "expected a file, got something else" if path.exists() else "no such file"
            raise CommandError(f"{path}: {said}")
        with path.open("rb") as stream:
            while block := stream.read(CHUNK):
                yield block
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror or error}") from error


def _of_address(url: str) -> Generator[bytes, None, None]:
    lost = "the server cannot be reached"
    try:
        with requests.get(url, headers=HEADERS, stream=True, timeout=TIMEOUTS) as answer:
            lost = "the connection was lost"
            if answer.status_code != requests.codes.ok:
                said = f"{answer.status_code} {answer.reason or ''}".strip()
                raise CommandError(f"{shown(url)}: the server answered {said}")
            yield from answer.iter_content(CHUNK)
    except (requests.RequestException, HTTPError) as error:
        raise CommandError(f"{shown(url)}: {_reason(error, lost)}", Exit.UNREACHABLE) from error


def _reason(error: Exception, lost: str) -> str:
    """Say in a few words why nothing more came; the libraries' own words tell the address."""
    if isinstance(error, ValueError):
        return "this is no address that can be asked"
    if isinstance(error, requests.exceptions.SSLError):
        return "no trusted connection (TLS) can be made"
    if isinstance(error, requests.Timeout):
        return "the server does not answer in time"
    return lost


def shown(source: Path | str) -> str:
    """Return the source without the password that an address may hold."""
    if isinstance(source, Path):
        return str(source)
    parts = urlsplit(source)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _sync(folder: Path) -> None:
    """Have the name last."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
