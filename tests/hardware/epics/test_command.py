"""``lauepilot ioc`` from the terminal, as another program sees it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

pytest.importorskip("caproto", reason="needs caproto: pip install lauepilot[epics]")

from lauepilot.cli.ioc import run_ioc
from lauepilot.cli.output import UserError
from lauepilot.hardware.epics.environment import port_for_server


def test_it_serves_until_it_is_told_to_end_and_keeps_places(client_of, tmp_path):
    file = tmp_path / "motors.json"
    environ = {
        k: v for k, v in os.environ.items() if not k.startswith("EPICS_CAS_")
    }  # as a client's terminal has it
    arguments = ["ioc", "--prefix=command:", "--speed=100", "--faults=none", f"--autosave={file}"]
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "lauepilot", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**environ, "EPICS_CA_SERVER_PORT": port_for_server(os.environ)},
    ) as process:
        try:
            said = []
            for line in process.stdout:
                said.append(line.strip())
                if said[-1] == "ready":
                    break
            assert said[-1:] == ["ready"], said
            assert any("EPICS_CA_SERVER_PORT" in line for line in said)
            client = client_of("command:")
            client.put("chi", 5.0)
            assert client.get("chi.RBV") == pytest.approx(5.0, abs=1e-3)
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()
    assert json.loads(file.read_text())["axes"]["chi"]["dial"] == pytest.approx(5.0)


def test_a_file_that_cannot_be_is_refused_in_words(client_of, tmp_path):
    file = tmp_path / "motors.json"
    file.write_text("not JSON")
    with pytest.raises(UserError, match="Name another file"):
        run_ioc(
            "si", "lab", prefix="refused:", seed=0, faults="none", speed=1.0, names_only=False, anywhere=False,
            autosave=file,
        )  # fmt: skip


def test_a_word_of_the_environment_that_lets_others_in_is_refused():
    environ = {k: v for k, v in os.environ.items() if not k.startswith("EPICS_")}
    done = subprocess.run(
        [sys.executable, "-m", "lauepilot", "ioc", "--faults=none"],
        env={**environ, "EPICS_CAS_INTF_ADDR_LIST": "192.0.2.1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "lets other machines move these motors" in done.stderr
