"""Text of LaueTools files: tables with a head, marked lines, matrices (for `lauepilot.perception.files.lauetools`)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from lauepilot.simulator.conventions import FloatArray

_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


class LaueToolsError(ValueError):
    """A LaueTools file that cannot be read, or a geometry that LaueTools cannot hold."""


def read_lines(path: Path) -> list[str]:
    """Stripped, non-empty lines; `FileNotFoundError` or `LaueToolsError` if there are none to read."""
    if not path.is_file():
        raise FileNotFoundError(
            f"No file {str(path)!r}. Check the path; LaueTools lists end in .dat, .cor, .fit, .det."
        )
    try:
        return [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise LaueToolsError(f"{path}: LaueTools files are text; this one is not ({error.reason}).") from None


def numbers(text: str) -> list[float]:
    """All numbers in a line."""
    return [float(x) for x in _NUMBER.findall(text)]


def table(
    path: Path, names: list[str], rows: Iterable[str], wanted: tuple[str, ...]
) -> dict[str, FloatArray]:
    """Columns (n,) by name; every ``wanted`` one is there and finite, and every row is complete, or `LaueToolsError`."""
    missing = [name for name in wanted if name not in names]
    if missing:
        raise LaueToolsError(
            f"{path}: wanted columns {', '.join(wanted)}; {', '.join(missing)} not found in: "
            f"{' '.join(names)[:200]!r}. Is this the file you meant?"
        )
    values = []
    for number, row in enumerate(rows, start=1):
        try:
            values.append([float(x) for x in row.split()])
        except ValueError:
            raise LaueToolsError(f"{path}: spot {number} is not a row of numbers: {row[:80]!r}.") from None
        bad = [name for name, value in zip(names, values[-1], strict=False) if not math.isfinite(value)]
        if set(bad) & set(wanted):
            raise LaueToolsError(
                f"{path}: spot {number} has {' and '.join(bad)} that are NaN or infinite: {row[:80]!r}. "
                "Delete that line."
            )
        if len(values[-1]) != len(names):
            raise LaueToolsError(
                f"{path}: spot {number} has {len(values[-1])} numbers, the head names {len(names)} columns. "
                "The file may be cut off: copy it again."
            )
    if not values:
        raise LaueToolsError(f"{path}: the list holds no spots.")
    return dict(zip(names, np.array(values).T, strict=True))


def either(path: Path, columns: Mapping[str, FloatArray], *names: str) -> FloatArray:
    """The column (n,) that goes by one of several names; `LaueToolsError` if it is missing or not finite."""
    for name in names:
        if name in columns:
            bad = np.flatnonzero(~np.isfinite(columns[name]))
            if bad.size:
                raise LaueToolsError(
                    f"{path}: spot {bad[0] + 1} has {name} that is NaN or infinite. Delete that line."
                )
            return columns[name]
    raise LaueToolsError(f"{path}: wanted a column {' or '.join(names)}; there are {', '.join(columns)}.")


def line_after(lines: list[str], mark: str) -> str | None:
    """The line after the one that is ``mark``, without #."""
    for i, line in enumerate(lines[:-1]):
        if line.startswith(mark):
            return lines[i + 1].lstrip("#").strip()
    return None


def matrix(path: Path, lines: list[str], mark: str) -> FloatArray:
    """The matrix (3, 3) in the three lines under a mark."""
    for i, line in enumerate(lines):
        if line.startswith(mark):
            values = numbers(" ".join(lines[i + 1 : i + 4]))
            if len(values) == 9:
                return np.array(values).reshape(3, 3)
    raise LaueToolsError(
        f"{path}: no 3 x 3 matrix found under {mark!r}. The file may be cut off: copy it again."
    )
