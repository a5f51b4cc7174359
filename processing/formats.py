"""Say which texts have the form of a region's licence plates, and mend look-alikes by it; pure."""

from __future__ import annotations

import re
from itertools import combinations
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator

Region: TypeAlias = Literal["any", "us", "eu", "br"]

# L is a letter, D a digit. Common series only: what is left out is left as it was read.
_SERIES: Final = {
    "us": "DLLLDDD LLLDDDD LLLDDD DDDLLL LLDLDL LLDDDDD LDDDDDD LDDLLL LLLLDD LLDDDD DDDDLL"
    " DLLDDDD DLLDDD DLDDDDD DDLLDDD LLLDDL LDDDLL LLDDDL DDDLDDD DDLDDDD",
    "eu": "LLDDDLL LLDDLLL DLDDDDD DDDDLLL LLDDDDD LLLDDDD LLDDDDLL LLDDDD LLLDDD DLLLDDD"
    " LDDDLL LLDDLL LDDLLL LLDDLD DDLLDD DDDLLL DDLDDDDD DDLLDDDD DDLLLDD DDLLLDDD LLLLDD LLLDD"
    " LLLDDL LLLLDDD LLDLDDD",
    "br": "LLLDDDD LLLDLDD",
}
# Glyphs that many plates draw alike: no reader can tell them apart.
_ALIKE: Final = {"O": "0", "0": "O", "I": "1", "1": "I"}
# Glyphs that are confused where they are small or dirty.
_CONFUSED: Final = {**_ALIKE, "Q": "0", "D": "0", "B": "8", "8": "B", "S": "5", "5": "S", "Z": "2",
                    "2": "Z", "G": "6", "6": "G"}  # fmt: skip
# A character that a reader is less sure of may be no character at all: a seal, an emblem.
_SURE = 0.9

_LETTER = re.compile("[A-Z]")
_DIGIT = re.compile("[0-9]")


def shape(text: str) -> str:
    """Return L for each letter of a normalised text and D for each digit."""
    return _DIGIT.sub("D", _LETTER.sub("L", text))


def regions(text: str) -> tuple[str, ...]:
    """Return the regions whose plates have the form of a normalised text, none for none."""
    form = shape(text)
    return tuple(region for region, series in _FORMS.items() if form in series)


def fits(text: str, region: Region = "any") -> bool:
    """Tell whether a normalised text has the form of a plate of the region, or of any."""
    found = regions(text)
    return bool(found) if region == "any" else region in found


def mended(text: str, characters: tuple[float, ...] = (), region: Region = "any") -> str:
    """Return the text with as few changes as give it the form of a plate; as it is without any.

    Where the region is not known only one glyph of those that look alike is exchanged, 0 and O or 1
    and I.

    Args:
        text: normalised.
        characters: how sure the reader is of each character, 0 to 1; empty where it is not known.
        region: whose forms count.
    """
    # Numbers alone are series as well, and nothing tells which.
    if fits(text, region) or text.isdigit():
        return text
    known = region != "any"
    exchanges = _CONFUSED if known else _ALIKE
    # With two of any region nearly everything becomes some plate.
    most = 2 if known else 1
    for changed in (
        _exchanged(text, exchanges, most),
        _without_emblem(text, characters, exchanges, most),
    ):
        found = [one for one in changed if fits(one, region)]
        if found:
            return found[0]
    return text


def _exchanged(text: str, exchanges: dict[str, str], most: int) -> Iterator[str]:
    places = [place for place, character in enumerate(text) if character in exchanges]
    for count in range(1, most + 1):
        for chosen in combinations(places, count):
            yield "".join(
                exchanges[character] if place in chosen else character
                for place, character in enumerate(text)
            )


def _without_emblem(
    text: str, characters: tuple[float, ...], exchanges: dict[str, str], most: int
) -> Iterator[str]:
    if len(characters) != len(text) or min(characters, default=1.0) >= _SURE:
        return
    # An emblem stands between groups, never at an end.
    inner = range(1, len(text) - 1)
    doubted = sorted((characters[place], place) for place in inner if characters[place] < _SURE)
    for _, place in doubted[:2]:
        shorter = text[:place] + text[place + 1 :]
        yield shorter
        yield from _exchanged(shorter, exchanges, most)


_FORMS: Final = {region: frozenset(series.split()) for region, series in _SERIES.items()}
