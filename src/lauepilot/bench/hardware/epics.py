"""Alignments over Channel Access beside the same alignments in process: the same decisions, and what the wire costs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from lauepilot.bench.figures import Figure, median
from lauepilot.bench.timing import CLOCK
from lauepilot.hardware.epics.environment import use_loopback
from lauepilot.hardware.errors import HardwareError

CRYSTAL, INSTRUMENT = "si", "lab"
#: How many times faster than the wall the Twin's clock runs behind the IOC.
SPEED = 1000.0
LIBRARIES = ("ophyd", "ophyd-async")


@dataclass(frozen=True)
class Played:
    """One alignment.

    Attributes
    ----------
    outcome
        How it ended.
    decisions
        Each with its numbers, where the axes stood, and clock and dose (s): all that has to be the same.
    wall_s
        How long it took.
    think_s
        How much of that the indexer and the agent took.
    """

    outcome: str
    decisions: tuple[Any, ...]
    wall_s: float
    think_s: float

    @property
    def clock_s(self) -> float:
        """The instrument's clock at the last decision."""
        return float(self.decisions[-1][-2])


def measure(quick: bool, say: Callable[[str], None]) -> list[Figure]:
    """The figure ``step_overhead_s``; the share of equal decisions stands in its settings."""
    use_loopback()
    games = 5 if quick else 100
    seeds = range(1, games + 1)
    say(f"{games} alignments of {CRYSTAL} in process")
    inside = [play_inside(seed) for seed in [0, *seeds]][1:]  # the first compiles
    rows: list[dict[str, Any]] = []
    overheads: list[list[float]] = []
    for library in LIBRARIES:
        say(f"the same over Channel Access, by way of {library}")
        outside = play_outside(seeds, library, say)
        ran = [played for played in outside if isinstance(played, Played)]
        mine = [overhead_s(played) for played in ran]
        pairs = [(over, within) for over, within in zip(outside, inside, strict=True)]
        equal = [isinstance(over, Played) and same_decisions(over, within) for over, within in pairs]
        exact = [isinstance(over, Played) and over.decisions == within.decisions for over, within in pairs]
        rows.append(
            {
                "library": library,
                "games": games,
                "equal_decisions": float(np.mean(equal)),
                "equal_to_the_last_bit": float(np.mean(exact)),
                "steps": sum(len(played.decisions) for played in ran),
                "other_decisions": [
                    f"seed {seed}: {first_difference(over, within)}"
                    for seed, (over, within), same in zip(seeds, pairs, equal, strict=True)
                    if isinstance(over, Played) and not same
                ],
                "failed": [text for text in outside if isinstance(text, str)],
                "median_overhead_s": float(np.median(mine)) if mine else None,
                "largest_overhead_s": max(mine, default=None),
            }
        )
        overheads.append(mine)
    worst = max(range(len(rows)), key=lambda k: float(np.median(overheads[k])) if overheads[k] else math.inf)
    settings = {
        "crystal": CRYSTAL,
        "instrument": INSTRUMENT,
        "agent": "IndexAndMove",
        "speed": SPEED,
        "games": games,
        "equal_decisions": min(row["equal_decisions"] for row in rows),
        "equal_means": "the same outcome and decisions of the same kinds; places to 1 % of a motor's step; exposures, "
        "confidence, clock and dose to a millionth",
        "overhead_is": "wall time of a step beyond exposure and motion (the instrument's clock over speed), and beyond what "
        "observer and agent took",
        "value_is": "the worse of both libraries",
        "rows": rows,
        "clock": CLOCK,
    }
    return [median("step_overhead_s", overheads[worst], "s", settings, n=int(rows[worst]["steps"]))]


def overhead_s(played: Played) -> float:
    """Mean wall time of a step that is neither exposure nor motion nor thought."""
    return (played.wall_s - played.clock_s / SPEED - played.think_s) / len(played.decisions)


class _Clocked:
    """Something whose calls are timed."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.spent_s = 0.0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in ("observe", "decide"):
            return found

        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return found(*args, **kwargs)
            finally:
                self.spent_s += time.perf_counter() - began

        return timed


@cache
def _parts() -> tuple[Any, Any, Any, Any]:
    from lauepilot.perception.observer import Observer
    from lauepilot.simulator.crystal import load_crystal
    from lauepilot.simulator.instrument import load_instrument
    from lauepilot.simulator.target import Alignment, Target

    crystal, instrument = load_crystal(CRYSTAL), load_instrument(INSTRUMENT)
    target = Target(Alignment("uvw", (0, 0, 1), (0, 0, 1)))
    return crystal, instrument, target, Observer(crystal, instrument)


def _play(engine: Any, camera: Any, goniometer: Any, parts: tuple[Any, Any, Any, Any]) -> Played:
    from lauepilot.agents.index_and_move import IndexAndMove
    from lauepilot.hardware.plans.align import align_crystal

    crystal, _, target, observer = parts
    eyes, mind = _Clocked(observer), _Clocked(IndexAndMove())
    began = time.perf_counter()
    result = engine(
        align_crystal(camera, goniometer, mind, target, observer=eyes, crystal=crystal)
    ).plan_result
    wall = time.perf_counter() - began
    return Played(result.outcome, decisions_of(result.steps), wall, eyes.spent_s + mind.spent_s)


def decisions_of(steps: Sequence[Any]) -> tuple[Any, ...]:
    """What has to be the same in two runs, step by step."""
    return tuple(
        (
            type(step.decision).__name__,
            tuple(sorted(getattr(step.decision, "axes", {}).items())),
            getattr(step.decision, "seconds", None),
            tuple(sorted(step.axes.items())),
            None if math.isnan(step.confidence) else step.confidence,
            step.clock_s,
            step.dose_s,
        )
        for step in steps
    )


def same_decisions(one: Played, other: Played) -> bool:
    """Whether two runs decided the same, but for what compilers make of the last digits."""
    steps = {axis.name: axis.resolution for axis in _parts()[1].goniometer.axes}

    def places(a: Sequence[tuple[str, float]], b: Sequence[tuple[str, float]]) -> bool:
        return [name for name, _ in a] == [name for name, _ in b] and all(
            abs(x - y) <= 0.01 * steps[name] for (name, x), (_, y) in zip(a, b, strict=True)
        )

    def numbers(a: float | None, b: float | None) -> bool:
        return a == b if a is None or b is None else math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-6)

    return (one.outcome, len(one.decisions)) == (other.outcome, len(other.decisions)) and all(
        a[0] == b[0]
        and places(a[1], b[1])
        and places(a[3], b[3])
        and all(map(numbers, (a[2], *a[4:]), (b[2], *b[4:])))
        for a, b in zip(one.decisions, other.decisions, strict=True)
    )


def first_difference(one: Played, other: Played) -> str:
    """Where two runs part, for people."""
    for n, (a, b) in enumerate(zip(one.decisions, other.decisions, strict=False), start=1):
        if a != b:
            return f"decision {n}: {a} outside, {b} inside"
    return f"{len(one.decisions)} decisions and {one.outcome} outside, {len(other.decisions)} and {other.outcome} inside"


def play_inside(seed: int) -> Played:
    """One alignment on the Twin in this process."""
    from lauepilot.hardware.devices.twin import connect
    from lauepilot.hardware.engine import run_engine
    from lauepilot.simulator.twin import Twin

    parts = _parts()
    with run_engine() as engine:
        camera, goniometer = connect(Twin(parts[0], parts[1], rng=np.random.default_rng(seed)))
        return _play(engine, camera, goniometer, parts)


def play_outside(
    seeds: Iterable[int], library: Any, say: Callable[[str], None] = lambda text: None
) -> list[Played | str]:
    """The same behind one IOC, in which each seed mounts another crystal; what was raised where a run failed."""
    from lauepilot.hardware.devices.config import usual_devices, wait_connected
    from lauepilot.hardware.engine import run_engine
    from lauepilot.hardware.epics.process import running_ioc

    parts = _parts()
    played: list[Played | str] = []
    with (
        running_ioc(crystal=CRYSTAL, instrument=INSTRUMENT, speed=SPEED) as ioc,
        run_engine() as engine,
    ):
        camera, goniometer = usual_devices(ioc.prefix, parts[1], library)
        wait_connected(camera, goniometer, timeout_s=60.0, loop=engine.loop)
        _warm_up(ioc.prefix)
        for seed in seeds:
            try:
                _mount(ioc.prefix, seed, camera, goniometer)
                played.append(_play(engine, camera, goniometer, parts))
            except Exception as error:  # a run that fails has not decided the same
                played.append(f"seed {seed}: {type(error).__name__}: {error}")
            if len(played) % 10 == 0:
                say(f"{len(played)} alignments by way of {library}")
    return played


def _put(name: str, value: object, timeout_s: float) -> None:
    import epics

    # Of another form than ophyd's, which else might be handed this one.
    pv = epics.PV(name, form="native", auto_monitor=False)
    if not pv.wait_for_connection(timeout_s) or pv.put(value, wait=True, timeout=timeout_s) != 1:
        raise HardwareError(f"{name} does not take {value!r}. Is the IOC running?")


def _warm_up(prefix: str) -> None:
    """The first exposure after an install compiles, and the IOC answers nobody meanwhile."""
    _put(f"{prefix}cam1:Acquire", 1, 180.0)


def _mount(prefix: str, seed: int, camera: Any, goniometer: Any) -> None:
    """Another crystal, at rest at zero with the clock at zero; returns when the devices have heard of it."""
    _put(f"{prefix}twin:Seed", seed, 10.0)
    end, rest = time.monotonic() + 10.0, goniometer.chain.rest
    while goniometer.busy or goniometer.position != rest or camera.clock_now_s != 0.0:
        if time.monotonic() > end:
            raise HardwareError(f"The instrument is not at zero after seed {seed} was mounted.")
        time.sleep(0.01)
