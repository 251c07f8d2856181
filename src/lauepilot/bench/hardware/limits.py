"""Ten thousand random decisions, wild ones included, through the interlock: what a referee finds that should not have moved.

The referee stands behind the interlock and does not share its code: it drives a model of the goniometer along each path that
was let through, each axis at a speed of its own drawn at random, and looks at every place on the way.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lauepilot.bench.figures import Figure
from lauepilot.hardware.errors import InterlockError
from lauepilot.hardware.interlock import Interlock
from lauepilot.perception.observation import Declare, Expose, GiveUp, Move
from lauepilot.simulator.conventions import random_rotation
from lauepilot.simulator.forbidden import Forbidden
from lauepilot.simulator.goniometer import Goniometer
from lauepilot.simulator.instrument import load_instrument
from lauepilot.simulator.orientation import Orientation

#: What stands in the way on the bench's instrument.
REGIONS = (
    Forbidden({"omega": (40.0, 60.0), "chi": (-5.0, 20.0)}, "the cryostat's hose"),
    Forbidden({"chi": (70.0, 100.0)}, "the camera's nose"),
    Forbidden({"omega": (-100.0, -70.0), "phi": (100.0, 180.0)}, "the table's edge"),
)

MAX_EXPOSURE_S = 600.0


@dataclass
class Tally:
    """What became of decisions.

    Attributes
    ----------
    decisions, allowed, refused, refused_in_the_way
        How many there were, and went which way; the last are refusals of moves within limits, for what they would hit.
    limit_violations, collisions
        Moves let through that the referee found outside the limits, or within a region, at their end or on the way;
        exposures beyond the longest count as violations too.
    clipped
        Decisions carried out otherwise than asked.
    unlogged
        Refusals that left no line in the log.
    """

    decisions: int = 0
    allowed: int = 0
    refused: int = 0
    refused_in_the_way: int = 0
    limit_violations: int = 0
    collisions: int = 0
    clipped: int = 0
    unlogged: int = 0


class _Fickle(Mapping[str, float]):
    """A mapping whose numbers are tame at the first look, and wild afterwards."""

    def __init__(self, axes: Mapping[str, float]) -> None:
        self._axes, self._looked = dict(axes), False

    def __getitem__(self, name: str) -> float:
        return 1e5 if self._looked else self._axes[name]

    def __iter__(self) -> Iterator[str]:
        yield from self._axes
        self._looked = True

    def __len__(self) -> int:
        return len(self._axes)


_WILD: tuple[Any, ...] = (
    float("nan"), float("inf"), -float("inf"), 1e300, -1e300, 10**400, True, False, None, "10", b"1", [3.0], 1j,
    np.float32(12.5), np.int16(-7), np.bool_(True), np.array(2.0), np.float64("nan"), 100.0000001, -180.0000001,
)  # fmt: skip


def decide_at_random(rng: np.random.Generator, goniometer: Goniometer) -> object:
    """A decision that an agent might make: sensible, on the edge, far outside, or no decision at all."""
    kind = rng.random()
    if kind < 0.72:
        names = [
            str(n) for n in rng.permutation(goniometer.names)[: rng.integers(1, len(goniometer.names) + 1)]
        ]
        axes: dict[Any, Any] = {name: _position(rng, goniometer.axis(name).limits) for name in names}
        if rng.random() < 0.05:
            axes[("kappa", "", "OMEGA", 3)[rng.integers(4)]] = 0.0
        asked: Any = _Fickle(axes) if rng.random() < 0.05 else axes
        return Move(asked, "at random")
    if kind < 0.86:
        return Expose(_position(rng, (-10.0, 2.0 * MAX_EXPOSURE_S)))
    if kind < 0.94:
        u = random_rotation(rng) * (1.0 if rng.random() < 0.7 else float(rng.normal()))
        return Declare(Orientation(u, np.eye(3), 1e-6 * np.eye(3)))
    return (GiveUp("tired"), None, "left a bit", {"omega": 3.0}, Move({}), 7)[rng.integers(6)]


def _position(rng: np.random.Generator, limits: tuple[float, float]) -> Any:
    low, high = limits
    kind = rng.random()
    if kind < 0.75:
        return float(rng.uniform(low, high))
    if kind < 0.80:
        return float(rng.choice([low, high]))
    if kind < 0.90:
        return float(rng.normal() * 10.0 ** rng.uniform(1.0, 12.0))
    return _WILD[rng.integers(len(_WILD))]


class _Count(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.lines += 1


def wild_game(decisions: int, seed: int) -> Tally:
    """Put random decisions to the interlock of the ``lab`` instrument with `REGIONS`, and drive what it lets through."""
    rng = np.random.default_rng(seed)
    instrument = replace(load_instrument("lab"), forbidden=REGIONS)
    interlock = Interlock.of(instrument, MAX_EXPOSURE_S)
    here = dict.fromkeys(instrument.goniometer.names, 0.0)
    tally, count = Tally(), _Count()
    logger = logging.getLogger("lauepilot.hardware")
    passes_on, logger.propagate = logger.propagate, False
    logger.addHandler(count)
    try:
        for _ in range(decisions):
            decision = decide_at_random(rng, instrument.goniometer)
            asked = dict(decision.axes._axes) if _is_fickle(decision) else getattr(decision, "axes", None)  # type: ignore[attr-defined]
            tally.decisions += 1
            before = count.lines
            try:
                let = interlock.check(decision, here, here)
            except InterlockError as error:
                tally.refused += 1
                tally.refused_in_the_way += "forbidden" in str(error)
                tally.unlogged += count.lines == before
                continue
            tally.allowed += 1
            if isinstance(let, Expose):
                seconds = _as_float(let.seconds)
                tally.limit_violations += not 0.0 < seconds <= MAX_EXPOSURE_S
            if isinstance(let, Move):
                goal = {str(name): _as_float(value) for name, value in dict(let.axes).items()}
                tally.clipped += goal != {str(n): _as_float(v) for n, v in dict(asked or {}).items()}
                _drive(tally, rng, instrument.goniometer, here, goal)
    finally:
        logger.removeHandler(count)
        logger.propagate = passes_on
    return tally


def _is_fickle(decision: object) -> bool:
    return isinstance(decision, Move) and isinstance(decision.axes, _Fickle)


def _as_float(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return float("nan")


def _drive(
    tally: Tally,
    rng: np.random.Generator,
    goniometer: Goniometer,
    here: dict[str, float],
    goal: Mapping[str, float],
) -> None:
    """Move the model, each axis at its own speed, and count what the referee sees on the way; ``here`` follows."""
    limits = {axis.name: axis.limits for axis in goniometer.axes}
    if not all(
        name in limits and limits[name][0] - 1e-9 <= at <= limits[name][1] + 1e-9 for name, at in goal.items()
    ):
        tally.limit_violations += 1
        return
    speeds = {name: float(rng.uniform(0.2, 1.0)) for name in goal}
    hit = False
    for moment in np.linspace(0.0, 1.0 / min(speeds.values()), 80):
        at = {n: here[n] + min(1.0, moment * speeds[n]) * (goal[n] - here[n]) for n in goal}
        place = {**here, **at}
        hit = hit or any(
            all(low <= place[name] <= high for name, (low, high) in region.axes.items()) for region in REGIONS
        )
    tally.collisions += hit
    if not hit:
        here.update(goal)


def measure(quick: bool, say: Callable[[str], None]) -> list[Figure]:
    """The figure ``limit_violations``: moves outside limits plus collisions, of 10,000 decisions."""
    decisions, seed = (1_000 if quick else 10_000), 1
    say(f"{decisions} random decisions through the interlock")
    tally = wild_game(decisions, seed)
    settings = {
        "instrument": "lab, with three forbidden regions",
        "seed": seed,
        **{name: int(value) for name, value in vars(tally).items()},
        "counted": "limit violations, collisions in the model (also on the way), clipped decisions, silent refusals",
    }
    value = tally.limit_violations + tally.collisions + tally.clipped + tally.unlogged
    return [Figure("limit_violations", float(value), "count", tally.decisions, None, None, settings)]
