"""What a frame can tell at best: Fisher information and the Cramer-Rao bound of an orientation.

A frame is independent Poisson counts of means ``mu``, so that its information about parameters ``p`` is
``sum over pixels of (dmu/dp_i) (dmu/dp_j) / mu``, and no unbiased estimator has a smaller covariance than the inverse
of that matrix (Kay 1993, Fundamentals of Statistical Signal Processing: Estimation Theory, sections 3.7 and 3.9).
The means are those of `lauepilot.simulator`: rays of a `RayTable`, spots with core and halo integrated over pixels, clipped
at the sensor's edge and at blind regions, on a background of known shape. Where counts are too few for
unbiased estimators to mean anything, see `lauepilot.perception.limits.bayes`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lauepilot.perception.indexing.refine import GeometryPrior
from lauepilot.perception.limits.kernels import REACH, information, live_shares
from lauepilot.simulator.conventions import FloatArray, rotation_matrix
from lauepilot.simulator.corrections import polarisation
from lauepilot.simulator.detector import GEOMETRY_PARAMETERS, Detector
from lauepilot.simulator.image import DEFAULT_PROFILE, background_rate, live_pixels
from lauepilot.simulator.laue import RayTable, predict_spots
from lauepilot.simulator.spots_shape import SpotProfile, instrument_covariances

#: Names of the parameters by group, in the order of the matrix.
PARAMETERS: dict[str, tuple[str, ...]] = {
    "rotation": ("rotation_x", "rotation_y", "rotation_z"),
    "geometry": GEOMETRY_PARAMETERS,
    "flux": ("log_flux",),
    "background": ("log_background",),
    "width": ("width_px",),
}

#: Half the steps of central differences of spots' places, shapes and rates: rad, then as `GEOMETRY_PARAMETERS`, then px.
_STEPS = np.array([1e-6] * 3 + [1e-4, 1e-3, 1e-3, 1e-6, 1e-6] + [1e-4])


class BoundError(ValueError):
    """A bound that was asked for in a way that has no answer."""


@dataclass(frozen=True, eq=False)
class FisherInformation:
    """Information of one exposure.

    Attributes
    ----------
    matrix
        (p, p) information, prior included, in the inverse units of the parameters.
    names
        (p,) of the parameters: ``rotation_x/y/z`` (radians, laboratory: ``u_true = exp(w) u``), those of
        `GEOMETRY_PARAMETERS`, ``log_flux``, ``log_background`` (natural logarithms), ``width_px``.
    seconds
        Of the exposure.
    signal_photons, background_photons
        Expected on the live sensor.
    """

    matrix: FloatArray
    names: tuple[str, ...]
    seconds: float
    signal_photons: float
    background_photons: float

    @property
    def covariance(self) -> FloatArray:
        """Cramer-Rao bound (p, p) of all parameters together; infinite where the frame does not hold them."""
        p = len(self.names)
        out = np.full((p, p), 0.0)
        # Parameters that leave no trace (a background of no photons) are unknown, and bother no other.
        seen = np.flatnonzero(np.diag(self.matrix) > 0.0)
        out[np.diag_indices(p)] = np.inf
        scale = np.sqrt(np.diag(self.matrix)[seen])
        inner = self.matrix[np.ix_(seen, seen)] / np.outer(scale, scale)
        if len(seen) and np.linalg.cond(inner) < 1e13:
            out[np.ix_(seen, seen)] = np.linalg.inv(inner) / np.outer(scale, scale)
        return out

    @property
    def orientation_covariance(self) -> FloatArray:
        """Cramer-Rao bound (3, 3) of the rotation vector, rad^2, laboratory; all other parameters unknown (but for
        the prior).

        Raises
        ------
        BoundError
            If the rotation is not among the parameters.
        """
        if "rotation_x" not in self.names:
            raise BoundError(
                f"This information is about {', '.join(self.names)} only. Put 'rotation' into parameters."
            )
        first = self.names.index("rotation_x")
        return self.covariance[first : first + 3, first : first + 3]

    @property
    def sigma_deg(self) -> float:
        """Standard deviation of the worst direction, degrees (as `Orientation.sigma_deg`)."""
        covariance = self.orientation_covariance
        if not np.all(np.isfinite(covariance)):
            return float("inf")
        return float(np.rad2deg(np.sqrt(np.linalg.eigvalsh(covariance)[-1])))

    @property
    def rms_deg(self) -> float:
        """Root mean square of the misorientation that the bound allows, degrees: all three directions together."""
        return float(np.rad2deg(np.sqrt(np.trace(self.orientation_covariance))))


def fisher_information(
    table: RayTable,
    u: ArrayLike,
    detector: Detector | None = None,
    *,
    seconds: float | None = None,
    signal_photons: float | None = None,
    background_photons: float | None = None,
    width_px: float | None = None,
    parameters: tuple[str, ...] = ("rotation", "geometry", "flux", "background", "width"),
    prior: GeometryPrior | None = None,
    profile: SpotProfile = DEFAULT_PROFILE,
) -> FisherInformation:
    """Fisher information of one exposure about orientation and what must be found with it.

    Parameters
    ----------
    table
        Crystal and instrument; rays that are not in it carry no information.
    u
        (3, 3) laboratory orientation.
    detector
        Its pose and background; the instrument's own by default.
    seconds, signal_photons
        How long, or until how many photons are expected in spots on the live sensor: one of both.
    background_photons
        Photons of the background on the live sensor; by default those of the exposure.
    width_px
        Standard deviation of the point spread, pixels; the sensor's by default.
    parameters
        Groups of `PARAMETERS` that are unknown; the others are known exactly.
    prior
        What is known of the geometry before the frame: its inverse variances are added; what it holds
        exactly (standard deviation 0) is left out of the parameters. None: nothing is known.
    profile
        Shape of the spots.

    Raises
    ------
    BoundError
        If groups are unknown, numbers are not positive, or the crystal sends no spot to the sensor.
    """
    unknown = [p for p in parameters if p not in PARAMETERS]
    if unknown or not parameters:
        raise BoundError(
            f"parameters: groups out of {', '.join(PARAMETERS)} are wanted; {parameters!r} came."
        )
    given = {
        "seconds": seconds,
        "signal_photons": signal_photons,
        "background_photons": background_photons,
        "width_px": width_px,
    }
    for name, value in given.items():
        zero_allowed = name == "background_photons"
        if value is not None and not (
            np.isfinite(value) and (value > 0.0 or (zero_allowed and value == 0.0))
        ):
            raise BoundError(f"{name} must be a positive finite number; {value} came.")
    where = table.instrument.detector if detector is None else detector
    if width_px is not None:
        where = replace(where, sensor=replace(where.sensor, point_spread_px=width_px))
    orientation = np.asarray(u, dtype=float)
    rays = rays_near(table, orientation, where, profile)
    if len(rays) == 0:
        raise BoundError("At this orientation no spot of the crystal falls on the sensor.")
    base = spot_values(table, rays, orientation, where)
    slopes = _slopes(table, rays, orientation, where)
    background = background_rate(where)
    rate, per_second = _totals(base, where, profile), float(background.sum(dtype=np.float64))
    if signal_photons is not None and seconds is None:
        seconds = signal_photons / max(rate, 1e-300)
    elif signal_photons is not None or seconds is None:
        raise BoundError("An exposure is given by seconds or by signal_photons: give one of both.")
    if background_photons is None:
        background_photons = seconds * per_second
    base[:, 5] += np.log(seconds)
    matrix = information(
        base, slopes, live_pixels(where), background,
        background_photons / per_second if per_second > 0.0 else 0.0, profile.halo, profile.width, REACH,
    )  # fmt: skip
    names = tuple(n for group in PARAMETERS.values() for n in group)
    wanted = [names.index(n) for group in PARAMETERS if group in parameters for n in PARAMETERS[group]]
    if prior is not None and "geometry" in parameters:
        sigmas = prior.sigmas(where)
        wanted = [k for k in wanted if not (3 <= k < 8 and sigmas[k - 3] == 0.0)]
        for k in range(5):
            matrix[3 + k, 3 + k] += 1.0 / sigmas[k] ** 2 if sigmas[k] > 0.0 else 0.0
    return FisherInformation(
        matrix=matrix[np.ix_(wanted, wanted)],
        names=tuple(names[k] for k in wanted),
        seconds=float(seconds),
        signal_photons=seconds * rate,
        background_photons=float(background_photons),
    )


def spot_values(table: RayTable, rays: NDArray[np.int64], u: FloatArray, detector: Detector) -> FloatArray:
    """Spots (n, 6) of rays (n,): col, row, covariance (cc, cr, rr) in pixels squared, logarithm of photons a second.

    The same as `predict_spots` and `instrument_covariances`, but for given rays, so that it can be differentiated.
    """
    g = table.direction[rays] @ u.T
    sine = -g[:, 2]
    k_out = np.array([0.0, 0.0, 1.0]) + 2.0 * sine[:, None] * g
    covariance = instrument_covariances(table.instrument, k_out, detector)
    at = (sine - table.sin_theta_min) / table.sin_theta_step
    node = np.clip(at.astype(np.int64), 0, table.rate.shape[1] - 2)
    low, high = table.rate[rays, node].astype(float), table.rate[rays, node + 1].astype(float)
    rate = low + (at - node) * (high - low)
    if table.polarisation is not None:
        rate = rate * polarisation(k_out, table.polarisation)
    out = np.empty((len(rays), 6))
    out[:, :2] = detector.rays_to_pixels(k_out)
    out[:, 2], out[:, 3], out[:, 4] = covariance[:, 0, 0], covariance[:, 0, 1], covariance[:, 1, 1]
    out[:, 5] = np.log(np.maximum(rate, 1e-300))
    return out


def rays_near(table: RayTable, u: FloatArray, detector: Detector, profile: SpotProfile) -> NDArray[np.int64]:
    """Rays whose stamp touches the sensor, blind regions or not."""
    spots = predict_spots(table, u, detector, on_sensor=False)
    # Far ones may be thousands of pixels away, and wide for that alone.
    beyond = np.maximum(-0.5 - spots.pixels, spots.pixels - (np.array(detector.shape[::-1]) - 0.5)).max(
        axis=1
    )
    near = beyond < 0.1 * max(detector.shape)
    covariance = instrument_covariances(table.instrument, spots.k_out[near], detector)
    widest = profile.width if profile.halo > 0.0 else 1.0
    reach = REACH * widest * np.sqrt(np.diagonal(covariance, axis1=1, axis2=2) * profile.core_scale)
    size = np.array(detector.shape[::-1])
    pixels = spots.pixels[near]
    inside = np.all((pixels > -0.5 - reach) & (pixels < size - 0.5 + reach), axis=1)
    return np.asarray(spots.ray[near][inside])


def _slopes(table: RayTable, rays: NDArray[np.int64], u: FloatArray, detector: Detector) -> FloatArray:
    """Derivatives (n, 6, 9) of `spot_values` after rotation, geometry and width, by central differences."""

    def at(change: FloatArray) -> FloatArray:
        sensor = replace(
            detector.sensor, point_spread_px=max(detector.sensor.point_spread_px + change[8], 0.0)
        )
        where = replace(detector, sensor=sensor)
        if change[3:8].any():
            where = where.moved(**dict(zip(GEOMETRY_PARAMETERS, map(float, change[3:8]), strict=True)))
        return spot_values(table, rays, rotation_matrix(change[:3]) @ u, where)

    columns = []
    for k, step in enumerate(_STEPS):
        change = np.zeros(9)
        change[k] = step
        columns.append((at(change) - at(-change)) / (2.0 * step))
    return np.stack(columns, axis=2)


def _totals(spots: FloatArray, detector: Detector, profile: SpotProfile) -> float:
    """Photons a second of all spots (n, 6) on live pixels."""
    shares = live_shares(spots, live_pixels(detector), profile.halo, profile.width, REACH)
    return float((shares * np.exp(spots[:, 5])).sum())
