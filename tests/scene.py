"""Draw a road on which cars with known licence plates drive, as a video.

`python -m tests.scene OUT.webm` writes the video and, beside it, OUT.json with the truth. The same
arguments give the same pictures. A gantry camera looks down on two lanes; cars are boxes in space,
seen in perspective, with motion blur, sensor noise, changing light and a clock burnt in.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

Image: TypeAlias = "NDArray[np.uint8]"
Floats: TypeAlias = "NDArray[np.float32]"
Colour: TypeAlias = tuple[int, int, int]

# I, O and Q are not issued in many countries; the zero of the built-in font has a slash, which
# plates do not have.
LETTERS = "ABCDEFGHJKLMNPRSTUVWXYZ"
DIGITS = "123456789"
PATTERNS = ("LLDDLLL", "LLLDDDD", "LLDDDLL", "LLLDDD", "DLLLDDD")
PAINTS: tuple[Colour, ...] = (
    (60, 52, 48), (150, 60, 40), (45, 45, 150), (190, 190, 188), (70, 95, 60), (40, 110, 160),
)  # fmt: skip
GLASS: Colour = (58, 50, 44)
CODECS = {".webm": "VP90", ".mkv": "VP90", ".mp4": "mp4v", ".avi": "MJPG"}
PLATE_SIZE = (520, 112)  # millimetres, and pixels of the texture
BLUR_STEPS = 4
SHUTTER = 0.014  # seconds it stays open
FOCAL = 2600.0  # pixels at 1280 pixels of width
HORIZON = -200.0  # pixels below the upper edge, likewise
CAMERA_HEIGHT = 4.0  # metres, as all lengths of the scene
FAR, NEAR, UNDER_CAMERA = 30.0, 8.0, 4.0
ENCODER_BITS = (2**31 - 1) // 2


@dataclass(frozen=True, slots=True)
class Setting:
    """Say what to draw.

    Args:
        seed: of everything random.
        width: of the frames in pixels; a multiple of 16 keeps encoders quiet.
        height: of the frames in pixels.
        fps: frames per second.
        seconds: length of the video.
        plates: how many cars pass.
        bits: what the VP9 encoder may spend on a frame; it spends less where less will do.
    """

    seed: int = 7
    width: int = 1280
    height: int = 720
    fps: int = 25
    seconds: float = 8.0
    plates: int = 4
    bits: int = 45_000

    @property
    def frames(self) -> int:
        return round(self.seconds * self.fps)

    @property
    def scale(self) -> float:
        return self.width / 1280


@dataclass(frozen=True, slots=True)
class Car:
    """Hold one car: it drives at a steady speed, away from the camera or towards it.

    Args:
        text: of its plate, with a gap where its pattern has one.
        start: seconds at which it is at its first place.
        duration: seconds from its first place to its last.
        lane: metres to the right of the camera.
        drift: metres it moves to the right meanwhile.
        leaving: it drives away.
        paint: BGR.
    """

    text: str
    start: float
    duration: float
    lane: float
    drift: float
    leaving: bool
    paint: Colour

    def place(self, time: float) -> tuple[float, float]:
        """Return metres to the right of and before the camera."""
        done = (time - self.start) / self.duration
        ahead = NEAR + (FAR - NEAR) * (done if self.leaving else 1 - done)
        return self.lane + self.drift * done, ahead

    @property
    def heading(self) -> float:
        """Return the angle of the car to the road, in radians."""
        return math.atan2(self.drift, FAR - NEAR) * (1 if self.leaving else -1)


@dataclass(frozen=True, slots=True)
class Shown:
    """Hold what is true of one plate: seconds at which it is first and last wholly in view."""

    text: str
    first_seen: float
    last_seen: float


def cars(setting: Setting) -> list[Car]:
    """Return the cars of a scene, by their start."""
    random = np.random.default_rng(setting.seed)
    spacing = setting.seconds / (setting.plates + 0.6)
    paints = random.permutation(len(PAINTS))
    return [
        Car(
            text=text,
            start=0.1 + spacing * number,
            duration=spacing * float(random.uniform(1.5, 1.7)),
            lane=(-1.25, 1.35)[number % 2] + float(random.uniform(-0.1, 0.1)),
            drift=float(random.uniform(-0.25, 0.25)),
            leaving=bool(number % 2),
            paint=PAINTS[paints[number % len(PAINTS)]],
        )
        for number, text in enumerate(_texts(random, setting.plates))
    ]


def truth(setting: Setting) -> list[Shown]:
    """Return when each plate is in view, by first appearance."""
    shown = []
    for car in cars(setting):
        seen = [
            number / setting.fps
            for number in range(setting.frames)
            if _in_view(setting, _plate_corners(setting, car, number / setting.fps))
        ]
        shown.append(Shown(car.text.replace(" ", ""), seen[0], seen[-1]))
    return sorted(shown, key=lambda one: one.first_seen)


def pictures(setting: Setting) -> Iterator[Image]:
    """Draw the frames, BGR uint8."""
    random = np.random.default_rng(setting.seed + 1)
    road = _road(setting, random)
    light = _vignette(setting)
    noise = random.normal(0, 4.5, (setting.height + 64, setting.width + 64, 1))
    noise = noise.astype(np.float32)
    driving = cars(setting)
    textures = [_plate_texture(car.text) for car in driving]
    for number in range(setting.frames):
        moment = number / setting.fps
        picture = _exposed(setting, road, list(zip(driving, textures, strict=True)), moment)
        picture *= light * _brightness(moment)
        down, right = random.integers(0, 64, 2)
        picture += noise[down : down + setting.height, right : right + setting.width]
        yield _with_clock(np.clip(picture, 0, 255).astype(np.uint8), moment, setting)


def write(path: Path, setting: Setting) -> list[Shown]:
    """Write the video and return what is true of its plates.

    Raises:
        ValueError: the name's ending is none of .webm, .mkv, .mp4, .avi.
        OSError: OpenCV cannot write such a file there.
    """
    if path.suffix not in CODECS:
        raise ValueError(f"Expected a name that ends in {', '.join(CODECS)}, got {path.name}")
    if CODECS[path.suffix] == "VP90":
        with tempfile.TemporaryDirectory() as folder:
            hurried = Path(folder) / "hurried.mp4"
            _encode(hurried, "vp09", ENCODER_BITS / setting.bits, setting)
            _slow_down(hurried, path, setting)
    else:
        _encode(path, CODECS[path.suffix], setting.fps, setting)
    return truth(setting)


def _encode(path: Path, codec: str, fps: float, setting: Setting) -> None:
    writer = _writer(path, codec, fps, setting, [])
    for picture in pictures(setting):
        writer.write(picture)
    writer.release()


def _slow_down(hurried: Path, path: Path, setting: Setting) -> None:
    # OpenCV cannot be told a bit rate. It asks VP9 for ENCODER_BITS a second at most, so frames
    # are encoded at a rate that leaves each its share, and the packets copied to the true rate.
    packets = cv2.VideoCapture(str(hurried), cv2.CAP_FFMPEG, [cv2.CAP_PROP_FORMAT, -1])
    raw = [cv2.VIDEOWRITER_PROP_RAW_VIDEO, 1, cv2.VIDEOWRITER_PROP_KEY_INTERVAL, 2**30]
    writer = _writer(path, "VP90", setting.fps, setting, raw)
    while packets.grab():
        _, packet = packets.retrieve()
        is_key = packets.get(cv2.CAP_PROP_LRF_HAS_KEY_FRAME)
        writer.set(cv2.VIDEOWRITER_PROP_KEY_FLAG, is_key)
        writer.write(packet)
    writer.release()


def _writer(
    path: Path, codec: str, fps: float, setting: Setting, options: list[int]
) -> cv2.VideoWriter:
    size = (setting.width, setting.height)
    fourcc = cv2.VideoWriter.fourcc(*codec)
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, fourcc, fps, size, options)
    if not writer.isOpened():
        raise OSError(f"OpenCV cannot write {path}")
    return writer


def still(setting: Setting, moment: float) -> Image:
    """Draw the frame nearest to `moment` seconds."""
    for number, picture in enumerate(pictures(setting)):
        if number >= round(moment * setting.fps):
            return picture
    raise ValueError(f"Expected a moment before {setting.seconds} s, got {moment} s")


def _texts(random: np.random.Generator, count: int) -> list[str]:
    patterns = random.permutation(len(PATTERNS))
    return [_text(random, PATTERNS[patterns[number % len(PATTERNS)]]) for number in range(count)]


def _text(random: np.random.Generator, pattern: str) -> str:
    return "".join(str(random.choice(list(LETTERS if kind == "L" else DIGITS))) for kind in pattern)


def _plate_texture(text: str) -> Image:
    width, height = PLATE_SIZE
    texture = np.full((height, width, 3), (232, 238, 240), np.uint8)
    cv2.rectangle(texture, (3, 3), (width - 4, height - 4), (40, 40, 40), 4)
    face, size, weight = cv2.FontFace("sans"), 92, 560
    _, _, wide, _ = cv2.getTextSize((width, height), text, (0, 0), face, size, weight)
    mask = np.zeros((150, wide + 40, 3), np.uint8)
    cv2.putText(mask, text, (20, 110), (255, 255, 255), face, size, weight)
    ys, xs = np.nonzero(mask[:, :, 0])
    ink = mask[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
    ink_width = min(width - 64, round(ink.shape[1] * 76 / ink.shape[0]))
    ink = cv2.resize(ink, (ink_width, 76), interpolation=cv2.INTER_AREA).astype(np.uint8)
    left, top = (width - ink_width) // 2, (height - 76) // 2
    part = texture[top : top + 76, left : left + ink_width]
    part[:] = (part * (1 - ink / 255.0) + np.array((32, 30, 30)) * (ink / 255.0)).astype(np.uint8)
    return texture


def _project(setting: Setting, points: Floats) -> Floats:
    right, up, ahead = points.T
    ahead = np.maximum(ahead, 1.0)
    x = 640 + FOCAL * right / ahead
    y = HORIZON + FOCAL * (CAMERA_HEIGHT - up) / ahead
    return (np.stack([x, y], axis=1) * setting.scale).astype(np.float32)


def _of_car(
    setting: Setting, car: Car, moment: float, corners: Sequence[Sequence[float]]
) -> Floats:
    # A car's own axes: right, up, ahead of its nearer end.
    x, z = car.place(moment)
    points = np.array(corners, np.float32)
    sine, cosine = math.sin(car.heading), math.cos(car.heading)
    right = x + points[:, 0] * cosine + points[:, 2] * sine
    ahead = z - points[:, 0] * sine + points[:, 2] * cosine
    return _project(setting, np.stack([right, points[:, 1], ahead], axis=1).astype(np.float32))


def _plate_corners(setting: Setting, car: Car, moment: float) -> Floats:
    half, low, high = 0.26, 0.62, 0.732
    corners = [[-half, high, -0.03], [half, high, -0.03], [half, low, -0.03], [-half, low, -0.03]]
    return _of_car(setting, car, moment, corners)


def _in_view(setting: Setting, corners: Floats) -> bool:
    left, top = corners.min(axis=0)
    right, bottom = corners.max(axis=0)
    return bool(left >= 0 and top >= 0 and right < setting.width and bottom < setting.height)


def _exposed(
    setting: Setting, road: Image, driving: Sequence[tuple[Car, Image]], moment: float
) -> Floats:
    # Motion blur: the shutter stays open while things move.
    total = np.zeros(road.shape, np.float32)
    for step in range(BLUR_STEPS):
        then = moment + SHUTTER * step / BLUR_STEPS
        picture = road.copy()
        for car, texture in sorted(driving, key=lambda one: -one[0].place(then)[1]):
            if -0.15 <= (then - car.start) / car.duration <= 1.0:
                _draw(setting, picture, car, texture, then)
        total += picture
    return total / np.float32(BLUR_STEPS)


def _draw(setting: Setting, picture: Image, car: Car, texture: Image, moment: float) -> None:
    if car.place(moment)[1] < UNDER_CAMERA:
        return
    for corners, shade in _body(car):
        colour = [min(255, round(value * shade)) for value in car.paint]
        _fill(picture, _of_car(setting, car, moment, corners), colour)
    for corners, fixed in _details(car):
        _fill(picture, _of_car(setting, car, moment, corners), fixed)
    paste(picture, texture, _plate_corners(setting, car, moment))


def _body(car: Car) -> Iterator[tuple[list[list[float]], float]]:
    length = 4.2
    yield _flat(0.95, 0.03, -0.1, length + 0.1), 0.0
    yield _flat(0.86, 0.95, 0.0, length), 1.15
    yield _flat(0.70, 1.42, 1.1, 2.9), 1.3
    yield _upright(-0.86, 0.86, 0.3, 0.95), 0.95 if car.leaving else 1.0


def _details(car: Car) -> Iterator[tuple[list[list[float]], Colour]]:
    lamp = (30, 30, 190) if car.leaving else (215, 235, 240)
    yield [[-0.78, 0.96, 0.45], [0.78, 0.96, 0.45], [0.68, 1.4, 1.1], [-0.68, 1.4, 1.1]], GLASS
    yield _upright(-0.86, 0.86, 0.28, 0.5), (44, 42, 40)
    for side in (-1, 1):
        yield _upright(side * 0.58, side * 0.82, 0.7, 0.86), lamp
        yield _upright(side * 0.54, side * 0.78, 0.0, 0.3), (20, 20, 20)


def _flat(half: float, up: float, start: float, end: float) -> list[list[float]]:
    return [[-half, up, start], [half, up, start], [half, up, end], [-half, up, end]]


def _upright(left: float, right: float, low: float, high: float) -> list[list[float]]:
    # A little nearer than the body.
    near = -0.01
    return [[left, high, near], [right, high, near], [right, low, near], [left, low, near]]


def _fill(picture: Image, corners: Floats, colour: Sequence[int]) -> None:
    fixed = np.clip(np.round(corners * 16), -(2**20), 2**20).astype(np.int32)
    cv2.fillConvexPoly(picture, fixed, list(colour), cv2.LINE_AA, 4)


def paste(picture: Image, texture: Image, corners: Floats) -> None:
    height, width = picture.shape[:2]
    left, top = np.maximum(np.floor(corners.min(axis=0)).astype(int) - 1, 0)
    right, bottom = np.ceil(corners.max(axis=0)).astype(int) + 2
    right, bottom = min(right, width), min(bottom, height)
    if left >= right or top >= bottom:
        return
    here = (corners - np.array([left, top])).astype(np.float32)
    size = (int(right - left), int(bottom - top))
    warped = _warped(texture, here, size)
    mask = np.zeros((size[1], size[0]), np.uint8)
    _fill(mask, here, (255,))
    share = mask[:, :, None] / np.float32(255)
    part = picture[top:bottom, left:right]
    part[:] = np.round(part * (1 - share) + warped * share).astype(np.uint8)


def _warped(texture: Image, corners: Floats, size: tuple[int, int]) -> Image:
    # Shrunk first, or the warp would pick single pixels of the large texture.
    wanted = max(8, round(float(np.linalg.norm(corners[1] - corners[0])) * 1.5))
    scale = min(1.0, wanted / texture.shape[1])
    small = cv2.resize(texture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    tall, wide = small.shape[:2]
    source = np.array([[0, 0], [wide, 0], [wide, tall], [0, tall]], np.float32)
    transform = cv2.getPerspectiveTransform(source, corners)
    warped = cv2.warpPerspective(small, transform, size, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(warped, np.uint8)


def _road(setting: Setting, random: np.random.Generator) -> Image:
    size = (setting.height, setting.width)
    road = np.full((*size, 3), (92, 94, 96), np.float32)
    for grain, strength in ((2, 5.0), (9, 6.0), (60, 9.0)):
        coarse = random.normal(0, strength, (size[0] // grain + 2, size[1] // grain + 2))
        road += cv2.resize(coarse.astype(np.float32), size[::-1])[:, :, None]
    picture = np.clip(road, 0, 255).astype(np.uint8)
    for side in (-1, 1):
        verge = [[side * 3.1, 0, 6], [side * 30, 0, 6], [side * 30, 0, 200], [side * 3.1, 0, 200]]
        _fill(picture, _project(setting, np.array(verge, np.float32)), (58, 92, 74))
        line = [
            [side * 2.8, 0, 6],
            [side * 2.95, 0, 6],
            [side * 2.95, 0, 200],
            [side * 2.8, 0, 200],
        ]
        _fill(picture, _project(setting, np.array(line, np.float32)), (205, 208, 210))
    for ahead in range(6, 80, 6):
        dash = [[-0.07, 0, ahead], [0.07, 0, ahead], [0.07, 0, ahead + 3], [-0.07, 0, ahead + 3]]
        _fill(picture, _project(setting, np.array(dash, np.float32)), (205, 208, 210))
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), 0.8 * setting.scale), np.uint8)


def _vignette(setting: Setting) -> Floats:
    y, x = np.mgrid[-1 : 1 : setting.height * 1j, -1 : 1 : setting.width * 1j]
    return np.asarray(1 - 0.16 * (x**2 + y**2), np.float32)[:, :, None]


def _brightness(moment: float) -> np.float32:
    # A cloud passes.
    return np.float32(0.92 + 0.2 * math.sin(moment * 0.9) + 0.03 * math.sin(moment * 7))


def _with_clock(picture: Image, moment: float, setting: Setting) -> Image:
    clock = f"NORTH GATE  2026-03-14 08:15:{int(moment):02}"
    size = round(22 * setting.scale)
    at = (round(24 * setting.scale), round(38 * setting.scale))
    _, drawn = cv2.putText(picture, clock, at, (235, 235, 235), cv2.FontFace("uni"), size, 400)
    return np.asarray(drawn, np.uint8)


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.scene", description=__doc__)
    parser.add_argument("out", type=Path, metavar="OUT.webm")
    for name, value in asdict(Setting()).items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the video and the truth that the arguments ask for."""
    told = vars(_arguments().parse_args(arguments))
    out: Path = told.pop("out")
    setting = Setting(**told)
    document: dict[str, Any] = {
        "plates": [asdict(shown) for shown in write(out, setting)],
        "setting": asdict(setting),
        "command": " ".join(["python -m tests.scene", out.name, *_changed(setting)]),
    }
    out.with_suffix(".json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _changed(setting: Setting) -> Iterator[str]:
    usual = asdict(Setting())
    for name, value in asdict(setting).items():
        if value != usual[name]:
            yield f"--{name} {value}"


if __name__ == "__main__":
    main()
