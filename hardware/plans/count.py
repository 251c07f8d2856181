"""Counting until a criterion says that it is enough.

::

    result = RE(count_until(camera, Counts(1e6), max_s=600)).plan_result
    result = RE(count_until(camera, {"kind": "orientation", "sigma_deg": 0.01}, max_s=600)).plan_result
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import bluesky.plan_stubs as bps

from lauepilot.hardware.metadata import measurement_metadata, merged, plain
from lauepilot.hardware.plans.parts import Note, check_seconds, close, ended_at_rest, expose, remember
from lauepilot.hardware.plans.settle import Plan
from lauepilot.hardware.protocols import Camera, Goniometer
from lauepilot.perception.criteria import (
    Counts,
    Criterion,
    NetCounts,
    OrientationKnown,
    RelativeError,
    Seconds,
    Verdict,
    summed,
)
from lauepilot.perception.observer import Observer
from lauepilot.simulator.crystal import Crystal
from lauepilot.simulator.detector import Region
from lauepilot.simulator.frame import Frame

#: Where nobody can tell what is missing, all that was counted is counted once more; an estimate is believed to so many times
#: what was counted, and no exposure is shorter than this share of it.
_AGAIN, _BELIEVED, _SHORTEST = 1.0, 8.0, 0.02

#: Exposures after which a plan gives up whatever the criterion says.
_MOST = 500


@dataclass(frozen=True, eq=False)
class CountResult:
    """How a counting ended.

    Attributes
    ----------
    outcome
        ``enough``; ``limit`` (the time allowed, or 500 exposures, were over first); ``hopeless`` (the criterion said that
        no counting will do).
    reason
        The criterion's last words.
    frame
        All exposures as one.
    n_exposures, seconds
        How many, and open-shutter seconds together.
    verdicts
        After each exposure.
    clock_s
        Time on the instrument's clock.
    run_uid
        Of the run in the records.
    """

    outcome: Literal["enough", "limit", "hopeless"]
    reason: str
    frame: Frame
    n_exposures: int
    seconds: float
    verdicts: tuple[Verdict, ...]
    clock_s: float
    run_uid: str


def count_until(
    camera: Camera,
    criterion: Criterion | Mapping[str, Any],
    *,
    max_s: float,
    goniometer: Goniometer | None = None,
    first_s: float | None = None,
    max_exposure_s: float = 3_600.0,
    md: Mapping[str, Any] | None = None,
) -> Plan:
    """Expose, ask, and expose again until it is enough; a Bluesky plan. Nothing moves.

    The criterion estimates what is missing, and each exposure is as long as that: short ones while the estimate is poor, so
    that little is counted in vain.

    Parameters
    ----------
    camera
        Device of any kind.
    criterion
        Any object with ``enough(frames) -> Verdict``, such as those of `lauepilot.perception.criteria`; or a description of
        one, see `criterion_from`.
    max_s
        Open-shutter seconds after which the plan ends anyway.
    goniometer
        Its read-back is recorded along with each frame.
    first_s
        Of the first exposure, where the criterion cannot tell; a tenth of the instrument's usual one by default.
    max_exposure_s
        Longest single exposure: detectors fill up.
    md
        More for the start document.

    Returns
    -------
    A `CountResult`: the plan's return value.

    Raises
    ------
    ValueError
        If a time is not positive, or there is no such criterion.
    FrameError
        If the criterion cannot use a frame.
    HardwareError
        If a device failed.
    """
    limit = check_seconds("max_s", max_s)
    longest = check_seconds("max_exposure_s", max_exposure_s)
    first = check_seconds("first_s", 0.1 * camera.instrument.exposure_s if first_s is None else first_s)
    judge = criterion_from(criterion, camera) if isinstance(criterion, Mapping) else criterion
    if not isinstance(judge, Criterion):
        raise ValueError(
            f"A criterion has a method enough(frames) that returns a Verdict; {type(judge).__name__} has none."
        )
    described = dict(criterion) if isinstance(criterion, Mapping) else _described(judge)
    metadata = {
        **measurement_metadata("count_until", camera, goniometer, camera.crystal),
        "plan_args": plain({"criterion": described, "max_s": limit, "max_exposure_s": longest}),
    }
    devices = [camera] if goniometer is None else [camera, goniometer]

    def count() -> Plan:
        uid = yield from bps.open_run(merged(metadata, md))
        began, note = camera.clock_now_s, Note(name="count")
        frames: list[Frame] = []
        verdicts: list[Verdict] = []
        verdict, spent, outcome = judge.enough(()), 0.0, "limit"
        while len(frames) < _MOST:
            seconds = _next(verdict, spent, limit, first, longest)
            frames.append((yield from expose(camera, seconds, *devices[1:])))
            spent = float(sum(f.live_time_s for f in frames))
            verdict = judge.enough(tuple(frames))
            verdicts.append(verdict)
            yield from remember(
                note, verdict.reason, {"enough": verdict.enough, "expected_s": verdict.expected_s}
            )
            if verdict.enough or math.isinf(verdict.expected_s):
                outcome = "enough" if verdict.enough else "hopeless"
                break
            if spent >= (1.0 - 1e-6) * limit:
                break
        yield from close(f"{outcome}: {verdict.reason}", good=True)
        return CountResult(
            outcome,  # type: ignore[arg-type]
            verdict.reason,
            summed(frames),
            len(frames),
            spent,
            tuple(verdicts),
            float(camera.clock_now_s - began),
            str(uid),
        )

    return (yield from ended_at_rest(count(), *devices))


def _next(verdict: Verdict, spent: float, limit: float, first: float, longest: float) -> float:
    """Seconds of the next exposure."""
    missing = verdict.expected_s
    if not math.isfinite(missing) or missing <= 0.0:
        missing = _AGAIN * spent if spent > 0.0 else first
    elif not verdict.exact:
        missing = min(max(missing, _SHORTEST * spent), _BELIEVED * spent if spent > 0.0 else first)
    return min(missing, longest, limit - spent)


def criterion_from(description: Mapping[str, Any], camera: Camera) -> Criterion:
    """A criterion from plain values, as queues send them.

    ``{"kind": "time", "seconds": 60}``;
    ``{"kind": "counts", "photons": 1e6, "region": REGION}`` (the region may be left out);
    ``{"kind": "relative_error", "error": 0.01, "region": REGION, "background": REGION}`` (the background may be left out);
    ``{"kind": "orientation", "sigma_deg": 0.01, "confidence": 0.99}`` (the confidence may be left out).
    REGION is ``{"shape": "circle" or "rectangle", "centre_px": [col, row], "size_px": [width, height]}``.

    Raises
    ------
    ValueError
        If there is no such kind, or its values are missing, unknown or wrong.
    """
    kinds = {
        "time": ({"seconds"}, set()),
        "counts": ({"photons"}, {"region"}),
        "relative_error": ({"error", "region"}, {"background"}),
        "orientation": ({"sigma_deg"}, {"confidence"}),
    }
    kind, values = description.get("kind"), {k: v for k, v in description.items() if k != "kind"}
    if kind not in kinds:
        raise ValueError(f"A criterion's kind is one of {', '.join(kinds)}; {kind!r} came.")
    needed, more = kinds[kind]
    if not needed <= set(values) <= needed | more:
        raise ValueError(
            f"The criterion {kind!r} takes {', '.join(sorted(needed))}"
            + (f" and may take {', '.join(sorted(more))}" if more else "")
            + f"; {', '.join(sorted(values)) or 'nothing'} came."
        )
    regions = {k: _region(values[k]) for k in ("region", "background") if k in values}
    if kind == "time":
        return Seconds(values["seconds"])
    if kind == "counts":
        return Counts(values["photons"], regions.get("region"))
    if kind == "relative_error":
        return RelativeError(NetCounts(regions["region"], regions.get("background")), values["error"])
    if not isinstance(camera.crystal, Crystal):
        raise ValueError(
            "The criterion 'orientation' needs to know the crystal: set camera.crystal = load_crystal(...), "
            f"or give connect(...) one; it is {camera.crystal!r}."
        )
    observer = Observer(camera.crystal, camera.instrument)
    return OrientationKnown(observer, values["sigma_deg"], values.get("confidence", 0.99))


def _region(given: object) -> Region:
    try:
        shape, centre, size = (given[k] for k in ("shape", "centre_px", "size_px"))  # type: ignore[index]
        (x, y), (w, h) = ((float(v) for v in pair) for pair in (centre, size))
        numbers = (x, y, w, h)
    except (TypeError, KeyError, ValueError):
        numbers, shape = (math.nan,) * 4, None
    if (
        shape not in ("circle", "rectangle")
        or not all(map(math.isfinite, numbers))
        or min(numbers[2:]) <= 0.0
    ):
        raise ValueError(
            "A region is {'shape': 'circle' or 'rectangle', 'centre_px': [col, row], 'size_px': [width, height]}; "
            f"{given!r} came."
        )
    return Region(shape, numbers[:2], numbers[2:])


def _described(criterion: Criterion) -> dict[str, Any]:
    """A criterion as plain values, as far as it has some."""
    values = {
        k: v
        for k, v in vars(criterion).items()
        if isinstance(v, str | int | float | Region | NetCounts) and not k.startswith("_")
    }
    return {"kind": type(criterion).__name__, **values}
