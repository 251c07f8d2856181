"""Observations that can be compared, as Gymnasium's checkers do with what an environment tells."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from lauepilot.perception.observation import Observation


class Seen(Observation):
    """An `Observation` that equals another with the same content."""

    @classmethod
    def of(cls, observation: Observation) -> Seen:
        """The same observation, comparable."""
        return cls(**{f.name: getattr(observation, f.name) for f in dataclasses.fields(observation)})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Observation) and same(
            {f.name: getattr(self, f.name) for f in dataclasses.fields(self)},
            {f.name: getattr(other, f.name) for f in dataclasses.fields(other)},
        )

    __hash__ = None  # type: ignore[assignment]  # it holds arrays


def same(a: Any, b: Any) -> bool:
    """Whether two nested structures (dataclasses, mappings, sequences, arrays, numbers) hold the same; NaN equals NaN."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return a.shape == b.shape and bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f"))
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(same(v, b[k]) for k, v in a.items())
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if dataclasses.is_dataclass(a) and not isinstance(a, type):
        return a is b or all(same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    return bool(a == b or (isinstance(a, float) and np.isnan(a) and np.isnan(b)))
