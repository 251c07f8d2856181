"""Counts made visible: greys that show faint spots beside bright ones, and PNG files that stay small."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lauepilot.simulator.detector import Detector

# The palette of Okabe & Ito (2008), told apart by colour-blind eyes too; each kind of mark has a shape of its own besides.
FOUND, PREDICTED, TEXT = "#0072b2", "#d55e00", "#a03000"
ZONE, RESIDUAL, OTHERS = "#007a5a", "#b0528a", ("#56b4e9", "#e69f00", "#7a5cc7", "#8a8a00")


def for_eyes(counts: NDArray[Any], detector: Detector, side: int = 1000) -> tuple[NDArray[np.float32], int]:
    """Counts as greys 0..1, and how many pixels (each way) went into one of the picture's.

    What stands out of the background comes on an asinh scale (a logarithm that bears zero); blocks of pixels show their
    brightest one, so that small spots are kept in large frames.

    Parameters
    ----------
    counts
        (rows, cols) the frame.
    detector
        Its blind regions.
    side
        Roughly the longest side wanted, in pixels of the picture.
    """
    image = np.array(counts, dtype=np.float32)
    if detector.blind:  # filled, so that the background near a hole is not pulled down
        mask = detector.mask()
        image[~mask] = np.median(image[mask])
    image = _without_hot_pixels(image)
    pool = max(1, round(max(image.shape) / side))
    if pool > 1:
        # The largest of a block, so that no spot gets lost; its noise is biased upwards evenly.
        fits = image[: image.shape[0] // pool * pool, : image.shape[1] // pool * pool]
        blocks = fits.reshape(fits.shape[0] // pool, pool, fits.shape[1] // pool, pool)
        image = blocks.max(axis=(1, 3))
    from scipy import ndimage

    image = ndimage.gaussian_filter(image, 0.8)  # single photons are dust, spots are not
    ground = _ground(image)
    above = image - ground
    noise = float(np.subtract(*np.percentile(above, [84, 50]))) or 1.0
    top = max(float(np.percentile(above, 99.97)), 20.0 * noise)
    grey = np.arcsinh(np.maximum(above, -noise) / (3.0 * noise)) / np.arcsinh(top / (3.0 * noise))
    return np.asarray(np.clip(0.06 + 0.94 * grey, 0.0, 1.0), dtype=np.float32), pool


def _without_hot_pixels(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Pixels that tower over all their neighbours cut down: no spot is as sharp as that."""
    highest = np.full_like(image, -np.inf)
    for rows, cols in ((1, 0), (0, 1)):
        for sign in (1, -1):
            highest = np.maximum(highest, np.roll(image, (sign * rows, sign * cols), axis=(0, 1)))
    floor = float(np.percentile(image[::7, ::7], 5))
    return np.asarray(np.minimum(image, floor + 4.0 * np.maximum(highest - floor, 1.0)), dtype=np.float32)


def _ground(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Half of the smooth background, so that dome and hole stay visible but do not swallow the spots."""
    from scipy import ndimage

    step = max(1, max(image.shape) // 64)
    rows, cols = image.shape[0] // step * step, image.shape[1] // step * step
    blocks = image[:rows, :cols].reshape(rows // step, step, cols // step, step)
    # A clipped mean: the median of a few photons is a whole number and leaves contour lines.
    top = np.quantile(blocks, 0.9, axis=(1, 3), keepdims=True)
    coarse = np.minimum(blocks, top).mean(axis=(1, 3))
    coarse = ndimage.median_filter(coarse, 3)
    zoom = (image.shape[0] / coarse.shape[0], image.shape[1] / coarse.shape[1])
    fine = ndimage.zoom(coarse, zoom, order=1, grid_mode=True, mode="nearest")
    full = np.asarray(fine[: image.shape[0], : image.shape[1]], dtype=np.float32)
    low = float(np.percentile(image, 1))
    return np.asarray(low + 0.8 * (full - low), dtype=np.float32)


def grey_png(counts: NDArray[Any], detector: Detector, most_bytes: int) -> tuple[bytes, int]:
    """The frame as an 8-bit grey PNG (0 is dark ground) of at most ``most_bytes``, and the pixels pooled each way."""
    from PIL import Image

    side = 1600.0
    while True:
        grey, pool = for_eyes(counts, detector, round(side))
        # 64 levels: more than eyes tell apart, and half the size, since noise is what fills a PNG.
        levels = (np.rint(grey * 63.0) * (255.0 / 63.0)).astype(np.uint8)
        stored = io.BytesIO()
        Image.fromarray(levels).save(stored, "PNG", compress_level=6)
        if stored.tell() <= most_bytes or side < 100.0:
            return stored.getvalue(), pool
        side *= min(0.95 * (most_bytes / stored.tell()) ** 0.5, 0.8)


def palette(*more: str) -> Any:
    """Greys, and the colours blended with them as edges of lines are: a quarter of a full-colour file's size."""
    from PIL import Image

    colours = [(v, v, v) for v in np.linspace(0, 255, 24).round().astype(int).tolist()]
    for name in (FOUND, PREDICTED, TEXT, *more):
        colour = np.array([int(name[k : k + 2], 16) for k in (1, 3, 5)])
        for ground in (255, 190, 110, 30):
            colours += [
                tuple((ground + a * (colour - ground)).round().astype(int)) for a in (0.25, 0.5, 0.75)
            ]
        colours.append(tuple(colour))
    image = Image.new("P", (1, 1))
    image.putpalette([int(value) for colour in colours for value in colour])
    return image
