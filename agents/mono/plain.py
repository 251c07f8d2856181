"""The plain search plan: scan everything, then index, then centre one strong reflection after the other.

What is done without thinking about time: all rows of the half sphere at one scattering angle, to and fro, with the same bins
and speed as the rule's; then the brightest peaks, centred one by one; indices by the same hypotheses, probes and checks; a
dozen reflections in the order of their strength, each centred in full. Both end with a UB.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence

import numpy as np

from lauepilot.agents.mono.thinking import Thinking
from lauepilot.perception.reflections.choosing import Choosing
from lauepilot.perception.reflections.hypotheses import Catalogue, Hypothesis, Probe, telling_probe
from lauepilot.perception.reflections.looking import (
    BIN_DEG,
    CENTRE_S,
    FRAME_DEG,
    SEARCH_S,
    Look,
    Path,
    PointLook,
)
from lauepilot.perception.reflections.search import UbAnswer, UbSearch
from lauepilot.perception.reflections.zeros import Centred
from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.fourcircle_twin import Sweep

#: Peaks that are centred after the scan, and hits that are tried for them.
_CENTRED, _TRIED = 4, 10
_TIERS, _TELLS = (0.05, 0.005, 0.001), 1.0


class _Strongest(Choosing):
    """The strongest first, until all that are wanted are there."""

    def __init__(self, catalogue: Catalogue, u: FloatArray) -> None:
        super().__init__(catalogue, u)
        self._left = list(self._tells)

    def next(self, here_deg: FloatArray, kept: Sequence[Centred]) -> int | None:
        """The strongest that was not taken."""
        return self._left.pop(0) if self._left else None

    def good(self, kept: Sequence[Centred], residual_deg: float) -> bool:
        """Never good enough before the last."""
        return False


class PlainSearch(UbSearch):
    """See the module; parameters are those of `UbSearch`."""

    def _think(self) -> Generator[Path, Sweep, UbAnswer]:
        peaks: list[Centred] = []
        reason = "fewer than two reflections were found"
        for tth in self.look.best_tth():
            hits: list[tuple[int, FloatArray]] = []
            for path in self._rows(tth):
                sweep = yield from self._ask(path)
                hits += list(enumerate(self.look.hits(path, sweep)))
            # The brightest of each row first.
            hits.sort(key=lambda hit: hit[0])
            yield from self._centre_some([angles for _, angles in hits], peaks)
            if len(peaks) < 2:
                continue
            answer, reason = yield from self._try(peaks)
            if answer is not None:
                return answer
        return self._give_up(f"All was scanned, and {reason}.", peaks)

    def _rows(self, tth_deg: float) -> Iterator[Path]:
        """Whole turns of phi, to and fro, that together see the half sphere."""
        look = self.look
        if isinstance(look, PointLook):
            rows, step, seconds = [chi for chi, _ in look.rows(tth_deg)], BIN_DEG, SEARCH_S
        else:
            rows, step = list(look.turns_deg), FRAME_DEG
            seconds = FRAME_DEG / self.instrument.motors.axis("phi").speed
        phi = np.arange(-180.0, 180.0 + 1e-9, step)
        for i, chi in enumerate(rows):
            points = np.tile([0.5 * tth_deg, chi, 0.0, tth_deg], (len(phi), 1))
            points[:, 2] = phi if i % 2 == 0 else phi[::-1]
            yield Path(points, seconds, "open", f"turn at 2theta {tth_deg:.2f}, chi {chi:.1f}")

    def _centre_some(self, hits: list[FloatArray], peaks: list[Centred]) -> Look[None]:
        """Centre hits in turn, leaving out those beside what is there."""
        half = 0.6 if isinstance(self.look, PointLook) else 1.4
        tried: list[FloatArray] = []
        for angles in hits:
            v = self.instrument.on_holder(angles)
            beside = any(abs(float(v @ o)) > np.cos(np.deg2rad(8.0)) for o in tried)
            if beside or len(tried) >= _TRIED or len(peaks) >= _CENTRED:
                continue
            tried.append(v)
            peak = yield from self._centre(angles, half, "centre a hit")
            if peak is not None:
                peaks.append(peak)

    def _centre(
        self, angles: FloatArray, half: float, why: str, *, sure: bool = False, seconds: float = CENTRE_S
    ) -> Look[Centred | None]:
        """All four scans, always."""
        return (yield from super()._centre(angles, half, why, sure=False, seconds=seconds))

    def _next_probe(self, rivals: list[Hypothesis], done: list[tuple[FloatArray, float]]) -> Probe | None:
        """The most telling, however far."""
        probe: Probe | None = None
        for weakest in _TIERS:
            probe = telling_probe(rivals, self.catalogue, done, weakest) or probe
            if probe is not None and (len(rivals) == 1 or probe.tells > _TELLS):
                break
        return probe

    def _choosing(self, u: FloatArray) -> Choosing:
        return _Strongest(self.catalogue, u)


class PlainScan(Thinking):
    """`PlainSearch` as a player."""

    def __init__(self) -> None:
        super().__init__("plain-scan", lambda task: PlainSearch(task.crystal, task.instrument, task.detector))
