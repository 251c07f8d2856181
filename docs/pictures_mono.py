"""Draw the picture of the how-to on the four-circle game anew: ``python docs/pictures_mono.py``."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt

from lauepilot.perception.reflections.belief import SECTOR_DEG, FirstPeak, Row
from lauepilot.perception.reflections.hypotheses import Catalogue
from lauepilot.perception.reflections.looking import PointLook
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.fourcircle import FourCircle

#: After how many empty stretches the map is drawn.
STRETCHES = (0, 20, 60)

if __name__ == "__main__":
    catalogue = Catalogue(load_crystal("si"), FourCircle())
    look = PointLook(catalogue)
    rows = [Row(tth, chi, 0.5 * step) for tth in look.best_tth(1) for chi, step in look.rows(tth)]
    belief, here, flown = FirstPeak(catalogue, rows, look.half_tth_deg, 6.0), np.zeros(4), 0
    figure, panels = plt.subplots(1, len(STRETCHES), figsize=(10.0, 3.2), sharey=True, layout="constrained")
    for panel, stop in zip(panels, STRETCHES, strict=True):
        while flown < stop:
            row, start, end = belief.next(here)
            here, flown = np.array([0.5 * row.tth_deg, row.chi_deg, end, row.tth_deg]), flown + 1
            belief.empty()
        map_, left = belief.chances(), belief.left
        edges = np.append([row.chi_deg - row.half_deg for row in rows], 90.0)
        sectors = np.arange(-180.0, 180.0 + 1.0, SECTOR_DEG)
        shown = panel.pcolormesh(
            sectors, edges, np.where(left, map_, np.nan), vmin=0.0, vmax=0.06, cmap="viridis"
        )
        panel.set_facecolor("0.85")
        panel.set_title(f"{flown} empty stretches", fontsize=10)
        panel.set_xlabel("phi, degrees")
    panels[0].set_ylabel("chi, degrees")
    figure.colorbar(shown, ax=panels, label="probability of a reflection")
    figure.savefig(Path(__file__).parent / "_static" / "mono-belief.png", dpi=90)
