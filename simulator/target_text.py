"""Targets as people write them: ``[0 0 1] beam, (1 0 0) up``."""

from __future__ import annotations

import math
import re

from lauepilot.simulator.target import Alignment, Target

#: Directions of the laboratory that have a name.
DIRECTIONS: dict[str, tuple[float, float, float]] = {
    "beam": (0.0, 0.0, 1.0),
    "-beam": (0.0, 0.0, -1.0),
    "up": (0.0, 1.0, 0.0),
    "down": (0.0, -1.0, 0.0),
    "left": (1.0, 0.0, 0.0),
    "right": (-1.0, 0.0, 0.0),
}

TARGET_HELP = (
    "Write e.g. '[0 0 1] beam, (1 0 0) up'; directions: beam -beam up down left right, or three numbers."
)


class TargetError(ValueError):
    """A text that names no target."""


_PART = re.compile(r"\s*(?P<open>[\[(])(?P<indices>[^\])]*)[\])]\s*(?P<direction>[^,;\[(]+?)\s*(?:[,;]|$)")


def parse_target(text: str) -> Target:
    """A target from its text; zone axes [uvw] in square brackets, plane normals (hkl) in round ones.

    Raises
    ------
    TargetError
        Says what cannot be read, and what is allowed.

    >>> parse_target("[001] beam, (1 -1 0) up").secondary.indices
    (1.0, -1.0, 0.0)
    """
    parts: list[Alignment] = []
    position = 0
    while position < len(text.rstrip()):
        found = _PART.match(text, position)
        if found is None:
            raise TargetError(f"--target {text!r}: cannot read {text[position:].strip()!r}. {TARGET_HELP}")
        kind: str = "uvw" if found["open"] == "[" else "hkl"
        indices = _indices(found["indices"], text)
        direction = _direction(found["direction"], text)
        parts.append(Alignment("uvw" if kind == "uvw" else "hkl", indices, direction))
        position = found.end()
    if not 1 <= len(parts) <= 2:
        raise TargetError(
            f"--target {text!r}: one or two directions are wanted, {len(parts)} came. {TARGET_HELP}"
        )
    return Target(parts[0], parts[1] if len(parts) == 2 else None)


def _indices(text: str, whole: str) -> tuple[float, float, float]:
    compact = text.strip()
    numbers = (
        re.findall(r"-?\d", compact)
        if re.fullmatch(r"(-?\d){3}", compact)
        else compact.replace(",", " ").split()
    )
    values = _three(numbers)
    if values is None or not any(values):
        raise TargetError(
            f"--target {whole!r}: {text!r} are not three finite indices, not all zero. {TARGET_HELP}"
        )
    return values


def _direction(text: str, whole: str) -> tuple[float, float, float]:
    if text.lower() in DIRECTIONS:
        return DIRECTIONS[text.lower()]
    values = _three(text.split())
    if values is None or not any(values):
        raise TargetError(
            f"--target {whole!r}: {text!r} is no name and no three finite numbers. {TARGET_HELP}"
        )
    return values


def _three(words: list[str]) -> tuple[float, float, float] | None:
    try:
        a, b, c = (float(word) for word in words)
    except ValueError:
        return None
    return (a, b, c) if all(math.isfinite(x) for x in (a, b, c)) else None
