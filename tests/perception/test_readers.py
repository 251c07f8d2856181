"""Reading and writing frames, against files made by fabio, Pillow, numpy and h5py themselves."""

from __future__ import annotations

import os
from pathlib import Path

import fabio
import h5py
import numpy as np
import pytest
from PIL import Image

from lauepilot.perception.files.lauetools import read_fit
from lauepilot.perception.files.readers import FrameFileError, read_any, read_frame, write_frame
from lauepilot.simulator.frame import Frame
from lauepilot.simulator.instrument import load_instrument


@pytest.fixture
def counts() -> np.ndarray:
    return np.random.default_rng(3).poisson(200, size=(60, 80)).astype(np.uint16)


@pytest.mark.parametrize("suffix", [".h5", ".nxs", ".tif", ".edf", ".cbf", ".png", ".npy"])
def test_written_frames_come_back(tmp_path: Path, counts: np.ndarray, suffix: str) -> None:
    path = tmp_path / f"frame{suffix}"
    write_frame(path, Frame(counts, 12.5))
    back = read_frame(path)
    np.testing.assert_array_equal(back.counts, counts)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    if suffix in {".h5", ".nxs", ".edf"}:
        assert back.live_time_s == 12.5


@pytest.mark.parametrize("name", ["bm32", "lab", "koala"])
def test_nexus_keeps_all(tmp_path: Path, name: str) -> None:
    instrument = load_instrument(name)
    shape = instrument.detector.shape
    pixels = np.random.default_rng(0).integers(0, 9, size=shape).astype(np.int32)
    axes = {axis: 0.5 * i for i, axis in enumerate(instrument.goniometer.names)}
    frame = Frame(pixels, 3.0, axes, name, 4000.0, 2.0, 10.0, {"note": "µ", "n": 3})
    write_frame(tmp_path / "a.h5", frame, instrument)
    found = read_any(tmp_path / "a.h5")
    assert found.frame is not None
    assert found.detector is not None
    np.testing.assert_array_equal(found.frame.counts, pixels)
    assert dict(found.frame.axes) == axes
    for key in ("live_time_s", "instrument", "saturation", "gain", "offset"):
        assert getattr(found.frame, key) == getattr(frame, key)
    assert found.frame.metadata["note"] == "µ"
    expected = instrument.detector
    assert (found.detector.blind, found.detector.sensor) == (expected.blind, expected.sensor)
    assert found.detector.background == expected.background
    where = np.array([[0.0, 0.0], [10.0, 700.0]])
    np.testing.assert_allclose(found.detector.pixels_to_rays(where), expected.pixels_to_rays(where))


def test_nexus_pose_follows_the_standard(tmp_path: Path) -> None:
    """A pixel's place by the rules of NXdetector_module: offset + col * fast + row * slow."""
    instrument = load_instrument("bm32")
    shape = instrument.detector.shape
    write_frame(tmp_path / "a.h5", Frame(np.eye(*shape, dtype=np.uint8), 1.0), instrument)
    with h5py.File(tmp_path / "a.h5") as file:
        module = file["entry/instrument/detector/module"]
        fast, slow, offset = (
            module[n][()] * module[n].attrs["vector"]
            for n in ("fast_pixel_direction", "slow_pixel_direction", "module_offset")
        )
        assert file["entry/data"].attrs["signal"] == "counts"
        assert file["entry/sample/depends_on"][()] == b"."
    place = offset + 300 * fast + 1200 * slow
    np.testing.assert_allclose(place, instrument.detector.pixels_to_positions([300.0, 1200.0]), atol=1e-9)


def test_foreign_hdf5(tmp_path: Path, counts: np.ndarray) -> None:
    with h5py.File(tmp_path / "one.h5", "w") as file:
        file["deep/inside/image"] = counts
        file["deep/curve"] = np.arange(5.0)
    np.testing.assert_array_equal(read_frame(tmp_path / "one.h5").counts, counts)
    with h5py.File(tmp_path / "two.h5", "w") as file:
        file["a"] = counts
        file["b"] = np.stack([counts, counts + 1])
    with pytest.raises(FrameFileError, match=r"/a \(60, 80\), /b \(2, 60, 80\).*dataset="):
        read_frame(tmp_path / "two.h5")
    np.testing.assert_array_equal(read_frame(tmp_path / "two.h5", dataset="b", index=1).counts, counts + 1)
    with pytest.raises(FrameFileError, match="index 2 does not exist"):
        read_frame(tmp_path / "two.h5", dataset="b", index=2)
    with pytest.raises(FrameFileError, match="no image 'c'"):
        read_frame(tmp_path / "two.h5", dataset="c")
    with h5py.File(tmp_path / "two.h5", "a") as file:
        file["entry/plot/signal_here"] = counts + 5
        file["entry/plot"].attrs["signal"] = "signal_here"
        file.attrs["default"] = "entry"
        file["entry"].attrs["default"] = "plot"
    np.testing.assert_array_equal(read_frame(tmp_path / "two.h5").counts, counts + 5)
    with h5py.File(tmp_path / "none.h5", "w") as file:
        file["curve"] = np.arange(5.0)
    with pytest.raises(FrameFileError, match="no image"):
        read_frame(tmp_path / "none.h5")


def test_foreign_images(tmp_path: Path, counts: np.ndarray) -> None:
    fabio.cbfimage.CbfImage(
        data=np.where(counts > 220, -1, counts.astype(np.int32)),
        header={"_array_data.header_contents": "# Detector: PILATUS\r\n# Exposure_time 0.25 s\r\n"},
    ).write(str(tmp_path / "a.cbf"))
    found = read_any(tmp_path / "a.cbf")
    assert found.frame is not None
    assert found.mask is not None
    np.testing.assert_array_equal(found.mask, counts <= 220)
    assert found.frame.live_time_s == 0.25
    Image.fromarray(np.stack([counts.astype(np.uint8)] * 3, axis=-1)).save(tmp_path / "film.png")
    grey = read_frame(tmp_path / "film.png")
    np.testing.assert_array_equal(grey.counts, counts.astype(np.uint8))
    assert grey.saturation == 255.0
    np.save(tmp_path / "stack.npy", np.stack([counts, 2 * counts]))
    np.testing.assert_array_equal(read_frame(tmp_path / "stack.npy", index=1).counts, 2 * counts)
    Image.fromarray(counts).save(tmp_path / "a.jp2", irreversible=False)
    np.testing.assert_array_equal(read_frame(tmp_path / "a.jp2").counts, counts)


def test_real_jpeg2000(shared_data: Path) -> None:
    """Sum and extremes as imagecodecs 2026.3 (OpenJPEG, another binding) decodes them."""
    frame = read_frame(shared_data / "laue" / "ge.jp2")
    assert frame.counts.shape == (2018, 2016)
    assert frame.counts.dtype == np.uint16
    assert (int(frame.counts.min()), int(frame.counts.max())) == (16, 32627)
    assert int(frame.counts.sum(dtype=np.int64)) == 4656189372


def test_lauetools_lists(shared_data: Path) -> None:
    found = read_any(shared_data / "laue" / "Ge_blanc_0000_LT_5.fit")
    assert found.frame is None
    assert found.spots is not None
    assert found.detector is not None
    assert len(found.spots) == 95
    fit = read_fit(shared_data / "laue" / "Ge_blanc_0000_LT_5.fit")
    np.testing.assert_allclose(found.spots.pixels, fit.pixels[np.argsort(-fit.intensity, kind="stable")])
    assert read_any(shared_data / "laue" / "Ge0001.dat").detector is None
    assert read_any(shared_data / "laue" / "calibGe111.det").detector is not None
    with pytest.raises(FrameFileError, match="list of spots"):
        read_frame(shared_data / "laue" / "Ge0001.cor")


def test_bad_files_are_explained(tmp_path: Path, counts: np.ndarray) -> None:
    with pytest.raises(FileNotFoundError, match="gone"):
        read_any(tmp_path / "gone.tif")
    (tmp_path / "a.xyz").write_text("?")
    with pytest.raises(FrameFileError, match=r"\.xyz.*\.edf"):
        read_any(tmp_path / "a.xyz")
    np.save(tmp_path / "nan.npy", np.full((9, 9), np.nan))
    with pytest.raises(FrameFileError, match=r"nan\.npy: 81 pixels are NaN"):
        read_any(tmp_path / "nan.npy")
    np.save(tmp_path / "flat.npy", np.arange(9))
    with pytest.raises(FrameFileError, match="two dimensions"):
        read_any(tmp_path / "flat.npy")
    np.save(tmp_path / "complex.npy", np.ones((9, 9), dtype=complex))
    with pytest.raises(FrameFileError, match="real numbers"):
        read_any(tmp_path / "complex.npy")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", [".h5", ".tif", ".edf", ".cbf", ".png", ".npy", ".jp2"])
def test_truncated_files_are_refused(tmp_path: Path, counts: np.ndarray, suffix: str) -> None:
    path = tmp_path / f"cut{suffix}"
    if suffix == ".jp2":
        Image.fromarray(counts).save(path)
    else:
        write_frame(path, Frame(counts, 1.0))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 3])
    with pytest.raises(FrameFileError, match=rf"cut\{suffix}"):
        read_any(path)


def test_nothing_half_written(tmp_path: Path, counts: np.ndarray) -> None:
    with pytest.raises(FrameFileError, match="whole numbers"):
        write_frame(tmp_path / "a.png", Frame(counts + 0.5, 1.0))
    with pytest.raises(FrameFileError, match="suffixes"):
        write_frame(tmp_path / "a.mccd", Frame(counts, 1.0))
    with pytest.raises(FrameFileError, match="no folder"):
        write_frame(tmp_path / "no" / "a.h5", Frame(counts, 1.0))
    write_frame(tmp_path / "b.h5", Frame(counts, 1.0))
    with pytest.raises(ValueError, match="could not convert"):
        write_frame(tmp_path / "b.h5", Frame(counts + 1, 1.0, axes={"phi": "broken"}))  # type: ignore[dict-item]
    np.testing.assert_array_equal(read_frame(tmp_path / "b.h5").counts, counts)
    assert [p.name for p in tmp_path.iterdir()] == ["b.h5"]


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
@pytest.mark.parametrize("suffix", [".h5", ".tif", ".edf", ".cbf", ".png", ".npy"])
def test_written_frames_have_the_permissions_of_any_new_file(tmp_path: Path, suffix: str) -> None:
    before = os.umask(0o027)
    try:
        write_frame(tmp_path / f"a{suffix}", Frame(np.arange(64, dtype=np.uint16).reshape(8, 8), 1.0))
    finally:
        os.umask(before)
    assert [(p.name, p.stat().st_mode & 0o777) for p in tmp_path.iterdir()] == [(f"a{suffix}", 0o640)]
