from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from processing.formats import fits, mended, regions, shape

if TYPE_CHECKING:
    from processing.formats import Region


def test_shape_tells_letters_from_digits() -> None:
    assert shape("AB12CDE") == "LLDDLLL"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("AYO9034", ("us", "eu", "br")),
        ("BRA2E19", ("br",)),
        ("HB6L0Z", ("us",)),
        ("RK099AN", ("eu",)),
        ("HLOKTY1", ()),
    ],
)
def test_a_form_tells_the_regions_that_use_it(text: str, found: tuple[str, ...]) -> None:
    assert regions(text) == found
    assert fits(text) is bool(found)


@pytest.mark.parametrize(
    ("read", "plate"),
    [
        ("UH1FOF", "UH1F0F"),  # Missouri: LLDLDL
        ("BA2681M", "BA268IM"),  # Slovakia: LLDDDLL
        ("AGOR6T", "AG0R6T"),
        ("AB12CDE", "AB12CDE"),
        ("RK099AN", "RK099AN"),
        ("HLOKTY1", "HLOKTY1"),  # of no form, whatever is exchanged
        ("1268205", "1268205"),
        ("75061H1", "75061H1"),  # two exchanges would make a Spanish one of it
        ("MHGV4L", "MHGV4L"),  # G and 6 are not alike
    ],
)
def test_glyphs_that_look_alike_are_exchanged_where_that_makes_a_plate(
    read: str, plate: str
) -> None:
    assert mended(read) == plate


@pytest.mark.parametrize(
    ("read", "region", "plate"),
    [("MHGV4L", "us", "MH6V4L"), ("0ZR2224", "br", "OZR2224"), ("A8123CD", "eu", "AB123CD")],
)
def test_confusable_glyphs_are_exchanged_where_the_region_is_known(
    read: str, region: Region, plate: str
) -> None:
    assert mended(read, region=region) == plate


def test_an_emblem_read_as_a_doubtful_letter_is_left_out() -> None:
    sure = (0.99,) * 3
    assert mended("SHOLR7X", (*sure, 0.5, *sure)) == "SH0R7X"
    assert mended("SHOLR7X", (0.99,) * 7) == "SHOLR7X"


def test_an_unsure_character_at_an_end_is_no_emblem() -> None:
    assert mended("XFB8R4TQ", (0.3, *(0.99,) * 7)) == "XFB8R4TQ"
