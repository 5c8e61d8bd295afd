"""Text along an arc, as in seals, logos and badges, unrolled into a straight line.

The detector finds such text, but its outline fits a quadrilateral badly, so `detection.text_box`
rejects it. A circle fitted to its pixels gives the arc along which to read.
"""

import math
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from open_diht.filters.spotting.ocr.detection import (
    Contour,
    Floats,
    Pixels,
    corners_of,
    score_inside,
)
from open_diht.filters.spotting.ocr.lines import HEIGHT
from open_diht.filters.spotting.settings import SpotterSettings

# Area and thickness are in pixels of the detector's map.
_LEAST_AREA: Final = 200
# Thinner patches are lines of a drawing. Not measured.
_LEAST_THICKNESS: Final = 3.0
_SURE: Final = 0.6
"""The circle is fitted to pixels with a higher probability."""
_LEAST_INSIDE: Final = 0.65
"""Least mean probability inside the outline: an arc of text is as certain as a straight line, a
tangle of edges is not."""
# A full circle has no gap that would say where its text begins.
_MOST_TURN: Final = 1.9 * math.pi
_LEAST_PROPORTION, _MOST_PROPORTION = 1.5, 32.0  # length by thickness


@dataclass(frozen=True)
class Arc:
    """A band along a circle, in pixels of the image."""

    center: tuple[float, float]
    radius: float
    """Radius to the middle of the letters."""
    thickness: float
    start: float
    """Angle of the first letter, in radians; 0 points right and a quarter circle points down."""
    stop: float
    """Angle of the last letter; less than `start` if the text is read counter-clockwise."""


def find_arc(
    contour: Contour, probabilities: Floats, scale: tuple[float, float], settings: SpotterSettings
) -> Arc | None:
    """Return the arc of text in an outline. Return None if there is no arc, or the text is straight
    enough for `text_box`. `scale` (across, down) is the size of a pixel of the map `probabilities`,
    in pixels of the image.
    """
    if cv2.contourArea(contour) < _LEAST_AREA:
        return None
    rectangle, _ = corners_of(contour)
    if score_inside(probabilities, rectangle) >= settings.box_threshold:
        return None
    left, top, width, height = cv2.boundingRect(contour)
    inside = np.zeros((height, width), np.uint8)
    cv2.fillPoly(inside, [contour - (left, top)], (1,))
    part = probabilities[top : top + height, left : left + width]
    if cv2.mean(part, inside)[0] < _LEAST_INSIDE:
        return None
    down, across = np.nonzero((part > _SURE) & (inside > 0))
    if len(across) < _LEAST_AREA / 2:
        return None
    return _fit(
        np.stack(((across + left) * scale[0], (down + top) * scale[1]), axis=1),
        scale,
        settings.unclip_ratio,
    )


def unroll(pixels: Pixels, arc: Arc) -> Pixels:
    """Return an image's band along an arc, straightened: uint8 (HEIGHT, width, 3)."""
    length = abs(arc.stop - arc.start) * arc.radius
    angles = np.linspace(arc.start, arc.stop, max(1, round(HEIGHT * length / arc.thickness)))
    outer = arc.radius + arc.thickness / 2
    inner = arc.radius - arc.thickness / 2
    clockwise = arc.stop > arc.start  # then the feet of the letters point to the center
    radii = np.linspace(*((outer, inner) if clockwise else (inner, outer)), HEIGHT)
    across = (arc.center[0] + np.outer(radii, np.cos(angles))).astype(np.float32)
    down = (arc.center[1] + np.outer(radii, np.sin(angles))).astype(np.float32)
    return cv2.remap(  # type: ignore[return-value]
        pixels,
        across,
        down,
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )


def box_of(arc: Arc, size: tuple[int, int]) -> npt.NDArray[np.int32]:
    """Return the upright rectangle around an arc, int32 (4, 2), clipped to the image of `size`
    (width, height)."""
    angles = np.linspace(arc.start, arc.stop, 32)
    rims = np.array([arc.radius - arc.thickness / 2, arc.radius + arc.thickness / 2])
    across = arc.center[0] + np.outer(rims, np.cos(angles))
    down = arc.center[1] + np.outer(rims, np.sin(angles))
    left = across.min()
    right = across.max()
    top = down.min()
    bottom = down.max()
    corners = np.array(((left, top), (right, top), (right, bottom), (left, bottom)))
    return np.clip(np.rint(corners), 0, size).astype(np.int32)


def _fit(
    points: npt.NDArray[np.float64], scale: tuple[float, float], unclip_ratio: float
) -> Arc | None:
    """Return the band of text around core pixels (points, 2), x and y in the image. Return None if
    they do not follow a circle, or their band is too thin, too short, too long, too sharply bent or
    nearly closed."""
    x, y = points.T
    system = np.stack((x, y, np.ones_like(x)), axis=1)
    # x^2 + y^2 = a x + b y + c.
    a, b, c = map(float, np.linalg.lstsq(system, x * x + y * y, rcond=None)[0])
    centre_x = a / 2
    centre_y = b / 2
    radius = math.sqrt(max(c + centre_x**2 + centre_y**2, 1e-6))
    middle = math.atan2(y.mean() - centre_y, x.mean() - centre_x)
    # Angles relative to the middle of the text, so that they do not wrap around within it.
    turns = (np.arctan2(y - centre_y, x - centre_x) - middle + math.pi) % (2 * math.pi) - math.pi
    first, last = map(float, np.quantile(turns, (0.002, 0.998)))
    length = (last - first) * radius
    # Thickness of the patch; the letters are thicker.
    core = len(points) * scale[0] * scale[1] / max(length, 1e-6)
    if core < _LEAST_THICKNESS * min(scale) or np.hypot(x - centre_x, y - centre_y).std() > core:
        return None  # too thin, or not along this circle
    grown = length * core * unclip_ratio / (2 * (length + core))  # as text_box grows straight lines
    thickness = core + 2 * grown
    first, last = first - grown / radius, last + grown / radius
    if last - first > _MOST_TURN or radius < thickness / 2:
        return None
    if not _LEAST_PROPORTION <= (last - first) * radius / thickness <= _MOST_PROPORTION:
        return None
    # The lower half of a circle is read counter-clockwise, from left to right.
    below = math.sin(middle) > 0
    start, stop = (middle + last, middle + first) if below else (middle + first, middle + last)
    return Arc((centre_x, centre_y), radius, thickness, start, stop)
