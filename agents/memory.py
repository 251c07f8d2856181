"""What `lauepilot.agents.index_and_move.IndexAndMove` remembers, as plain JSON values and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lauepilot.perception.plain import decision_of, decision_plain, orientation_of, orientation_plain

#: Everything that the agent carries from one decision to the next.
NAMES = (
    "log_odds", "holder", "frame_axes", "best_frame", "sense", "slack", "queue",
    "seen", "unsure", "elsewhere", "imprecise", "strained", "floor_deg",
)  # fmt: skip


def written(memory: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values of a memory by `NAMES`."""
    holder, best = memory["holder"], memory["best_frame"]
    return {
        **memory,
        "holder": None if holder is None else orientation_plain(holder),
        "best_frame": best if math.isfinite(best) else None,  # JSON knows no infinity
        **{name: dict(memory[name]) for name in ("frame_axes", "sense", "slack")},
        "queue": [decision_plain(decision) for decision in memory["queue"]],
    }


def read(state: Mapping[str, Any], agent: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The memory by `NAMES` in a state that ``agent`` with these settings told.

    Raises
    ------
    ValueError
        If it is another agent's state, other settings', or one from before any task.
    """
    memory = state.get("memory")
    if state.get("agent") != agent or dict(state.get("settings", {})) != dict(settings) or memory is None:
        raise ValueError(
            f"{agent} can only go on from what {agent} with the same settings left; the state is of "
            f"{state.get('agent')!r}. Use the agent and settings that began, or look anew (reread=True)."
        )
    holder, best = memory["holder"], memory["best_frame"]
    return {
        **{name: memory[name] for name in NAMES},
        "holder": None if holder is None else orientation_of(holder),
        "best_frame": math.inf if best is None else float(best),
        "queue": [decision_of(item) for item in memory["queue"]],
    }
