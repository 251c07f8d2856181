"""Compiled loops of the photon likelihood: from an orientation to the density of its spots at every photon.

Parameters are numbered as in `scene`.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lauepilot.perception.photons.scene import CELL, SHAPE_PARAMETERS, Photons, Scene, View, Work
from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.kernels import PackedDetector, project
from lauepilot.simulator.render import Blur, covariance

#: Spots are cut off here, in standard deviations of the halo; and where core or halo fall below exp(-FAINT / 2).
REACH, FAINT = 4.5, 25.0


@njit(cache=True)
def turned(u: FloatArray, x: float, y: float, z: float) -> FloatArray:
    """``exp(w) u`` for the rotation vector (x, y, z)."""
    angle = math.sqrt(x * x + y * y + z * z)
    a = math.sin(angle) / angle if angle > 1e-9 else 1.0
    b = (1.0 - math.cos(angle)) / (angle * angle) if angle > 1e-5 else 0.5
    r = np.empty((3, 3))
    r[0, 0], r[0, 1], r[0, 2] = 1.0 - b * (y * y + z * z), b * x * y - a * z, b * x * z + a * y
    r[1, 0], r[1, 1], r[1, 2] = b * x * y + a * z, 1.0 - b * (x * x + z * z), b * y * z - a * x
    r[2, 0], r[2, 1], r[2, 2] = b * x * z - a * y, b * y * z + a * x, 1.0 - b * (x * x + y * y)
    out = np.empty((3, 3))
    for i in range(3):
        for j in range(3):
            out[i, j] = r[i, 0] * u[0, j] + r[i, 1] * u[1, j] + r[i, 2] * u[2, j]
    return out


@njit(cache=True)
def posed(d: PackedDetector, x: FloatArray) -> PackedDetector:
    """The detector moved by the parameters 3..7 of ``x``, as `Detector.moved`."""
    if x[3] == 0.0 and x[4] == 0.0 and x[5] == 0.0 and x[6] == 0.0 and x[7] == 0.0:
        return d
    return PackedDetector(
        d.cylinder, turned(d.rotation, x[6], x[7], 0.0), d.distance_mm + x[3], d.centre_col + x[4],
        d.centre_row + x[5], d.pixel_col_mm, d.pixel_row_mm, d.cols, d.rows, d.blind,
    )  # fmt: skip


@njit(cache=True)
def select(u: FloatArray, scene: Scene, most: int, margin: float, out: NDArray[np.int64]) -> int:
    """Rays among the brightest ``most`` whose spots lie on the sensor or within ``margin`` pixels; fills ``out``."""
    d = scene.detector
    top = scene.s_min + scene.s_step * (scene.rate.shape[1] - 1)
    found = 0
    for i in range(min(most, scene.directions.shape[0])):
        gx, gy, gz = scene.directions[i, 0], scene.directions[i, 1], scene.directions[i, 2]
        s = -(u[2, 0] * gx + u[2, 1] * gy + u[2, 2] * gz)
        if s < scene.s_min or s > top:
            continue
        kx = 2.0 * s * (u[0, 0] * gx + u[0, 1] * gy + u[0, 2] * gz)
        ky = 2.0 * s * (u[1, 0] * gx + u[1, 1] * gy + u[1, 2] * gz)
        col, row, meets = project(d, kx, ky, 1.0 - 2.0 * s * s)
        if not meets or col < -margin or row < -margin or col > d.cols + margin or row > d.rows + margin:
            continue
        if found == out.size:
            break
        out[found] = i
        found += 1
    return found


@njit(cache=True)
def _pixel_slopes(
    d: PackedDetector, kx: float, ky: float, kz: float
) -> tuple[float, float, float, float, float, float]:
    """Derivatives of (col, row) after a ray's direction (x, y, z), as `spots_shape.ray_jacobian`."""
    r = d.rotation
    a = kx * r[0, 0] + ky * r[1, 0] + kz * r[2, 0]
    b = kx * r[0, 1] + ky * r[1, 1] + kz * r[2, 1]
    n = kx * r[0, 2] + ky * r[1, 2] + kz * r[2, 2]
    per_col = d.distance_mm / d.pixel_col_mm
    per_row = d.distance_mm / d.pixel_row_mm
    if d.cylinder:
        reach = math.sqrt(a * a + n * n)
        u_a, u_n = per_col * n / reach**2, -per_col * a / reach**2
        v_a, v_b, v_n = -per_row * b * a / reach**3, per_row / reach, -per_row * b * n / reach**3
    else:
        u_a, u_n = per_col / n, -per_col * a / n**2
        v_a, v_b, v_n = 0.0, per_row / n, -per_row * b / n**2
    return (
        u_a * r[0, 0] + u_n * r[0, 2],
        u_a * r[1, 0] + u_n * r[1, 2],
        u_a * r[2, 0] + u_n * r[2, 2],
        v_a * r[0, 0] + v_b * r[0, 1] + v_n * r[0, 2],
        v_a * r[1, 0] + v_b * r[1, 1] + v_n * r[1, 2],
        v_a * r[2, 0] + v_b * r[2, 1] + v_n * r[2, 2],
    )


@njit(cache=True)
def _visible(scene: Scene, col: float, row: float, out: FloatArray) -> None:
    """Share of a spot at (col, row) on live pixels, and its derivatives after col and row: bilinear."""
    x, y = col + scene.pad, row + scene.pad
    out[:] = 0.0
    i, j = math.floor(y), math.floor(x)
    if i < 0 or j < 0 or i >= scene.visible.shape[0] - 1 or j >= scene.visible.shape[1] - 1:
        return
    t, s = y - i, x - j
    v00, v01 = scene.visible[i, j], scene.visible[i, j + 1]
    v10, v11 = scene.visible[i + 1, j], scene.visible[i + 1, j + 1]
    out[0] = (1 - t) * ((1 - s) * v00 + s * v01) + t * ((1 - s) * v10 + s * v11)
    out[1] = (1 - t) * (v01 - v00) + t * (v11 - v10)
    out[2] = (1 - s) * (v10 - v00) + s * (v11 - v01)


@njit(cache=True, inline="always")
def _part(
    share: float, scale: float, c_col: float, c_cross: float, c_row: float
) -> tuple[float, float, float, float, float]:
    """Core or halo of a spot: height of its middle, inverse covariance (3), and the width's slope at the middle.

    1/12 is the variance of a pixel, over which spots are integrated (Sheppard's correction).
    """
    cc, cr, rr = scale * c_col + 1.0 / 12.0, scale * c_cross, scale * c_row + 1.0 / 12.0
    over = 1.0 / (cc * rr - cr * cr)
    return share * math.sqrt(over) / (2.0 * math.pi), rr * over, -cr * over, cc * over, (cc + rr) * over


@njit(cache=True)
def _clipped(
    scene: Scene,
    col: float,
    row: float,
    c_col: float,
    c_cross: float,
    c_row: float,
    point: float,
    out: FloatArray,
) -> None:
    """Share of a spot on live pixels, and its derivatives after col, row and the logarithm of the point spread."""
    out[:] = 0.0
    core = 1.0 / (1.0 - scene.halo + scene.halo * scene.width**2)
    for part in range(2):
        share = 1.0 - scene.halo if part == 0 else scene.halo
        scale = core if part == 0 else core * scene.width**2
        height, a, b, c, middle = _part(share, scale, c_col, c_cross, c_row)
        reach_col = REACH * math.sqrt(scale * c_col + 1.0 / 12.0)
        reach_row = REACH * math.sqrt(scale * c_row + 1.0 / 12.0)
        left = max(math.ceil(col - reach_col), 0)
        right = min(math.floor(col + reach_col), scene.live.shape[1] - 1)
        for i in range(
            max(math.ceil(row - reach_row), 0), min(math.floor(row + reach_row), scene.live.shape[0] - 1) + 1
        ):
            dy = i - row
            for j in range(left, right + 1):
                if not scene.live[i, j]:
                    continue
                dx = j - col
                px, py = a * dx + b * dy, b * dx + c * dy
                q = dx * px + dy * py
                if q > FAINT:
                    continue
                value = height * math.exp(-0.5 * q)
                out[0] += value
                out[1] += value * px
                out[2] += value * py
                out[3] += value * scale * point * (px * px + py * py - middle)


@njit(cache=True)
def _photons_near(photons: Photons, col: float, row: float, reach: float) -> bool:
    """Whether any cell within ``reach`` pixels holds a photon."""
    left, right = max(int((col - reach) / CELL), 0), min(int((col + reach) / CELL), photons.across - 1)
    top, bottom = max(int((row - reach) / CELL), 0), min(int((row + reach) / CELL), photons.down - 1)
    if right < left:
        return False
    for line in range(top, bottom + 1):
        first = line * photons.across
        if photons.starts[first + left] < photons.starts[first + right + 1]:
            return True
    return False


@njit(cache=True)
def spread(u: FloatArray, x: FloatArray, view: View, order: int, dv: FloatArray) -> tuple[float, int]:
    """Fill ``view.work`` with the density of spots at the photons; the visible rate and how many photons were touched.

    Parameters
    ----------
    u
        (3, 3) orientation; parameters 0..2 of ``x`` are not looked at.
    x
        (10,) parameters.
    view
        What makes spots, where photons are, which rays; ``work`` is zero where not touched before: `clear` it after use.
    order
        0: densities; 1: slopes too; 2: slopes after the rotation, and the curvature that an EM step for it needs. Slopes
        take the rates' and places' change into account, not that of the covariance with the orientation (a hundredth).
    dv
        (9,) derivatives of the visible rate.
    """
    scene, photons, work = view.scene, view.photons, view.work
    d = posed(scene.detector, x)
    point = math.exp(2.0 * x[8])
    blur = scene.blur
    blur = Blur(blur.mosaic, blur.divergence, blur.lit_x, blur.lit_y, blur.lit_z, point)
    core = 1.0 / (1.0 - scene.halo + scene.halo * scene.width**2)
    wing = core * scene.width**2
    farthest = REACH * scene.width * math.sqrt((point + scene.widest) * core + 0.1)
    pose = scene.pose_free and order == 1
    nodes = scene.rate.shape[1]
    shown = np.zeros(4)
    j_col, j_row, d_rate = np.zeros(SHAPE_PARAMETERS), np.zeros(SHAPE_PARAMETERS), np.zeros(SHAPE_PARAMETERS)
    q = np.zeros((3, 3))
    dv[:] = 0.0
    visible, touched = 0.0, 0
    pol = scene.polarisation
    for i in view.rays:
        hx, hy, hz = scene.directions[i, 0], scene.directions[i, 1], scene.directions[i, 2]
        gx = u[0, 0] * hx + u[0, 1] * hy + u[0, 2] * hz
        gy = u[1, 0] * hx + u[1, 1] * hy + u[1, 2] * hz
        gz = u[2, 0] * hx + u[2, 1] * hy + u[2, 2] * hz
        s = -gz
        at = (s - scene.s_min) / scene.s_step
        if at < 0.0 or at > nodes - 1:
            continue
        kx, ky, kz = 2.0 * s * gx, 2.0 * s * gy, 1.0 - 2.0 * s * s
        col, row, meets = project(d, kx, ky, kz)
        if not meets:
            continue
        _visible(scene, col, row, shown)
        if shown[0] < 1e-4:
            continue
        k = min(int(at), nodes - 2)
        rise = scene.rate[i, k + 1] - scene.rate[i, k]
        rate = scene.rate[i, k] + (at - k) * rise
        if rate <= 0.0:
            continue
        pol_x = pol_y = 0.0
        if pol >= -1.0:
            factor = 0.5 * (1.0 + pol) * (1.0 - kx * kx) + 0.5 * (1.0 - pol) * (1.0 - ky * ky)
            rate *= factor
            rise *= factor
            pol_x, pol_y = -(1.0 + pol) * kx / factor, -(1.0 - pol) * ky / factor
        if order > 0:
            for m in range(3):
                # w x g for a turn about axis m; the sine changes by minus its z.
                tx = 0.0 if m == 0 else (gz if m == 1 else -gy)
                ty = -gz if m == 0 else (0.0 if m == 1 else gx)
                tz = gy if m == 0 else (-gx if m == 1 else 0.0)
                q[m, 0], q[m, 1] = 2.0 * (s * tx - tz * gx), 2.0 * (s * ty - tz * gy)
                q[m, 2] = 2.0 * (s * tz - tz * gz)
                d_rate[m] = -rise / scene.s_step * tz / rate + pol_x * q[m, 0] + pol_y * q[m, 1]
        whole = shown[0] > 0.9999
        if whole and not _photons_near(photons, col, row, farthest):
            # Nothing to explain and nothing clipped: only its rate counts.
            visible += rate * shown[0]
            if order > 0:
                for m in range(3):
                    dv[m] += rate * d_rate[m] * shown[0]
            continue
        c_col, c_cross, c_row = covariance(d, blur, kx, ky, kz)
        if scene.precise and not whole:
            _clipped(scene, col, row, c_col, c_cross, c_row, point, shown)
        visible += rate * shown[0]
        if order > 0:
            ux, uy, uz, vx, vy, vz = _pixel_slopes(d, kx, ky, kz)
            for m in range(3):
                j_col[m] = ux * q[m, 0] + uy * q[m, 1] + uz * q[m, 2]
                j_row[m] = vx * q[m, 0] + vy * q[m, 1] + vz * q[m, 2]
                dv[m] += rate * (d_rate[m] * shown[0] + j_col[m] * shown[1] + j_row[m] * shown[2])
            dv[8] += rate * shown[3]
            if pose:
                j_col[3] = (col - d.centre_col) / d.distance_mm
                j_row[3] = (row - d.centre_row) / d.distance_mm
                j_col[4], j_row[5] = 1.0, 1.0
                # A detector that turns one way sees rays turn the other way: k x w.
                j_col[6], j_row[6] = uy * kz - uz * ky, vy * kz - vz * ky
                j_col[7], j_row[7] = uz * kx - ux * kz, vz * kx - vx * kz
                for m in range(3, 8):
                    dv[m] += rate * (j_col[m] * shown[1] + j_row[m] * shown[2])
        high, a, b, c, middle = _part(rate * (1.0 - scene.halo), core, c_col, c_cross, c_row)
        far_high, far_a, far_b, far_c, far_middle = _part(rate * scene.halo, wing, c_col, c_cross, c_row)
        reach_col = REACH * scene.width * math.sqrt(c_col * core + 0.1)
        reach_row = REACH * scene.width * math.sqrt(c_row * core + 0.1)
        first_col = max(int((col - reach_col) / CELL), 0)
        last_col = min(int((col + reach_col) / CELL), photons.across - 1)
        if last_col < first_col:
            continue
        first_row = max(int((row - reach_row) / CELL), 0)
        last_row = min(int((row + reach_row) / CELL), photons.down - 1)
        for cell_row in range(first_row, last_row + 1):
            start = photons.starts[cell_row * photons.across + first_col]
            stop = photons.starts[cell_row * photons.across + last_col + 1]
            for p in range(start, stop):
                dx, dy = photons.col[p] - col, photons.row[p] - row
                if abs(dx) > reach_col or abs(dy) > reach_row:
                    continue
                near = far = 0.0
                px, py = a * dx + b * dy, b * dx + c * dy
                exponent = dx * px + dy * py
                if exponent < FAINT:
                    near = high * math.exp(-0.5 * exponent)
                far_px, far_py = far_a * dx + far_b * dy, far_b * dx + far_c * dy
                exponent = dx * far_px + dy * far_py
                if exponent < FAINT:
                    far = far_high * math.exp(-0.5 * exponent)
                value = near + far
                if value == 0.0:
                    continue
                if work.density[p] == 0.0:
                    work.touched[touched] = p
                    touched += 1
                work.density[p] += value
                if order == 0:
                    continue
                to_col, to_row = near * px + far * far_px, near * py + far * far_py
                for m in range(3):
                    work.slope[p, m] += to_col * j_col[m] + to_row * j_row[m] + value * d_rate[m]
                if order == 1:
                    work.slope[p, 8] += point * (
                        near * core * (px * px + py * py - middle)
                        + far * wing * (far_px * far_px + far_py * far_py - far_middle)
                    )
                    if pose:
                        for m in range(3, 8):
                            work.slope[p, m] += to_col * j_col[m] + to_row * j_row[m]
                else:
                    cc, cr, rr = near * a + far * far_a, near * b + far * far_b, near * c + far * far_c
                    n = 0
                    for m in range(3):
                        for o in range(m, 3):
                            work.curve[p, n] += (
                                cc * j_col[m] * j_col[o]
                                + rr * j_row[m] * j_row[o]
                                + cr * (j_col[m] * j_row[o] + j_row[m] * j_col[o])
                            )
                            n += 1
    return visible, touched


@njit(cache=True)
def clear(work: Work, touched: int) -> None:
    """Make ``work`` zero again."""
    for t in range(touched):
        p = work.touched[t]
        work.density[p] = 0.0
        work.slope[p] = 0.0
        work.curve[p] = 0.0
