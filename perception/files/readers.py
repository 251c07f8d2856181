"""Frames and spot lists from files, by the file's suffix, and frames into files.

Pixels come as they are stored: row 0 is the first row of the file. Pixels that a detector marks as dead
(negative whole numbers in CBF and EDF, the largest number in unsigned 32-bit files) come as a mask.
JPEG 2000 is read by Pillow, whose wheels bring OpenJPEG along: no system library is needed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lauepilot.perception.files import lauetools, nexus
from lauepilot.perception.files.nexus import FrameFileError
from lauepilot.perception.observation import SpotList
from lauepilot.simulator.detector import Detector
from lauepilot.simulator.frame import Frame
from lauepilot.simulator.instrument import Instrument

__all__ = ["FrameFileError", "FrameInput", "read_any", "read_frame", "write_frame"]

_FABIO = frozenset(
    (
        ".edf",
        ".cbf",
        ".mccd",
        ".marccd",
        ".img",
        ".sfrm",
        ".osc",
        ".kccd",
        ".mar2300",
        ".mar3450",
        ".tif",
        ".tiff",
    )
)
_PILLOW = frozenset((".png", ".jp2", ".j2k", ".jpx", ".jpg", ".jpeg", ".bmp"))
_HDF5 = frozenset((".h5", ".hdf5", ".hdf", ".nxs", ".nx"))
_LISTS = frozenset((".dat", ".cor", ".fit", ".det"))
_WRITABLE = (".h5", ".nxs", ".tif", ".edf", ".cbf", ".png", ".npy")


@dataclass(frozen=True, eq=False)
class FrameInput:
    """What a file holds.

    Attributes
    ----------
    path
        The file.
    frame
        The exposure; None for lists of spots.
    spots
        LaueTools' spots, brightest first; None for frames.
    detector
        Geometry stored in the file (LaueTools, own files); None if there is none. Spots of LaueTools have
        pixels in its own counting (see `lauepilot.perception.files.lauetools`), and so has this detector.
    mask
        (rows, cols), True where a pixel is valid; None if all are.
    """

    path: Path
    frame: Frame | None = None
    spots: SpotList | None = None
    detector: Detector | None = None
    mask: NDArray[np.bool_] | None = None


def read_frame(path: str | Path, *, dataset: str | None = None, index: int = 0) -> Frame:
    """The frame in a file; arguments and errors as `read_any`, and an error if the file is a list of spots."""
    found = read_any(path, dataset=dataset, index=index)
    if found.frame is None:
        raise FrameFileError(
            f"{path} is a list of spots or a calibration, not a frame. Use read_any, or give the detector's image."
        )
    return found.frame


def read_any(path: str | Path, *, dataset: str | None = None, index: int = 0) -> FrameInput:
    """Read a frame or a list of spots.

    Parameters
    ----------
    path
        The suffix tells the format; ``.gz`` and ``.bz2`` may follow where fabio reads them.
    dataset
        Path inside an HDF5 file. None: what ``@default`` and ``@signal`` point to, else the only image there is.
    index
        Which frame of a stack.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    FrameFileError
        If the suffix is not known, the file is damaged, holds NaN, or several images to choose from.
    LaueToolsError
        If a LaueTools list is not as it should be.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"No file {str(path)!r}. Wanted a detector image or a LaueTools list; check the path."
        )
    suffix = _suffix(path)
    if dataset is not None and suffix not in _HDF5:
        raise FrameFileError(f"{path} is no HDF5 file and holds no datasets: leave {dataset!r} out.")
    if index and suffix in _LISTS:
        raise FrameFileError(f"{path} is a list of spots and holds no frame {index}: leave the number out.")
    if suffix in _LISTS:
        return _read_list(path, suffix)
    if suffix in _HDF5:
        frame, detector = nexus.read(path, dataset, index)
        return _finish(path, frame, detector)
    readers: Mapping[frozenset[str], Callable[[Path, int], tuple[NDArray[Any], dict[str, object]]]] = {
        _FABIO: _with_fabio,
        _PILLOW: _with_pillow,
        frozenset((".npy",)): _with_numpy,
    }
    for suffixes, reader in readers.items():
        if suffix in suffixes:
            try:
                counts, header = reader(path, index)
            except FrameFileError:
                raise
            except Exception as error:
                # Whatever a foreign decoder stumbles over, the user needs the same three things.
                raise FrameFileError(
                    f"{path} cannot be read as {suffix}: {error}. The file may be cut off or have a wrong suffix: "
                    "copy it again from the detector, or rename it."
                ) from error
            return _finish(path, Frame(counts, _live_time(header), metadata=header), None)
    known = sorted(_FABIO | _PILLOW | _HDF5 | _LISTS | {".npy"})
    raise FrameFileError(
        f"{path}: do not know how to read {suffix or 'a file without suffix'}. Known: {' '.join(known)}. "
        "Convert the frame to one of these."
    )


def _suffix(path: Path) -> str:
    suffixes = [s.lower() for s in path.suffixes]
    if len(suffixes) > 1 and suffixes[-1] in {".gz", ".bz2"}:
        return suffixes[-2]
    return suffixes[-1] if suffixes else ""


def _finish(path: Path, frame: Frame, detector: Detector | None) -> FrameInput:
    """Refuse NaN, find the mask and the saturation from the kind of numbers."""
    counts: NDArray[Any] = frame.counts
    if counts.ndim != 2 or counts.size == 0:
        raise FrameFileError(
            f"{path}: a frame has two dimensions; shape {counts.shape} came. Choose one with index=."
        )
    if counts.dtype.kind == "b":
        counts = counts.astype(np.uint8)
    if counts.dtype.kind not in "iuf":
        raise FrameFileError(f"{path}: pixels must be real numbers; {counts.dtype} came.")
    if not np.all(np.isfinite(counts)):
        bad = int(np.count_nonzero(~np.isfinite(counts)))
        raise FrameFileError(
            f"{path}: {bad} pixels are NaN or infinite. Mask or repair them, and save again."
        )
    mask: NDArray[np.bool_] | None = None
    own = "lauepilot" in frame.metadata
    if counts.dtype.kind == "i" and counts.min() < 0:
        mask = np.asarray(counts >= 0)
    elif counts.dtype.kind == "u" and counts.dtype.itemsize >= 4:
        dead = counts == np.iinfo(counts.dtype).max
        mask = np.asarray(~dead) if dead.any() else None
    # Native byte order: the kernels take nothing else.
    counts = np.ascontiguousarray(counts, dtype=counts.dtype.newbyteorder("="))
    saturation = frame.saturation
    if not own:
        largest = {np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0, np.dtype(np.int16): 32767.0}
        saturation = largest.get(counts.dtype, float("inf"))
    metadata = {key: value for key, value in frame.metadata.items() if key != "lauepilot"} | {
        "file": str(path)
    }
    return FrameInput(
        path, replace(frame, counts=counts, saturation=saturation, metadata=metadata), None, detector, mask
    )


def _read_list(path: Path, suffix: str) -> FrameInput:
    if suffix == ".det":
        return FrameInput(path, detector=lauetools.read_det(path).to_detector())
    found: lauetools.LaueToolsFit | lauetools.LaueToolsSpots
    if suffix == ".fit":
        found = lauetools.read_fit(path)
    else:
        found = lauetools.read_dat(path) if suffix == ".dat" else lauetools.read_cor(path)
    known = found.geometry is not None and found.geometry.shape is not None
    detector = found.geometry.to_detector() if known and found.geometry is not None else None
    return FrameInput(path, spots=found.spot_list(), detector=detector)


def _with_fabio(path: Path, index: int) -> tuple[NDArray[Any], dict[str, object]]:
    import fabio  # heavy, and needed for these formats only

    # A cut-off EDF is filled up with zeros and only a line in the log tells.
    log = logging.getLogger("fabio")
    listener = _Listener(logging.WARNING)
    log.addHandler(listener)
    try:
        with contextlib.closing(fabio.open(str(path))) as image:
            count = int(image.nframes)
            if not 0 <= index < count:
                raise FrameFileError(
                    f"{path} holds {count} frames; index {index} does not exist. Give 0 to {count - 1}."
                )
            part = image if index == 0 else image.getframe(index)
            header: dict[str, object] = {str(k): str(v) for k, v in dict(part.header).items()}
            pixels = np.array(part.data)
    finally:
        log.removeHandler(listener)
    short = [line for line in listener.lines if "incomplete" in line or "truncated" in line]
    if short:
        raise ValueError(short[0])
    return pixels, header


class _Listener(logging.Handler):
    """Keeps what is logged."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        self.lines.append(record.getMessage())


def _with_pillow(path: Path, index: int) -> tuple[NDArray[Any], dict[str, object]]:
    from PIL import Image

    with Image.open(path) as image:
        if index:
            image.seek(index)
        if image.mode in {"1", "L", "I", "F"} or image.mode.startswith("I;16"):
            return np.array(image), {}
        # A screenshot or a photograph of a film: brightness is all that it has.
        return np.array(image.convert("L")), {"colour": f"{image.mode}, turned into grey"}


def _with_numpy(path: Path, index: int) -> tuple[NDArray[Any], dict[str, object]]:
    array = np.load(path, allow_pickle=False)
    frames = array.shape[0] if array.ndim == 3 else 1
    if not 0 <= index < frames:
        raise FrameFileError(
            f"{path} holds {frames} frames; index {index} does not exist. Give 0 to {frames - 1}."
        )
    return np.asarray(array[index] if array.ndim == 3 else array), {}


def _live_time(header: Mapping[str, object]) -> float:
    """Exposure in seconds from a header; 1 if it does not tell."""
    for key, value in header.items():
        text = f"{key} {value}" if "header_contents" in key.lower() else str(value)
        if re.search("exp(osure)?[ _]?time", key, re.IGNORECASE):
            match = re.search(r"\d+\.?\d*(?:[eE][-+]?\d+)?", text)
        else:
            match = re.search(r"Exposure_time\s+(\d+\.?\d*(?:[eE][-+]?\d+)?)", text)
        if match:
            return float(match.group(match.lastindex or 0))
    return 1.0


def write_frame(path: str | Path, frame: Frame, instrument: Instrument | None = None) -> None:
    """Write a frame, in the format of the suffix.

    NeXus/HDF5 (``.h5``, ``.nxs``) keeps all of the frame and, with the instrument, the detector's pose and the axes;
    EDF, CBF and TIFF keep counts and a few header lines; PNG (16 bit) and NPY the counts alone.
    The file appears under its name only when it is complete.

    Raises
    ------
    FrameFileError
        If the suffix is not known, the folder does not exist, or the format cannot hold the counts.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in _WRITABLE:
        raise FrameFileError(f"Cannot write {path}: use one of the suffixes {' '.join(_WRITABLE)}.")
    if not path.parent.is_dir():
        raise FrameFileError(f"Cannot write {path}: there is no folder {path.parent}. Make it first.")
    # Not tempfile's: such files are for their owner's eyes only, and records are read by others.
    part = path.with_name(f".{path.stem}-{uuid.uuid4().hex}{suffix}")
    try:
        if suffix in _HDF5:
            nexus.write(part, frame, instrument)
        else:
            _write_image(part, path, frame)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _write_image(part: Path, path: Path, frame: Frame) -> None:
    counts = np.asarray(frame.counts)
    if part.suffix == ".npy":
        np.save(part, counts)
        return
    if part.suffix in {".png", ".cbf"}:
        low, high = (0, 65535) if part.suffix == ".png" else (-(2**31), 2**31 - 1)
        if np.any(counts != np.rint(counts)) or counts.min() < low or counts.max() > high:
            raise FrameFileError(
                f"{path}: {part.suffix} holds whole numbers from {low} to {high}; the counts go from "
                f"{counts.min():g} to {counts.max():g} or have fractions. Write .h5 or .tif."
            )
        counts = counts.astype(np.uint16 if part.suffix == ".png" else np.int32)
    if part.suffix == ".png":
        from PIL import Image

        Image.fromarray(counts).save(part)
        return
    import fabio

    if counts.dtype == np.int64 or counts.dtype == np.uint64:
        small = counts.astype(np.int32)
        counts = small if np.array_equal(small, counts) else counts.astype(np.float64)
    header = {"exposure_time": repr(float(frame.live_time_s)), "instrument": frame.instrument}
    header |= {f"axis_{name}": repr(float(value)) for name, value in frame.axes.items()}
    image = {
        ".edf": fabio.edfimage.EdfImage,
        ".cbf": fabio.cbfimage.CbfImage,
        ".tif": fabio.tifimage.TifImage,
    }
    image[part.suffix](data=counts, header=header).write(str(part))
