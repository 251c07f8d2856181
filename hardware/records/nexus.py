"""A whole run in one NeXus file, after the application definition ``NXxlaue`` (single crystal Laue camera).

``NXxlaue`` extends ``NXxrot`` and ``NXxbase``, made for one rotation axis and one wavelength. What they ask for and a run
does not know is not invented: `MISSING` names it, and so does the file (``/entry/definition_missing``). Beyond the
definition stand the chain of goniometer axes and the detector's pose as NXtransformations (NeXus' laboratory frame is
ours: +z along the beam, +y up, right-handed; active rotations), the decisions, and the documents themselves.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lauepilot import __version__
from lauepilot.hardware.errors import RecordError
from lauepilot.hardware.metadata import plain
from lauepilot.hardware.records.dataset import column, names
from lauepilot.hardware.records.documents import RunRecord, Stream
from lauepilot.hardware.records.local import write_whole
from lauepilot.perception.files.nexus import detector_of, write_pose
from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.goniometer import Axis, Goniometer
from lauepilot.simulator.instrument import Beam
from lauepilot.simulator.laue import beam_spectrum

#: What the definition wants and a run does not have.
MISSING = (
    "instrument/monochromator/wavelength: the beam is white",
    "instrument/attenuator: not recorded",
    "sample/rotation_angle, rotation_angle_step: there are several axes, in sample/transformations",
    "sample/temperature, x_translation, y_translation, distance: not recorded unless they are axes",
    "control/integral: there is no monitor",
)


def export_nexus(record: RunRecord, path: str | Path) -> Path:
    """Write a run's exposures, axes, orientation and decisions into one file; it appears when it is whole.

    Parameters
    ----------
    record
        Of `lauepilot.hardware.records.documents.read_record`, or out of Tiled.
    path
        Ending in ``.nxs`` or ``.h5``; nothing that exists is overwritten.

    Raises
    ------
    RecordError
        If the file exists, its folder does not, or the run has no exposure whose image and axes the record names.
    """
    target = Path(path)
    if target.suffix.lower() not in {".nxs", ".h5"}:
        raise RecordError(f"A NeXus file is named .nxs or .h5; {target.name!r} came.")
    if target.exists():
        raise RecordError(f"{target} exists. Name another file; nothing is overwritten.")
    if not target.parent.is_dir():
        raise RecordError(f"There is no folder {target.parent} to write {target.name} into. Make it first.")
    primary, keys = record.streams.get("primary"), record.start.get("keys", {})
    if primary is None or keys.get("image") not in primary.data_keys or "instrument" not in record.start:
        raise RecordError(
            f"The run {record.uid} has no exposure, or does not say which data key is the image: nothing to export."
        )

    def write(part: Path) -> None:
        with h5py.File(part, "w") as file:
            _write(file, record, primary)

    try:
        write_whole(target, write)
    except OSError as error:
        raise RecordError(
            f"{target} cannot be written: {error}. Make room, or choose another folder."
        ) from error
    return target


def _write(file: Any, record: RunRecord, primary: Stream) -> None:
    start, stop = record.start, record.stop
    file.attrs["default"] = "entry"
    entry = _group(file, "entry", "NXentry", default="data")
    crystal = start.get("crystal", {})
    entry["definition"] = "NXxlaue"
    entry["definition_missing"] = list(MISSING)
    entry["features"] = "NXlauepilot"
    entry["title"] = f"{start.get('plan_name', 'run')} {crystal.get('name') or ''}".strip()
    entry["entry_identifier"] = record.uid
    entry["start_time"] = _moment(start["time"])
    if stop:
        entry["end_time"] = _moment(stop["time"])
    entry["run_status"] = str(stop.get("exit_status", "unfinished"))
    entry["run_reason"] = str(stop.get("reason", ""))
    entry["program_name"] = "lauepilot"
    entry["program_name"].attrs["version"] = __version__
    seconds = _values(record, primary, "live_time_s")
    _put(entry, "count_time", seconds, "s")
    _write_detector(entry, record, primary)
    _write_sample(entry, record, primary)
    control = _group(entry, "control", "NXmonitor")
    control["mode"] = "timer"
    _put(control, "preset", seconds, "s")
    entry["metadata"] = json.dumps({"run": record.uid})
    if "decisions" in record.streams:
        _write_decisions(entry, record)
    note = _group(entry, "documents", "NXcollection")
    note["start"], note["stop"] = json.dumps(plain(start)), json.dumps(plain(stop))


def _write_detector(entry: Any, record: RunRecord, primary: Stream) -> None:
    described = record.start["instrument"]
    beam = described["beam"]
    parts = _group(entry, "instrument", "NXinstrument")
    parts["name"] = described["name"]
    source = _group(parts, "source", "NXsource")
    source["name"] = described["title"]
    source["type"] = str(beam["spectrum"].get("kind", ""))
    source["probe"] = "neutron" if beam["radiation"] == "neutron" else "x-ray"
    source["spectrum"] = json.dumps(beam["spectrum"])
    spectrum = beam_spectrum(
        Beam(
            beam["radiation"],
            beam["spectrum"],
            tuple(beam["size_mm"]),
            beam["divergence_deg"],
            beam["polarisation"],
        )
    )
    curve = _group(source, "distribution", "NXdata", signal="data", axes="wavelength")
    _put(curve, "data", spectrum.flux, "1/(s mm^2 angstrom)").attrs["signal"] = 1
    _put(curve, "wavelength", spectrum.wavelength_a, "angstrom")
    pose = detector_of(described["detectors"][0])
    key = record.start["keys"]["image"]
    data = _group(entry, "data", "NXdata", signal="counts")
    shape = (len(primary.seq_num), *pose.shape)
    kind = primary.data_keys[key].get("dtype_numpy", "<f8")
    counts = data.create_dataset(
        "counts", shape, kind, chunks=(1, *pose.shape), compression="gzip", compression_opts=4, shuffle=True
    )
    counts.attrs["signal"] = 1
    for row, pointer in enumerate(primary.columns[key]):
        image = record.image(pointer)
        if image.shape != pose.shape:
            raise RecordError(
                f"Exposure {row + 1} has shape {image.shape}, but the instrument says {pose.shape}: not exported."
            )
        counts[row] = image
    detector = _group(parts, "detector", "NXdetector")
    detector["data"] = h5py.SoftLink("/entry/data/counts")
    for name, what in (("saturation_value", "saturation"), ("gain_adu", "gain"), ("offset_adu", "offset")):
        _put(detector, name, _values(record, primary, what))
    _put(detector, "count_time", _values(record, primary, "live_time_s"), "s")
    detector["frame_start_number"] = 1
    write_pose(detector, pose)
    for name, size, centre in zip("xy", pose.pixel_mm, pose.centre_px, strict=True):
        _put(detector, f"{name}_pixel_size", size, "mm")
        _put(detector, f"beam_center_{name}", (centre + 0.5) * size, "mm")


def _write_sample(entry: Any, record: RunRecord, primary: Stream) -> None:
    start = record.start
    crystal = start.get("crystal", {})
    sample = _group(entry, "sample", "NXsample")
    sample["name"] = str(start.get("sample") or crystal.get("name") or "")
    chain = _group(sample, "transformations", "NXtransformations")
    before = "."
    # Outermost first, as in the goniometer: each one rides on the one before.
    for axis in start["instrument"]["goniometer"]["axes"]:
        key = start["keys"]["axes"].get(axis["name"])
        if key not in primary.columns:
            raise RecordError(f"The exposures do not say where axis {axis['name']!r} stood: not exported.")
        values = column(record, primary, key)
        node = _put(chain, axis["name"], values, "deg" if axis["kind"] == "rotation" else "mm")
        node.attrs["transformation_type"] = axis["kind"]
        node.attrs["vector"] = np.asarray(axis["direction"], dtype=float)
        node.attrs["depends_on"] = before
        before = node.name
    sample["depends_on"] = before
    b = crystal.get("B_2pi_per_angstrom")
    if b is None:
        return
    matrix = np.array(b, dtype=float)
    sample["unit_cell"] = _cell(matrix)
    sample["unit_cell"].attrs["about"] = "a, b, c in angstrom; alpha, beta, gamma in degrees"
    u = holder_orientation(record)
    if u is not None:
        sample["orientation_matrix"] = u @ matrix
        sample["orientation_matrix"].attrs["about"] = (
            "UB of Busing and Levy with 2 pi, 1/angstrom, with all axes at zero: Q = Z U B h"
        )


def holder_orientation(record: RunRecord) -> FloatArray | None:
    """``U`` (3, 3) on the sample holder as the last decision knew it; None if it did not."""
    decisions, primary = record.streams.get("decisions"), record.streams.get("primary")
    if decisions is None:
        return None
    by_name = {name: key for (stream, key), name in names(record).items() if stream == "decisions"}
    axes = record.start["keys"]["axes"]
    goniometer = Goniometer(
        tuple(
            Axis(a["name"], a["kind"], tuple(a["direction"]), tuple(a["limits"]), a["speed"])
            for a in record.start["instrument"]["goniometer"]["axes"]
        )
    )
    for row in reversed(range(len(decisions.seq_num))):
        u = column(record, decisions, by_name["orientation"])[row]
        if not np.isfinite(u).all():
            continue
        # Declared is what is now; believed is what the last frame before the decision showed.
        stream, at = decisions, row
        if decisions.columns[by_name["decision"]][row] != "Declare" and primary is not None:
            frames = [n for n, moment in enumerate(primary.time) if moment <= decisions.time[row]]
            stream, at = (primary, frames[-1]) if frames else (decisions, row)
        z = goniometer.matrix({axis: float(stream.columns[key][at]) for axis, key in axes.items()})
        return np.asarray(z.T @ u)
    return None


def _write_decisions(entry: Any, record: RunRecord) -> None:
    stream = record.streams["decisions"]
    group = _group(entry, "decisions", "NXcollection")
    group["about"] = (
        "one value a step; orientations are Z U in the laboratory; checkpoint is for going on with the run"
    )
    _put(group, "time", np.array(stream.time), "s")
    for (owner, key), name in names(record).items():
        if owner != "decisions":
            continue
        values = column(record, stream, key)
        if values.dtype.kind == "U":
            group.create_dataset(name, data=values.astype(object), dtype=h5py.string_dtype())
        else:
            _put(group, name, values, stream.data_keys[key].get("units"))


def _values(record: RunRecord, primary: Stream, what: str) -> FloatArray:
    """A number for each exposure, by its meaning; NaN where the run does not tell."""
    key = record.start["keys"].get(what)
    if key not in primary.columns:
        return np.full(len(primary.seq_num), np.nan)
    return np.asarray(column(record, primary, key), dtype=float)


def _cell(b: FloatArray) -> FloatArray:
    """a, b, c (angstrom), alpha, beta, gamma (degrees) of ``B`` (3, 3) with 2 pi."""
    metric = np.linalg.inv(b.T @ b) * (2.0 * np.pi) ** 2
    lengths = np.sqrt(np.diag(metric))
    cosines = metric / np.outer(lengths, lengths)
    angles = np.rad2deg(np.arccos(np.clip([cosines[1, 2], cosines[0, 2], cosines[0, 1]], -1.0, 1.0)))
    return np.concatenate([lengths, angles])


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(float(seconds), UTC).isoformat()


def _group(parent: Any, name: str, kind: str, **attributes: str) -> Any:
    group = parent.create_group(name)
    group.attrs["NX_class"] = kind
    for key, value in attributes.items():
        group.attrs[key] = value
    return group


def _put(group: Any, name: str, value: Any, units: str | None = None) -> Any:
    group[name] = value
    if units:
        group[name].attrs["units"] = units
    return group[name]
