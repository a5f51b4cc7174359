"""What can go wrong in a store: one class per cause.

* StorageError
    * UploadNotFound: no upload of that id was ever here
    * UploadGone: it was removed or has expired
    * UploadLocked: another request writes it and did not let go in time
    * LockLost: the lock passed to another holder; nothing more may be written
    * StorageFull: the disk has no room
    * StoreUnavailable: Redis or the disk does not answer
    * JournalDamaged: the record beside the data cannot be read
"""

from __future__ import annotations


class StorageError(Exception):
    """A store could not do what it was asked."""


class UploadNotFound(StorageError):
    """No upload of that id is here."""


class UploadGone(StorageError):
    """The upload was removed or has expired."""


class UploadLocked(StorageError):
    """Another request writes this upload and did not let go in time."""


class LockLost(StorageError):
    """The lock passed to another holder."""


class StorageFull(StorageError):
    """The disk has no room."""


class StoreUnavailable(StorageError):
    """Redis or the disk does not answer."""


class JournalDamaged(StorageError):
    """The record beside the data cannot be read."""
