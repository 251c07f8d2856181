"""Orientations in NeXus files: NXsample with lattice, ``orientation_matrix``, ``ub_matrix`` and the axes' transformations.

NeXus' laboratory is ours. Its definition of ``ub_matrix`` follows Busing & Levy (1967), whose B has no 2 pi: so it is
written, and the attribute ``two_pi`` says it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lauepilot.perception.exchange.stored import (
    ExchangeError,
    StoredOrientation,
    assembled,
    from_note,
    note,
    note_text,
    with_two_pi,
)
from lauepilot.simulator.crystal import busing_levy_b
from lauepilot.simulator.goniometer import Goniometer

_WORDS = "NeXus (McStas): x left, y up, z along the beam"


def write_nexus(path: Path, stored: StoredOrientation, goniometer: Goniometer) -> None:
    """A NeXus file with one NXsample; ``stored`` is of the holder, its axes go into the transformations."""
    with h5py.File(path, "w") as file:
        file.attrs["default"] = "entry"
        entry = _group(file, "entry", "NXentry")
        sample = _group(entry, "sample", "NXsample")
        sample["name"] = stored.crystal
        sample["unit_cell"] = stored.cell[None]
        sample["unit_cell_abc"] = stored.cell[:3]
        sample["unit_cell_abc"].attrs["units"] = "angstrom"
        sample["unit_cell_alphabetagamma"] = stored.cell[3:]
        sample["unit_cell_alphabetagamma"].attrs["units"] = "deg"
        if stored.space_group:
            sample["space_group"] = stored.space_group
        sample["orientation_matrix"] = stored.u[None]
        sample["ub_matrix"] = stored.ub[None] / (2.0 * np.pi)
        for name in ("orientation_matrix", "ub_matrix"):
            sample[name].attrs["frame"] = f"{_WORDS}; sample holder, all axes at zero"
        sample["ub_matrix"].attrs["two_pi"] = False
        sample["ub_matrix"].attrs["units"] = "1/angstrom"
        if stored.covariance is not None:
            sample["orientation_covariance"] = stored.covariance
            sample["orientation_covariance"].attrs["units"] = "rad^2"
        chain = _group(sample, "transformations", "NXtransformations")
        before = "."
        for axis in goniometer.axes:
            chain[axis.name] = float((stored.axes or {}).get(axis.name, 0.0))
            attributes = chain[axis.name].attrs
            attributes["transformation_type"] = axis.kind
            attributes["vector"] = np.asarray(axis.direction, dtype=float)
            attributes["units"] = axis.unit
            attributes["depends_on"] = before
            before = f"/entry/sample/transformations/{axis.name}"
        sample["depends_on"] = before
        sample["lauepilot"] = note_text(note(stored, np.eye(3)))


def _group(parent: Any, name: str, kind: str) -> Any:
    group = parent.create_group(name)
    group.attrs["NX_class"] = kind
    return group


def read_nexus(path: Path) -> StoredOrientation:
    """The first NXsample that has a lattice and an orientation.

    Raises
    ------
    ExchangeError
        If there is none, or it is no HDF5 file.
    """
    try:
        with h5py.File(path, "r") as file:
            for sample in _samples(file):
                found = _read(path, sample)
                if found is not None:
                    return found
    except OSError as error:
        raise ExchangeError(f"{path} cannot be read as HDF5: {error}.") from None
    raise ExchangeError(
        f"{path}: no NXsample has a lattice (unit_cell, or unit_cell_abc and unit_cell_alphabetagamma) and an orientation "
        "(ub_matrix or orientation_matrix). Is it the right file?"
    )


def _samples(group: Any) -> Iterator[Any]:
    kind = group.attrs.get("NX_class", b"")
    if (kind.decode() if isinstance(kind, bytes) else str(kind)) == "NXsample":
        yield group
    for name in group:
        if isinstance(group.get(name, getlink=True), h5py.HardLink) and isinstance(group[name], h5py.Group):
            yield from _samples(group[name])


def _read(path: Path, sample: Any) -> StoredOrientation | None:
    cell = _array(sample, "unit_cell", 6)
    if cell is None:
        lengths, angles = _array(sample, "unit_cell_abc", 3), _array(sample, "unit_cell_alphabetagamma", 3)
        cell = None if lengths is None or angles is None else np.concatenate([lengths, angles])
    ub, u = _array(sample, "ub_matrix", 9), _array(sample, "orientation_matrix", 9)
    if cell is None or (ub is None and u is None):
        return None
    origin = f"{path}: {sample.name}"
    if ub is None:
        turn = u.reshape(3, 3)
        rotation = np.allclose(turn @ turn.T, np.eye(3), atol=1e-6)
        # Some programs store UB under the name of U.
        ub = turn @ busing_levy_b([float(x) for x in cell]) if rotation else turn
    full, two_pi = with_two_pi(ub.reshape(3, 3), cell, origin)
    text = sample["lauepilot"].asstr()[()] if "lauepilot" in sample else None
    try:
        value = None if text is None else json.loads(text)
    except json.JSONDecodeError as error:
        raise ExchangeError(f"{origin}: lauepilot's own note in it is damaged ({error}).") from None
    name = sample["name"].asstr()[()] if isinstance(sample.get("name"), h5py.Dataset) else ""
    told = from_note(value, np.eye(3), "holder", _WORDS, origin, str(name))
    return assembled(full, told, "nexus", two_pi)


def _array(group: Any, name: str, size: int) -> Any:
    """The first ``size`` numbers of a dataset (the first of several components), or None."""
    node = group.get(name)
    if not isinstance(node, h5py.Dataset) or node.dtype.kind not in "iuf" or node.size < size:
        return None
    return np.asarray(node[()], dtype=float).ravel()[:size]
