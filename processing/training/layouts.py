"""Say what stands on plates: their forms, and what is beside the text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from processing.training.dice import Dice

Style: TypeAlias = Literal["us", "eu", "br", "uk", "other", "sign", "none"]

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
DIGITS = "0123456789"
LOOK_ALIKE = "OIBDSZGQ", "018052"
# Most states of the US leave out what looks like a digit.
CLEAR = "ABCDEFGHJKLMNPRSTUVWXYZ"
# A is a letter, 9 a digit, * either; a blank is a gap, everything else stands for itself.
FORMS: dict[Style, tuple[str, ...]] = {
    "us": (
        "AAA 999", "AAA 9999", "AAA9999", "999 AAA", "9AAA999", "999AAA", "AAA-999", "AAA 99A",
        "99A 9AA", "9A 9999", "AA9 99A", "A99 AAA", "A99 99A", "AA 99999", "AA-9999", "99-AA99",
        "AA9A99", "AA99 AA", "A9 999A", "999 A99", "9999 AA", "99999 A", "999 999", "A99999",
        "AA 999A", "AAA 9A9", "9AA 999", "999-999", "9AA9999", "AAA99", "A-99999", "999-9AA",
        "AA9999", "A 999999", "9999999", "999AA9", "99AA9A", "9A9999", "9AA999", "AA99A9",
        "******", "*******", "*****", "A9A 9A9", "AAAAAAA", "AAAA9", "9A999A", "AA9A9A",
    ),
    "eu": (
        "AA 999AA", "AA-999AA", "AA-999 AA", "AA 999 AA", "AA-999-AA", "9A9 9999", "A AA 9999",
        "AA AA 999", "AAA AA 99", "A AA 999", "AA A 9999", "AAA A 999", "AA 99999", "AAA 99999",
        "AAA 9A99", "AA 9999A", "9999 AAA", "AAA-999", "AAA 999", "AA 999", "AA 999999",
        "AA 99 999", "99-AAA-9", "9-AAA-99", "AA-99-99", "99-99-AA", "A-999-AA", "AA-99-AAA",
        "A 99 AAA",
        "A 999 AAA", "AA 9999 AA", "AA 9999-AA", "AA-999-A", "AAA-9999", "9-AAA-999", "99-AA-99",
        "AA 999 A", "AAA 99A", "A 99999", "9A 99999", "AAA 999 AA", "A9 9999", "AA AAA 99",
        "AAA 9999", "AA999AA", "9AA 9999", "AA-99999", "*******", "******",
    ),
    "br": ("AAA-9999", "AAA 9999", "AAA 9999", "AAA9A99", "AAA 9A99", "AA 999 AA", "AAA 999"),
    "uk": ("AA99 AAA", "AA99 AAA", "AA99AAA", "A999 AAA", "AAA 999A", "A9 AAA", "AA9 9999"),
    "other": (
        "A999AA 99", "A999AA 999", "99 AAA 99", "99 AA 999", "99 A 9999", "99 A 99999",
        "99 AAA 999", "99 AA 9999", "AA 99 AA 9999", "AA 99 A 9999", "AAA 99A", "AAA-99-99",
        "AA 99 AA AA", "999 AAA 99", "AAA 999 AA", "AA 99 99", "9999 AA", "AAAA 999", "9999-AAA",
        "99 999 AA", "AA 9999", "AAA-999-A", "A-9999", "99-9999", "*****", "****", "********",
    ),
    # What is no plate has to be read as what it is.
    "sign": (
        "99:99", "99:99:99", "99/99/9999", "9999-99-99", "99.99.9999", "AAAAAA", "AAAAAAAA", "999",
        "AAA", "9999", "A9", "99", "AAAA AAAA", "AAAAA 99", "9.99", "AAA AAAAAA", "99-999-9999",
    ),
    "none": ("",),
}  # fmt: skip
SHARES: dict[Style, float] = {
    "us": 0.37, "eu": 0.25, "br": 0.14, "uk": 0.05, "other": 0.11, "sign": 0.05, "none": 0.03,
}  # fmt: skip
# How often words stand above and below the text, and a band on its left.
WORDED: dict[Style, tuple[float, float]] = {
    "us": (0.75, 0.6), "br": (0.6, 0.05), "other": (0.2, 0.2),
}  # fmt: skip
BANDED: dict[Style, float] = {"eu": 0.75, "uk": 0.3, "other": 0.25}
COUNTRIES = (
    "D", "F", "I", "E", "P", "B", "NL", "L", "A", "CZ", "SK", "PL", "H", "SLO", "HR", "RO", "BG",
    "GR", "LT", "LV", "EST", "FIN", "S", "DK", "N", "CH", "IRL", "GB", "TR", "UA", "SRB", "BIH",
)  # fmt: skip
WORDS = (
    "ALABAMA", "ALASKA", "ARIZONA", "ARKANSAS", "CALIFORNIA", "COLORADO", "CONNECTICUT",
    "DELAWARE", "FLORIDA", "GEORGIA", "HAWAII", "IDAHO", "ILLINOIS", "INDIANA", "IOWA", "KANSAS",
    "KENTUCKY", "LOUISIANA", "MAINE", "MARYLAND", "MASSACHUSETTS", "MICHIGAN", "MINNESOTA",
    "MISSISSIPPI", "MISSOURI", "MONTANA", "NEBRASKA", "NEVADA", "NEW HAMPSHIRE", "NEW JERSEY",
    "NEW MEXICO", "NEW YORK", "NORTH CAROLINA", "NORTH DAKOTA", "OHIO", "OKLAHOMA", "OREGON",
    "PENNSYLVANIA", "RHODE ISLAND", "SOUTH CAROLINA", "SOUTH DAKOTA", "TENNESSEE", "TEXAS", "UTAH",
    "VERMONT", "VIRGINIA", "WASHINGTON", "WEST VIRGINIA", "WISCONSIN", "WYOMING", "BRASIL",
    "MERCOSUL", "SP-SAO PAULO", "RJ-RIO DE JANEIRO", "MG-CONTAGEM", "PR-CURITIBA", "ARGENTINA",
    "AUTOHAUS", "MOTORS", "SUNSHINE STATE", "THE LONE STAR", "GRAND CANYON", "JAN", "MAY", "2014",
    "WWW.CARS", "SERVICE", "ONTARIO", "QUEBEC", "FIRST IN FLIGHT", "GARDEN STATE", "DEALER",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Layout:
    """Hold what one plate says.

    Args:
        style: what kind of plate it is.
        text: as it stands there, gaps and separators included.
        label: what has to be read.
        country: code in the band on the left, or nothing.
        above: small words over the text, or nothing.
        below: small words under it, or nothing.
    """

    style: Style
    text: str
    label: str
    country: str = ""
    above: str = ""
    below: str = ""


def layout(dice: Dice) -> Layout:
    """Choose what stands on a plate."""
    style = dice.weighted(SHARES)
    text = _filled(dice.among(FORMS[style]), *_choices(style, dice), dice)
    above, below = WORDED.get(style, (0.06, 0.06))
    return Layout(
        style=style,
        text=text,
        label=_label(text, style),
        country=dice.among(COUNTRIES) if dice.odds(BANDED.get(style, 0.0)) else "",
        above=dice.among(WORDS) if dice.odds(above) else "",
        below=dice.among(WORDS) if dice.odds(below) else "",
    )


def _choices(style: Style, dice: Dice) -> tuple[str, str]:
    if style in {"eu", "br", "uk"} and dice.odds(0.3):
        # Only their place in the form tells these apart.
        return LOOK_ALIKE
    return _letters(style, dice), DIGITS


def _letters(style: Style, dice: Dice) -> str:
    if style == "us":
        # Where the two look the same an O would only teach to guess.
        return CLEAR if dice.odds(0.7) else LETTERS.replace("O", "")
    return CLEAR if style in {"eu", "uk"} and dice.odds(0.3) else LETTERS


def _filled(form: str, letters: str, digits: str, dice: Dice) -> str:
    choices = {"A": letters, "9": digits, "*": letters + digits}
    return "".join(dice.among(choices.get(mark, mark)) for mark in form)


def _label(text: str, style: Style) -> str:
    # Bolts and seals look like separators, so those of plates are not read.
    left_out = " " if style == "sign" else " -"
    return "".join(character for character in text if character not in left_out)
