"""The last look before something moves: a decision is carried out as it is, or refused. Nothing is clipped."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from lauepilot.hardware.errors import InterlockError
from lauepilot.perception.observation import Declare, Expose, GiveUp, Move
from lauepilot.simulator.goniometer import Goniometer, ReachError

logger = logging.getLogger("lauepilot.hardware")


@dataclass(frozen=True)
class Interlock:
    """What an agent may ask for.

    Attributes
    ----------
    goniometer
        Axes and limits.
    max_exposure_s
        Longest single exposure.
    """

    goniometer: Goniometer
    max_exposure_s: float

    def check(self, decision: object) -> None:
        """Refuse a decision that must not be carried out.

        Raises
        ------
        InterlockError
            Says what was decided, what is allowed, and what to do. The refusal is logged.
        """
        problem = self._problem(decision)
        if problem:
            logger.error("refused: %s", problem)
            raise InterlockError(problem)
        logger.info("allowed: %s", decision)

    def _problem(self, decision: object) -> str:
        if isinstance(decision, Move):
            return self._move(decision)
        if isinstance(decision, Expose):
            seconds = decision.seconds
            if not _is_number(seconds) or not 0.0 < seconds <= self.max_exposure_s:
                return (
                    f"The agent asked for an exposure of {seconds!r} s; allowed is more than 0 and up to "
                    f"{self.max_exposure_s:g} s. Raise max_exposure_s if that is meant."
                )
            return ""
        if isinstance(decision, Declare):
            u = np.asarray(decision.orientation.u, dtype=float)
            if u.shape != (3, 3) or not np.allclose(u @ u.T, np.eye(3), atol=1e-6) or np.linalg.det(u) < 0.0:
                return f"The agent declared an orientation that is no rotation: {u.tolist()}. It must give U (3, 3)."
            return ""
        if isinstance(decision, GiveUp):
            return ""
        return (
            f"The agent decided {decision!r} ({type(decision).__name__}); it must return a Move, Expose, Declare or "
            "GiveUp of lauepilot.perception.observation."
        )

    def _move(self, decision: Move) -> str:
        if not decision.axes:
            return "The agent decided to move, but named no axis. It must name at least one, or decide something else."
        for name, position in decision.axes.items():
            if name not in self.goniometer.names:
                return f"The agent asked for axis {name!r}; this goniometer has {', '.join(self.goniometer.names)}."
            if not _is_number(position):
                return f"The agent sent axis {name!r} to {position!r}, which is not a finite number."
            try:
                self.goniometer.axis(name).check(float(position))
            except ReachError as error:
                return f"The agent's move was refused. {error}"
        return ""


def _is_number(value: object) -> bool:
    return (
        isinstance(value, int | float | np.integer | np.floating)
        and not isinstance(value, bool)
        and bool(np.isfinite(value))
    )
