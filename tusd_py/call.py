"""One request while it is carried out, what it is about, and what all requests have in common."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from anyio import to_thread

from storage.errors import StorageError, UploadNotFound
from tusd_py import fields
from tusd_py.exchange import BodyEnd
from tusd_py.intake import Pace, Stores, content_digests
from tusd_py.protocol import IETF, Code, ProtocolError, Response
from tusd_py.resource import JobStatus

if TYPE_CHECKING:
    from collections.abc import Callable

    from storage.interfaces import DataStore, InfoStore
    from storage.leases import Leases
    from storage.upload import Upload
    from tusd_py.exchange import Exchange
    from tusd_py.origin import Reach
    from tusd_py.protocol import Action, Append, Create, Limits, Speaker

# A body that was cut short by us: the client shall go on from the offset.
RETRY = {BodyEnd.STALLED: Code.STALLED, BodyEnd.STOPPED: Code.TAKEN_OVER}


@dataclass(frozen=True, slots=True)
class Uploads:
    """Hold what actions are performed on; `finished` is told when an upload is complete.

    `closing` tells whether the server is about to end.
    """

    data: DataStore
    info: InfoStore
    leases: Leases
    limits: Limits
    min_free_bytes: int
    finished: Callable[[], None]
    closing: Callable[[], bool] = lambda: False
    pace: Pace = field(default_factory=Pace)
    #: What an intake needs.
    stores: Stores = field(init=False)

    def __post_init__(self) -> None:
        """Make once what every body asks for."""
        stores = Stores(self.data, self.info, self.limits, self.finished, self.pace)
        object.__setattr__(self, "stores", stores)


@dataclass(slots=True)
class Call:
    """Hold one request while it is carried out: whose words it speaks, and what it is about."""

    speaker: Speaker
    exchange: Exchange
    reach: Reach
    action: Action
    #: The upload as it was seen last.
    upload: Upload | None = None

    def location(self, upload: Upload) -> str:
        """Return the upload's address, as this client reaches it."""
        return self.reach.location(upload.id)


class Cut(Exception):
    """End the connection without an answer."""


def check_trailer(action: Create | Append, call: Call) -> None:
    if action.trailer is not None and not call.exchange.can_trail:
        raise ProtocolError(Code.INVALID_HEADER, "trailer: this server cannot read trailers")


def give_up(end: BodyEnd, upload: Upload, uploads: Uploads) -> None:
    """Refuse to go on with a body; at the end of the server iOS resumes what was cut only."""
    if end is BodyEnd.STOPPED and uploads.closing():
        raise Cut
    raise ProtocolError(RETRY[end], Upload_Offset=str(upload.offset))


async def hand_over(upload: Upload, uploads: Uploads) -> None:
    """Tell who watches that another request has the upload now; nothing depends on it."""
    if not uploads.closing():
        with suppress(StorageError):
            await uploads.info.hand_over(upload)


async def remove(upload: Upload, uploads: Uploads) -> None:
    # The tombstone comes first: whatever happens now, the upload stays removed.
    await to_thread.run_sync(uploads.data.remove, upload.id)
    # Whoever finds the tombstone may have dropped the record by now.
    with suppress(UploadNotFound):
        await uploads.info.terminate(upload, time.time() + uploads.limits.expiration)


async def outcome(
    upload: Upload, action: Create | Append, call: Call, uploads: Uploads
) -> Response:
    """Build what a complete upload comes to: its job, with the digests that were asked for."""
    headers = {"Content-Location": call.reach.address(f"/jobs/{upload.id}")}
    if action.wanted:
        with suppress(StorageError):
            digests = await to_thread.run_sync(
                content_digests, uploads.data, upload.id, action.wanted[:1]
            )
            headers["Repr-Digest"] = fields.build_digests(digests)
    job = None
    with suppress(StorageError):
        job = await uploads.info.job(upload.id)
    if job is None:
        return Response(201, headers)
    headers["Content-Type"] = "application/json"
    return Response(201, headers, JobStatus.of(job).model_dump_json().encode())


def has_outcome(upload: Upload, call: Call) -> bool:
    """Tell whether the answer says what the upload comes to: tus has no place for it."""
    return upload.complete and call.speaker.name == IETF
