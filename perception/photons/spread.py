"""Compiled loops of the photon likelihood: from an orientation to the density of its spots at every photon.

Parameters are numbered: 0..2 rotation vector (laboratory, of ``exp(w) u``), 3..7 pose (`GEOMETRY_PARAMETERS`), 8 logarithm
of the point spread in pixels, 9 logit of the share of signal.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.kernels import PackedDetector, project
from lauepilot.simulator.render import Blur, covariance

#: Pixels along an edge of the cells by which photons are found.
CELL = 16

#: Number of the parameters (see the module's text), and of those that change the spots.
PARAMETERS, SHAPE_PARAMETERS = 10, 9

#: Spots are cut off here, in standard deviations of the halo.
REACH = 4.5


class Scene(NamedTuple):
    """What makes spots: rays (n, 3) with rates (n, nodes), the believed detector, blur, profile; and the live pixels.

    ``visible`` (rows + 2 pad, cols + 2 pad) is the share of a usual spot at each pixel that falls on live ones. With
    ``precise`` it only tells which spots are clipped; their share is summed over the ``live`` pixels (rows, cols).
    """

    directions: FloatArray
    rate: NDArray[np.float32]
    s_min: float
    s_step: float
    detector: PackedDetector
    polarisation: float
    blur: Blur
    halo: float
    width: float
    visible: NDArray[np.float32]
    pad: int
    live: NDArray[np.bool_]
    precise: bool


class Photons(NamedTuple):
    """Pixels with photons, sorted by cells of `CELL` pixels: place, photons, and share ``b`` of the background (each (n,)).

    ``starts`` (cells + 1,), ``across`` cells in a row of them, ``total`` photons on all live pixels, those not listed too.
    """

    col: FloatArray
    row: FloatArray
    amount: FloatArray
    base: FloatArray
    starts: NDArray[np.int64]
    across: int
    down: int
    total: float


class Work(NamedTuple):
    """Scratch space of `spread`: density (n,), slopes (n, 9), curvature (n, 6), touched photons (n,)."""

    density: FloatArray
    slope: FloatArray
    curve: FloatArray
    touched: NDArray[np.int64]


def workspace(n: int) -> Work:
    """Scratch space for ``n`` pixels."""
    return Work(
        np.zeros(n), np.zeros((n, SHAPE_PARAMETERS)), np.zeros((n, 6)), np.zeros(max(n, 1), dtype=np.int64)
    )


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
        cc, cr, rr = scale * c_col + 1.0 / 12.0, scale * c_cross, scale * c_row + 1.0 / 12.0
        det = cc * rr - cr * cr
        norm = share / (2.0 * math.pi * math.sqrt(det))
        reach_col, reach_row = REACH * math.sqrt(cc), REACH * math.sqrt(rr)
        for i in range(
            max(math.ceil(row - reach_row), 0), min(math.floor(row + reach_row), scene.live.shape[0] - 1) + 1
        ):
            for j in range(
                max(math.ceil(col - reach_col), 0),
                min(math.floor(col + reach_col), scene.live.shape[1] - 1) + 1,
            ):
                if not scene.live[i, j]:
                    continue
                dx, dy = j - col, i - row
                px, py = (rr * dx - cr * dy) / det, (cc * dy - cr * dx) / det
                value = norm * math.exp(-0.5 * (dx * px + dy * py))
                out[0] += value
                out[1] += value * px
                out[2] += value * py
                out[3] += value * scale * point * (px * px + py * py - (cc + rr) / det)


@njit(cache=True)
def spread(
    u: FloatArray,
    x: FloatArray,
    scene: Scene,
    photons: Photons,
    rays: NDArray[np.int64],
    n_rays: int,
    order: int,
    work: Work,
    dv: FloatArray,
) -> tuple[float, int]:
    """Fill ``work`` with the density of spots at the photons; returns the visible rate and how many photons were touched.

    Parameters
    ----------
    u
        (3, 3) orientation; parameters 0..2 of ``x`` are not looked at.
    x
        (10,) parameters.
    scene, photons
        What makes spots, and where photons are. Their slopes take the rates' and places' change into account, not that
        of the covariance with the orientation (a hundredth of it).
    rays, n_rays
        Which rays.
    order
        0: densities; 1: slopes too; 2: and the curvature that an EM step for the rotation needs.
    work
        Scratch, zero where not touched before; `clear` it after use.
    dv
        (9,) derivatives of the visible rate.
    """
    d = posed(scene.detector, x)
    point = math.exp(2.0 * x[8])
    blur = scene.blur
    blur = Blur(blur.mosaic, blur.divergence, blur.lit_x, blur.lit_y, blur.lit_z, point)
    core = 1.0 / (1.0 - scene.halo + scene.halo * scene.width**2)
    nodes = scene.rate.shape[1]
    shown = np.zeros(4)
    j_col, j_row, d_rate = np.zeros(SHAPE_PARAMETERS), np.zeros(SHAPE_PARAMETERS), np.zeros(SHAPE_PARAMETERS)
    dv[:] = 0.0
    visible, touched = 0.0, 0
    pol = scene.polarisation
    for a in range(n_rays):
        i = rays[a]
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
        c_col, c_cross, c_row = covariance(d, blur, kx, ky, kz)
        if scene.precise and shown[0] < 0.9999:
            _clipped(scene, col, row, c_col, c_cross, c_row, point, shown)
        visible += rate * shown[0]
        if order > 0:
            ux, uy, uz, vx, vy, vz = _pixel_slopes(d, kx, ky, kz)
            for m in range(3):
                # w x g for a turn about axis m; the sine changes by minus its z.
                tx = 0.0 if m == 0 else (gz if m == 1 else -gy)
                ty = -gz if m == 0 else (0.0 if m == 1 else gx)
                tz = gy if m == 0 else (-gx if m == 1 else 0.0)
                ds = -tz
                qx, qy, qz = 2.0 * (ds * gx + s * tx), 2.0 * (ds * gy + s * ty), 2.0 * (ds * gz + s * tz)
                j_col[m] = ux * qx + uy * qy + uz * qz
                j_row[m] = vx * qx + vy * qy + vz * qz
                d_rate[m] = rise / scene.s_step * ds / rate + pol_x * qx + pol_y * qy
            j_col[3] = (col - d.centre_col) / d.distance_mm
            j_row[3] = (row - d.centre_row) / d.distance_mm
            j_col[4], j_row[5] = 1.0, 1.0
            # A detector that turns one way sees rays turn the other way: k x w.
            j_col[6], j_row[6] = uy * kz - uz * ky, vy * kz - vz * ky
            j_col[7], j_row[7] = uz * kx - ux * kz, vz * kx - vx * kz
            for m in range(8):
                dv[m] += rate * (d_rate[m] * shown[0] + j_col[m] * shown[1] + j_row[m] * shown[2])
            dv[8] += rate * shown[3]
        reach_col = REACH * scene.width * math.sqrt(c_col * core + 0.1)
        reach_row = REACH * scene.width * math.sqrt(c_row * core + 0.1)
        first_col = max(int((col - reach_col) / CELL), 0)
        last_col = min(int((col + reach_col) / CELL), photons.across - 1)
        first_row = max(int((row - reach_row) / CELL), 0)
        last_row = min(int((row + reach_row) / CELL), photons.down - 1)
        for cell_row in range(first_row, last_row + 1):
            start = photons.starts[cell_row * photons.across + first_col]
            stop = (
                photons.starts[cell_row * photons.across + last_col + 1] if last_col >= first_col else start
            )
            for p in range(start, stop):
                dx, dy = photons.col[p] - col, photons.row[p] - row
                if abs(dx) > reach_col or abs(dy) > reach_row:
                    continue
                for part in range(2):
                    share = 1.0 - scene.halo if part == 0 else scene.halo
                    scale = core if part == 0 else core * scene.width**2
                    # 1/12: the variance of a pixel, over which spots are integrated (Sheppard's correction).
                    cc, cr, rr = scale * c_col + 1.0 / 12.0, scale * c_cross, scale * c_row + 1.0 / 12.0
                    det = cc * rr - cr * cr
                    px, py = (rr * dx - cr * dy) / det, (cc * dy - cr * dx) / det
                    q = dx * px + dy * py
                    if q > 25.0 or share <= 0.0:
                        continue
                    value = rate * share * math.exp(-0.5 * q) / (2.0 * math.pi * math.sqrt(det))
                    if work.density[p] == 0.0:
                        work.touched[touched] = p
                        touched += 1
                    work.density[p] += value
                    if order > 0:
                        for m in range(8):
                            work.slope[p, m] += value * (px * j_col[m] + py * j_row[m] + d_rate[m])
                        work.slope[p, 8] += value * scale * point * (px * px + py * py - (cc + rr) / det)
                    if order > 1:
                        a_cc, a_cr, a_rr = value * rr / det, -value * cr / det, value * cc / det
                        n = 0
                        for m in range(3):
                            for o in range(m, 3):
                                work.curve[p, n] += (
                                    a_cc * j_col[m] * j_col[o]
                                    + a_rr * j_row[m] * j_row[o]
                                    + a_cr * (j_col[m] * j_row[o] + j_row[m] * j_col[o])
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
