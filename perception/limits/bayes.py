"""The Bayes limit: how well an orientation can be told from a frame at all, where photons are too few for Cramer and Rao.

With a handful of photons the likelihood has several humps and no estimator is unbiased; the bound of
`lauepilot.perception.limits.bound` then promises what nobody can keep. The mean square error of any estimator whatever is at
least the mean posterior variance (van Trees 1968, Detection, Estimation and Modulation Theory I, section 2.4), which is
found here by simulation: frames are drawn, and each one's exact posterior is summed over rotations drawn around the
truth, with flux, background and width known. What is unknown besides can only make it worse.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from lauepilot.perception.limits.bound import (
    BoundError,
    FisherInformation,
    fisher_information,
    rays_near,
    spot_values,
)
from lauepilot.perception.limits.kernels import REACH, live_shares
from lauepilot.simulator.conventions import FloatArray, rotation_matrix
from lauepilot.simulator.image import DEFAULT_PROFILE, background_rate, expected_image, live_pixels
from lauepilot.simulator.laue import RayTable


@dataclass(frozen=True, eq=False)
class BayesLimit:
    """Mean posterior error of frames of one orientation.

    Attributes
    ----------
    rms_deg
        Root of the mean posterior variance, all three directions together, degrees: no estimator does better on average.
    rms_error_deg
        Root mean square error of the posterior's mean in the same frames: the same number, found another way.
    bound
        Fisher information with the same knowledge.
    frames
        How many were drawn.
    """

    rms_deg: float
    rms_error_deg: float
    bound: FisherInformation
    frames: int


@njit(cache=True)
def _log_rates(spots: FloatArray, photons: FloatArray, dark: FloatArray, halo: float, width: float) -> float:
    """Sum of the logarithms of the expected photons at pixels (n, 2), where ``dark`` (n) are expected without spots.

    ``spots`` (m, 6) as in `spot_values`; the profile is taken at the pixel's middle, a pixel's blur added.
    """
    core = 1.0 / (1.0 - halo + halo * width * width)
    total = 0.0
    for k in range(len(photons)):
        mean = dark[k]
        for s in range(len(spots)):
            u, v = photons[k, 0] - spots[s, 0], photons[k, 1] - spots[s, 1]
            if abs(u) > 40.0 or abs(v) > 40.0:
                continue
            for part in range(2):
                scale = core if part == 0 else core * width * width
                share = 1.0 - halo if part == 0 else halo
                cc, rr = scale * spots[s, 2] + 1.0 / 12.0, scale * spots[s, 4] + 1.0 / 12.0
                cr = scale * spots[s, 3]
                det = cc * rr - cr * cr
                q = (rr * u * u - 2.0 * cr * u * v + cc * v * v) / det
                if q < 40.0 and share > 0.0:
                    mean += share * np.exp(spots[s, 5] - 0.5 * q) / (2.0 * np.pi * np.sqrt(det))
        total += np.log(max(mean, 1e-300))
    return total


def bayes_limit(
    table: RayTable,
    u: ArrayLike,
    rng: np.random.Generator,
    *,
    signal_photons: float,
    background_photons: float,
    within_deg: float = 1.5,
    frames: int = 20,
    samples: int = 1500,
) -> BayesLimit:
    """Simulate the Bayes limit of an orientation.

    Parameters
    ----------
    table
        Crystal and instrument.
    u
        (3, 3) true laboratory orientation.
    rng
        Draws frames and rotations.
    signal_photons, background_photons
        Expected on the live sensor.
    within_deg
        The orientation is known beforehand to so many degrees: a ball, evenly filled. Without it the limit would hold the
        volume of all orientations, and be a question of finding it rather than of precision.
    frames, samples
        Frames drawn, and rotations summed over in each.

    Raises
    ------
    BoundError
        If the crystal sends no spot to the sensor or too few to fix its orientation, or photons are not positive.
    """
    if not (background_photons > 0.0 and frames > 0 and samples > 0):
        raise BoundError(
            "The Bayes limit needs background_photons, frames and samples above zero; "
            f"{background_photons}, {frames} and {samples} came."
        )
    if not 0.0 < within_deg < 180.0:
        raise BoundError(f"within_deg must be an angle above 0 and below 180; {within_deg} came.")
    truth, detector, profile = np.asarray(u, dtype=float), table.instrument.detector, DEFAULT_PROFILE
    bound = fisher_information(
        table, truth, signal_photons=signal_photons, background_photons=background_photons,
        parameters=("rotation",),
    )  # fmt: skip
    if not np.isfinite(bound.rms_deg):
        raise BoundError(
            f"The spots of {table.crystal.name} on the sensor do not fix its orientation at all: there is no limit to "
            "simulate. Choose another orientation or a larger detector."
        )
    rays = rays_near(table, truth, detector, profile)
    dark = background_rate(detector).astype(float)
    dark *= background_photons / dark.sum()
    live = live_pixels(detector)

    def spots_at(turn: FloatArray) -> FloatArray:
        values = spot_values(table, rays, rotation_matrix(turn) @ truth, detector)
        values[:, 5] += np.log(bound.seconds)
        return values[np.all(np.isfinite(values), axis=1)]

    here = spots_at(np.zeros(3))
    covariances = here[:, [2, 3, 3, 4]].reshape(-1, 2, 2)
    black = expected_image(detector, here[:, :2], np.exp(here[:, 5]), covariances, 1.0, profile=profile)
    mean = (black - background_rate(detector)) * live + dark
    turns, log_weight = _rotations(bound.orientation_covariance, np.deg2rad(within_deg), samples, rng)
    spots = [spots_at(t) for t in turns]
    total = np.array(
        [(live_shares(s, live, profile.halo, profile.width, REACH) * np.exp(s[:, 5])).sum() for s in spots]
    )
    variance = error2 = 0.0
    for _ in range(frames):
        counts = rng.poisson(np.maximum(mean, 0.0))
        photons = _events(counts)
        at = dark[photons[:, 1].astype(int), photons[:, 0].astype(int)]
        log_posterior = log_weight - total
        for k, s in enumerate(spots):
            log_posterior[k] += _log_rates(s, photons, at, profile.halo, profile.width)
        weight = np.exp(log_posterior - log_posterior.max())
        weight /= weight.sum()
        middle = weight @ turns
        error2 += float(middle @ middle)
        variance += float(weight @ ((turns - middle) ** 2).sum(axis=1))
    return BayesLimit(
        float(np.rad2deg(np.sqrt(variance / frames))),
        float(np.rad2deg(np.sqrt(error2 / frames))),
        bound,
        frames,
    )


def _events(counts: NDArray[np.int64]) -> FloatArray:
    """Pixels (n, 2) as (col, row) of all photons of a frame, one line each."""
    rows, cols = np.nonzero(counts)
    times = counts[rows, cols]
    return np.stack([np.repeat(cols, times), np.repeat(rows, times)], axis=1).astype(float)


def _rotations(
    covariance: FloatArray, within: float, n: int, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Rotation vectors (n, 3) inside a ball about the truth, and the logarithm of prior over proposal (n,).

    Half of them evenly in the ball, half from three normals about the truth, as wide as the bound, twice and four times: the
    posterior is narrow and may yet have humps far off.
    """
    widths = (1.0, 2.0, 4.0)
    root = np.linalg.cholesky(covariance)
    kind = rng.integers(0, 6, n)
    even = rng.normal(size=(n, 3))
    even *= (within * rng.uniform(size=n) ** (1.0 / 3.0) / np.linalg.norm(even, axis=1))[:, None]
    scale = np.array([*widths, 0.0, 0.0, 0.0])[kind]
    turns = np.where(kind[:, None] < 3, scale[:, None] * (rng.normal(size=(n, 3)) @ root.T), even)
    turns = turns[np.linalg.norm(turns, axis=1) < within]
    q = np.einsum("ni,ij,nj->n", turns, np.linalg.inv(covariance), turns)
    norm = (2.0 * np.pi) ** 1.5 * np.sqrt(np.linalg.det(covariance))
    density = 0.5 / (4.0 / 3.0 * np.pi * within**3) + sum(
        np.exp(-0.5 * q / w**2) / (6.0 * norm * w**3) for w in widths
    )
    return turns, -np.log(density)
