from __future__ import annotations

import csv
import json

import pytest

from lauepilot.cli.instrument import run_calibrate_instrument
from lauepilot.cli.output import Exit, UserError
from lauepilot.simulator.instrument import load_instrument


def test_from_the_terminal(tmp_path, capsys):
    out, records = tmp_path / "my.yaml", tmp_path / "records"
    code = run_calibrate_instrument(
        crystal="si", instrument="lab", out=out, faults="far", seed=3, frames=7, exposure_s=30.0, records=records,
        as_json=True,
    )  # fmt: skip
    assert code == Exit.DONE
    told = json.loads(capsys.readouterr().out)
    assert told["outcome"] == "calibrated"
    assert told["fit"]["rms_px"] < 0.3
    assert load_instrument(out).name == "lab-calibrated"
    assert {p.name for p in records.iterdir() if p.is_file()} == {
        "calibration.json",
        "frames.csv",
        "residuals.png",
    }
    rows = list(csv.DictReader((records / "frames.csv").read_text().splitlines()))
    assert len(rows) == 7
    assert all(float(r["after_px"]) < 0.3 < 5.0 < float(r["before_px"]) for r in rows)
    frames = list(records.rglob("frame_*.h5"))
    assert len(frames) == 7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"faults": "many"}, "--faults"),
        ({"prefix": "a:", "devices": "b.yaml"}, "not both"),
        ({"out": "nowhere/my.yaml"}, "no folder"),
    ],
)
def test_nonsense(tmp_path, monkeypatch, change, message):
    from pathlib import Path

    for name in ("EPICS_CA_ADDR_LIST", "EPICS_CA_AUTO_ADDR_LIST"):
        monkeypatch.setenv(name, "127.0.0.1" if name.endswith("ADDR_LIST") and "AUTO" not in name else "NO")
    given = {"crystal": "si", "instrument": "lab", "out": tmp_path / "my.yaml", **change}
    given["out"] = Path(given["out"])
    with pytest.raises(UserError, match=message):
        run_calibrate_instrument(**given)
