"""``lauepilot index --lattice unknown`` from frames in files, against crystals of the zoo."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lauepilot.cli import simulate as simulation
from lauepilot.cli.output import UserError
from lauepilot.cli.unknown import index_unknown, record, write_folder
from lauepilot.perception.files.readers import write_frame
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.instrument import load_instrument
from lauepilot.simulator.orientation import misorientation


def test_a_rendered_frame_of_lsco_gives_its_cell(tmp_path: Path) -> None:
    crystal, lab = load_crystal("lsco"), load_instrument("lab")
    shot = simulation.simulate(
        crystal,
        lab,
        u_lab=None,
        seconds=60.0,
        rng=np.random.default_rng(3),
        faults=simulation.fault_level("none"),
    )
    write_frame(tmp_path / "a.h5", shot.frame, lab)
    found = index_unknown([tmp_path / "a.h5"], lab)
    best = found.result.best
    assert found.sure
    assert best is not None
    assert (best.family, best.centring) == ("tetragonal", "I")
    assert best.ratios[0] == pytest.approx(crystal.cell[2] / crystal.cell[0], rel=1e-3)
    assert np.rad2deg(misorientation(best.orientation.u, shot.u_lab, crystal.holohedry)) < 0.05
    write_folder(found, tmp_path)
    with Image.open(tmp_path / "pattern.png") as picture:
        assert min(picture.size) > 500
    written = json.loads((tmp_path / "index.json").read_text())
    assert written["best"]["family"] == record(found)["best"]["family"] == "tetragonal"
    assert written["sure"] is True


def test_frames_without_axes_are_not_joined(tmp_path: Path) -> None:
    lab = load_instrument("lab")
    counts = np.random.default_rng(1).poisson(20.0, lab.detector.shape).astype(np.int32)
    for name in "ab":
        np.save(tmp_path / f"{name}.npy", counts)
    with pytest.raises(UserError, match="omega"):
        index_unknown([tmp_path / "a.npy", tmp_path / "b.npy"], lab)
