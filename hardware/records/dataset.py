"""A run as an xarray Dataset: the same from a local folder and from Tiled.

::

    run = read_run("lauepilot-runs/20261121T101500-si")           # a folder
    run = read_run("catalogue", uid)                              # an embedded Tiled catalogue
    run = read_run("https://tiled.example.org", uid)              # a Tiled server
    run.image, run.omega, run.decision.values, run.image.attrs["units"]

Each stream is a dimension (``primary``, ``decisions``, ``baseline``). Variables are named as the data keys of the
documents without the device's name; a name that another stream has too is preceded by the stream's.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lauepilot.hardware.errors import RecordError
from lauepilot.hardware.metadata import plain
from lauepilot.hardware.records.documents import RunRecord, Stream, find_run, read_record

if TYPE_CHECKING:
    import xarray


def read_run(where: str | Path, uid: str | None = None, *, images: bool = True) -> xarray.Dataset:
    """A recorded run.

    Parameters
    ----------
    where
        A folder of ours (of one run or of many), the folder of an embedded Tiled catalogue, or a Tiled server's URL.
    uid
        Its uid or how that begins; None for the newest.
    images
        Whether frames are read too: (exposures, rows, cols).

    Returns
    -------
    Dimensions, coordinates and names as in the module's head; units, and for axes limits, in each variable's ``attrs``; in
    the Dataset's ``attrs`` ``uid``, ``plan_name``, ``exit_status`` (``unfinished`` without an end), ``reason``, and the
    documents ``start`` and ``stop`` as JSON.

    Raises
    ------
    RecordError
        If there is no such run, or it cannot be read.
    """
    from lauepilot.hardware.records.tiled import is_catalogue, read_tiled

    if is_catalogue(where):
        return to_dataset(read_tiled(where, uid, images=images), images=images)
    return to_dataset(read_record(find_run(where, uid)), images=images)


def to_dataset(record: RunRecord, *, images: bool = True) -> xarray.Dataset:
    """A record as a Dataset; see `read_run`."""
    try:
        import xarray
    except ImportError as error:
        raise RecordError("A Dataset needs xarray: pip install 'lauepilot[data]'.") from error
    variables: dict[str, Any] = {}
    coordinates: dict[str, Any] = {}
    sizes: dict[str, int] = {}
    for (stream_name, key), name in names(record).items():
        stream = record.streams[stream_name]
        described = stream.data_keys[key]
        if (
            not images
            and len(described.get("shape", ())) == 2
            and described.get("dtype_numpy", "<f8")[1] in "ui"
        ):
            continue
        values = column(record, stream, key)
        dims = [stream_name]
        for n, size in enumerate(values.shape[1:]):
            told = described.get("dims")
            dim = str(told[n]) if told and len(told) == values.ndim - 1 else f"{name}_{n}"
            dim = dim if sizes.setdefault(dim, size) == size else f"{name}_{dim}"
            dims.append(dim)
        kept = {k: described[k] for k in ("units", "lower_ctrl_limit", "upper_ctrl_limit") if k in described}
        variables[name] = (dims, values, kept | {"data_key": key})
    for stream_name, stream in record.streams.items():
        coordinates[stream_name] = (stream_name, np.array(stream.seq_num, dtype=np.int64))
        coordinates[f"{stream_name}_time"] = (
            stream_name,
            np.array(stream.time, dtype=float),
            {"units": "s since 1970-01-01"},
        )
    start, stop = plain(record.start), plain(record.stop)
    return xarray.Dataset(
        variables,
        coordinates,
        attrs={
            "uid": record.uid,
            "plan_name": str(start.get("plan_name", "")),
            "exit_status": str(stop.get("exit_status", "unfinished")),
            "reason": str(stop.get("reason", "")),
            "start": json.dumps(start, sort_keys=True),
            "stop": json.dumps(stop, sort_keys=True),
        },
    )


def names(record: RunRecord) -> dict[tuple[str, str], str]:
    """The variable's name for each (stream, data key)."""
    short = {
        (stream.name, key): without_device(key, described)
        for stream in record.streams.values()
        for key, described in stream.data_keys.items()
    }
    within = Counter((stream, name) for (stream, _), name in short.items())
    ordered = sorted(short, key=lambda item: (item[0] != "primary", item))
    taken: set[str] = set(record.streams) | {f"{name}_time" for name in record.streams}
    found: dict[tuple[str, str], str] = {}
    for stream, key in ordered:
        name = short[stream, key] if within[stream, short[stream, key]] == 1 else _identifier(key)
        name = name if name not in taken else f"{stream}_{name}"
        while name in taken:
            name += "_"
        taken.add(name)
        found[stream, key] = name
    return found


def without_device(key: str, described: dict[str, Any]) -> str:
    """A data key without the name of the device that it belongs to, as an identifier."""
    device = str(described.get("object_name", ""))
    rest = key[len(device) + 1 :] if device and key.startswith((f"{device}_", f"{device}-")) else ""
    return _identifier(rest or key)


def _identifier(key: str) -> str:
    return key.replace("-", "_").replace(" ", "_")


def column(record: RunRecord, stream: Stream, key: str) -> np.ndarray[Any, Any]:
    """All values of a data key (events, ...), with the type that was described; what is missing is NaN or empty."""
    described, values = stream.data_keys[key], stream.columns.get(key, [])
    if described.get("dtype") == "string":
        return np.array(["" if value is None else str(value) for value in values], dtype=str)
    kind = described.get("dtype_numpy")
    shape = tuple(int(n) for n in described.get("shape", ()) if n is not None)
    if not len(values):
        return np.zeros((0, *shape), dtype=kind or float)
    arrays = [_numbers(record.image(value)) for value in values]
    stacked = np.stack(arrays)
    if kind is None or (
        stacked.dtype.kind == "f" and np.dtype(kind).kind in "iub" and np.isnan(stacked).any()
    ):
        return stacked
    return stacked.astype(kind)


def _numbers(value: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Numbers that are not finite are null in JSON."""
    return value.astype(float) if value.dtype.kind == "O" else value
