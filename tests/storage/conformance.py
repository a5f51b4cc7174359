"""What every storage.interfaces.DataStore does, whatever it waits for."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from storage.errors import LockLost, RecordBehind, UploadGone, UploadNotFound
from storage.job import Ended, JobState
from storage.upload import Upload

if TYPE_CHECKING:
    from storage.interfaces import DataStore


def content(store: DataStore, upload: Upload) -> bytes:
    with store.read(upload.id) as file:
        return file.read()


class DataStoreConformance:
    """Derive from it and give it a fixture `store`."""

    @pytest.fixture
    def upload(self, store: DataStore) -> Upload:
        upload = Upload(str(uuid4()), 10, None, 1.0, 2.0)
        store.create(upload)
        return replace(upload, token=1)

    def test_a_length_that_is_declared_late_is_remembered(self, store: DataStore) -> None:
        deferred = Upload(str(uuid4()), None, None, 1.0, 2.0)
        store.create(deferred)
        assert store.recover(deferred.id)[0].length is None
        with closing(store.open(deferred)) as writer:
            writer.write([b"abc"])
            writer.commit(replace(deferred, offset=3))
            assert store.recover(deferred.id)[0].length is None
            writer.commit(replace(deferred, offset=3, length=7))
        assert store.recover(deferred.id)[0].length == 7

    def test_what_was_committed_is_recovered(self, store: DataStore, upload: Upload) -> None:
        with closing(store.open(upload)) as writer:
            writer.write([b"abc"])
            writer.commit(replace(upload, offset=3, expires_at=9.0))
            writer.write([b"defg"])
        recovered, ended = store.recover(upload.id)
        assert store.look(upload.id) == recovered
        assert recovered == replace(upload, offset=3, expires_at=9.0)
        assert ended is None

    def test_what_was_removed_before_it_was_complete_can_be_reclaimed_once(
        self, store: DataStore, upload: Upload
    ) -> None:
        named = replace(upload, id=str(uuid4()), fingerprint="mine")
        store.create(named)
        assert not store.reclaim(named.id, "mine")
        store.remove(named.id)
        assert not store.reclaim(named.id, "another's")
        assert store.reclaim(named.id, "mine")
        assert not store.reclaim(named.id, "mine")
        store.create(named)
        with closing(store.open(replace(named, token=2))) as writer:
            writer.write([b"abcdefghij"])
            writer.commit(replace(writer.upload, offset=10, length=10, complete=True))
        store.remove(named.id)
        assert not store.reclaim(named.id, "mine")

    def test_metadata_that_came_late_are_recovered(self, store: DataStore, upload: Upload) -> None:
        with closing(store.open(replace(upload, token=1))) as writer:
            writer.write([b"abcdefghij"])
            described = replace(writer.upload, offset=10, complete=True, metadata="frame_skip Mg==")
            writer.commit(described)
        assert store.recover(upload.id)[0] == described
        assert store.look(upload.id) == described

    def test_a_writer_that_only_sleeps_never_reaches_what_its_successor_writes(
        self, store: DataStore, upload: Upload
    ) -> None:
        with closing(store.open(upload)) as sleeper:
            sleeper.write([b"abc"])
            sleeper.commit(replace(upload, offset=3))
            newcomer = store.open(replace(upload, offset=3, token=2))
            newcomer.write([b"defg"])
            taken = replace(newcomer.upload, offset=7)
            newcomer.commit(taken)
            # It wakes, and writes on where it was.
            sleeper.write([b"XXXXXXX"])
            with pytest.raises(LockLost):
                sleeper.commit(replace(upload, offset=10, complete=True))
            newcomer.close()
        assert store.recover(upload.id)[0] == taken
        assert taken.segments == ((0, 0), (1, 3))
        # A process of the same boot goes on in the segment that is free now.
        with closing(store.open(replace(taken, token=3))) as last:
            last.write([b"hij"])
            last.commit(replace(last.upload, offset=10, complete=True))
        assert last.upload.segments == taken.segments
        with store.read(upload.id) as file:
            assert file.read() == b"abcdefghij"
        store.purge(upload.id)
        assert list(store.ids()) == []

    def test_no_token_is_used_twice_though_redis_forgot_that_it_gave_it_out(
        self, store: DataStore, upload: Upload
    ) -> None:
        with closing(store.open(replace(upload, token=5))) as writer:
            # Redis is emptied now, and gets the record back as the journal has it.
            rebuilt, _ = store.recover(upload.id)
            assert rebuilt.token == 5
            with pytest.raises(RecordBehind):
                store.open(replace(rebuilt, token=5))
            writer.write([b"abc"])
            writer.commit(replace(writer.upload, offset=3))
        assert store.recover(upload.id)[0].offset == 3

    def test_what_was_removed_meanwhile_takes_no_commit(
        self, store: DataStore, upload: Upload
    ) -> None:
        with closing(store.open(upload)) as writer:
            writer.write([b"abc"])
            store.remove(upload.id)
            with pytest.raises(UploadGone):
                writer.commit(replace(upload, offset=3))

    def test_a_writer_that_is_rewound_writes_over_what_it_did_not_commit(
        self, store: DataStore, upload: Upload
    ) -> None:
        with closing(store.open(upload)) as writer:
            writer.write([b"abc"])
            writer.commit(replace(writer.upload, offset=3))
            writer.write([b"XXXXXXX"])
            writer.rewind()
            assert writer.offset == writer.upload.offset == 3
            writer.write([b"defghij"])
            writer.commit(replace(writer.upload, offset=10, complete=True))
        with store.read(upload.id) as file:
            assert file.read() == b"abcdefghij"

    @pytest.mark.parametrize("deed", ["open", "remove", "purge"])
    def test_a_writer_sees_that_somebody_else_was_at_its_upload(
        self, store: DataStore, upload: Upload, deed: str
    ) -> None:
        with closing(store.open(upload)) as writer:
            writer.write([b"abc"])
            writer.commit(replace(writer.upload, offset=3))
            assert writer.undisturbed()
            if deed == "open":
                store.open(replace(upload, offset=3, token=2)).close()
            else:
                getattr(store, deed)(upload.id)
            assert not writer.undisturbed()

    def test_a_segment_in_which_nothing_was_counted_is_none(
        self, store: DataStore, upload: Upload
    ) -> None:
        with closing(store.open(upload)) as sleeper:
            sleeper.write([b"XXX"])
            with closing(store.open(replace(upload, token=2))) as newcomer:
                assert newcomer.upload.segments == ((1, 0),)
                newcomer.write([b"abc"])
                newcomer.commit(replace(newcomer.upload, offset=3))
        with store.read(upload.id) as file:
            assert file.read() == b"abc"

    def test_a_concatenation_shares_the_bytes_of_its_parts(
        self, store: DataStore, upload: Upload
    ) -> None:
        with closing(store.open(upload)) as sleeper:
            sleeper.write([b"abc"])
            sleeper.commit(replace(upload, offset=3))
            with closing(store.open(replace(upload, offset=3, token=2))) as writer:
                writer.write([b"defg"])
                part = replace(writer.upload, offset=7, length=7, complete=True)
                writer.commit(part)
        final = Upload(
            str(uuid4()), None, None, 1.0, 2.0, concat=f"final;{part.id} /files/{part.id}/"
        )
        store.create(final)
        made = store.assemble(final.id, 14)
        assert (made.offset, made.length, made.complete) == (14, 14, True)
        assert made.segments == ((0, 0), (1, 3), (0, 7), (1, 10))
        assert store.recover(final.id)[0] == made
        store.purge(part.id)
        with store.read(final.id) as file:
            assert file.read() == b"abcdefgabcdefg"
        store.purge(final.id)
        assert list(store.ids()) == []

    def test_an_unknown_upload_is_not_found(self, store: DataStore) -> None:
        unknown = Upload(str(uuid4()), 10, None, 1.0, 2.0)
        with pytest.raises(UploadNotFound):
            store.open(unknown)
        with pytest.raises(UploadNotFound):
            store.recover(unknown.id)
        with pytest.raises(UploadNotFound):
            store.read(unknown.id)

    def test_a_removed_upload_stays_removed(self, store: DataStore, upload: Upload) -> None:
        assert store.publish_result(upload.id, b"{}")
        store.remove(upload.id)
        for ask in (store.recover, store.look, store.read):
            with pytest.raises(UploadGone):
                ask(upload.id)
        with pytest.raises(UploadGone):
            store.open(upload)
        assert store.result(upload.id) is None
        assert list(store.ids()) == [upload.id]
        store.purge(upload.id)
        store.purge(upload.id)
        assert list(store.ids()) == []

    def test_the_record_outlives_the_bytes(self, store: DataStore, upload: Upload) -> None:
        store.remove_bytes(upload.id)
        store.remove_bytes(upload.id)
        assert store.recover(upload.id)[0].id == upload.id
        with pytest.raises(UploadGone):
            store.read(upload.id)

    def test_the_first_published_result_stands(self, store: DataStore, upload: Upload) -> None:
        assert store.result(upload.id) is None
        assert store.publish_result(upload.id, b"first") is True
        assert store.publish_result(upload.id, b"second") is False
        assert store.result(upload.id) == b"first"

    def test_the_end_of_a_job_is_remembered(self, store: DataStore, upload: Upload) -> None:
        ended = Ended(JobState.COMPLETED, 5.0, 6.0, frames=7, plates=8, detections=9)
        store.end_job(upload.id, ended)
        assert store.recover(upload.id)[1] == ended

    @pytest.mark.parametrize(
        ("token", "offset", "behind"), [(6, 3, False), (5, 3, True), (4, 3, True), (6, 2, True)]
    )
    def test_a_record_that_knows_less_than_the_journal_is_not_written_under(
        self, store: DataStore, upload: Upload, *, token: int, offset: int, behind: bool
    ) -> None:
        stored = replace(upload, token=5, offset=3)
        with closing(store.open(replace(upload, token=5))) as writer:
            writer.write([b"abc"])
            writer.commit(stored)
        asked = replace(upload, token=token, offset=offset)
        if behind:
            with pytest.raises(RecordBehind, match="3 bytes are here") as raised:
                store.open(asked)
            assert raised.value.upload == stored
        else:
            store.open(asked).close()

    def test_a_completion_that_redis_does_not_know_is_told(
        self, store: DataStore, upload: Upload
    ) -> None:
        with closing(store.open(upload)) as writer:
            writer.write([b"abcdefghij"])
            writer.commit(replace(upload, offset=10, complete=True))
        with pytest.raises(RecordBehind):
            store.open(replace(upload, offset=10, token=2))

    def test_what_expired_is_removed_unless_somebody_has_it_open(
        self, store: DataStore, upload: Upload
    ) -> None:
        assert store.expire(upload.id, upload.expires_at) is False
        with closing(store.open(upload)):
            assert store.expire(upload.id, 1e10) is False
        assert store.expire(upload.id, 1e10) is True
        with pytest.raises(UploadGone):
            store.recover(upload.id)

    def test_a_finished_upload_does_not_expire(self, store: DataStore, upload: Upload) -> None:
        with closing(store.open(upload)) as writer:
            writer.write([b"abcdefghij"])
            writer.commit(replace(upload, offset=10, complete=True))
        assert store.expire(upload.id, 1e10) is False

    def test_what_is_taken_is_written_in_its_order_with_what_comes_next(
        self, store: DataStore, upload: Upload
    ) -> None:
        with closing(store.open(upload)) as writer:
            assert writer.take([b"ab", b"c"])
            assert writer.take([b"d"])
            assert (writer.offset, content(store, upload)) == (4, b"")
            writer.write([b"ef"])
            assert writer.take([b"g"])
            writer.commit(replace(writer.upload, offset=writer.offset))
        assert content(store, upload) == b"abcdefg"

    def test_no_more_is_taken_than_a_little_and_nothing_of_what_is_too_much(
        self, store: DataStore, upload: Upload
    ) -> None:
        with closing(store.open(upload)) as writer:
            assert writer.take([b"a" * 65_000])
            assert not writer.take([b"b" * 1_000])
            assert writer.offset == 65_000
            assert b"".join(writer.written(0)) == b"a" * 65_000

    def test_what_was_taken_is_dropped_with_all_that_was_not_committed(
        self, store: DataStore, upload: Upload
    ) -> None:
        with closing(store.open(upload)) as writer:
            writer.take([b"old"])
            writer.rewind()
            assert writer.offset == 0
            writer.take([b"new"])
            writer.commit(replace(writer.upload, offset=3))
        assert content(store, upload) == b"new"

    def test_an_upload_that_is_begun_is_created_and_opened_at_once(self, store: DataStore) -> None:
        upload = Upload(str(uuid4()), 10, None, 1.0, 2.0, token=1)
        with closing(store.begin(upload)) as writer:
            writer.take([b"video"])
            writer.commit(replace(writer.upload, offset=5))
        assert store.recover(upload.id)[0] == writer.upload
        assert content(store, upload) == b"video"
        with closing(store.open(replace(writer.upload, token=2))) as second:
            second.write([b"s"])
            second.commit(replace(second.upload, offset=6))
        assert store.recover(upload.id)[0].segments == ((0, 0),)

    def test_nobody_else_writes_the_file_of_an_upload_that_was_begun(
        self, store: DataStore
    ) -> None:
        upload = Upload(str(uuid4()), 10, None, 1.0, 2.0, token=1)
        with (
            closing(store.begin(upload)),
            closing(store.open(replace(upload, token=2))) as second,
        ):
            assert second.upload.segments == ((1, 0),)
