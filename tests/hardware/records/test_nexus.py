"""The exported file against NeXus' own rules: chains of transformations followed by somebody else's rotations."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from lauepilot.hardware.errors import RecordError
from lauepilot.hardware.records.documents import read_record
from lauepilot.hardware.records.nexus import export_nexus, holder_orientation
from lauepilot.perception.files.readers import read_any


def followed(file, place, frame):
    """What a chain of ``depends_on`` does to vectors (4, 4), by NeXus' definition of it."""
    whole = np.eye(4)
    while place != ".":
        node = file[place]
        value = node[()] if node.shape == () else node[frame]
        vector, here = np.asarray(node.attrs["vector"]), np.eye(4)
        if node.attrs["transformation_type"] == "rotation":
            assert node.attrs["units"] == "deg"
            here[:3, :3] = Rotation.from_rotvec(
                np.deg2rad(value) * vector / np.linalg.norm(vector)
            ).as_matrix()
        else:
            assert node.attrs["units"] == "mm"
            here[:3, 3] = value * vector
        whole = here @ whole
        place = node.attrs["depends_on"]
    return whole


@pytest.fixture
def exported(record, tmp_path):
    run = record()
    path = export_nexus(read_record(run.path), tmp_path / "run.nxs")
    with h5py.File(path) as file:
        yield run, path, file


def test_chains_are_those_of_goniometer_and_detector(exported, world):
    _, _, file = exported
    instrument = world.backend.instrument
    sample, module = file["entry/sample"], file["entry/instrument/detector/module"]
    for frame in range(2):
        axes = {n: node[frame] for n, node in sample["transformations"].items()}
        chain = followed(file, sample["depends_on"].asstr()[()], frame)
        np.testing.assert_allclose(chain[:3, :3], instrument.goniometer.matrix(axes), atol=1e-12)
    assert axes == {"omega": 10.0, "chi": -5.0, "phi": 33.0}
    origin = followed(file, "/entry/instrument/detector/module/module_offset", 0) @ [0, 0, 0, 1]
    for col, row in ((0, 0), (63, 0), (0, 47), (20, 31)):
        fast, slow = (
            module[f"{name}_pixel_direction"][()] * module[f"{name}_pixel_direction"].attrs["vector"]
            for name in ("fast", "slow")
        )
        place = origin[:3] + col * fast + row * slow
        np.testing.assert_allclose(place, instrument.detector.pixels_to_positions([col, row]), atol=1e-9)


def test_what_the_definition_asks_for(exported):
    run, _, file = exported
    entry = file["entry"]
    classes = {
        name: str(node.attrs["NX_class"]) for name, node in entry.items() if isinstance(node, h5py.Group)
    }
    assert classes["instrument"] == "NXinstrument"
    assert classes["sample"] == "NXsample"
    assert classes["data"] == "NXdata"
    assert classes["control"] == "NXmonitor"
    assert entry["definition"].asstr()[()] == "NXxlaue"
    data = entry["instrument/detector/data"]
    assert (data.shape, data.dtype) == ((2, 48, 64), np.dtype("uint16"))
    np.testing.assert_array_equal(data[1], run.frames[1].counts)
    assert entry["instrument/detector/distance"].attrs["units"] == "mm"
    source = entry["instrument/source"]
    assert source["probe"].asstr()[()] == "x-ray"
    assert source["distribution/data"].shape == source["distribution/wavelength"].shape
    assert entry["control/mode"].asstr()[()] == "timer"
    assert entry["control/preset"][()].tolist() == [2.0, 3.0]
    assert "T" in entry["start_time"].asstr()[()]
    assert any("monochromator" in line for line in entry["definition_missing"].asstr()[()])
    assert entry["sample/name"].asstr()[()] == "no. 7"
    np.testing.assert_allclose(entry["sample/unit_cell"][:3], [4.913, 4.913, 5.405], atol=0.01)
    np.testing.assert_allclose(entry["sample/unit_cell"][3:], [90, 90, 120], atol=1e-6)
    assert entry["decisions/decision"].asstr()[()].tolist() == ["Expose", "Move", "Expose", "Declare"]
    assert entry["run_status"].asstr()[()] == "success"


def test_ub_is_that_of_the_declared_orientation_with_axes_at_zero(exported, world):
    run, path, file = exported
    chain = world.backend.instrument.goniometer
    ub = file["entry/sample/orientation_matrix"][()]
    # declared was the identity in the laboratory, at omega 10, chi -5, phi 33
    np.testing.assert_allclose(
        chain.matrix({"omega": 10, "chi": -5, "phi": 33}) @ ub, run.crystal.b, atol=1e-12
    )
    assert holder_orientation(read_record(run.path)) is not None
    assert path.name == "run.nxs"


def test_our_own_reader_takes_each_exposure(exported, world):
    run, path, _ = exported
    for index in range(2):
        found = read_any(path, index=index)
        frame, then = found.frame, run.frames[index]
        np.testing.assert_array_equal(frame.counts, then.counts)
        assert frame.counts.dtype == then.counts.dtype
        assert (frame.live_time_s, frame.saturation, frame.gain) == (
            then.live_time_s,
            then.saturation,
            then.gain,
        )
        assert frame.axes == then.axes
        np.testing.assert_allclose(found.detector.rotation, world.backend.instrument.detector.rotation)


def test_what_cannot_be_exported_says_so(record, tmp_path):
    run = record()
    kept = read_record(run.path)
    export_nexus(kept, tmp_path / "run.nxs")
    with pytest.raises(RecordError, match="nothing is overwritten"):
        export_nexus(kept, tmp_path / "run.nxs")
    with pytest.raises(RecordError, match=r"named \.nxs or \.h5"):
        export_nexus(kept, tmp_path / "run.txt")
    with pytest.raises(RecordError, match="no folder"):
        export_nexus(kept, tmp_path / "x" / "run.nxs")
    (run.path / "frames/frame_0002.h5").unlink()
    with pytest.raises(RecordError, match="cannot be read"):
        export_nexus(read_record(run.path), tmp_path / "b.nxs")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run.nxs", "runs"]  # nothing half-written
