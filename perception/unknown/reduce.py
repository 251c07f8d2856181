"""From a basis of any lattice to conventional cells: reduction, two-fold axes, families."""

from __future__ import annotations

import itertools
import math

import numpy as np
from numpy.typing import NDArray

from lauepilot.perception.unknown.lattice import b_matrix
from lauepilot.perception.unknown.result import Proposal
from lauepilot.simulator.conventions import FloatArray, nearest_rotation

#: Obliquity (rad) up to which a direct and a reciprocal direction count as one two-fold axis (Le Page 1982).
OBLIQUITY = math.radians(0.8)
#: Relative difference up to which lengths may be equal.
EQUAL = 0.02

_SMALL = np.array([v for v in itertools.product(range(-2, 3), repeat=3) if math.gcd(*v) == 1])
_SMALL = _SMALL[[next(x for x in v if x) > 0 for v in _SMALL]]


def reduced(basis: FloatArray) -> FloatArray:
    """A right-handed basis (3, 3), in columns, of the shortest vectors of the same lattice."""
    out = np.array(basis, dtype=float)
    for _ in range(100):
        before = float((out**2).sum())
        for i, j in itertools.permutations(range(3), 2):
            out[:, i] -= np.rint((out[:, i] @ out[:, j]) / (out[:, j] @ out[:, j])) * out[:, j]
        for s, t in itertools.product((-1.0, 1.0), repeat=2):
            longest = int(np.argmax((out**2).sum(axis=0)))
            a, b = (k for k in range(3) if k != longest)
            other = out[:, longest] + s * out[:, a] + t * out[:, b]
            if other @ other < out[:, longest] @ out[:, longest] * (1.0 - 1e-9):
                out[:, longest] = other
        if float((out**2).sum()) > before * (1.0 - 1e-9):
            break
    return out if np.linalg.det(out) > 0.0 else -out


def relatives() -> list[FloatArray]:
    """Matrices that turn a basis (by columns, from the right) into one of each sub- and superlattice of index 2 and 3."""
    out = [np.eye(3)]
    for index in (2, 3):
        for a, c, f in itertools.product(range(1, index + 1), repeat=3):
            if a * c * f != index:
                continue
            for b, d, e in itertools.product(range(c), range(f), range(f)):
                m = np.array([[a, 0, 0], [b, c, 0], [d, e, f]], dtype=float)
                out += [m, np.linalg.inv(m).T]
    return out


def two_fold_axes(basis: FloatArray) -> list[NDArray[np.int64]]:
    """Direct-lattice vectors (3,) along the two-fold axes of a reduced lattice, within `OBLIQUITY`."""
    direct = _SMALL @ basis.T
    reciprocal = _SMALL @ np.linalg.inv(basis)
    direct_unit = direct / np.linalg.norm(direct, axis=1, keepdims=True)
    reciprocal_unit = reciprocal / np.linalg.norm(reciprocal, axis=1, keepdims=True)
    cosine = np.abs(direct_unit @ reciprocal_unit.T)
    product = np.abs(_SMALL @ _SMALL.T)
    axes = (cosine > math.cos(OBLIQUITY)) & ((product == 1) | (product == 2))
    return [_SMALL[i] for i in np.flatnonzero(axes.any(axis=1))]


def conventional(basis: FloatArray, distance_mm: float, score: float = 0.0) -> list[Proposal]:
    """The lattice as triclinic, and as every family that its two-fold axes allow.

    ``basis`` (3, 3): direct axes in columns, in the sample holder's frame, any scale.
    """
    own = reduced(basis)
    out = [_proposal("triclinic", "P", _obtuse(own), distance_mm, score)]
    axes = two_fold_axes(own)
    vectors = [own @ axis for axis in axes]
    volume = abs(float(np.linalg.det(own)))
    for vector in vectors:
        out += _monoclinic(own, vector, distance_mm, score)
    for triple in itertools.combinations(vectors, 3):
        lengths = [float(np.linalg.norm(v)) for v in triple]
        cosines = [
            abs(float(p @ q)) / (a * b)
            for (p, a), (q, b) in itertools.combinations(zip(triple, lengths, strict=True), 2)
        ]
        if max(cosines) < math.sin(1.5 * OBLIQUITY):
            out += _orthogonal(own, list(triple), distance_mm, score)
        elif max(abs(c - 0.5) for c in cosines) < 1.5 * OBLIQUITY and max(lengths) < (1.0 + EQUAL) * min(
            lengths
        ):
            out += _hexagonal(own, list(triple), volume, distance_mm, score)
    return [p for p in out if p is not None]


def _proposal(family: str, centring: str, cell: FloatArray, distance_mm: float, score: float) -> Proposal:
    """From conventional axes in columns, right-handed."""
    a, b, c = (float(np.linalg.norm(cell[:, i])) for i in range(3))
    alpha, beta, gamma = (
        math.acos(max(-1.0, min(1.0, float(cell[:, i] @ cell[:, j]) / (x * y))))
        for i, j, x, y in ((1, 2, b, c), (0, 2, a, c), (0, 1, a, b))
    )
    mean = 0.5 * (a + b)
    ratios: tuple[float, ...] = {
        "cubic": (),
        "tetragonal": (c / mean,),
        "hexagonal": (c / mean,),
        "trigonal": (c / mean,),
        "orthorhombic": (b / a, c / a),
        "monoclinic": (b / a, c / a, beta),
        "triclinic": (b / a, c / a, alpha, beta, gamma),
    }[family]
    reciprocal = 2.0 * np.pi * np.linalg.inv(cell / a).T
    u = nearest_rotation(reciprocal @ np.linalg.inv(b_matrix(family, ratios)))
    return Proposal(u, family, ratios, distance_mm, score, centring)


def _right(cell: FloatArray) -> FloatArray:
    return cell if np.linalg.det(cell) > 0.0 else np.stack([cell[:, 0], cell[:, 1], -cell[:, 2]], axis=1)


def _obtuse(cell: FloatArray) -> FloatArray:
    """Signs turned so that the angles are all obtuse, or all acute, as far as signs can do it."""
    best = cell
    for s, t in itertools.product((-1.0, 1.0), repeat=2):
        other = cell * [s * t, s, t]
        if np.linalg.det(other) < 0.0:
            continue
        if _angles(other) > _angles(best):
            best = other
    return best


def _angles(cell: FloatArray) -> float:
    unit = cell / np.linalg.norm(cell, axis=0)
    return -float(unit[:, 0] @ unit[:, 1] + unit[:, 1] @ unit[:, 2] + unit[:, 0] @ unit[:, 2])


def _letter(cell: FloatArray, own: FloatArray) -> str:
    """Centring of a conventional cell with the lattice ``own``; empty if it is none of the usual ones."""
    points: list[tuple[float, ...]] = []
    for half in itertools.product((0.0, 0.5), repeat=3):
        if any(half):
            place = np.linalg.solve(own, cell @ np.array(half))
            if np.abs(place - np.rint(place)).max() < 0.1:
                points.append(half)
    index = round(abs(float(np.linalg.det(cell) / np.linalg.det(own))))
    if index != len(points) + 1:
        return ""
    names: dict[tuple[float, ...], str] = {
        (0.5, 0.5, 0.5): "I",
        (0.0, 0.5, 0.5): "A",
        (0.5, 0.0, 0.5): "B",
        (0.5, 0.5, 0.0): "C",
    }
    if not points:
        return "P"
    if len(points) == 1:
        return names.get(points[0], "")
    return "F" if len(points) == 3 else ""


def _orthogonal(
    own: FloatArray, vectors: list[FloatArray], distance_mm: float, score: float
) -> list[Proposal]:
    """Orthorhombic; tetragonal and cubic where lengths agree."""
    out = []
    vectors = sorted(vectors, key=lambda v: float(v @ v))
    lengths = [float(np.linalg.norm(v)) for v in vectors]
    cell = _right(np.stack(vectors, axis=1))
    letter = _letter(cell, own)
    if letter:
        out.append(_proposal("orthorhombic", letter, cell, distance_mm, score))
    for unique in range(3):
        i, j = (k for k in range(3) if k != unique)
        if abs(lengths[i] / lengths[j] - 1.0) < EQUAL:
            turned = _right(np.stack([vectors[i], vectors[j], vectors[unique]], axis=1))
            letter = _letter(turned, own)
            if letter in ("P", "I"):
                out.append(_proposal("tetragonal", letter, turned, distance_mm, score))
    if lengths[2] / lengths[0] - 1.0 < EQUAL and letter in ("P", "I", "F"):
        out.append(_proposal("cubic", letter, cell, distance_mm, score))
    return out


def _hexagonal(
    own: FloatArray, vectors: list[FloatArray], volume: float, distance_mm: float, score: float
) -> list[Proposal]:
    """Hexagonal, or rhombohedral in obverse hexagonal axes."""
    a, b = vectors[0], vectors[1]
    if a @ b > 0.0:
        b = -b
    normal = np.cross(a, b)
    along = _SMALL @ own.T
    length = np.linalg.norm(along, axis=1)
    match = np.flatnonzero(
        np.abs(along @ normal) / length / np.linalg.norm(normal) > math.cos(1.5 * OBLIQUITY)
    )
    if len(match) == 0:
        # c of a rhombohedral lattice is the sum of three vectors: look a little further
        wide = np.array(list(itertools.product(range(-3, 4), repeat=3)))
        wide = wide[np.any(wide != 0, axis=1)]
        along = wide @ own.T
        length = np.linalg.norm(along, axis=1)
        match = np.flatnonzero(
            np.abs(along @ normal) / length / np.linalg.norm(normal) > math.cos(1.5 * OBLIQUITY)
        )
        if len(match) == 0:
            return []
    c = along[match[np.argmin(length[match])]]
    cell = _right(np.stack([a, b, c], axis=1))
    index = round(abs(float(np.linalg.det(cell))) / volume)
    if index == 1:
        return [_proposal("hexagonal", "P", cell, distance_mm, score)]
    if index != 3:
        return []
    place = np.linalg.solve(own, cell @ np.array([2.0, 1.0, 1.0]) / 3.0)
    if np.abs(place - np.rint(place)).max() > 0.1:  # reverse setting: turn by 180 degrees about c
        cell = cell * [-1.0, -1.0, 1.0]
    return [_proposal("trigonal", "R", cell, distance_mm, score)]


def _monoclinic(own: FloatArray, axis: FloatArray, distance_mm: float, score: float) -> list[Proposal]:
    """With b along a two-fold axis; P, or C."""
    unit = axis / np.linalg.norm(axis)
    flat = _SMALL @ own.T
    length = np.linalg.norm(flat, axis=1)
    match = np.flatnonzero(np.abs(flat @ unit) / length < math.sin(1.5 * OBLIQUITY))
    if len(match) < 2:
        return []
    order = match[np.argsort(length[match])]
    a = flat[order[0]]
    second = [v for v in flat[order[1:]] if np.linalg.norm(np.cross(v, a)) > 0.05 * float(a @ a)]
    if not second:
        return []
    c = second[0]
    if a @ c > 0.0:
        c = -c
    cell = np.stack([a, axis, c], axis=1)
    if np.linalg.det(cell) < 0.0:
        cell[:, 1] *= -1.0
    letter = _letter(cell, own)
    if letter == "A":
        cell, letter = np.stack([cell[:, 2], -cell[:, 1], cell[:, 0]], axis=1), "C"
    elif letter == "I":
        cell, letter = np.stack([cell[:, 0] + cell[:, 2], cell[:, 1], -cell[:, 0]], axis=1), "C"
        cell = cell if np.linalg.det(cell) > 0.0 else cell * [1.0, -1.0, 1.0]
        if cell[:, 0] @ cell[:, 2] > 0.0:
            cell = cell * [1.0, -1.0, -1.0]
    if letter not in ("P", "C"):
        return []
    return [_proposal("monoclinic", letter, cell, distance_mm, score)]
