"""Draw cars that go where they are told to, as a video: they enter, stop, cross, come back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from tests.scene import paste
from tests.snapshot import car, plate, street, text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.scene import Floats, Image

SIZE = (640, 368)
FPS = 10


@dataclass(frozen=True, slots=True)
class Stop:
    """Say where the middle of a plate is at a time, and how wide it is, in pixels."""

    seconds: float
    x: float
    y: float
    width: float


@dataclass(frozen=True, slots=True)
class Route:
    """Hold the way of one car: straight and steady from stop to stop, then gone.

    Args:
        lines: what its plate shows, in one line or two.
        stops: by time.
    """

    lines: tuple[str, ...]
    stops: tuple[Stop, ...]

    @property
    def text(self) -> str:
        """Return what should be read of it."""
        return "".join(self.lines)

    def at(self, seconds: float) -> Stop | None:
        """Return where it is at a time, None where it is not there."""
        for before, after in zip(self.stops, self.stops[1:], strict=False):
            if before.seconds <= seconds <= after.seconds:
                done = (seconds - before.seconds) / (after.seconds - before.seconds)
                x, y, width = (
                    start + (end - start) * done
                    for start, end in (
                        (before.x, after.x),
                        (before.y, after.y),
                        (before.width, after.width),
                    )
                )
                return Stop(seconds, x, y, width)
        return None


@dataclass(frozen=True, slots=True)
class Weather:
    """Say how well the camera sees.

    Args:
        noise: its standard deviation, of 255.
        light: what a pixel is multiplied by.
        blur: standard deviation in pixels.
        clock: what is burnt into the upper left, seconds added at the end; empty for nothing.
    """

    noise: float = 3.0
    light: float = 1.0
    blur: float = 0.4
    clock: str = ""


def film(
    path: Path,
    routes: Sequence[Route],
    seconds: float,
    weather: Weather | None = None,
    seed: int = 1,
) -> None:
    """Write a Motion JPEG video of 640 x 368 pixels and 10 frames a second."""
    codec = cv2.VideoWriter.fourcc(*"MJPG")
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, codec, FPS, SIZE)
    if not writer.isOpened():
        raise OSError(f"OpenCV cannot write {path}")
    for image in pictures(routes, seconds, weather or Weather(), seed):
        writer.write(image)
    writer.release()


def pictures(
    routes: Sequence[Route], seconds: float, weather: Weather, seed: int
) -> Iterator[Image]:
    """Draw the frames, BGR uint8; cars that come first in `routes` are further away."""
    random = np.random.default_rng(seed)
    road = street(random, SIZE)
    textures = [plate(route.lines, random) for route in routes]
    paints = [int(random.integers(2**31)) for _ in routes]
    for number in range(round(seconds * FPS)):
        picture = road.copy()
        for route, texture, paint in zip(routes, textures, paints, strict=True):
            stop = route.at(number / FPS)
            if stop is not None:
                corners = _corners(stop, texture)
                # A car keeps its colour.
                car(picture, corners, np.random.default_rng(paint))
                paste(picture, texture, corners)
        yield _seen(picture, weather, number / FPS, random)


def hard(seed: int) -> tuple[list[Route], Weather]:
    """Return three cars that pass within 6 seconds, hard to read by chance."""
    random = np.random.default_rng((seed, 3))
    routes = []
    for number in range(3):
        start, y = 2.0 * number, float(random.uniform(90, 300))
        small = math.exp(random.uniform(math.log(30), math.log(75)))
        large = small * random.uniform(1.0, 1.6)
        ends = (-40.0, SIZE[0] + 40.0)[:: int(random.choice([-1, 1]))]
        lasting = random.uniform(0.3, 1.9)
        stops = (Stop(start, ends[0], y, small), Stop(start + lasting, ends[1], y, large))
        routes.append(Route((text(random).replace(" ", ""),), stops))
    light = math.exp(random.uniform(math.log(0.15), math.log(1.1)))
    return routes, Weather(random.uniform(2, 9), light, random.uniform(0.2, 1.2))


def _corners(stop: Stop, texture: Image) -> Floats:
    half = stop.width / 2
    tall = half * texture.shape[0] / texture.shape[1]
    sides = np.array([[-half, -tall], [half, -tall], [half, tall], [-half, tall]], np.float32)
    return np.asarray(sides + np.array([stop.x, stop.y], np.float32), np.float32)


def _seen(picture: Image, weather: Weather, moment: float, random: np.random.Generator) -> Image:
    seen = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), weather.blur)
    noise = random.normal(0, weather.noise, (*seen.shape[:2], 1)).astype(np.float32)
    lit = np.clip(seen * np.float32(weather.light) + noise, 0, 255)
    image: Image = lit.astype(np.uint8)
    if not weather.clock:
        return image
    told = f"{weather.clock}{int(moment):02}"
    _, drawn = cv2.putText(image, told, (12, 22), (235, 235, 235), cv2.FontFace("uni"), 15, 400)
    return np.asarray(drawn, np.uint8)
