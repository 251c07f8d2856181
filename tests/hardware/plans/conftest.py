"""Plans that are interrupted at a message of one's choice: deterministic, without a second thread."""

from __future__ import annotations

import bluesky.preprocessors as bpp
import pytest
from bluesky.utils import Msg


class Messages:
    """Counts the messages of a plan; at number ``at`` (from 1) it pauses, or raises ``error`` into the plan."""

    def __init__(self, at=-1, error=None):
        self.at, self.error, self.n = at, error, 0

    def __call__(self, plan):
        return bpp.plan_mutator(plan, self._look)

    def _look(self, message):
        self.n += 1
        if self.n != self.at:
            return None, None
        self.n += 10_000  # once
        return self._interrupted(message), None

    def _interrupted(self, message):
        if self.error is None:
            yield Msg("pause", None, defer=False)
        else:
            yield Msg("fail_on_purpose", None, self.error)
        return (yield message)


def n_messages(engine, plan):
    """How many messages a plan has, run to its end."""
    messages = Messages()
    engine(messages(plan))
    return messages.n


@pytest.fixture
def interrupting(engine):
    """`Messages`, with ``count(plan)``, on an engine that knows the message that raises."""

    async def fail(message):
        raise message.args[0]

    engine.register_command("fail_on_purpose", fail)
    Messages.count = staticmethod(lambda plan: n_messages(engine, plan))
    return Messages
