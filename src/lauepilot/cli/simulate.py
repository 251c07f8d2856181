"""``lauepilot simulate``: any crystal on any instrument at any orientation, as an image file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from lauepilot.cli.output import UserError
from lauepilot.pictures.pattern import draw_pattern
from lauepilot.simulator.conventions import FloatArray, random_rotation
from lauepilot.simulator.crystal import Crystal
from lauepilot.simulator.faults import LEVELS, Faults
from lauepilot.simulator.frame import Frame
from lauepilot.simulator.instrument import Instrument
from lauepilot.simulator.laue import PredictedSpots, predict_spots
from lauepilot.simulator.twin import Twin

ORIENTATION_HELP = (
    "Laboratory orientation U: 'euler:PHI1,PHI,PHI2' (degrees, U = Rz Rx Rz, active), 'rotvec:X,Y,Z' (degrees), "
    "a 3 x 3 matrix as JSON, or a JSON file with a key U, such as ub.json."
)

#: At most so many spots are marked in a picture.
MARKED = 120


def fault_level(name: str) -> Faults:
    """Faults by the name of their level.

    Raises
    ------
    UserError
        Names the levels.
    """
    if name not in LEVELS:
        raise UserError(f"--faults is one of {', '.join(LEVELS)}; {name!r} came.")
    return LEVELS[name]()


def parse_orientation(text: str) -> FloatArray:
    """A rotation (3, 3) from the command line; see `ORIENTATION_HELP`.

    Raises
    ------
    UserError
        Says what is allowed.

    >>> parse_orientation("euler:90,0,0").round(9) @ [1, 0, 0]
    array([0., 1., 0.])
    """
    kind, _, rest = text.partition(":")
    if kind in {"euler", "rotvec"}:
        try:
            numbers = [float(x) for x in rest.replace(",", " ").split()]
        except ValueError:
            numbers = []
        if len(numbers) != 3 or not np.all(np.isfinite(numbers)):
            raise UserError(
                f"--orientation {kind}: wants three numbers in degrees, as {kind}:10,20,30; {rest!r} came."
            )
        if kind == "euler":
            return np.asarray(Rotation.from_euler("ZXZ", numbers, degrees=True).as_matrix())
        return np.asarray(Rotation.from_rotvec(np.deg2rad(numbers)).as_matrix())
    try:
        value = json.loads(Path(text).read_text("utf-8") if text.endswith(".json") else text)
        u = np.array(value["U"] if isinstance(value, dict) else value, dtype=float)
    except FileNotFoundError:
        raise UserError(f"No file {text!r}. {ORIENTATION_HELP}") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"--orientation {text!r} cannot be read. {ORIENTATION_HELP}") from None
    if u.shape != (3, 3) or not np.allclose(u @ u.T, np.eye(3), atol=1e-4) or np.linalg.det(u) < 0.0:
        raise UserError("--orientation: U must be a rotation matrix, 3 x 3 with determinant +1.")
    left, _, right = np.linalg.svd(u)
    return np.asarray(left @ right)


@dataclass(frozen=True, eq=False)
class Simulated:
    """A rendered frame.

    Attributes
    ----------
    frame
        The exposure, with counting noise.
    u_lab
        True laboratory orientation (3, 3).
    spots
        True spots on the sensor, in the order of the ray table (brightest rays first, not spots).
    twin
        Where it came from.
    """

    frame: Frame
    u_lab: FloatArray
    spots: PredictedSpots
    twin: Twin


def simulate(
    crystal: Crystal,
    instrument: Instrument,
    *,
    u_lab: FloatArray | None,
    seconds: float,
    rng: np.random.Generator,
    faults: Faults,
) -> Simulated:
    """Expose a crystal at a laboratory orientation (random if None), all axes at rest."""
    wanted = random_rotation(rng) if u_lab is None else u_lab
    rest = {a.name: min(max(0.0, a.limits[0]), a.limits[1]) for a in instrument.goniometer.axes}
    twin = Twin(crystal, instrument, rng=rng, faults=faults, u=instrument.goniometer.matrix(rest).T @ wanted)
    frame = twin.expose(seconds)
    true = twin.u_lab()
    spots = predict_spots(twin.table, true, twin.truth.instrument.detector)
    return Simulated(frame, true, spots, twin)


def draw(simulated: Simulated, path: Path) -> None:
    """The frame with the true spots and the indices of the brightest."""
    spots, twin = simulated.spots, simulated.twin
    photons = spots.rate_per_s * simulated.frame.live_time_s * twin.truth.faults.power
    order = np.argsort(-photons)
    order = order[photons[order] > 30.0]
    marked = "spots of more than 30 photons are marked"
    if len(order) > MARKED:
        order, marked = order[:MARKED], f"the {MARKED} brightest spots are marked"
    draw_pattern(
        path,
        twin.instrument.detector,
        title=f"{twin.crystal.name} on {twin.instrument.name}, simulated",
        note=f"{simulated.frame.live_time_s:g} s; {marked}",
        counts=simulated.frame.counts,
        predicted=spots.pixels[order],
        hkl=spots.hkl[order],
    )
