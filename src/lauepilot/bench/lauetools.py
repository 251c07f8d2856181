"""LaueTools (ESRF BM32, MIT licence) as a peer: its own functions, called as its own programs call them.

It is no dependency. ``benchmarks/README.md`` says how it is installed; where it is not, `load` gives None and every figure
that needs it is absent.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lauepilot.perception.files.lauetools import FROM_LAUETOOLS, LaueToolsGeometry, scattering_angles
from lauepilot.perception.observation import SpotList
from lauepilot.simulator.conventions import FloatArray, nearest_rotation
from lauepilot.simulator.crystal import Crystal
from lauepilot.simulator.detector import Detector
from lauepilot.simulator.instrument import Instrument, load_instrument

#: Their names for the rules of extinction, where there is one that says what the structure does.
EXTINCTIONS = {"si": "dia", "ge": "dia", "cu": "fcc", "ni": "fcc", "nacl": "fcc", "3c-sic": "fcc"}


def bm32_band(low_kev: float, high_kev: float) -> Instrument:
    """The shipped ``bm32`` with another energy band, sharply cut: LaueTools knows a band, not a spectrum."""
    instrument = load_instrument("bm32")
    spectrum = {**instrument.beam.spectrum, "energy_range_kev": [low_kev, high_kev], "cut_width_kev": 0.0}
    return replace(instrument, beam=replace(instrument.beam, spectrum=spectrum))


@dataclass(frozen=True, eq=False)
class PeerPattern:
    """What LaueTools simulates: pixels (n, 2) as (col, row), ``hkl`` (n, 3), energies (n,) in keV."""

    pixels: FloatArray
    hkl: NDArray[np.int64]
    energy_kev: FloatArray


class LaueTools:
    """The functions that are compared with ours.

    Parameters
    ----------
    modules
        LaueTools' modules by name.
    version
        As installed.
    """

    def __init__(self, modules: Mapping[str, Any], version: str) -> None:
        self._modules = modules
        self.version = version

    @property
    def name(self) -> str:
        """For figures."""
        return f"LaueTools {self.version}"

    @staticmethod
    def materials(crystal: Crystal) -> dict[str, list[Any]]:
        """A dictionary of materials that holds the crystal: label, cell, extinction rule."""
        return {crystal.name: [crystal.name, list(crystal.cell), EXTINCTIONS.get(crystal.name, "no")]}

    def simulation(
        self,
        crystal: Crystal,
        detector: Detector,
        u_lab: FloatArray,
        band_kev: tuple[float, float],
        *,
        harmonics: bool,
        corners: bool = False,
    ) -> Any:
        """`lauecore.SimulateLaue_full_np` as a call without arguments, ready to be timed.

        It gives 2theta, chi, indices, columns, rows and energies. With ``harmonics`` it lists each of them; without, it
        keeps one of a spot's, which costs it more time. Its camera is a disk as wide as the frame, or, with ``corners``, one
        that holds all of it, which costs more time too.
        """
        g = LaueToolsGeometry.from_detector(detector)
        pose = [g.distance_mm, g.xcen_px, g.ycen_px, g.xbet_deg, g.xgam_deg]
        grain = [None, None, FROM_LAUETOOLS.T @ u_lab, crystal.name]
        simulate = self._modules["lauecore"].SimulateLaue_full_np
        materials = self.materials(crystal)
        diameter = g.pixel_mm * float(np.hypot(*detector.shape)) * 1.2 if corners else None

        def call() -> Any:
            return simulate(
                grain,
                *band_kev,
                pose,
                pixelsize=g.pixel_mm,
                dim=g.shape,
                detectordiameter=diameter,
                removeharmonics=0 if harmonics else 1,
                dictmaterials=materials,
            )

        return call

    def simulate(
        self,
        crystal: Crystal,
        detector: Detector,
        u_lab: FloatArray,
        band_kev: tuple[float, float],
        *,
        harmonics: bool,
    ) -> PeerPattern:
        """The simulated pattern in our terms, the frame's corners included."""
        with quiet():
            call = self.simulation(crystal, detector, u_lab, band_kev, harmonics=harmonics, corners=True)
            result = call()
        _, _, hkl, col, row, energy = result
        return PeerPattern(
            np.stack([col, row], axis=1), np.asarray(hkl, dtype=np.int64), np.asarray(energy, dtype=float)
        )

    def index(
        self,
        crystal: Crystal,
        detector: Detector,
        spots: SpotList,
        emax_kev: float,
        *,
        centres: int = 10,
        most: int = 60,
    ) -> FloatArray | None:
        """Laboratory orientation (3, 3) by their classical angular indexing, or None.

        `indexingAnglesLUT.getOrientMatrices`: distances of the ``centres`` brightest to the ``most`` brightest spots are
        looked up in a table of angles between planes up to index 3; each proposal is scored by simulating its pattern.
        The best matching rate is taken. Angular tolerances are 0.2 degrees to recognise a distance (0.5 px is
        0.03 degrees) and to match a spot.
        """
        order = np.argsort(-spots.counts, kind="stable")[:most]
        two_theta, chi = (np.rad2deg(x) for x in scattering_angles(detector, spots.pixels[order]))
        tools, lut = self._modules["generaltools"], self._modules["indexingAnglesLUT"]
        g = LaueToolsGeometry.from_detector(detector)
        materials = self.materials(crystal)
        cubic = crystal.system == "cubic"
        with quiet():
            distances = tools.calculdist_from_thetachi(
                np.stack([two_theta / 2.0, chi], axis=1), np.stack([two_theta / 2.0, chi], axis=1)
            )
            reciprocal = crystal.b / (2.0 * np.pi)
            found = lut.getOrientMatrices(
                list(range(min(centres, len(order)))),
                emax_kev,
                distances,
                two_theta / 2.0,
                chi,
                n=3,
                B=reciprocal,
                cubicSymmetry=cubic,
                LUT=None,
                LUT_tol_angle=0.2,
                MR_tol_angle=0.2,
                Minimum_Nb_Matches=4,
                key_material=crystal.name,
                detectorparameters={
                    "kf_direction": "Z>0",
                    "detectorparameters": [g.distance_mm, g.xcen_px, g.ycen_px, g.xbet_deg, g.xgam_deg],
                    "detectordistance": g.distance_mm,
                    "detectordiameter": g.pixel_mm * max(detector.shape),
                    "pixelsize": g.pixel_mm,
                    "dim": detector.shape,
                },
                dictmaterials=materials,
                useparallelcomputing=False,
            )
        matrices, scores = found[0], found[1]
        if len(matrices) == 0:
            return None
        rates = [score[0] / score[1] for score in scores]  # spots matched over spots simulated
        return nearest_rotation(FROM_LAUETOOLS @ np.asarray(matrices[int(np.argmax(rates))], dtype=float))


@contextlib.contextmanager
def quiet() -> Any:
    """Without what LaueTools prints and warns of."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield


@lru_cache(maxsize=1)
def load() -> LaueTools | None:
    """LaueTools, or None where it or what it needs is not installed."""
    try:
        version = importlib.metadata.version("lauetools")
    except importlib.metadata.PackageNotFoundError:
        return None
    # LaueTools 3.2 asks for numpy.linalg.linalg, a name that numpy 2.4 no longer has: the same functions, one level up.
    linalg: Any = np.linalg
    lacking = not hasattr(linalg, "linalg")
    if lacking:
        linalg.linalg = np.linalg
    try:
        with quiet():
            modules = {
                name: importlib.import_module(f"LaueTools.{name}")
                for name in ("lauecore", "generaltools", "indexingAnglesLUT")
            }
    except ImportError:
        return None
    finally:
        if lacking:
            del linalg.linalg
    return LaueTools(modules, version)
