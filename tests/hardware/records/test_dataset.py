"""One Dataset from everywhere, with the shapes, types and units that were described."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lauepilot.hardware.errors import RecordError
from lauepilot.hardware.metadata import merged
from lauepilot.hardware.records.dataset import read_run
from lauepilot.hardware.records.documents import replay
from lauepilot.hardware.records.tiled import catalogue, tiled_writer

xarray = pytest.importorskip("xarray", reason="pip install lauepilot[data]")


def test_a_folder_as_a_dataset(record):
    run = record()
    ds = read_run(run.path)
    assert ds.image.dims == ("primary", "row", "col")
    assert ds.image.dtype == np.uint16
    np.testing.assert_array_equal(ds.image, [frame.counts for frame in run.frames])
    assert (ds.omega.values.tolist(), ds.omega.attrs["units"]) == ([0.0, 10.0], "deg")
    assert ds.live_time_s.values.tolist() == [2.0, 3.0]
    assert ds.dose_s.attrs["units"] == "s"
    assert ds.decision.values.tolist() == ["Expose", "Move", "Expose", "Declare"]
    assert ds.reason.values[0] == "first look"
    assert ds.orientation.shape == (4, 3, 3)
    assert np.isnan(ds.confidence.values[0])
    np.testing.assert_array_equal(ds.wanted[1], [10.0, -5.0, 33.0])
    assert ds.baseline_omega.values.tolist() == [0.0, 10.0]
    assert ds.attrs["exit_status"] == "success"
    start = json.loads(ds.attrs["start"])
    assert (start["sample"], start["operator"], start["plan_name"]) == ("no. 7", "abc", "align_crystal")
    assert start["md_user"] == {"plan_name": "mine", "uid": "x"}
    assert start["crystal"]["name"] == "quartz"
    assert "image" not in read_run(run.path.parent, run.result.run_uid[:6], images=False)
    assert all(isinstance(value, str) for value in ds.attrs.values())


def test_what_is_not_there_says_so(record, tmp_path):
    with pytest.raises(RecordError, match="No run in"):
        read_run(tmp_path)
    run = record()
    with pytest.raises(RecordError, match="begins with 'zz'"):
        read_run(tmp_path, "zz")
    with pytest.raises(RecordError, match="must not hold a key"):
        read_run("https://host/?api_key=secret", "zz")
    file = run.path / "documents.jsonl"
    file.write_text(file.read_text().replace("frames/frame_0001.h5", "../../../../etc/passwd"))
    with pytest.raises(RecordError, match="outside of it"):
        read_run(run.path)


def test_users_metadata_never_replace_ours():
    ours = {"plan_name": "align_crystal", "keys": {"image": "i"}}
    both = merged(ours, {"keys": 5, "sample": np.float64(3.0), "command": "rm", "time": float("nan")})
    assert both == ours | {"sample": 3.0, "md_user": {"keys": 5, "command": "rm", "time": None}}
    assert merged(ours, None) == ours


@pytest.mark.filterwarnings("ignore")  # of Tiled's own dependencies
class TestTiled:
    @pytest.fixture(autouse=True)
    def _installed(self):
        pytest.importorskip("tiled", reason="pip install lauepilot[data]")
        pytest.importorskip("bluesky_tiled_plugins", reason="pip install lauepilot[data]")

    def test_the_same_dataset_from_tiled_while_it_runs_and_from_the_folder(self, record, tmp_path):
        seen = []
        with catalogue(tmp_path / "tiled", create=True) as client:

            def watch(name, doc):
                if name == "event" and not seen:  # nothing waits for the end of the run
                    seen.append(list(next(iter(client.values())).base))

            run = record(tiled_writer(client), watch)
            assert seen
            node = client[run.result.run_uid]["primary"].base["camera_image"]
            assert (node.shape, node.dtype) == ((2, 48, 64), np.dtype("uint16"))
            again = replay(run.path, lambda *_: None)
        assert again == run.result.run_uid
        here, there = read_run(run.path), read_run(tmp_path / "tiled", run.result.run_uid[:8])
        xarray.testing.assert_identical(here, there)
        with pytest.raises(RecordError, match="records list"):
            read_run(tmp_path / "tiled", "zz")

    def test_a_run_of_the_folder_can_be_handed_to_tiled_later(self, record, tmp_path):
        """And why `tiled_writer` has settings: as the plugin comes, small matrices break the end of the run."""
        from bluesky_tiled_plugins import TiledWriter

        run = record()
        with catalogue(tmp_path / "tiled", create=True) as client:
            with pytest.raises(Exception, match="1-dimensional"):
                replay(run.path, TiledWriter(client))
            client[run.result.run_uid].delete(recursive=True, external_only=False)
            replay(run.path, tiled_writer(client))
            stream = client[run.result.run_uid]["decisions"].base
            confidence = stream["internal"].read()["align_confidence"]
            assert np.isnan(confidence[0])
            assert stream["align_orientation"].shape == (4, 3, 3)

    def test_a_folder_that_cannot_be_written(self, tmp_path):
        (tmp_path / "file").write_text("")
        with (
            pytest.raises(RecordError, match="cannot be made"),
            catalogue(tmp_path / "file" / "x", create=True),
        ):
            pass
        with pytest.raises(RecordError, match="no Tiled catalogue"), catalogue(tmp_path / "none"):
            pass
