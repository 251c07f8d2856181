"""The compiled inner loop of `lauepilot.perception.indexing.refine`: match, linearise, step, and again.

Parameters are numbered as in `Refinement`'s fit: 0-2 the rotation vector, 3-7 the pose (`GEOMETRY_PARAMETERS`), 8-12 the
strain. A plain version with numpy and k-d trees is kept in the tests; the two agree to rounding.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.kernels import PackedDetector, on_sensor, project

#: Widths of the Tukey biweight, in standard deviations.
TUKEY = 4.685

#: Steps for derivatives: rotation (rad), geometry (mm, px, px, rad, rad), strain.
STEPS = np.array([1e-6] * 3 + [1e-4, 1e-3, 1e-3, 1e-6, 1e-6] + [1e-6] * 5)

#: Rays are looked at while their spot is at most so many pixels off the sensor, until predictions have moved by a quarter.
MARGIN_PX = 40.0


@njit(cache=True)
def fit(
    direction: FloatArray,
    rate: NDArray[np.float32],
    s_min: float,
    s_step: float,
    detector: PackedDetector,
    pixels: FloatArray,
    sigma: FloatArray,
    u: FloatArray,
    p: FloatArray,
    free: NDArray[np.int64],
    prior_sigma: FloatArray,
    tolerance_px: float,
    strongest: int,
    rounds: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64], FloatArray, FloatArray]:
    """Refine ``u`` (3, 3) and ``p`` (13), both in place, against spots at ``pixels`` (n, 2) with ``sigma`` (n).

    ``free`` (k,) are the parameters that move, ``prior_sigma`` (13) their Gaussian priors (0: none); ``strongest`` below 0:
    all rays. Returns matched spots and rays, residuals (m, 2) and the covariance (k, k), NaN below three matches.
    """
    k = len(free)
    pull = np.zeros(k)
    for i in range(k):
        if prior_sigma[free[i]] > 0.0:
            pull[i] = 1.0 / max(prior_sigma[free[i]], 1e-12) ** 2
    boxes = _boxes(pixels, detector, tolerance_px)
    tolerance = tolerance_px
    near = _near(direction, s_min, u, p, detector)
    moved = 0.0
    spot, ray = _match(
        direction, rate, s_min, s_step, near, u, p, detector, pixels, boxes, tolerance, strongest
    )
    for turn in range(rounds):
        if len(spot) < 3:
            break
        residual, jacobian = linearise(direction, u, p, detector, pixels, spot, ray, free)
        m = len(spot)
        width = np.maximum(sigma[spot], 0.05)
        scaled = np.empty(m)
        for i in range(m):
            scaled[i] = np.sqrt(residual[i, 0] ** 2 + residual[i, 1] ** 2) / width[i]
        scale = max(1.4826 * np.median(scaled) / 1.1774 / 1.2, 1.0)
        weight = np.empty(m)
        for i in range(m):
            weight[i] = max(1.0 - (scaled[i] / (TUKEY * scale)) ** 2, 0.0) ** 2 / (width[i] * scale) ** 2
        a, b = normal_equations(residual, jacobian, weight)
        for i in range(k):
            a[i, i] += pull[i] + 1e-12 * a[i, i] + 1e-30
            b[i] -= pull[i] * p[free[i]]
        step = np.linalg.solve(a, b).astype(np.float64)
        rotate(u, step[:3])
        for i in range(3, k):
            p[free[i]] += step[i]
        tolerance = max(min(tolerance * 0.6, tolerance_px), 4.0 * scale * np.median(width), 1.0)
        limit = -1 if strongest < 0 or turn >= rounds // 2 else int(strongest * 1.5 ** (turn + 1))
        moved += _largest_move(jacobian, step)
        if moved > 0.25 * MARGIN_PX:
            near = _near(direction, s_min, u, p, detector)
            moved = 0.0
        before = spot
        spot, ray = _match(
            direction, rate, s_min, s_step, near, u, p, detector, pixels, boxes, tolerance, limit
        )
        # A hundredth of the best error bars, and the same spots: nothing more will come.
        same = len(before) == len(spot) and np.all(before == spot)
        if same and limit < 0 and turn > 1 and np.abs(step[:3]).max() < 1e-6:
            break
    spot, ray = _match(direction, rate, s_min, s_step, near, u, p, detector, pixels, boxes, tolerance, -1)
    residual, jacobian = linearise(direction, u, p, detector, pixels, spot, ray, free)
    covariance = np.full((k, k), np.nan)
    m = len(spot)
    if m >= 3:
        width = np.maximum(sigma[spot], 0.05)
        chi2 = 0.0
        for i in range(m):
            chi2 += (residual[i, 0] ** 2 + residual[i, 1] ** 2) / width[i] ** 2
        chi2 /= max(2 * m - k, 1)
        a, _ = normal_equations(residual, jacobian, 1.0 / (width**2 * max(chi2, 1.0)))
        for i in range(k):
            a[i, i] += pull[i]
        covariance = np.linalg.pinv(a)
    return spot, ray, residual, covariance


@njit(cache=True)
def rotate(u: FloatArray, w: FloatArray) -> None:
    """Replace ``u`` by ``exp(w) u`` (Rodrigues)."""
    angle = np.sqrt(w[0] * w[0] + w[1] * w[1] + w[2] * w[2])
    if angle < 1e-15:
        return
    x, y, z = w[0] / angle, w[1] / angle, w[2] / angle
    c, s = np.cos(angle), np.sin(angle)
    t = 1.0 - c
    r = np.array(
        [
            [c + x * x * t, x * y * t - z * s, x * z * t + y * s],
            [y * x * t + z * s, c + y * y * t, y * z * t - x * s],
            [z * x * t - y * s, z * y * t + x * s, c + z * z * t],
        ]
    )
    u[:] = r @ u


@njit(cache=True)
def _posed(detector: PackedDetector, p: FloatArray) -> PackedDetector:
    """The detector moved by parameters 3-7, as `Detector.moved` does."""
    rotation = detector.rotation.copy()
    rotate(rotation, np.array([p[6], p[7], 0.0]))
    return PackedDetector(
        detector.cylinder,
        rotation,
        detector.distance_mm + p[3],
        detector.centre_col + p[4],
        detector.centre_row + p[5],
        detector.pixel_col_mm,
        detector.pixel_row_mm,
        detector.cols,
        detector.rows,
        detector.blind,
    )


@njit(cache=True)
def _stretch(p: FloatArray) -> FloatArray:
    """(3, 3): one plus the strain."""
    a, b, c, d, e = p[8], p[9], p[10], p[11], p[12]
    return np.array([[1.0 + a, c, d], [c, 1.0 + b, e], [d, e, 1.0 - a - b]])


@njit(cache=True)
def _lab(direction: FloatArray, r: int, stretch: FloatArray, u: FloatArray) -> tuple[float, float, float]:
    """Normal of ray r in the laboratory, strained."""
    x, y, z = direction[r, 0], direction[r, 1], direction[r, 2]
    a = x * stretch[0, 0] + y * stretch[1, 0] + z * stretch[2, 0]
    b = x * stretch[0, 1] + y * stretch[1, 1] + z * stretch[2, 1]
    c = x * stretch[0, 2] + y * stretch[1, 2] + z * stretch[2, 2]
    length = np.sqrt(a * a + b * b + c * c)
    a, b, c = a / length, b / length, c / length
    return (
        u[0, 0] * a + u[0, 1] * b + u[0, 2] * c,
        u[1, 0] * a + u[1, 1] * b + u[1, 2] * c,
        u[2, 0] * a + u[2, 1] * b + u[2, 2] * c,
    )


@njit(cache=True)
def _pixel(detector: PackedDetector, x: float, y: float, z: float) -> tuple[float, float, bool]:
    """Where a plane with normal (x, y, z) sends the beam."""
    return project(detector, -2.0 * z * x, -2.0 * z * y, 1.0 - 2.0 * z * z)


@njit(cache=True)
def _near(
    direction: FloatArray, s_min: float, u: FloatArray, p: FloatArray, detector: PackedDetector
) -> NDArray[np.int64]:
    """Rays whose spots lie on the sensor or within `MARGIN_PX` of it."""
    posed, stretch = _posed(detector, p), _stretch(p)
    out = np.empty(direction.shape[0], np.int64)
    n = 0
    for r in range(direction.shape[0]):
        x, y, z = _lab(direction, r, stretch, u)
        if z > 0.02 - s_min:
            continue
        col, row, meets = _pixel(posed, x, y, z)
        if (
            meets
            and -MARGIN_PX <= col <= detector.cols + MARGIN_PX
            and -MARGIN_PX <= row <= detector.rows + MARGIN_PX
        ):
            out[n] = r
            n += 1
    return out[:n].copy()


@njit(cache=True)
def _boxes(
    pixels: FloatArray, detector: PackedDetector, tolerance: float
) -> tuple[float, int, int, NDArray[np.int64], NDArray[np.int64]]:
    """Spots by square boxes: size in px, columns and rows of boxes, where each box starts in the list, and the list."""
    n = pixels.shape[0]
    size = max(tolerance, np.sqrt(detector.cols * detector.rows / max(n, 1)), 4.0)
    cols, rows = int(detector.cols / size) + 1, int(detector.rows / size) + 1
    starts = np.zeros(cols * rows + 1, np.int64)
    box = np.empty(n, np.int64)
    for j in range(n):
        i = min(max(int(pixels[j, 0] / size), 0), cols - 1)
        k = min(max(int(pixels[j, 1] / size), 0), rows - 1)
        box[j] = k * cols + i
        starts[box[j] + 1] += 1
    for i in range(cols * rows):
        starts[i + 1] += starts[i]
    at = starts[:-1].copy()
    members = np.empty(n, np.int64)
    for j in range(n):
        members[at[box[j]]] = j
        at[box[j]] += 1
    return size, cols, rows, starts, members


@njit(cache=True)
def _match(
    direction: FloatArray,
    rate: NDArray[np.float32],
    s_min: float,
    s_step: float,
    near: NDArray[np.int64],
    u: FloatArray,
    p: FloatArray,
    detector: PackedDetector,
    pixels: FloatArray,
    boxes: tuple[float, int, int, NDArray[np.int64], NDArray[np.int64]],
    tolerance: float,
    strongest: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Spots and rays that are each other's nearest within ``tolerance`` pixels, among the ``strongest`` rays (-1: all)."""
    posed, stretch = _posed(detector, p), _stretch(p)
    size, cols, rows, starts, members = boxes
    ray = np.empty(len(near), np.int64)
    where = np.empty((len(near), 2))
    level = np.empty(len(near))
    count = 0
    for i in range(len(near)):
        r = near[i]
        x, y, z = _lab(direction, r, stretch, u)
        if z >= -s_min:
            continue
        col, row, meets = _pixel(posed, x, y, z)
        if not meets or not on_sensor(posed, col, row):
            continue
        node = int(np.rint((-z - s_min) / s_step))
        level[count] = rate[r, min(max(node, 0), rate.shape[1] - 1)]
        ray[count], where[count, 0], where[count, 1] = r, col, row
        # What the spectrum leaves dark there is no spot.
        count += level[count] > 0.0
    least = -1.0
    if 0 <= strongest < count:
        least = np.sort(level[:count])[count - strongest] if strongest > 0 else np.inf
    n = pixels.shape[0]
    spot_gap, spot_ray = np.full(n, np.inf), np.full(n, -1, np.int64)
    ray_spot = np.full(count, -1, np.int64)
    for i in range(count):
        if strongest >= 0 and level[i] < least:
            continue
        best = np.inf
        i0 = min(max(int((where[i, 0] - tolerance) / size), 0), cols - 1)
        i1 = min(max(int((where[i, 0] + tolerance) / size), 0), cols - 1)
        k0 = min(max(int((where[i, 1] - tolerance) / size), 0), rows - 1)
        k1 = min(max(int((where[i, 1] + tolerance) / size), 0), rows - 1)
        for k in range(k0, k1 + 1):
            for e in range(starts[k * cols + i0], starts[k * cols + i1 + 1]):
                j = members[e]
                gap = (pixels[j, 0] - where[i, 0]) ** 2 + (pixels[j, 1] - where[i, 1]) ** 2
                if gap > tolerance * tolerance:
                    continue
                if gap < best:
                    best, ray_spot[i] = gap, j
                if gap < spot_gap[j]:
                    spot_gap[j], spot_ray[j] = gap, i
    spots, rays = np.empty(n, np.int64), np.empty(n, np.int64)
    m = 0
    for j in range(n):
        if spot_ray[j] >= 0 and ray_spot[spot_ray[j]] == j:
            spots[m], rays[m] = j, ray[spot_ray[j]]
            m += 1
    return spots[:m].copy(), rays[:m].copy()


@njit(cache=True)
def linearise(
    direction: FloatArray,
    u: FloatArray,
    p: FloatArray,
    detector: PackedDetector,
    pixels: FloatArray,
    spot: NDArray[np.int64],
    ray: NDArray[np.int64],
    free: NDArray[np.int64],
) -> tuple[FloatArray, FloatArray]:
    """Residuals (m, 2), found minus predicted, and derivatives (m, 2, k) of the prediction."""
    m, k = len(spot), len(free)
    residual, jacobian = np.empty((m, 2)), np.empty((m, 2, k))
    posed, stretch = _posed(detector, p), _stretch(p)
    predicted = np.empty((m, 2))
    for j in range(m):
        x, y, z = _lab(direction, ray[j], stretch, u)
        predicted[j, 0], predicted[j, 1], _ = _pixel(posed, x, y, z)
        residual[j] = pixels[spot[j]] - predicted[j]
    for i in range(k):
        q, turned = p.copy(), u.copy()
        q[free[i]] += STEPS[free[i]]
        if free[i] < 3:
            turn = np.zeros(3)
            turn[free[i]] = STEPS[free[i]]
            rotate(turned, turn)
        other, other_stretch = _posed(detector, q), _stretch(q)
        for j in range(m):
            x, y, z = _lab(direction, ray[j], other_stretch, turned)
            col, row, _ = _pixel(other, x, y, z)
            jacobian[j, 0, i] = (col - predicted[j, 0]) / STEPS[free[i]]
            jacobian[j, 1, i] = (row - predicted[j, 1]) / STEPS[free[i]]
    return residual, jacobian


@njit(cache=True)
def normal_equations(
    residual: FloatArray, jacobian: FloatArray, weight: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Normal matrix (k, k) and right side (k) of residuals (m, 2) with derivatives (m, 2, k) and weights (m)."""
    m, _, k = jacobian.shape
    a, b = np.zeros((k, k)), np.zeros(k)
    for j in range(m):
        for c in range(2):
            for x in range(k):
                wx = weight[j] * jacobian[j, c, x]
                b[x] += wx * residual[j, c]
                for y in range(x + 1):
                    a[x, y] += wx * jacobian[j, c, y]
    for x in range(k):
        for y in range(x):
            a[y, x] = a[x, y]
    return a, b


@njit(cache=True)
def _largest_move(jacobian: FloatArray, step: FloatArray) -> float:
    """Largest distance, in pixels, by which a step moves a prediction."""
    most = 0.0
    for j in range(jacobian.shape[0]):
        col = row = 0.0
        for i in range(len(step)):
            col += jacobian[j, 0, i] * step[i]
            row += jacobian[j, 1, i] * step[i]
        most = max(most, col * col + row * row)
    return float(np.sqrt(most))
