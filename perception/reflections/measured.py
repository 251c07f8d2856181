"""Reflections measured on a monochromatic instrument: indices, motor angles, and where the diffracted beam went."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from lauepilot.simulator.conventions import BEAM, HC_KEV_A, UP, FloatArray, axis_rotation
from lauepilot.simulator.detector import Detector
from lauepilot.simulator.instrument import Instrument

#: Standard deviation of an angle where none is given, degrees: a well-centred peak on a usual diffractometer.
USUAL_SIGMA_DEG = 0.01

_FORWARD = np.deg2rad(0.01)  # scattering angles below it have no direction of Q
_DETECTOR = (("delta", "nu"), ("col", "row"), ("qx", "qy", "qz"))
COLUMNS_HELP = (
    "Columns: h k l; the sample's axes by name, degrees (left out: 0); then delta and nu (detector arm, degrees), or col "
    "and row (pixel), or qx qy qz (direction of Q in the laboratory); energy_kev or wavelength_a; sigma_deg if known."
)


class ReflectionError(ValueError):
    """Reflections that cannot be used; says which and why."""


@dataclass(frozen=True, eq=False)
class Reflection:
    """One measured peak.

    Attributes
    ----------
    hkl
        Its indices.
    axes
        Positions of the sample's axes there, degrees.
    direction
        Unit vector (3,) along Q in the laboratory.
    length
        Length of Q with 2 pi, 1/angstrom; NaN where the wavelength is not known.
    sigma_deg
        Standard deviation of the measured angles.
    """

    hkl: tuple[float, float, float]
    axes: Mapping[str, float]
    direction: FloatArray
    length: float = float("nan")
    sigma_deg: float = USUAL_SIGMA_DEG
    name: str = field(default="")

    def __post_init__(self) -> None:
        told = self.name or " ".join(f"{x:g}" for x in self.hkl)
        if len(self.hkl) != 3 or not np.all(np.isfinite(self.hkl)) or not np.any(self.hkl):
            raise ReflectionError(f"A reflection needs three finite indices, not all zero; {told} came.")
        direction = np.asarray(self.direction, dtype=float)
        size = float(np.linalg.norm(direction)) if direction.shape == (3,) else float("nan")
        if not np.isfinite(size) or size == 0.0:
            raise ReflectionError(
                f"Reflection {told}: the direction of Q is {direction}; give three numbers."
            )
        if not all(np.isfinite(v) for v in self.axes.values()):
            raise ReflectionError(
                f"Reflection {told}: the axes stand at {dict(self.axes)}; numbers are wanted."
            )
        if not (self.sigma_deg > 0.0 and np.isfinite(self.sigma_deg)):
            raise ReflectionError(f"Reflection {told}: sigma_deg must be positive; {self.sigma_deg} came.")
        if not (np.isnan(self.length) or (self.length > 0.0 and np.isfinite(self.length))):
            raise ReflectionError(
                f"Reflection {told}: the length of Q must be positive; {self.length} 1/angstrom came. "
                "Leave it out (NaN) where the wavelength is not known."
            )
        object.__setattr__(self, "direction", direction / size)
        object.__setattr__(self, "name", told)

    @property
    def sin_theta(self) -> float:
        """Sine of the Bragg angle, from the direction of Q."""
        return float(-self.direction @ BEAM)

    @classmethod
    def from_beam(
        cls,
        hkl: tuple[float, float, float],
        axes: Mapping[str, float],
        k_out: ArrayLike,
        energy_kev: float | None = None,
        *,
        sigma_deg: float = USUAL_SIGMA_DEG,
    ) -> Reflection:
        """From the direction (3,) of the diffracted beam in the laboratory, of any length.

        Raises
        ------
        ReflectionError
            If the beam goes straight on, or something is not a number.
        """
        out = np.asarray(k_out, dtype=float)
        told = " ".join(f"{x:g}" for x in hkl)
        if out.shape != (3,) or not np.all(np.isfinite(out)) or not np.any(out):
            raise ReflectionError(
                f"Reflection {told}: the diffracted beam must be three numbers, not all zero; {out} came. "
                "Does the detector's pixel or arm see a ray at all?"
            )
        q = out / np.linalg.norm(out) - BEAM
        size = float(np.linalg.norm(q))
        if not size > _FORWARD:
            raise ReflectionError(
                f"Reflection {told}: the diffracted beam leaves the direct one by {np.rad2deg(size):.4f} deg only. "
                "Check its detector angles."
            )
        _check_energy(energy_kev, told)
        length = float("nan") if energy_kev is None else 2.0 * np.pi * energy_kev / HC_KEV_A * size
        return cls(hkl, axes, q, length, sigma_deg)

    @classmethod
    def from_angles(
        cls,
        hkl: tuple[float, float, float],
        axes: Mapping[str, float],
        *,
        delta_deg: float = 0.0,
        nu_deg: float = 0.0,
        energy_kev: float | None = None,
        sigma_deg: float = USUAL_SIGMA_DEG,
    ) -> Reflection:
        """From the angles of a detector arm: ``nu`` about the vertical carries ``delta``, which lifts the detector.

        As in You (1999): at ``nu`` = 0, ``delta`` is the two theta of a vertical scattering plane; at ``delta`` = 0,
        ``nu`` is that of a horizontal one, positive towards +x (left, looking along the beam). Raises as `from_beam`.
        """
        return cls.from_beam(hkl, axes, arm_direction(delta_deg, nu_deg), energy_kev, sigma_deg=sigma_deg)

    @classmethod
    def from_pixel(
        cls,
        hkl: tuple[float, float, float],
        axes: Mapping[str, float],
        pixel: tuple[float, float],
        detector: Detector,
        energy_kev: float | None = None,
        *,
        sigma_deg: float = USUAL_SIGMA_DEG,
    ) -> Reflection:
        """From a pixel (col, row) of a detector that stands still. Raises as `from_beam`."""
        return cls.from_beam(hkl, axes, detector.pixels_to_rays(pixel), energy_kev, sigma_deg=sigma_deg)

    def on_holder(self, z: FloatArray) -> FloatArray:
        """Unit vector (3,) along Q in the frame of the sample holder, for the goniometer's ``Z`` (3, 3) there."""
        return np.asarray(z.T @ self.direction)


def _check_energy(energy_kev: float | None, told: str) -> None:
    if energy_kev is not None and not (energy_kev > 0.0 and np.isfinite(energy_kev)):
        raise ReflectionError(f"Reflection {told}: the energy must be positive; {energy_kev} keV came.")


def arm_direction(delta_deg: float, nu_deg: float) -> FloatArray:
    """Unit vector (3,) of a detector arm at ``nu`` (about +y) and ``delta`` (about -x), degrees, as You (1999)."""
    nu, delta = axis_rotation(UP, np.deg2rad(nu_deg)), axis_rotation((-1.0, 0.0, 0.0), np.deg2rad(delta_deg))
    return np.asarray(nu @ delta @ BEAM)


def read_reflections(
    path: str | Path, instrument: Instrument, *, energy_kev: float | None = None
) -> list[Reflection]:
    """Reflections from a CSV file with a head line; lines that begin with # are passed over.

    Parameters
    ----------
    path
        The file.
    instrument
        Whose axes the columns name, and whose (first) detector the pixels are of.
    energy_kev
        For rows without an energy of their own.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ReflectionError
        Names line and column.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No file {str(path)!r}. {COLUMNS_HELP}")
    try:
        lines = [line for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ReflectionError(f"{path} is not a text file ({error.reason}). {COLUMNS_HELP}") from None
    rows = list(
        csv.reader([line for line in lines if not line.lstrip().startswith("#")], skipinitialspace=True)
    )
    if not rows:
        raise ReflectionError(f"{path} is empty. {COLUMNS_HELP}")
    head = [name.strip().lower() for name in rows[0]]
    kind = _checked_head(path, head, [axis.name for axis in instrument.goniometer.axes])
    if not rows[1:]:
        raise ReflectionError(f"{path} holds a head line, but no reflections.")
    found = []
    for number, row in enumerate(rows[1:], start=1):
        if len(row) != len(head):
            raise ReflectionError(
                f"{path}: reflection {number} has {len(row)} values for {len(head)} columns."
            )
        try:
            if empty := [name for name, cell in zip(head, row, strict=True) if not cell.strip()]:
                # A forgotten angle is not zero: only a column that is left out says that an axis stood there.
                raise ReflectionError(f"{path}: reflection {number} has no {', '.join(empty)}.")
            values = {name: float(cell) for name, cell in zip(head, row, strict=True)}
        except ValueError as error:
            raise ReflectionError(f"{path}: reflection {number}: {error}.") from None
        try:
            found.append(_reflection(values, kind, instrument, energy_kev))
        except KeyError as error:
            raise ReflectionError(f"{path}: reflection {number} has no {error.args[0]}.") from None
        except ReflectionError as error:
            raise ReflectionError(f"{path}: reflection {number}: {error}") from None
    return found


def _checked_head(path: Path, head: list[str], axes: list[str]) -> tuple[str, ...]:
    known = {
        "h",
        "k",
        "l",
        "energy_kev",
        "wavelength_a",
        "sigma_deg",
        *axes,
        *(n for k in _DETECTOR for n in k),
    }
    unknown = [name for name in head if name not in known]
    kinds = [kind for kind in _DETECTOR if set(kind) & set(head)]
    wrong = ""
    if len(set(head)) != len(head):
        wrong = "a column comes twice"
    elif missing := [name for name in "hkl" if name not in head]:
        wrong = f"no column {', '.join(missing)}"
    elif unknown:
        wrong = f"unknown column {', '.join(unknown)} (axes of this instrument: {', '.join(axes)})"
    elif len(kinds) != 1:
        wrong = (
            "no columns for the detector"
            if not kinds
            else f"both {' '.join(kinds[0])} and {' '.join(kinds[1])}"
        )
    if wrong:
        raise ReflectionError(f"{path}: {wrong}. {COLUMNS_HELP}")
    return kinds[0]


def _reflection(
    values: dict[str, float], kind: tuple[str, ...], instrument: Instrument, energy_kev: float | None
) -> Reflection:
    hkl = (values["h"], values["k"], values["l"])
    axes = {axis.name: values.get(axis.name, 0.0) for axis in instrument.goniometer.rotations}
    sigma, energy = values.get("sigma_deg", USUAL_SIGMA_DEG), values.get("energy_kev", energy_kev)
    if "wavelength_a" in values:
        if not values["wavelength_a"] > 0.0:
            raise ReflectionError(f"the wavelength must be positive; {values['wavelength_a']} came.")
        energy = HC_KEV_A / values["wavelength_a"]
    if kind[0] == "delta":
        arm = (values.get("delta", 0.0), values.get("nu", 0.0))
        return Reflection.from_angles(
            hkl, axes, delta_deg=arm[0], nu_deg=arm[1], energy_kev=energy, sigma_deg=sigma
        )
    if kind[0] == "col":
        pixel = (values["col"], values["row"])
        return Reflection.from_pixel(hkl, axes, pixel, instrument.detector, energy, sigma_deg=sigma)
    q = np.array([values["qx"], values["qy"], values["qz"]])
    _check_energy(energy, " ".join(f"{x:g}" for x in hkl))
    if energy is None or not np.any(q):
        return Reflection(hkl, axes, q, sigma_deg=sigma)
    sine = -float(q @ BEAM) / float(np.linalg.norm(q))
    if not sine > 0.0:
        raise ReflectionError("Q must point against the beam (qz < 0), since it is elastic.")
    return Reflection(hkl, axes, q, 4.0 * np.pi * energy / HC_KEV_A * sine, sigma)
