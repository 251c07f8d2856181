"""Alignment: how often `IndexAndMove` is right, its time beside the all-knowing player's; speed of environments."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

from lauepilot.agents.benchmark import Score, play_many
from lauepilot.agents.vecenv import LaueAlignVecEnv
from lauepilot.bench.figures import Figure, Peer, median, quantile_interval, share
from lauepilot.bench.timing import CLOCK, machine, one_core, timed
from lauepilot.envs.align.coding import ObservationKind
from lauepilot.envs.align.vector import LaueAlignVectorEnv
from lauepilot.simulator.target import Alignment, Target

#: One crystal of each system, and one more; all of the zoo.
CRYSTALS = ("si", "yfe2ge2", "4h-sic", "quartz", "ybco", "feps3", "kyanite", "ca2ruo4")
TOLERANCE_DEG = 0.1
#: A crystal and a target that many starts on lab cannot reach: what the player does then.
LIMITED = ("kyanite", Target(Alignment("uvw", (0, 0, 1), (0, 0, 1)), Alignment("hkl", (1, 0, 0), (0, 1, 0))))
LIMITED_SAID = "[0 0 1] beam, (1 0 0) up"
#: What the figures of speed step through (`lauepilot.envs.align.batch` says the rest).
BATCHED = (
    "lauepilot/LaueAlign-v0, batched (envs.align.batch): no full frame is rendered or indexed; belief is the truth "
    "plus a modelled error"
)


def measure(quick: bool, say: Callable[[str], None]) -> list[Figure]:
    """All figures of ``lauepilot bench align``."""
    games = 3 if quick else 200
    processes = 1 if quick else min(2, int(machine()["cores"] or 1))
    ours, floor = [], []
    for crystal in CRYSTALS:
        say(f"aligning {crystal} on lab: {games} starts, IndexAndMove and the Oracle")
        ours.append(_play("index-and-move", crystal, games, processes))
        floor.append(_play("oracle", crystal, games, processes))
    crystal, target = LIMITED
    games = 3 if quick else 40
    say(f"aligning {crystal} on lab to {LIMITED_SAID}: {games} starts, many out of reach")
    figures = known(ours, floor, _play("index-and-move", crystal, games, processes, target))
    rounds = 10 if quick else 50
    with one_core():
        for name, kind, envs in (
            ("env_image_steps_per_s", "image", 64),
            ("env_spot_steps_per_s", "spots", 256),
        ):
            say(f"environment steps, {kind} observation")
            figures.append(env_steps(name, kind, envs, rounds))  # type: ignore[arg-type]
    say("PPO on the spot observation")
    figures.append(ppo_steps(3 if quick else 10))
    return figures


def _play(player: str, crystal: str, games: int, processes: int, target: Target | None = None) -> Score:
    return play_many(
        player,
        crystal,
        target=target,
        games=games,
        seed=1,
        tolerance_deg=TOLERANCE_DEG,
        processes=processes,
    )


def known(ours: Sequence[Score], floor: Sequence[Score], limited: Score | None = None) -> list[Figure]:
    """Success of games within reach and wrong declarations of all games.

    Every game whose target truly was within reach counts: give-ups and games that took too long are failures. Time and
    moves stand beside the Oracle's over the games that both got right.

    Parameters
    ----------
    ours, floor
        Scores of the player and of the Oracle, crystal by crystal, on the same starts.
    limited
        A score whose target many starts cannot reach: told in the settings, counted in no figure.
    """
    rows = []
    for score, oracle in zip(ours, floor, strict=True):
        best = oracle.row()
        rows.append(
            {
                **score.row(),
                "beyond_reach": score.beyond_reach(),
                "oracle": {k: best[k] for k in ("success", "out_of_reach")},
                "paired": paired([score], [oracle]),
            }
        )
    reached = [e.outcome == "right" for score in ours for e in score.within_reach]
    every = [e.outcome == "wrong" for score in ours for e in score.episodes]
    settings: dict[str, Any] = {
        "player": "IndexAndMove",
        "crystals": list(CRYSTALS),
        "instrument": "lab",
        "faults": "default",
        "within_deg": TOLERANCE_DEG,
        "games": len(every),
        "out_of_reach": len(every) - len(reached),
        "out_of_reach_counts": "not in success; a declaration there counts as wrong",
        "out_of_reach_ends": _added([score.beyond_reach() for score in ours]),
        "right_means": "declared within the tolerance, with an orientation within 0.5 deg (or 5 sigma) of the truth",
        "paired": paired(ours, floor),
        "rows": rows,
    }
    if limited is not None:
        settings["limited_reach"] = {
            "target": LIMITED_SAID,
            **limited.row(),
            "beyond_reach": limited.beyond_reach(),
        }
    floor_reached = [e.outcome == "right" for score in floor for e in score.within_reach]
    return [
        share(
            "success_known", reached, settings, Peer("Oracle (all-knowing)", float(np.mean(floor_reached)))
        ),
        share(
            "wrong_known", every, {k: settings[k] for k in ("player", "instrument", "faults", "within_deg")}
        ),
    ]


def paired(ours: Sequence[Score], floor: Sequence[Score]) -> dict[str, Any]:
    """Means of ours and of the Oracle's over the same games: those that both declared right; None if there are none."""
    both = [
        (mine, best)
        for score, oracle in zip(ours, floor, strict=True)
        for mine, best in zip(score.episodes, oracle.episodes, strict=True)
        if mine.outcome == best.outcome == "right"
    ]
    means: dict[str, Any] = {"games": len(both)}
    for k in ("seconds", "dose_s", "moves", "exposures"):
        means[f"mean_{k}"] = float(np.mean([getattr(mine, k) for mine, _ in both])) if both else None
        means[f"oracle_mean_{k}"] = float(np.mean([getattr(best, k) for _, best in both])) if both else None
    return means


def _added(counts: Sequence[dict[str, int]]) -> dict[str, int]:
    """Counts of the same names, added up."""
    return {k: sum(count[k] for count in counts) for k in counts[0]} if counts else {}


def looking_and_moving(n: int, width: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Actions (n, width): exposures of any length and moves of any size, half and half; none that ends a game."""
    actions = rng.uniform(-1.0, 1.0, (n, width)).astype(np.float32)
    actions[:, 0] = np.where(rng.random(n) < 0.5, -0.25, 0.25)
    return actions


def env_steps(name: str, kind: ObservationKind, envs: int, rounds: int) -> Figure:
    """Steps a second of the batched environment, observations and new games included."""
    env = LaueAlignVectorEnv(envs, observation=kind)
    env.reset(seed=1)
    rng = np.random.default_rng(1)
    width = env.single_action_space.shape[0]  # type: ignore[index]
    steps, speeds = 10, []
    for k in range(rounds + 1):
        actions = [looking_and_moving(envs, width, rng) for _ in range(steps)]
        spent = timed(lambda: [env.step(x) for x in actions])[1]  # noqa: B023  (called at once)
        if k > 0:  # the first compiles
            speeds.append(steps * envs / spent)
    env.close()
    settings = {
        "env": BATCHED,
        "crystal": "si",
        "instrument": "lab",
        "observation": kind,
        "num_envs": envs,
        "actions": "exposures and moves at random, half and half",
        "clock": CLOCK,
    }
    return median(name, speeds, "1/s", settings, n=rounds * steps * envs)


class _Stopwatch(BaseCallback):
    """Wall time at the end of each rollout, learning on the one before included."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def _on_rollout_start(self) -> None:
        self.times.append(time.perf_counter())

    def _on_step(self) -> bool:
        return True


def ppo_steps(rounds: int) -> Figure:
    """Environment steps a second of wall time while PPO of stable-baselines3 collects and learns."""
    envs, steps = 128, 64
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        env = LaueAlignVecEnv(envs, seed=1)
        model = PPO("MultiInputPolicy", env, n_steps=steps, batch_size=2048, n_epochs=4, seed=1, device="cpu")
        watch = _Stopwatch()
        model.learn((rounds + 2) * envs * steps, callback=watch)
        env.close()
    finally:
        torch.set_num_threads(before)
    speeds = [envs * steps / s for s in np.diff(watch.times)[1:]]
    return Figure(
        "ppo_steps_per_s",
        float(np.median(speeds)),
        "1/s",
        len(speeds) * envs * steps,
        quantile_interval(speeds),
        None,
        {
            "crystal": "si",
            "instrument": "lab",
            "observation": "spots",
            "env": BATCHED,
            "policy": "MultiInputPolicy; stable-baselines3's defaults but for n_steps, batch_size and n_epochs, as below",
            "num_envs": envs,
            "n_steps": steps,
            "batch_size": 2048,
            "n_epochs": 4,
            "threads": 2,
            "clock": "wall",
        },
    )
