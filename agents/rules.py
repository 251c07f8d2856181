"""The rules by name: players that know what anybody at the instrument knows."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lauepilot.agents.index_and_move import IndexAndMove
from lauepilot.agents.smart_expose import SmartExpose

#: How each is made.
RULES: Mapping[str, Callable[[], IndexAndMove]] = {rule.name: rule for rule in (IndexAndMove, SmartExpose)}
