"""Run as a program in a mount namespace of its own: an alignment whose records lie on a disk of a few hundred kB."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from conftest import FakeBackend, FakeObserver, ScriptedAgent

from lauepilot.hardware.devices.twin import connect
from lauepilot.hardware.engine import run_engine
from lauepilot.hardware.errors import RecordError
from lauepilot.hardware.plans.align import align_crystal
from lauepilot.hardware.records import local
from lauepilot.hardware.records.documents import read_record
from lauepilot.perception.files.readers import read_frame
from lauepilot.perception.observation import Expose
from lauepilot.simulator.target import Alignment, Target

if __name__ == "__main__":
    disk = Path(sys.argv[1])
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={local.RESERVE + 200_000}", "none", str(disk)], check=True
    )
    backend = FakeBackend()
    camera, goniometer = connect(backend)
    recorder = local.LocalRecorder(disk, backend.instrument)
    target = Target(Alignment("uvw", (0, 0, 1), (0, 0, 1)))
    plan = align_crystal(
        camera,
        goniometer,
        ScriptedAgent(*[Expose(1.0)] * 500),
        target,
        observer=FakeObserver(backend),
        max_steps=500,
    )
    with run_engine(recorder) as engine:
        try:
            engine(plan)
        except RecordError as error:
            print(error)
    record = read_record(recorder.path)
    assert record.stop["exit_status"] == "fail", record.stop
    assert "No space left" in record.stop["reason"]
    assert (recorder.path / "run.json").stat().st_size > 100
    frames = sorted((recorder.path / "frames").iterdir())
    pointers = record.streams["primary"].columns["camera_image"]
    assert len(frames) >= len(pointers) > 3
    assert all(np.any(read_frame(recorder.path / pointer["file"]).counts) for pointer in pointers)
    assert not goniometer.busy
    assert not camera.busy
    print("whole")
