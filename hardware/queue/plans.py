"""Plans as a queue sees them: names and numbers instead of objects, each with its type, range and a line for the GUI.

The queue server checks arguments against these descriptions when a plan is added, and looks up what the names mean when it
runs. A plan that does not reach its end must fail, so that the queue stops before the next one: hence ``must_declare`` and
its like. Annotations here are objects and not text, since the queue server reads them.
"""

import re
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lauepilot.hardware.errors import HardwareError
from lauepilot.hardware.plans.align import align_crystal as align
from lauepilot.hardware.plans.build_ub import build_ub as find_ub
from lauepilot.hardware.plans.calibrate import calibrate_instrument as calibrate
from lauepilot.hardware.plans.count import count_until as count
from lauepilot.hardware.plans.scan import scan_orientations as scan
from lauepilot.hardware.plans.settle import Plan
from lauepilot.hardware.protocols import Agent, Camera, Goniometer
from lauepilot.simulator.crystal import Crystal, load_crystal
from lauepilot.simulator.target import Target

_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,80}\.yaml")
_SECONDS = {"min": 1e-6, "max": 1e7}


class NotReachedError(HardwareError):
    """A queued plan that ended in order, but not with what it was queued for."""


@dataclass(frozen=True)
class Workplace:
    """What queued plans work with.

    Attributes
    ----------
    camera, goniometer
        The devices.
    agents
        Who can align, by name; each is made anew for each alignment. The first is the default.
    crystals
        Names of crystals that may be asked for, the mounted one first.
    read_target
        Makes a target of its text, such as ``[0 0 1] beam``.
    folder
        Where calibrated instruments are written.
    four_circle
        Diffractometer and detector for ``build_ub``; None leaves it out.
    """

    camera: Camera
    goniometer: Goniometer
    agents: Mapping[str, Callable[[], Agent]]
    crystals: Sequence[str]
    read_target: Callable[[str], Target]
    folder: Path
    four_circle: tuple[Any, Any] | None = None


def queue_plans(place: Workplace) -> dict[str, Callable[..., Plan]]:
    """Plans by name, for the namespace of a startup file.

    Raises
    ------
    ImportError
        If bluesky-queueserver is not installed.
    """
    made = [_align(place), _scan(place), _count(place), _calibrate(place)]
    if place.four_circle is not None:
        made.append(_build_ub(place))
    return {plan.__name__: plan for plan in made}


def _described(text: str, parameters: dict[str, dict[str, Any]]) -> Callable[[Any], Any]:
    try:
        from bluesky_queueserver import parameter_annotation_decorator
    except ImportError:
        raise ImportError(
            "bluesky-queueserver is not installed. Type: pip install 'lauepilot[queue]'."
        ) from None
    decorate: Callable[[Any], Any] = parameter_annotation_decorator(
        {"description": text, "parameters": parameters}
    )
    return decorate


def _crystal(place: Workplace) -> dict[str, Any]:
    return {
        "description": f"What is mounted; {place.crystals[0]} by default.",
        "annotation": "Crystals",
        "enums": {"Crystals": tuple(place.crystals)},
    }


def _known(name: str) -> Crystal:
    return load_crystal(name)


def _align(place: Workplace) -> Callable[..., Plan]:
    @_described(
        "Bring a crystal to a target.",
        {
            "target": {"description": "What goes where: '[0 0 1] beam' or '[0 0 1] beam, (1 0 0) up'."},
            "crystal": _crystal(place),
            "agent": {
                "description": "Who decides.",
                "annotation": "Agents",
                "enums": {"Agents": tuple(place.agents)},
            },
            "max_steps": {"description": "Decisions allowed.", "min": 1, "max": 1000, "step": 1},
            "max_dose_s": {"description": "Open-shutter seconds allowed in all.", **_SECONDS},
            "max_exposure_s": {"description": "Seconds allowed in one exposure.", **_SECONDS},
            "must_declare": {
                "description": "Fail, and stop the queue, where the crystal is not declared aligned."
            },
            "sample": {"description": "Name of the sample, for the record."},
        },
    )
    def align_crystal(
        target: str = "[0 0 1] beam",
        crystal: str = place.crystals[0],
        agent: str = next(iter(place.agents)),
        max_steps: int = 50,
        max_dose_s: float = 36_000.0,
        max_exposure_s: float = 3_600.0,
        must_declare: bool = True,
        sample: str = "",
    ) -> Plan:
        result = yield from align(
            place.camera,
            place.goniometer,
            place.agents[agent](),
            place.read_target(target),
            crystal=_known(crystal),
            max_steps=max_steps,
            max_dose_s=max_dose_s,
            max_exposure_s=max_exposure_s,
            md={"sample": sample, "target_text": target},
        )
        if must_declare and result.outcome != "declared":
            raise NotReachedError(
                f"The alignment {result.outcome}: {result.reason} The queue stops here; with must_declare=false it goes on."
            )
        return result

    return align_crystal  # type: ignore[no-any-return]


def _scan(place: Workplace) -> Callable[..., Plan]:
    @_described(
        "Expose at each of several axis positions.",
        {
            "positions": {
                "description": "A list of positions, [{'omega': 0, 'chi': 5}, ...], or a grid, {'omega': [0, 5, 10]}: "
                "degrees and mm.",
                "annotation": "typing.Union[typing.List[typing.Dict[str, float]], typing.Dict[str, typing.List[float]]]",
            },
            "exposure_s": {"description": "Of each frame, s.", **_SECONDS},
            "sample": {"description": "Name of the sample, for the record."},
        },
    )
    def scan_orientations(
        positions: typing.Union[list[dict[str, float]], dict[str, list[float]]],  # noqa: UP007
        exposure_s: float,
        sample: str = "",
    ) -> Plan:
        return (yield from scan(place.camera, place.goniometer, positions, exposure_s, md={"sample": sample}))

    return scan_orientations  # type: ignore[no-any-return]


def _count(place: Workplace) -> Callable[..., Plan]:
    @_described(
        "Expose until it is enough.",
        {
            "criterion": {
                "description": "{'kind': 'time', 'seconds': 60}, {'kind': 'counts', 'photons': 1e6}, "
                "{'kind': 'relative_error', 'error': 0.01, 'region': ...} or {'kind': 'orientation', 'sigma_deg': 0.01}.",
                "annotation": "typing.Dict[str, typing.Any]",
            },
            "max_s": {"description": "Open-shutter seconds after which it ends anyway.", **_SECONDS},
            "max_exposure_s": {"description": "Seconds allowed in one exposure.", **_SECONDS},
            "must_be_enough": {"description": "Fail, and stop the queue, where it did not become enough."},
            "sample": {"description": "Name of the sample, for the record."},
        },
    )
    def count_until(
        criterion: dict[str, Any],
        max_s: float,
        max_exposure_s: float = 3_600.0,
        must_be_enough: bool = False,
        sample: str = "",
    ) -> Plan:
        result = yield from count(
            place.camera,
            criterion,
            max_s=max_s,
            goniometer=place.goniometer,
            max_exposure_s=max_exposure_s,
            md={"sample": sample},
        )
        if must_be_enough and result.outcome != "enough":
            raise NotReachedError(
                f"Counting ended with {result.outcome}: {result.reason} Raise max_s, if that is meant."
            )
        return result

    return count_until  # type: ignore[no-any-return]


def _calibrate(place: Workplace) -> Callable[..., Plan]:
    @_described(
        "Calibrate detector and axes on a known crystal.",
        {
            "crystal": _crystal(place),
            "frames": {"description": "How many positions to look at.", "min": 3, "max": 1000, "step": 1},
            "exposure_s": {
                "description": "Of each frame, s; the instrument's usual one if it is left out.",
                "annotation": "typing.Optional[float]",
                **_SECONDS,
            },
            "out": {
                "description": "Name of a YAML file for the corrected instrument, without folder; empty for none."
            },
        },
    )
    def calibrate_instrument(
        crystal: str = place.crystals[0],
        frames: int = 14,
        exposure_s: typing.Optional[float] = None,  # noqa: UP045
        out: str = "",
    ) -> Plan:
        if out and not _FILE.fullmatch(out):
            raise ValueError(f"out is the name of a file that ends in .yaml, without folder; {out!r} came.")
        if out:
            place.folder.mkdir(parents=True, exist_ok=True)
        result = yield from calibrate(
            place.camera,
            place.goniometer,
            _known(crystal),
            frames=frames,
            exposure_s=exposure_s,
            out=place.folder / out if out else None,
        )
        if result.outcome != "calibrated":
            raise NotReachedError(
                f"The calibration was {result.outcome}: {result.reason} The queue stops here."
            )
        return result

    return calibrate_instrument  # type: ignore[no-any-return]


def _build_ub(place: Workplace) -> Callable[..., Plan]:
    if place.four_circle is None:
        raise ValueError("build_ub needs a four-circle: give Workplace four_circle=connect_four_circle(...).")
    diffractometer, detector = place.four_circle

    @_described(
        "From an unknown orientation to UB on a four-circle.",
        {
            "crystal": _crystal(place),
            "reflections": {
                "description": "How many to centre for the last refinement.",
                "min": 3,
                "max": 200,
                "step": 1,
            },
            "max_clock_s": {"description": "Seconds after which it gives up.", **_SECONDS},
        },
    )
    def build_ub(
        crystal: str = place.crystals[0], reflections: int = 12, max_clock_s: float = 14_400.0
    ) -> Plan:
        run = yield from find_ub(
            diffractometer, detector, _known(crystal), reflections=reflections, max_clock_s=max_clock_s
        )
        if run.answer.outcome != "found":
            raise NotReachedError(f"No UB was found: {run.answer.reason} The queue stops here.")
        return run

    return build_ub  # type: ignore[no-any-return]
