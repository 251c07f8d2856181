"""Error bars on measured lists: do regions from random halves hold the orientation that others accepted?

The lists are not part of the package: the folder that holds them is named by the environment variable ``LAUEPILOT_SHARED``
(``data/laue`` below it), and without it there is nothing to measure.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import chi2

from lauepilot.bench.figures import wilson
from lauepilot.perception.files.lauetools import read_cor, read_dat, read_fit
from lauepilot.perception.indexing.indexer import Indexer
from lauepilot.perception.indexing.refine import GeometryPrior, refine, strained
from lauepilot.perception.observation import SpotList
from lauepilot.simulator.conventions import FloatArray, nearest_rotation
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.detector import Detector
from lauepilot.simulator.instrument import load_instrument
from lauepilot.simulator.laue import cached_table
from lauepilot.simulator.orientation import Orientation, nearest_equivalent

#: Name, crystal and kind of the lists with an accepted fit; all from BM32.
LISTS = (
    ("Ge_blanc_0000_LT_5", "ge", ".dat"),
    ("Ge0001", "ge", ".dat"),
    ("Ge0001", "si", ".cor"),
    ("3C-SiC_img_10066", "3c-sic", ".fit"),
)

#: How well the geometry written into the .fit files is taken to be known, and the cell.
GIVEN = GeometryPrior(distance_mm=0.02, centre_mm=0.02, tilt_deg=0.02)
CELL_SIGMA = 5e-4


@dataclass(frozen=True, eq=False)
class MeasuredList:
    """A list with the orientation that others accepted, (3, 3), and ours from all of its spots."""

    indexer: Indexer
    spots: SpotList
    detector: Detector
    accepted: FloatArray
    ours: Orientation

    def distance2(self, u: FloatArray, covariance: FloatArray, true: FloatArray) -> float:
        """Squared Mahalanobis distance between orientations ``u`` and ``true``, up to symmetry."""
        _, error = nearest_equivalent(u, true, self.indexer.crystal.symmetry)
        return float(error @ np.linalg.solve(covariance, error))

    def halves(self, n: int, rng: np.random.Generator, share: float = 0.95) -> tuple[int, int]:
        """Of ``n`` random halves: how many regions hold the accepted orientation, and how many, both errors added, the
        answer of the other half.
        """
        limit = chi2.ppf(share, 3)
        table = cached_table(self.indexer.crystal, self.indexer.instrument, 1e-3)
        holds = agrees = 0
        for _ in range(n):
            order = rng.permutation(len(self.spots))
            middle = len(self.spots) // 2
            one, other = (
                refine(
                    table, self.ours.u, self.detector, self.spots.take(part),
                    prior=GIVEN, cell_sigma=CELL_SIGMA, tolerance_px=3.0,
                )
                for part in (order[:middle], order[middle:])
            )  # fmt: skip
            holds += self.distance2(one.u, one.covariance, self.accepted) < limit
            agrees += self.distance2(one.u, one.covariance + other.covariance, other.u) < limit
        return int(holds), int(agrees)

    def held(self, n: int, rng: np.random.Generator, share: float = 0.95) -> int:
        """Of ``n`` random splits: how often the halves agree within both errors, pose and strain held as *all* spots say.

        Then there is no allowance that makes regions wide: spots alone say how far two answers may be apart. Held as the
        file says they would differ by what the file's geometry is wrong by, which no half can know.
        """
        limit = chi2.ppf(share, 3)
        table = cached_table(self.indexer.crystal, self.indexer.instrument, 1e-3)
        whole = refine(
            table,
            self.ours.u,
            self.detector,
            self.spots,
            prior=GIVEN,
            cell_sigma=CELL_SIGMA,
            tolerance_px=3.0,
        )
        rays = replace(table, direction=strained(table.direction, whole.strain))
        agrees = 0
        for _ in range(n):
            order = rng.permutation(len(self.spots))
            middle = len(self.spots) // 2
            one, other = (
                refine(rays, whole.u, whole.detector, self.spots.take(part), tolerance_px=3.0)
                for part in (order[:middle], order[middle:])
            )
            agrees += self.distance2(one.u, one.covariance + other.covariance, other.u) < limit
        return int(agrees)


def measured(folder: Path, name: str, crystal: str, suffix: str) -> MeasuredList:
    """One of `LISTS`, indexed.

    Raises
    ------
    ValueError
        If the list cannot be indexed or its .fit file holds no geometry.
    """
    path, fit = folder / f"{name}{suffix}", read_fit(folder / f"{name}.fit")
    spots = fit.spot_list()
    if suffix != ".fit":
        spots = (read_dat(path) if suffix == ".dat" else read_cor(path)).spot_list()
    if fit.geometry is None:
        raise ValueError(f"{name}.fit holds no geometry. Take the files of the project's shared data.")
    indexer = Indexer(load_crystal(crystal), load_instrument("bm32"))
    detector = fit.geometry.to_detector()
    ours = indexer.index(spots, detector, prior=GIVEN, cell_sigma=CELL_SIGMA, complete=True).orientation
    if ours is None:
        raise ValueError(f"No orientation of {crystal} was found in {name}{suffix}.")
    # Their U holds the strain of a refined cell; its rotation is that of the polar decomposition.
    accepted = nearest_rotation(fit.ub @ np.linalg.inv(indexer.crystal.b))
    return MeasuredList(indexer, spots, detector, accepted, ours)


def rows(n: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """A line for each list: coverage by ``n`` random halves; none where the lists are not at hand."""
    folder = Path(os.environ.get("LAUEPILOT_SHARED", "")) / "data" / "laue"
    if "LAUEPILOT_SHARED" not in os.environ or not folder.is_dir():
        return []
    out = []
    for name, crystal, suffix in LISTS:
        item = measured(folder, name, crystal, suffix)
        holds, agrees = item.halves(n, rng)
        whole = item.distance2(item.ours.u, item.ours.covariance, item.accepted)
        out.append(
            {
                "list": f"{name}{suffix}",
                "crystal": crystal,
                "accepted_inside_95": bool(whole < chi2.ppf(0.95, 3)),
                "sigma_deg": item.ours.sigma_deg,
                "n": n,
                "coverage_real_half": holds / n,
                "ci95": list(wilson(holds, n)),
                "halves_agree": agrees / n,
                "halves_agree_held": item.held(n, rng) / n,
            }
        )
    return out
