"""The last look before something moves: a decision is carried out as it was checked, or refused. Nothing is clipped.

What an agent returns is its own object, and may change between the look and the deed. So the interlock reads it once, makes
plain numbers of what it read, checks those, and hands back a copy of them: only the copy is carried out.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import numpy as np
from bluesky.utils import Msg
from ophyd.status import Status

from lauepilot.hardware.errors import InterlockError
from lauepilot.hardware.plans.settle import Plan
from lauepilot.perception.observation import Decision, Declare, Expose, GiveUp, Move
from lauepilot.simulator.goniometer import Goniometer, ReachError
from lauepilot.simulator.instrument import Instrument

logger = logging.getLogger("lauepilot.hardware")


class Collisions(Protocol):
    """Whoever knows what bodies stand where."""

    def problem(self, start: Mapping[str, float], goal: Mapping[str, float]) -> str:
        """What would be hit on the way between two settings of all axes (degrees, mm), at any speeds; empty if nothing."""


@dataclass(frozen=True)
class Interlock:
    """What may be asked of an instrument.

    Attributes
    ----------
    goniometer
        Axes and limits.
    max_exposure_s
        Longest single exposure.
    obstacles
        Asked in turn about each path: forbidden regions of an instrument (`Forbidden`), bodies of an arm.
    stale
        By how much an axis may have moved, degrees or mm, since the agent saw it; None takes play and two steps, at least
        0.01, as devices do for arrivals.
    """

    goniometer: Goniometer
    max_exposure_s: float
    obstacles: tuple[Collisions, ...] = ()
    stale: float | None = None

    @classmethod
    def of(
        cls, instrument: Instrument, max_exposure_s: float, obstacles: tuple[Collisions, ...] = ()
    ) -> Interlock:
        """That of an instrument, with its forbidden regions and further ``obstacles``."""
        known = (*instrument.forbidden, *instrument.goniometer.obstacles)
        return cls(instrument.goniometer, max_exposure_s, (*known, *obstacles))

    def check(
        self,
        decision: object,
        here: Mapping[str, float] | None = None,
        seen: Mapping[str, float] | None = None,
    ) -> Decision:
        """Refuse a decision that must not be carried out.

        Parameters
        ----------
        decision
            What an agent returned.
        here
            Read-back of all axes now, degrees and mm; needed where there are obstacles.
        seen
            Read-back that the agent decided on; None leaves out the comparison with ``here``.

        Returns
        -------
        A copy made of plain numbers: carry out this one, not the agent's object.

        Raises
        ------
        InterlockError
            Says what was decided, what is allowed, and what to do. The refusal is logged.
        """
        try:
            frozen = self._frozen(decision)
            self._check_place(frozen, here, seen)
        except InterlockError as error:
            logger.error("refused: %s", error)
            raise
        except Exception as error:  # an agent's own property or number may raise whatever it likes
            text = f"The agent's decision could not be read ({type(error).__name__}: {error}). Nothing was moved."
            logger.error("refused: %s", text)
            raise InterlockError(text) from error
        logger.info("allowed: %s", frozen)
        return frozen

    def check_path(self, here: Mapping[str, float], goal: Mapping[str, float]) -> None:
        """Refuse a move of the named axes from where they are, whoever asks for it.

        Raises
        ------
        InterlockError
            If the goal lies outside the limits, the read-back cannot be trusted, or something is in the way.
        """
        try:
            self._check_path(here, _numbers(goal, "A plan"), "The plan's move")
        except InterlockError as error:
            logger.error("refused: %s", error)
            raise

    def _frozen(self, decision: object) -> Decision:
        if isinstance(decision, Move):
            axes = _numbers(decision.axes, "The agent")
            self._check_goal(axes, "The agent's move")
            return Move(axes, str(decision.reason))
        if isinstance(decision, Expose):
            asked = decision.seconds
            seconds = _number(asked)
            if seconds is None or not 0.0 < seconds <= self.max_exposure_s:
                raise InterlockError(
                    f"The agent asked for an exposure of {_shown(asked)} s; allowed is more than 0 and up to "
                    f"{self.max_exposure_s:g} s. Raise max_exposure_s if that is meant."
                )
            return Expose(seconds, str(decision.reason))
        if isinstance(decision, Declare):
            orientation = decision.orientation
            u = np.array(orientation.u, dtype=float)
            if u.shape != (3, 3) or not np.allclose(u @ u.T, np.eye(3), atol=1e-6) or np.linalg.det(u) < 0.0:
                raise InterlockError(
                    f"The agent declared an orientation that is no rotation: {u.tolist()}. It must give U (3, 3)."
                )
            return Declare(orientation, str(decision.reason))
        if isinstance(decision, GiveUp):
            return GiveUp(str(decision.reason))
        raise InterlockError(
            f"The agent decided {_shown(decision)} ({type(decision).__name__}); it must return a Move, Expose, Declare or "
            "GiveUp of lauepilot.perception.observation."
        )

    def _check_place(
        self, decision: Decision, here: Mapping[str, float] | None, seen: Mapping[str, float] | None
    ) -> None:
        if here is not None and seen is not None and isinstance(decision, Move | Declare):
            for axis in self.goniometer.axes:
                allowed = (
                    max(0.01, axis.backlash + 2.0 * axis.resolution) if self.stale is None else self.stale
                )
                then, now = float(seen.get(axis.name, np.nan)), float(here.get(axis.name, np.nan))
                if not abs(now - then) <= allowed:
                    raise InterlockError(
                        f"The agent decided with axis {axis.name!r} at {then:g} {axis.unit}, but it now reads {now:g}: "
                        "somebody moved it, or its encoder slipped. Start the alignment again."
                    )
        if not isinstance(decision, Move) or not self.obstacles:
            return
        if here is None:
            raise InterlockError(
                "This instrument has forbidden regions, and nobody said where its axes stand: no move can be checked. "
                "Hand the read-back to check(decision, here)."
            )
        self._check_path(here, dict(decision.axes), "The agent's move")

    def _check_goal(self, goal: Mapping[str, float], whose: str) -> None:
        for name, position in goal.items():
            if name not in self.goniometer.names:
                raise InterlockError(
                    f"{whose} names axis {_shown(name)}; this goniometer has {', '.join(self.goniometer.names)}."
                )
            try:
                self.goniometer.axis(name).check(position)
            except ReachError as error:
                raise InterlockError(f"{whose} was refused. {error}") from None

    def _check_path(self, here: Mapping[str, float], goal: dict[str, float], whose: str) -> None:
        self._check_goal(goal, whose)
        start = {}
        for name in self.goniometer.names:
            place = _number(here.get(name))
            if place is None:
                raise InterlockError(
                    f"{whose} was refused: axis {name!r} reads {_shown(here.get(name))}, so that its path is unknown. "
                    "Check its encoder and its connection."
                )
            start[name] = place
        end = {**start, **goal}
        for obstacle in self.obstacles:
            try:
                problem = obstacle.problem(dict(start), dict(end))
            except Exception as error:  # who cannot say that a path is free has not said so
                raise InterlockError(
                    f"{whose} was refused: {type(obstacle).__name__} could not check its path "
                    f"({type(error).__name__}: {error})."
                ) from error
            if problem:
                raise InterlockError(
                    f"{whose} to {_places(goal)} was refused: {problem}. Go round it in several moves."
                )


class Gate:
    """What a plan passes before each of its moves: the interlock's look at it, as a message of its own.

    After a pause Bluesky says the messages since the last checkpoint again, and asks nobody: what was looked at before the
    pause is then not so any more, since the axes stopped half-way, and people moved them. A look that is a message is said
    again too, before the move.
    """

    name = "interlock"
    parent = None

    def __init__(self, goniometer: Any, interlock: Interlock) -> None:
        self.goniometer, self.interlock = goniometer, interlock

    def set(self, goal: Mapping[str, float]) -> Status:
        """Done, if the move of the named axes from where they are now is allowed.

        Raises
        ------
        InterlockError
            If it is not.
        """
        self.interlock.check_path(self.goniometer.position, goal)
        status = Status()
        status.set_finished()
        return status


def checked_move(goniometer: Any, goal: Mapping[str, float], interlock: Interlock) -> Plan:
    """``bps.mv`` of the named axes, looked at before; and again, if it is said again after a pause.

    Raises
    ------
    InterlockError
        Into the plan, if the goal or the way to it from where the axes are is not allowed.
    """
    frozen = _numbers(goal, "A plan")
    yield from bps.abs_set(Gate(goniometer, interlock), dict(frozen))
    yield from bps.mv(goniometer, frozen)


def guarded(plan: Plan, goniometer: Any, interlock: Interlock) -> Plan:
    """Any plan, each of whose moves of the goniometer or of one of its axes is checked before it begins.

    For plans that are not ours: ``RE(guarded(bp.scan([camera], goniometer.omega, -5, 5, 11), goniometer, interlock))``,
    or once for all, ``RE.preprocessors.append(lambda plan: guarded(plan, goniometer, interlock))``.

    Raises
    ------
    InterlockError
        Into the plan, at the move that is refused.
    """
    axes = {id(getattr(goniometer, name)): name for name in interlock.goniometer.names}
    gate = Gate(goniometer, interlock)
    underway: dict[str, float] = {}
    checked: Msg | None = None

    def with_look(message: Msg, frozen: dict[str, float]) -> Plan:
        # Axes that were started before and have not arrived are part of the path.
        yield from bps.abs_set(gate, {**underway, **frozen})
        underway.update(frozen)
        return (yield message)

    def look(message: Msg) -> tuple[Plan | None, None]:
        nonlocal checked
        if message.command == "wait":
            underway.clear()
        if message.command != "set" or message is checked:
            return None, None
        if message.obj is goniometer:
            frozen = _numbers(message.args[0], "A plan")
            asked: Any = frozen
        elif id(message.obj) in axes:
            frozen = _numbers({axes[id(message.obj)]: message.args[0]}, "A plan")
            asked = next(iter(frozen.values()))
        else:
            return None, None
        checked = message._replace(args=(asked, *message.args[1:]))
        return with_look(checked, frozen), None

    return (yield from bpp.plan_mutator(plan, look))  # type: ignore[no-untyped-call]


def _numbers(positions: object, who: str) -> dict[str, float]:
    """A mapping from names to finite numbers, read once, as plain strings and floats."""
    if not isinstance(positions, Mapping):
        raise InterlockError(
            f"{who} sent axes to {_shown(positions)}, which is no mapping. It must be like {{'omega': 10.0}}."
        )
    frozen: dict[str, float] = {}
    for name, position in list(positions.items()):
        if not isinstance(name, str):
            raise InterlockError(f"{who} named an axis {_shown(name)}; a name is a string.")
        number = _number(position)
        if number is None:
            raise InterlockError(
                f"{who} sent axis {_shown(name)} to {_shown(position)}, which is not a finite number."
            )
        # Of a subclass of str only its letters are kept: it may compare as it likes.
        frozen[str.__str__(name)] = number
    if not frozen:
        raise InterlockError(
            f"{who} decided to move, but named no axis. It must name at least one, or decide something else."
        )
    return frozen


def _number(value: object) -> float | None:
    """A plain finite float, or None. Truth values, text, arrays and complex numbers are no numbers."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    # A subclass's __float__ may give a subclass again; adding plain zero makes it plain, and -0 is 0.
    number = float.__add__(number, 0.0)
    return number if np.isfinite(number) else None


def _shown(value: object) -> str:
    """A value for a message: short, whatever it is."""
    try:
        text = repr(value)
    except Exception:
        text = f"an unprintable {type(value).__name__}"
    return text if len(text) <= 120 else f"{text[:117]}..."


def _places(goal: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {position:g}" for name, position in goal.items())
