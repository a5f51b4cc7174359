"""Both codecs of the record give back what they were given."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import RecordTooNew
from storage.upload import Upload

uploads = st.builds(
    Upload,
    id=st.uuids().map(str),
    length=st.none() | st.integers(0, 2**63 - 1),
    metadata=st.none() | st.text(min_size=1),
    created_at=st.floats(0, 1e11),
    expires_at=st.floats(0, 1e11),
    offset=st.integers(0, 2**63 - 1),
    complete=st.booleans(),
    token=st.integers(0, 2**53),
    segments=st.lists(
        st.tuples(st.integers(0, 1000), st.integers(0, 2**63 - 1)), min_size=1, max_size=9
    ).map(tuple),
    concat=st.none() | st.text(min_size=1),
    dialect=st.sampled_from(["tus", "ietf"]),
    repr_digest=st.none() | st.text(min_size=1),
    fingerprint=st.none() | st.text(min_size=1),
    request_id=st.none() | st.text(min_size=1),
)


@given(uploads)
def test_the_hash_gives_back_the_record(upload: Upload) -> None:
    assert Upload.from_hash(upload.to_hash()) == upload


@given(uploads)
def test_the_json_gives_back_the_record(upload: Upload) -> None:
    assert Upload.from_json(json.loads(json.dumps(upload.to_json()))) == upload


@given(uploads)
def test_an_upload_that_has_come_further_keeps_all_else(upload: Upload) -> None:
    come = replace(upload, offset=5, length=9, expires_at=3.0, complete=True)
    assert upload.at(5, 9, 3.0, complete=True) == come


def test_metadata_is_told_as_text_and_what_cannot_be_read_is_left_out() -> None:
    said = Upload("x", 1, "name w6Q=, frame_skip Mg==,flag,bad !,raw /w==", 1.0, 2.0).described
    assert said == {
        "name": "ä",
        "frame_skip": "2",
        "flag": "",
        "bad": "",
        "raw": "\N{REPLACEMENT CHARACTER}",
    }
    assert Upload("x", 1, None, 1.0, 2.0).described == {}


def test_a_hash_from_the_future_is_refused_in_a_sentence() -> None:
    fields = Upload("x", 1, None, 1.0, 2.0).to_hash() | {"version": "2"}
    with pytest.raises(RecordTooNew, match="version 2, this program knows up to 1"):
        Upload.from_hash(fields)
