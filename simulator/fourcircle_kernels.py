"""Compiled sums over reflections for the four-circle twin: which are excited, and where their beams go.

A reflection's mean crystallite is off the Bragg condition by ``epsilon = t - m - d`` (radians): ``m`` the mosaic's tilt,
``d`` the beam's (both in the plane of beam and Q), ``t = tan(theta) dE/E`` the energy's. The beam then leaves at ``2 theta +
2 t - d``, so what is excited at ``epsilon`` leaves, on the average, displaced: a conditional normal distribution.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from lauepilot.simulator.conventions import FloatArray

_FAR = 5.0  # standard deviations


@njit(cache=True)
def _turn(axis: FloatArray, angle: float, out: FloatArray) -> None:
    """Rodrigues' rotation matrix."""
    c, s = math.cos(angle), math.sin(angle)
    x, y, z = axis[0], axis[1], axis[2]
    out[0, 0], out[0, 1], out[0, 2] = c + x * x * (1 - c), x * y * (1 - c) - z * s, x * z * (1 - c) + y * s
    out[1, 0], out[1, 1], out[1, 2] = y * x * (1 - c) + z * s, c + y * y * (1 - c), y * z * (1 - c) - x * s
    out[2, 0], out[2, 1], out[2, 2] = z * x * (1 - c) - y * s, z * y * (1 - c) + x * s, c + z * z * (1 - c)


@njit(cache=True)
def excited(
    angles: FloatArray,
    axes: FloatArray,
    q: FloatArray,
    strength: FloatArray,
    k: float,
    mosaic: float,
    divergence: float,
    spread: float,
    size: float,
    out: FloatArray,
) -> int:
    """Beams that leave at each of many angles; the number of rows of ``out`` that were filled, or that would have been.

    Parameters
    ----------
    angles, axes
        (m, 4) radians, (4, 3) unit vectors: the axes as they are.
    q, strength
        (n, 3) on the sample holder, 1/angstrom; (n,) rate times angle, radians a second, in an omega scan.
    k
        Wave number.
    mosaic, divergence, spread, size
        Standard deviations: radians, radians, relative, radians (the crystal's size seen from the detector).
    out
        (rows, 7) to be filled: number of the angles, x and y on the plane at unit distance across the arm, rate, and
        variances of x and y and their covariance.
    """
    n_out = 0
    r1, r2, r3, arm = np.empty((3, 3)), np.empty((3, 3)), np.empty((3, 3)), np.empty((3, 3))
    for i in range(len(angles)):
        _turn(axes[0], angles[i, 0], r1)
        _turn(axes[1], angles[i, 1], r2)
        _turn(axes[2], angles[i, 2], r3)
        _turn(axes[3], angles[i, 3], arm)
        z = r1 @ r2 @ r3
        for j in range(len(q)):
            length = math.sqrt(q[j, 0] ** 2 + q[j, 1] ** 2 + q[j, 2] ** 2)
            sine = length / (2.0 * k)
            along = -(z[2, 0] * q[j, 0] + z[2, 1] * q[j, 1] + z[2, 2] * q[j, 2]) / length
            cosine = math.sqrt(1.0 - sine * sine)
            var_t = (sine / cosine * spread) ** 2
            var = mosaic**2 + divergence**2 + var_t
            if abs(along - sine) > 2.0 * _FAR * math.sqrt(var):
                continue
            epsilon = math.asin(min(max(along, -1.0), 1.0)) - math.asin(sine)
            if epsilon * epsilon > _FAR * _FAR * var:
                continue
            rate = strength[j] * math.exp(-0.5 * epsilon * epsilon / var) / math.sqrt(2.0 * math.pi * var)
            qx = z[0, 0] * q[j, 0] + z[0, 1] * q[j, 1] + z[0, 2] * q[j, 2]
            qy = z[1, 0] * q[j, 0] + z[1, 1] * q[j, 1] + z[1, 2] * q[j, 2]
            across = math.hypot(qx, qy)
            if across < 1e-9:
                continue
            px, py = qx / across, qy / across
            shift = (2.0 * var_t + divergence**2) / var
            angle = 2.0 * math.asin(sine) + shift * epsilon
            radial = 4.0 * var_t + divergence**2 - (2.0 * var_t + divergence**2) ** 2 / var + size**2 + 1e-12
            sideways = (2.0 * sine * mosaic) ** 2 + divergence**2 + size**2 + 1e-12
            kx, ky, kz = math.sin(angle) * px, math.sin(angle) * py, math.cos(angle)
            # Into the arm's frame: its transpose.
            lx = arm[0, 0] * kx + arm[1, 0] * ky + arm[2, 0] * kz
            ly = arm[0, 1] * kx + arm[1, 1] * ky + arm[2, 1] * kz
            lz = arm[0, 2] * kx + arm[1, 2] * ky + arm[2, 2] * kz
            if lz < 0.1:
                continue
            # Radial and sideways unit vectors in the arm's plane; obliquity is left out, as the detector is small.
            tx, ty, tz = math.cos(angle) * px, math.cos(angle) * py, -math.sin(angle)
            ux = arm[0, 0] * tx + arm[1, 0] * ty + arm[2, 0] * tz
            uy = arm[0, 1] * tx + arm[1, 1] * ty + arm[2, 1] * tz
            norm = math.hypot(ux, uy)
            ux, uy = ux / norm, uy / norm
            if n_out < len(out):
                out[n_out, 0] = i
                out[n_out, 1] = lx / lz
                out[n_out, 2] = ly / lz
                out[n_out, 3] = rate
                out[n_out, 4] = radial * ux * ux + sideways * uy * uy
                out[n_out, 5] = radial * uy * uy + sideways * ux * ux
                out[n_out, 6] = (radial - sideways) * ux * uy
            n_out += 1
    return n_out


@njit(cache=True)
def through_aperture(
    beams: FloatArray, n: int, half: FloatArray, shift: FloatArray, rates: FloatArray
) -> None:
    """Add to ``rates`` (m,) what passes an aperture of half width and height ``half`` (2,) about ``shift`` (2,)."""
    for b in range(n):
        share = 1.0
        for axis in range(2):
            middle = beams[b, 1 + axis] - shift[axis]
            width = math.sqrt(2.0 * beams[b, 4 + axis])
            share *= 0.5 * (
                math.erf((half[axis] - middle) / width) - math.erf((-half[axis] - middle) / width)
            )
        rates[int(beams[b, 0])] += beams[b, 3] * share


@njit(cache=True)
def draw_beams(
    beams: FloatArray,
    n: int,
    frame_of: FloatArray,
    seconds: FloatArray,
    scale: float,
    shift: FloatArray,
    psf: float,
    images: FloatArray,
) -> None:
    """Add beams to ``images`` (f, rows, cols): beams of angles i belong to frame ``frame_of[i]`` and last ``seconds[i]``."""
    rows, cols = images.shape[1], images.shape[2]
    for b in range(n):
        i = int(beams[b, 0])
        col = 0.5 * (cols - 1) - (beams[b, 1] - shift[0]) * scale
        row = 0.5 * (rows - 1) - (beams[b, 2] - shift[1]) * scale
        vx = beams[b, 4] * scale * scale + psf * psf
        vy = beams[b, 5] * scale * scale + psf * psf
        cxy = beams[b, 6] * scale * scale
        reach = 4.5 * math.sqrt(max(vx, vy))
        if col < -reach or row < -reach or col > cols - 1 + reach or row > rows - 1 + reach:
            continue
        det = vx * vy - cxy * cxy
        amount = beams[b, 3] * seconds[i] / (2.0 * math.pi * math.sqrt(det))
        f = int(frame_of[i])
        for y in range(max(0, int(row - reach)), min(rows, int(row + reach) + 2)):
            for x in range(max(0, int(col - reach)), min(cols, int(col + reach) + 2)):
                dx, dy = x - col, y - row
                images[f, y, x] += amount * math.exp(
                    -0.5 * (vy * dx * dx - 2.0 * cxy * dx * dy + vx * dy * dy) / det
                )


@njit(cache=True)
def carry_along(asked: FloatArray, start: FloatArray, play: FloatArray) -> FloatArray:
    """What is carried (n, 4) while the axes read ``asked`` (n, 4): it stays until a flank of the play takes it along."""
    carried = np.empty_like(asked)
    for i in range(len(asked)):
        for axis in range(asked.shape[1]):
            before = start[axis] if i == 0 else carried[i - 1, axis]
            carried[i, axis] = min(max(before, asked[i, axis] - play[axis]), asked[i, axis] + play[axis])
    return carried
