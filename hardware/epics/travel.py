"""Where a motor is on its way: speed up, go on, slow down, settle.

Times are on the instrument's clock (s), positions degrees or mm, speeds degrees or mm a second.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Travel:
    """From rest to rest, by a trapezium of speed (a triangle, where the way is short).

    At the axis' own speed it lasts as long as the Twin charges for it, ``way / speed + settle_s``, unless the ramps alone
    take longer.

    Attributes
    ----------
    start, goal
        From where to where.
    speed
        Between the ramps; positive.
    ramp_s
        Seconds from rest to ``speed``; 0 for none.
    settle_s
        Seconds that the axis charges beyond ``way / speed``.
    """

    start: float
    goal: float
    speed: float
    ramp_s: float = 0.0
    settle_s: float = 0.0

    @property
    def way(self) -> float:
        """Distance, without a sign."""
        return abs(self.goal - self.start)

    @property
    def _ramp(self) -> float:
        # On a short way it turns to slow down before it has its speed.
        return min(self.ramp_s, math.sqrt(self.way * self.ramp_s / self.speed))

    @property
    def moving_s(self) -> float:
        """Seconds until the motor stands."""
        if self.way == 0.0:
            return 0.0
        if self.ramp_s == 0.0:
            return self.way / self.speed
        peak = self.speed * self._ramp / self.ramp_s
        return self.way / peak + self._ramp

    @property
    def duration_s(self) -> float:
        """Seconds until it stands and has settled; 0 if there is no way to go."""
        if self.way == 0.0:
            return 0.0
        return max(self.moving_s, self.way / self.speed + self.settle_s)

    def place(self, elapsed_s: float) -> float:
        """Where it is so many seconds after the beginning."""
        total = self.moving_s
        if elapsed_s >= total:
            return self.goal
        t = max(elapsed_s, 0.0)
        sign = math.copysign(1.0, self.goal - self.start)
        ramp = self._ramp
        if ramp == 0.0:
            return self.start + sign * self.speed * t
        gain = self.speed / self.ramp_s
        if t < ramp:
            return self.start + sign * 0.5 * gain * t**2
        if t > total - ramp:
            return self.goal - sign * 0.5 * gain * (total - t) ** 2
        return self.start + sign * gain * ramp * (t - 0.5 * ramp)

    def velocity(self, elapsed_s: float) -> float:
        """How fast it goes then, with its sign."""
        total = self.moving_s
        if not 0.0 <= elapsed_s < total:
            return 0.0
        sign = math.copysign(1.0, self.goal - self.start)
        ramp = self._ramp
        if ramp == 0.0:
            return sign * self.speed
        return sign * self.speed / self.ramp_s * min(elapsed_s, ramp, total - elapsed_s)

    def cut(self, share: float) -> Travel:
        """The same up to a share of the way."""
        return replace(self, goal=self.start + share * (self.goal - self.start))

    def brake(self, elapsed_s: float) -> Brake:
        """What a stop then makes of it: slowing down by the same ramp, never beyond the goal."""
        return Brake(
            self.place(elapsed_s),
            self.velocity(elapsed_s),
            self.speed / self.ramp_s if self.ramp_s else math.inf,
        )


@dataclass(frozen=True)
class Route:
    """A joint's part of a motion of all joints, along a way that was looked at before.

    Attributes
    ----------
    along
        Where the joint is so many seconds after the beginning.
    moving_s
        Seconds until all joints stand.
    settle_s
        Seconds that they charge beyond that.
    """

    along: Callable[[float], float]
    moving_s: float
    settle_s: float = 0.0

    @property
    def duration_s(self) -> float:
        """Seconds until they stand and have settled; 0 if there is no way to go."""
        return self.moving_s + self.settle_s if self.moving_s > 0.0 else 0.0

    def place(self, elapsed_s: float) -> float:
        """Where it is so many seconds after the beginning."""
        return self.along(min(max(elapsed_s, 0.0), self.moving_s))

    def cut(self, share: float) -> Route:
        """The same up to a share of its time."""
        return replace(self, moving_s=share * self.moving_s)

    def brake(self, elapsed_s: float) -> Brake:
        """What a stop makes of it: joints that slowed down each by itself would leave the way, so they stand at once."""
        return Brake(self.place(elapsed_s), 0.0, math.inf)


@dataclass(frozen=True)
class Brake:
    """From a velocity to rest.

    Attributes
    ----------
    start
        Where the stop came.
    initial
        Velocity there, with its sign.
    gain
        Loss of speed a second; infinite to stand at once.
    """

    start: float
    initial: float
    gain: float

    @property
    def moving_s(self) -> float:
        """Seconds until the motor stands."""
        return abs(self.initial) / self.gain

    @property
    def duration_s(self) -> float:
        """The same: a motor that was stopped does not wait for anything to settle."""
        return self.moving_s

    @property
    def goal(self) -> float:
        """Where it comes to stand."""
        return self.start + 0.5 * self.initial * self.moving_s

    def place(self, elapsed_s: float) -> float:
        """Where it is so many seconds after the stop."""
        t = min(max(elapsed_s, 0.0), self.moving_s)
        if t == 0.0:
            return self.start
        return self.start + self.initial * t - 0.5 * math.copysign(self.gain, self.initial) * t**2

    def velocity(self, elapsed_s: float) -> float:
        """How fast it goes then, with its sign."""
        left = self.moving_s - elapsed_s
        return (
            math.copysign(self.gain, self.initial) * left
            if 0.0 < left < math.inf and self.gain < math.inf
            else 0.0
        )
