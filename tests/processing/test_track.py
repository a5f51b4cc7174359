from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from processing.result import Box, Place, Sighting
from processing.track import Tracker, plates, without_overlays
from tests.processing.doubles import reading

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from processing.result import Plate, Reading


def tracked(frames: Iterable[Sequence[Reading]]) -> Tracker:
    """Return a tracker that has seen the frames."""
    tracker = Tracker()
    for readings in frames:
        tracker.add(readings)
    return tracker


def found(frames: Iterable[Sequence[Reading]]) -> list[Plate]:
    """Return the plates in the frames."""
    return plates(tracked(frames).tracks)


def passing(text: str, start: int = 0, count: int = 5, y: int = 100) -> list[list[Reading]]:
    """Return a plate that moves 60 pixels a frame."""
    return [[reading(text, start + step, at=(100 + 60 * step, y))] for step in range(count)]


def test_a_moving_plate_is_one_plate_with_its_times() -> None:
    (plate,) = found(passing("AB12CDE", start=5))
    assert (plate.text, plate.detections) == ("AB12CDE", 5)
    assert (plate.first_seen, plate.last_seen) == (1.0, 1.8)


def test_two_plates_side_by_side_stay_two() -> None:
    pairs = zip(passing("AB12CDE"), passing("AB13CDE", y=400), strict=True)
    texts = [plate.text for plate in found([[*one, *other] for one, other in pairs])]
    assert texts == ["AB12CDE", "AB13CDE"]


def test_vehicles_of_a_fleet_that_follow_each_other_stay_two() -> None:
    texts = [plate.text for plate in found(passing("AB12CDE") + passing("AB17CDE", start=40))]
    assert texts == ["AB12CDE", "AB17CDE"]


def test_a_plate_seen_again_later_is_the_same_plate() -> None:
    (plate,) = found(passing("AB12CDE") + passing("AB12CDE", start=100))
    assert plate.detections == 10
    assert (plate.first_seen, plate.last_seen) == (0.0, 20.8)
    assert plate.sightings == (Sighting(0.0, 0.8, 5), Sighting(20.0, 20.8, 5))


def test_a_plate_seen_again_with_a_confusable_letter_is_the_same_plate() -> None:
    (plate,) = found(passing("AB12CDE", count=6) + passing("A812CDE", start=100, count=4))
    assert plate.text == "AB12CDE"


def test_a_partial_reading_is_no_extra_plate() -> None:
    (plate,) = found([*passing("34A36837"), [reading("34A368", 30, at=(900, 700))]])
    assert plate.text == "34A36837"


def test_misreadings_in_between_are_outvoted() -> None:
    frames = passing("AB12CDE", count=6)
    frames[2] = [reading("A812COE", 2, at=(220, 100))]
    (plate,) = found(frames)
    assert (plate.text, plate.detections) == ("AB12CDE", 6)


def test_a_text_read_once_in_a_video_is_doubted_more_than_one_read_often() -> None:
    (once,) = found([[reading("AB12CDE", confidence=0.7)]])
    assert once.confidence < 0.3
    (often,) = found(passing("AB12CDE", count=8))
    assert often.confidence > 0.85


def test_a_text_read_once_in_a_still_is_doubted_less_than_one_read_once_in_a_video() -> None:
    frames = [[reading("AB12CDE", confidence=0.99)]]
    (plate,) = plates(tracked(frames).tracks, single_frame=True)
    (once,) = found(frames)
    assert plate.confidence > 0.85
    assert plate.confidence > once.confidence


def test_plates_come_by_first_appearance_and_then_the_surest_first() -> None:
    together = [
        [reading("BB22BBB", 0, 0.8), reading("AA11AAA", 0, 0.6, at=(500, 400))],
        [reading("BB22BBB", 1, 0.8), reading("AA11AAA", 1, 0.6, at=(500, 400))],
    ]
    texts = [plate.text for plate in found([*together, *passing("CC33CCC", start=50)])]
    assert texts == ["BB22BBB", "AA11AAA", "CC33CCC"]


def test_a_plate_has_the_picture_of_its_best_shot() -> None:
    shots = [(b"far", 0.5, 0), (b"near", 0.9, 1), (b"blurred", 0.6, 2)]
    frames = [
        [replace(reading("AB12CDE", frame, confidence), crop=crop)]
        for crop, confidence, frame in shots
    ]
    tracker = tracked(frames)
    assert [plate.crop for plate in plates(tracker.tracks)] == [b"near"]
    # The other pictures are not kept, however long the video is.
    assert [one.crop for one in tracker.tracks[0].readings] == [b"", b"near", b""]


def test_the_pictures_of_a_track_are_few_whatever_is_read() -> None:
    frames = [
        [replace(reading(f"AB{number:03}CD", number, 0.5 + number / 1000), crop=b"picture")]
        for number in range(100)
    ]
    tracker = tracked(frames)
    pictures = [one.crop for track in tracker.tracks for one in track.readings if one.crop]
    assert len(pictures) <= 8 * len(tracker.tracks)
    assert all(plate.crop for plate in plates(tracker.tracks))


def test_a_plate_tells_what_else_was_read_and_which_regions_have_its_form() -> None:
    frames = passing("AB12CDE", count=6)
    frames[2] = [reading("A812CDE", 2, at=(220, 100))]
    (plate,) = found(frames)
    assert [one.text for one in plate.alternatives] == ["A812CDE"]
    assert 0.1 < plate.alternatives[0].weight < 0.2
    assert plate.regions == ("eu",)


def test_a_plate_tells_where_it_was_in_each_frame_of_a_short_stay() -> None:
    (plate,) = found(passing("AB12CDE"))
    assert [place.frame for place in plate.places] == [0, 1, 2, 3, 4]
    assert plate.places[1] == Place(1, 0.2, Box(160, 100, 100, 25))


def test_the_places_of_a_long_stay_are_few_and_cover_all_of_it() -> None:
    (plate,) = found([[reading("AB12CDE", frame)] for frame in range(1000)])
    assert len(plate.places) == 200
    assert plate.places[-1].frame >= 990
    assert plate.detections == 1000


def test_a_plate_that_is_held_is_in_view_without_being_read() -> None:
    tracker = tracked([[reading("AB12CDE", frame)] for frame in range(3)])
    (track,) = tracker.open_at(0.8)
    track.hold(0.6)
    track.hold(0.8)
    (plate,) = plates(tracker.tracks)
    assert (plate.last_seen, plate.detections) == (0.8, 5)
    assert tracker.open_at(1.8) == [track]
    assert tracker.open_at(1.9) == []


def test_a_plate_is_expected_where_its_movement_takes_it() -> None:
    tracker = tracked(passing("AB12CDE", count=2))
    (track,) = tracker.open_at(0.4)
    assert track.expected(0.4) == Box(220, 100, 100, 25)


def test_no_readings_give_no_plates() -> None:
    assert found([]) == []


def overlaid(y: int, *, others: bool) -> list[str]:
    """Return what is left of a text that stands still for 10 seconds at a height of 720."""
    frames = [[reading("14B02819", frame, at=(20, y))] for frame in range(50)]
    if others:
        for step, more in enumerate(passing("AB12CDE", start=10)):
            frames[10 + step] += more
    tracks = without_overlays(tracked(frames).tracks, duration=10.0, height=720)
    return [plate.text for plate in plates(tracks)]


def test_a_text_burnt_into_the_edge_is_no_plate() -> None:
    assert overlaid(20, others=True) == ["AB12CDE"]


def test_a_parked_car_in_mid_picture_is_a_plate() -> None:
    assert overlaid(300, others=True) == ["14B02819", "AB12CDE"]


def test_a_still_picture_at_the_edge_is_a_plate_where_nothing_moves() -> None:
    assert overlaid(20, others=False) == ["14B02819"]
