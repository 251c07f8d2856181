"""What a motor's controller does between two commands: legs one after the other, by the instrument's clock.

Places are on the dial, degrees or mm; times are on the instrument's clock (s) unless said to be the wall's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lauepilot.hardware.epics.travel import Brake, Route, Travel

Way = Travel | Route | Brake


class Drive:
    """One axis, at rest or under way.

    Parameters
    ----------
    dial
        Where it stands.
    now
        The wall's clock (s).
    instrument_s
        Seconds of the instrument's clock for so many of the wall's.

    Attributes
    ----------
    dial
        Where it was at the last look.
    moving
        Whether it moved then; a motor that settles stands.
    """

    def __init__(self, dial: float, now: Callable[[], float], instrument_s: Callable[[float], float]) -> None:
        self.dial = dial
        self.moving = False
        self._now, self._instrument_s = now, instrument_s
        self._legs: list[Way] = []
        self._turnings: list[float] = []
        self._spent_s = 0.0  # on legs that are over, as far as nobody was told
        self.stand(dial)

    def stand(self, dial: float) -> None:
        """It is at rest here."""
        self.dial, self.moving = dial, False
        self.leg: Way = Travel(dial, dial, 1.0)
        self._began_s = self._now()

    def go(self, legs: Sequence[Way]) -> None:
        """Leave what it does, and go these legs; the first begins where it is."""
        self._leave()
        if self.leg.duration_s > 0.0:
            self._turnings.append(self.dial)  # it may turn here, and the Twin has play
        self._legs = list(legs)
        self._take_up(self._legs.pop(0))

    def look(self) -> float:
        """See where it is now; seconds until the end of this leg."""
        elapsed = self._elapsed_s
        self.dial = self.leg.place(elapsed)
        self.moving = elapsed < self.leg.moving_s
        return max(self.leg.duration_s - elapsed, 0.0)

    def next_leg(self) -> bool:
        """Begin the next leg; False if there is none: then it is at rest."""
        self._leave()
        if not self._legs:
            self.stand(self.dial)
            return False
        self._turnings.append(self.dial)
        self._take_up(self._legs.pop(0))
        return True

    def brake(self) -> None:
        """Come to rest, from now on."""
        if not isinstance(self.leg, Brake):
            leg, elapsed = self.leg, self._elapsed_s
            self._leave()
            self._take_up(leg.brake(elapsed))
        self._legs = []

    def tell(self) -> tuple[list[float], float]:
        """Where it turned, and last where it is now; and the seconds that it took. Each is told once."""
        self.look()
        path, self._turnings = [*self._turnings, self.dial], []
        on_this_leg = min(self._elapsed_s, self.leg.duration_s)
        seconds, self._spent_s = self._spent_s + on_this_leg, -on_this_leg
        return path, seconds

    @property
    def _elapsed_s(self) -> float:
        return self._instrument_s(self._now() - self._began_s)

    def _leave(self) -> None:
        elapsed = self._elapsed_s
        self.dial = self.leg.place(elapsed)
        # Not longer than the leg lasts: whoever hangs at its end does not go.
        self._spent_s += min(elapsed, self.leg.duration_s)

    def _take_up(self, leg: Way) -> None:
        self.leg, self._began_s = leg, self._now()
