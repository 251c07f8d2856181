"""The rule that asks how long: each frame as long as what is still wanted takes, told from the photons so far.

Photons come evenly: evidence for an orientation grows with the exposure, and the variance of its error falls with it. So one
frame, even one that does not suffice, tells how long the next has to be.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lauepilot.agents.bookkeeping import relevant_sigma_deg
from lauepilot.agents.index_and_move import IndexAndMove, RuleSettings
from lauepilot.perception.observation import Decision, Expose, GiveUp, Observation


@dataclass(frozen=True)
class SmartSettings(RuleSettings):
    """Numbers of the rule; those of `RuleSettings` beside.

    Attributes
    ----------
    wanted_nats
        Evidence that makes an orientation sure: what the next frame is made for.
    certain_nats
        Evidence below which a frame told nothing of how long the next must be.
    longest_step
        A frame is at most so many times as long as the one that it was predicted from.
    shortest_step
        A verifying frame is at least this share of the last frame.
    """

    wanted_nats: float = 200.0
    certain_nats: float = 15.0
    longest_step: float = 40.0
    shortest_step: float = 0.05
    ample: float = 0.85


class SmartExpose(IndexAndMove):
    """`IndexAndMove` that sizes its exposures; fits the `Agent` protocol.

    Parameters
    ----------
    settings
        Numbers of the rule.
    """

    name = "smart-expose"

    def __init__(self, settings: SmartSettings | None = None) -> None:
        self.smart = SmartSettings() if settings is None else settings
        super().__init__(self.smart)

    def _look_again(self, observation: Observation, p: float) -> Decision:
        """Not sure of the indexing: as long as the evidence so far says, else as the parent does."""
        belief, smart = observation.belief, self.smart
        evidence = math.nan if belief is None else belief.evidence
        longest = self._clip(math.inf)
        tells = evidence >= smart.certain_nats and self._fresh_frame(observation)
        if not tells or observation.exposure_s >= 0.999 * longest:
            return super()._look_again(observation, p)
        times = min(max(smart.wanted_nats / evidence, 1.5), smart.longest_step)
        seconds = self._clip(times * observation.exposure_s)
        said = f"{evidence:.0f} nats after {observation.exposure_s:.3g} s, confidence {p:.3f}"
        return Expose(seconds, f"{said}: as long as {smart.wanted_nats:g} take.")

    def _verify(self, observation: Observation, sigma: float, said: str) -> Decision:
        """A frame as long as the precision wants it, no longer."""
        task, smart = self.task, self.smart
        room = max(task.tolerance_deg - self._floor_deg, 0.05 * task.tolerance_deg)
        wanted = 0.9 * room / smart.sigmas
        belief = observation.belief
        seen = None if belief is None else belief.orientation
        if seen is None:
            return super()._verify(observation, sigma, said)
        frame = relevant_sigma_deg(task.target, seen.covariance)
        times = (frame / (smart.ample * wanted)) ** 2
        if self._fresh(observation):
            # What is there already counts: only the rest is missing.
            self._imprecise += 1
            times = max(times - (frame / max(sigma, 1e-9)) ** 2, 0.3)
            if self._imprecise > 2 * smart.tries:
                return GiveUp(f"{said}: frames do not become precise enough for {task.tolerance_deg:g} deg.")
        times = min(max(times, smart.shortest_step), smart.longest_step)
        seconds = self._clip(times * observation.exposure_s)
        return Expose(
            seconds, f"{said}: {seconds:.3g} s for a standard deviation of {smart.ample * wanted:.3f} deg."
        )

    def _fresh_frame(self, observation: Observation) -> bool:
        """Whether the last frame was taken where the axes stand."""
        return observation.belief_axes is None or all(
            abs(v - observation.axes.get(n, 0.0)) < 1e-6 for n, v in observation.belief_axes.items()
        )
