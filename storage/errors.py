"""What can go wrong in a store: one class per cause.

* StorageError
    * UploadNotFound: no upload of that id was ever here
    * UploadExists: there is one of that id already
    * UploadGone: it was removed or has expired
    * UploadLocked: another request writes it and did not let go in time
    * LockLost: the lock passed to another holder; nothing more may be written
    * StorageFull: the disk has no room
    * DiskFailed: the disk does not do its work
    * StoreUnavailable: Redis does not answer, or refuses
    * JournalDamaged: the record beside the data cannot be read
    * RecordBehind: Redis lacks what the journal says
    * RecordTooNew: a newer version of this program wrote the record
    * AnotherDirectory: this Redis belongs to another UPLOAD_DIR
    * ClusterRefused: this Redis is one of a cluster
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from storage.upload import Upload


class StorageError(Exception):
    """A store could not do what it was asked."""


class UploadNotFound(StorageError):
    """No upload of that id is here."""


class UploadExists(StorageError):
    """An upload of that id is here already."""


class UploadGone(StorageError):
    """The upload was removed or has expired."""


class UploadLocked(StorageError):
    """Another request writes this upload and did not let go in time."""


class LockLost(StorageError):
    """The lock passed to another holder."""


class StorageFull(StorageError):
    """The disk has no room."""


class NoRoom(StorageFull):
    """The disk has too little room for another upload; the sentence says how much is free."""


class DiskFailed(StorageError):
    """The disk does not do its work; it may be one file of one upload, or all of it."""


class StoreUnavailable(StorageError):
    """Redis does not answer, or refuses."""


class JournalDamaged(StorageError):
    """The record beside the data cannot be read."""


class RecordBehind(StorageError):
    """Redis was emptied or rolled back: the journal knows more than the record."""

    def __init__(self, upload: Upload) -> None:
        """Carry the record as the journal has it."""
        super().__init__(f"Redis lacks what the journal says: {upload.offset} bytes are here")
        self.upload = upload


class RecordTooNew(StorageError):
    """A newer version of this program wrote the record."""


class JobNotRetried(StorageError):
    """This job cannot be run again; the sentence says why."""


class AnotherDirectory(StorageError):
    """This Redis belongs to another UPLOAD_DIR."""


class ClusterRefused(StorageError):
    """This Redis is one of a cluster."""
