"""Say which texts may be licence plates."""

from __future__ import annotations

import re

LENGTHS = range(4, 10)
SHORTEST_NUMBER = 6
FIRST_SIGHT = range(3, 13)
NOT_ALPHANUMERIC = re.compile(r"[^A-Z0-9]")
# A boundary before and after, for readers put stray colons into plates as well: 1Z7:5233.
CLOCK = re.compile(
    r"""
    (?<![A-Z0-9]) (?:
        \d{1,2}[:.;]\d{2}[:.;]\d{2}                  # 12:34:56
      | \d{1,2}[:;]\d{2} (?![A-Z0-9])               # 12:34
      | (?:19|20)\d\d[-./]\d{1,2}[-./]\d{1,2}       # 2021-03-04
      | \d{1,2}[-./]\d{1,2}[-./](?:19|20)?\d\d      # 04/03/2021
      | (?:19|20)\d\d(?:0[1-9]|1[0-2])(?:[0-2]\d|3[01]) (?![A-Z0-9])  # 20210304
    )
    """,
    re.VERBOSE | re.IGNORECASE,
)


def normalise(raw: str) -> str:
    """Return the A to Z and 0 to 9 of a text, upper case."""
    return NOT_ALPHANUMERIC.sub("", raw.upper())


def is_plate(raw: str, *, worded: bool = False) -> bool:
    """Tell whether a text as it was read may be a plate's: 4 to 9 characters with a digit.

    Dates and times of day are none. With `worded` one without a digit may be, too: it stands where
    nothing but a plate does.
    """
    text = normalise(raw)
    return (
        len(text) in LENGTHS
        and (worded or any(character.isdigit() for character in text))
        and not CLOCK.search(raw)
    )


def may_be_plate(raw: str) -> bool:
    """Tell whether another look at a text may show a plate: 3 to 12 characters, no clock."""
    return len(normalise(raw)) in FIRST_SIGHT and not CLOCK.search(raw)


def plausibility(text: str) -> float:
    """Weigh how likely a normalised text is a plate's rather than another sign's, 0 to 1.

    House numbers, prices and telephone numbers are digits only; few plates are, and of these hardly
    any has less than six.
    """
    if text.isdigit():
        return 0.6 if len(text) >= SHORTEST_NUMBER else 0.3
    return 0.85 if len(text) == LENGTHS[0] else 1.0
