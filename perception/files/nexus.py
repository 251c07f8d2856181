"""Frames in NeXus files (HDF5): own ones with everything, and the image in anybody else's.

Layout of own files: ``/entry`` (NXentry) with ``data`` (NXdata, ``@signal = counts``),
``instrument/detector`` (NXdetector, whose NXdetector_module gives the pose as transformations: NeXus' laboratory frame
is ours), and ``sample`` (NXsample, whose axes are a chain of NXtransformations, innermost depending on the next).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lauepilot.simulator.detector import Background, Detector, Region, Sensor
from lauepilot.simulator.frame import Frame, FrameError
from lauepilot.simulator.instrument import Instrument


class FrameFileError(FrameError):
    """A file that holds no usable frame, or cannot be written."""


def write(path: Path, frame: Frame, instrument: Instrument | None) -> None:
    """Write a frame, and the pose of the instrument's first detector and its axes if an instrument is given."""
    with h5py.File(path, "w") as file:
        file.attrs["default"] = "entry"
        entry = _group(file, "entry", "NXentry", default="data")
        entry["definition"] = "NXlauepilot"
        entry["count_time"] = float(frame.live_time_s)
        entry["count_time"].attrs["units"] = "s"
        data = _group(entry, "data", "NXdata", signal="counts")
        data.create_dataset("counts", data=frame.counts, compression="gzip", compression_opts=4, shuffle=True)
        parts = _group(entry, "instrument", "NXinstrument")
        parts["name"] = frame.instrument
        detector = _group(parts, "detector", "NXdetector")
        detector["data"] = h5py.SoftLink("/entry/data/counts")
        detector["saturation_value"] = float(frame.saturation)
        detector["gain_adu"] = float(frame.gain)
        detector["offset_adu"] = float(frame.offset)
        entry["metadata"] = json.dumps(dict(frame.metadata), default=str)
        sample = _group(entry, "sample", "NXsample")
        _write_axes(sample, frame, instrument)
        if instrument is not None:
            write_pose(detector, instrument.detector)


def _group(parent: Any, name: str, kind: str, **attributes: str) -> Any:
    group = parent.create_group(name)
    group.attrs["NX_class"] = kind
    for key, value in attributes.items():
        group.attrs[key] = value
    return group


def _write_axes(sample: Any, frame: Frame, instrument: Instrument | None) -> None:
    chain = _group(sample, "transformations", "NXtransformations")
    known = {axis.name: axis for axis in instrument.goniometer.axes} if instrument is not None else {}
    before = "."
    # Outermost first, as in the goniometer: each one rides on the one before.
    for name in [n for n in known if n in frame.axes] + [n for n in frame.axes if n not in known]:
        chain[name] = float(frame.axes[name])
        axis = known.get(name)
        if axis is not None:
            chain[name].attrs["transformation_type"] = axis.kind
            chain[name].attrs["vector"] = np.asarray(axis.direction, dtype=float)
            chain[name].attrs["units"] = "deg" if axis.kind == "rotation" else "mm"
            chain[name].attrs["depends_on"] = before
            before = f"/entry/sample/transformations/{name}"
    sample["depends_on"] = before


def write_pose(group: Any, detector: Detector) -> None:
    """Write a detector's pose and electronics into its NXdetector; a flat one's as transformations too."""
    group["description"] = json.dumps(
        {
            "name": detector.name,
            "kind": detector.kind,
            "distance_mm": detector.distance_mm,
            "centre_px": list(detector.centre_px),
            "pixel_mm": list(detector.pixel_mm),
            "rotation": detector.rotation.tolist(),
            "blind": [asdict(region) for region in detector.blind],
            "sensor": asdict(detector.sensor),
            "background": asdict(detector.background),
        }
    )
    group["distance"] = float(detector.distance_mm)
    group["distance"].attrs["units"] = "mm"
    if detector.kind != "flat":
        return
    module = _group(group, "module", "NXdetector_module")
    module["data_origin"] = np.array([0, 0])
    module["data_size"] = np.array(detector.shape)
    first = detector.pixels_to_positions([0.0, 0.0])
    length = float(np.linalg.norm(first))
    place = "/entry/instrument/detector/module/module_offset"
    for name, value, vector, base in (
        ("module_offset", length, first / length, "."),
        ("fast_pixel_direction", detector.pixel_mm[0], detector.rotation[:, 0], place),
        ("slow_pixel_direction", detector.pixel_mm[1], detector.rotation[:, 1], place),
    ):
        module[name] = float(value)
        module[name].attrs["transformation_type"] = "translation"
        module[name].attrs["vector"] = vector
        module[name].attrs["units"] = "mm"
        module[name].attrs["depends_on"] = base


def read(path: Path, dataset: str | None, index: int) -> tuple[Frame, Detector | None]:
    """The frame, and the detector if an own file tells its pose.

    Raises
    ------
    FrameFileError
        If it is no HDF5 file, is damaged, or does not tell which image is meant.
    """
    try:
        with h5py.File(path, "r") as file:
            node = _dataset(path, file, dataset)
            frames = node.shape[0] if node.ndim == 3 else 1
            if not 0 <= index < frames:
                raise FrameFileError(
                    f"{path}: {node.name} holds {frames} frames; index {index} does not exist. "
                    f"Give 0 to {frames - 1}."
                )
            counts = np.asarray(node[index] if node.ndim == 3 else node[()])
            own = "NXlauepilot" in (_text(file, "entry/definition"), _text(file, "entry/features"))
            if not own or not node.name.endswith("/counts"):
                return Frame(
                    counts, _number(file, "entry/count_time", 1.0), metadata={"dataset": node.name}
                ), None
            return _own(file, counts, index)
    except (OSError, KeyError, RuntimeError, json.JSONDecodeError) as error:
        raise FrameFileError(
            f"{path} cannot be read as HDF5: {error}. The file may be cut off, still be written to, or need a filter "
            "(import hdf5plugin): copy it again."
        ) from error


def _own(file: Any, counts: Any, index: int) -> tuple[Frame, Detector | None]:
    detector = file["entry/instrument/detector"]
    chain = file["entry/sample/transformations"]
    axes = {str(name): _at(node, index) for name, node in chain.items()}
    metadata = json.loads(_text(file, "entry/metadata") or "{}")
    frame = Frame(
        counts=counts,
        live_time_s=_at(file["entry/count_time"], index),
        axes=axes,
        instrument=_text(file, "entry/instrument/name") or "",
        saturation=_at(detector["saturation_value"], index),
        gain=_at(detector["gain_adu"], index),
        offset=_at(detector["offset_adu"], index),
        metadata={**metadata, "lauepilot": True},
    )
    text = _text(file, "entry/instrument/detector/description")
    if text is None:
        return frame, None
    return frame, detector_of(json.loads(text) | {"shape": counts.shape})


def _at(node: Any, index: int) -> float:
    """One number of a frame, or of that frame in a stack."""
    return float(node[()] if node.shape == () else node[index])


def detector_of(d: Mapping[str, Any]) -> Detector:
    """A detector from its plain values, as they stand in files and in records' start documents."""
    background = dict(d["background"])
    centre = background["centre_px"]
    background["centre_px"] = None if centre is None else tuple(centre)
    return Detector(
        name=d["name"],
        kind=d["kind"],
        shape=(int(d["shape"][0]), int(d["shape"][1])),
        pixel_mm=(d["pixel_mm"][0], d["pixel_mm"][1]),
        distance_mm=d["distance_mm"],
        centre_px=(d["centre_px"][0], d["centre_px"][1]),
        rotation=np.array(d["rotation"]),
        blind=tuple(Region(b["shape"], tuple(b["centre_px"]), tuple(b["size_px"])) for b in d["blind"]),
        sensor=Sensor(**d["sensor"]),
        background=Background(**background),
    )


def _dataset(path: Path, file: Any, wanted: str | None) -> Any:
    images = [node for node in _datasets(file) if node.ndim in (2, 3) and node.dtype.kind in "iuf"]
    listing = ", ".join(f"{node.name} {node.shape}" for node in images[:20]) or "none"
    if wanted is not None:
        node = file.get(wanted)
        if not isinstance(node, h5py.Dataset) or node.ndim not in (2, 3):
            raise FrameFileError(f"{path}: no image {wanted!r}. Images in it: {listing}.")
        return node
    node = _default(file)
    if node is not None:
        return node
    if len(images) == 1:
        return images[0]
    raise FrameFileError(
        f"{path}: cannot tell which dataset is the frame; images in it: {listing}. Name one with dataset=."
        if images
        else f"{path}: there is no image (a dataset of two or three dimensions) in it. Is it the right file?"
    )


def _default(file: Any) -> Any:
    """Where ``@default`` leads to and ``@signal`` points; without ``@default``, the only NXdata with a signal."""
    group = file
    for _ in range(8):
        name = group.attrs.get("default")
        if name is None or str(name) not in group:
            break
        group = group[str(name)]
    found = _signal(group)
    if found is not None:
        return found
    signals = [s for s in (_signal(g) for g in _groups(file)) if s is not None]
    return signals[0] if len({s.name for s in signals}) == 1 else None


def _signal(group: Any) -> Any:
    name = group.attrs.get("signal") if isinstance(group, h5py.Group) else None
    node = group.get(str(name)) if name is not None else None
    return node if isinstance(node, h5py.Dataset) and node.ndim in (2, 3) else None


def _walk(group: Any) -> Iterator[Any]:
    for name in group:
        # Links that lead nowhere, and soft links (they would show a dataset twice), are passed over.
        if isinstance(group.get(name, getlink=True), h5py.HardLink):
            node = group[name]
            yield node
            if isinstance(node, h5py.Group):
                yield from _walk(node)


def _datasets(file: Any) -> list[Any]:
    return [node for node in _walk(file) if isinstance(node, h5py.Dataset)]


def _groups(file: Any) -> list[Any]:
    return [node for node in _walk(file) if isinstance(node, h5py.Group)]


def _text(file: Any, name: str) -> str | None:
    node = file.get(name)
    return (
        node.asstr()[()] if isinstance(node, h5py.Dataset) and h5py.check_string_dtype(node.dtype) else None
    )


def _number(file: Any, name: str, otherwise: float) -> float:
    node = file.get(name)
    return float(node[()]) if isinstance(node, h5py.Dataset) and node.shape == () else otherwise
