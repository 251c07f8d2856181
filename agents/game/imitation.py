"""Pictures with the right answers, as fast as the batched game makes them: for a network to learn from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from lauepilot.agents.game.plan import best_actions
from lauepilot.envs.game.batch import BatchGame
from lauepilot.envs.game.rules import FamilyName, LevelName, Physics

#: Actions (n, 2) of a student for pictures (n, t, 1, 84, 84) and moves (n, t, 2) up to now.
Student = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Lesson:
    """Games from their start on, n of them and t pictures of each.

    Attributes
    ----------
    images
        (n, t, 1, 84, 84) uint8.
    moved
        (n, t, 2) the actions that led to them; zeros for the first.
    actions
        (n, t, 2) what the all-knowing player does next: the first of a shortest way, of which there may be several.
    steps
        (n, t) his steps to go, int64.
    axis
        (n, t, 3) unit vector, in the laboratory, of the nearest target, with z >= 0.
    u
        (n, t, 3, 3) true orientation: Busing and Levy's frame to the laboratory.
    family
        (n,) index in `lauepilot.envs.game.rules.NAMES`, int64.
    cell
        (n, 3) a and c in angstrom, distance of the film in mm.
    valid
        (n, t) bool: false after the end of a game.
    """

    images: torch.Tensor
    moved: torch.Tensor
    actions: torch.Tensor
    steps: torch.Tensor
    axis: torch.Tensor
    u: torch.Tensor
    family: torch.Tensor
    cell: torch.Tensor
    valid: torch.Tensor

    def to(self, device: torch.device | str) -> Lesson:
        """The same on a device."""
        return Lesson(**{key: value.to(device, non_blocking=True) for key, value in vars(self).items()})


def lessons(
    n: int,
    length: int,
    rng: np.random.Generator,
    *,
    family: FamilyName = "any",
    physics: Physics = "laue",
    level: LevelName = "normal",
    wander: float = 0.3,
    student: Student | None = None,
) -> Iterator[Lesson]:
    """Lessons without end.

    Parameters
    ----------
    n, length
        Games of a lesson, and pictures of each game at most.
    rng
        The same generator state gives the same lessons.
    family, physics, level
        As in `lauepilot.envs.game.env.LaueGameEnv`.
    wander
        Share of moves that go anywhere, so that places off the shortest way are seen too.
    student
        Plays the other moves, if given (DAgger); else the all-knowing player does. What is taught is always his.

    Raises
    ------
    ValueError
        If counts are not positive or ``wander`` is no share.
    """
    if n < 1 or length < 1 or not 0.0 <= wander <= 1.0:
        raise ValueError(
            f"Lessons need n and length from 1 on and wander in 0..1; {n}, {length} and {wander} came."
        )
    batch = BatchGame(n, family, physics, level)
    batch.seed(rng)
    while True:
        yield _lesson(batch, length, rng, wander, student)


def _lesson(
    batch: BatchGame, length: int, rng: np.random.Generator, wander: float, student: Student | None
) -> Lesson:
    n = batch.n
    batch.reset()
    side = batch.observations()["image"].shape[1]
    images = torch.zeros((n, length, 1, side, side), dtype=torch.uint8)
    moved, actions = torch.zeros((n, length, 2)), torch.zeros((n, length, 2))
    steps = torch.zeros((n, length), dtype=torch.int64)
    axis, u = torch.zeros((n, length, 3)), torch.zeros((n, length, 3, 3))
    valid = torch.zeros((n, length), dtype=torch.bool)
    family = batch.true_family()
    over = np.zeros(n, dtype=bool)
    for t in range(length):
        seen = batch.observations()
        truth = batch.true_u()
        best, to_go = best_actions(truth, family)
        images[:, t, 0] = torch.from_numpy(seen["image"][..., 0])
        moved[:, t] = torch.from_numpy(seen["moved"])
        actions[:, t], steps[:, t] = torch.from_numpy(best), torch.from_numpy(to_go)
        axis[:, t] = torch.from_numpy(nearest_axes(truth, family)).float()
        u[:, t] = torch.from_numpy(truth).float()
        valid[:, t] = torch.from_numpy(~over)
        if t == length - 1 or over.all():
            break
        taken = best
        if student is not None:
            taken = student(images[:, : t + 1], moved[:, : t + 1]).detach().cpu().numpy().astype(np.float32)
        anywhere = rng.uniform(-1.0, 1.0, (n, 2)).astype(np.float32)
        taken = np.where(rng.uniform(size=(n, 1)) < wander, anywhere, taken)
        _, terminated, truncated = batch.step(taken, skip=over)
        over |= terminated | truncated
    told = torch.from_numpy(batch.true_cell()).float()
    return Lesson(images, moved, actions, steps, axis, u, torch.from_numpy(family), told, valid)


def nearest_axes(u: np.ndarray, family: np.ndarray) -> np.ndarray:
    """Targets (n, 3) nearest to the beam, in the laboratory, with z >= 0, of orientations (n, 3, 3)."""
    z = np.abs(u[:, 2, :])
    z = np.where((family[:, None] == 0) | (np.arange(3) == 2), z, -1.0)
    axis = np.take_along_axis(u, z.argmax(axis=1)[:, None, None].repeat(3, axis=1), axis=2)[..., 0]
    return np.asarray(np.where(axis[:, 2:] < 0.0, -axis, axis))
