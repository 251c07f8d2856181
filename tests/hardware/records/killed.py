"""Run as a program: aligns on a Twin, once for each message named, and is killed (SIGKILL) at that message.

``python killed.py FOLDER SEED MESSAGE...``: 0 is never. Each run is a fork of its own, with its records in FOLDER/MESSAGE.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np

from lauepilot.agents.index_and_move import IndexAndMove
from lauepilot.hardware.devices.twin import connect
from lauepilot.hardware.engine import run_engine
from lauepilot.hardware.plans.align import align_crystal
from lauepilot.hardware.records.local import LocalRecorder
from lauepilot.perception.observer import Observer
from lauepilot.perception.task import usual_target
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.instrument import load_instrument
from lauepilot.simulator.twin import Twin


def world(seed):
    """Twin, camera, goniometer and target, as parent and tests make them."""
    crystal, lab = load_crystal("si"), load_instrument("lab")
    twin = Twin(crystal, lab, rng=np.random.default_rng(seed))
    return twin, *connect(twin), usual_target()


def run(folder, seed, last, observer):
    twin, camera, goniometer, target = world(seed)
    told = []

    def watch(message):
        told.append(message.command)
        if len(told) == last:
            os.kill(os.getpid(), signal.SIGKILL)

    with run_engine(LocalRecorder(folder, twin.instrument)) as engine:
        engine.msg_hook = watch
        engine(align_crystal(camera, goniometer, IndexAndMove(), target, observer=observer))
    (folder / "messages").write_text("\n".join(told))


if __name__ == "__main__":
    root, number = Path(sys.argv[1]), int(sys.argv[2])
    eyes = Observer(load_crystal("si"), load_instrument("lab"))
    world(number)[0].expose(1.0)  # tables, once for all
    for message in map(int, sys.argv[3:]):
        (root / str(message)).mkdir(parents=True)
        child = os.fork()
        if child == 0:
            run(root / str(message), number, message, eyes)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(message, -os.WTERMSIG(status) if os.WIFSIGNALED(status) else status, flush=True)
