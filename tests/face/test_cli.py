from __future__ import annotations

import subprocess
import sys

import pytest

import lauepilot as package
from lauepilot.cli.options import with_value
from lauepilot.simulator.crystal import zoo_names
from lauepilot.simulator.instrument import instrument_names
from lauepilot.simulator.target_text import parse_target


def test_version(lauepilot):
    result = lauepilot("--version")
    assert result.exit_code == 0
    assert result.stdout.strip() == f"lauepilot {package.__version__}"


def test_help_is_fast_and_tells_the_exit_codes(tmp_path):
    # Imports are what takes time.
    code = (
        "import sys\nfrom lauepilot.cli import main\nsys.argv = ['lauepilot', '--help']\n"
        "try:\n    main()\nfinally:\n    heavy = {'numpy', 'scipy', 'numba', 'torch', 'matplotlib', 'bluesky', 'tiled'}\n"
        "    print('HEAVY', sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert "HEAVY []" in done.stdout
    assert "Exit codes" in done.stdout
    for command in ("align", "index", "simulate", "bench", "crystals", "instruments"):
        assert command in done.stdout


@pytest.mark.parametrize("command", ["align", "index", "simulate", "bench", "crystals", "instruments"])
def test_help_of_each_command_tells_the_exit_codes(lauepilot, command):
    result = lauepilot(command, "--help")
    assert result.exit_code == 0
    assert "Exit codes: 0 done" in " ".join(result.stdout.split())


@pytest.mark.parametrize("command", ["align", "index", "simulate"])
def test_no_command_loads_torch(command, tmp_path):
    arguments = {
        "align": ["--seed", "1", "--speed", "0", "--out", "run"],
        "index": ["f.npy", "--crystal", "si", "--instrument", "lab"],
        "simulate": ["--out", "f.npy", "--exposure", "1"],
    }[command]
    code = (
        f"import sys\nfrom lauepilot.cli import main\nsys.argv = {['lauepilot', command, *arguments]!r}\n"
        "try:\n    main()\nfinally:\n    print('TORCH', 'torch' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=False, cwd=tmp_path
    )
    assert "TORCH False" in done.stdout
    if command == "align":  # in a process of its own
        assert (done.returncode, done.stderr) == (0, "")
        assert (tmp_path / "run" / "summary.json").is_file()


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ([], []),
        (["--tiled"], ["--tiled", "there"]),
        (["--tiled", "--json"], ["--tiled", "there", "--json"]),
        (["--tiled", "here"], ["--tiled", "here"]),
    ],
)
def test_an_option_may_stand_without_its_value_and_a_command_without_any(given, wanted):
    assert with_value(given, "--tiled", "there") == wanted


def test_lists(lauepilot_json, lauepilot):
    crystals, code = lauepilot_json("crystals")
    assert code == 0
    assert {row["name"] for row in crystals["crystals"]} == set(zoo_names())
    formulae = {row["name"]: row["formula"] for row in crystals["crystals"]}
    assert (formulae["nacl"], formulae["sapphire"], formulae["lsco"]) == ("NaCl", "Al2O3", "La1.88Sr0.12CuO4")
    instruments, _ = lauepilot_json("instruments")
    assert {row["name"] for row in instruments["instruments"]} == set(instrument_names())
    assert "quartz" in lauepilot("crystals").stdout
    assert "bm32" in lauepilot("instruments").stdout


def test_unknown_benchmark(lauepilot_json):
    found, code = lauepilot_json("bench", "everything")
    assert code == 2
    assert "simulator" in found["error"]


def test_a_reader_that_leaves_early_is_no_error(tmp_path):
    command = f"{sys.executable} -m lauepilot crystals | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.splitlines()[-1] == "0"
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("text", "primary", "secondary"),
    [
        ("[0 0 1] beam", ("uvw", (0, 0, 1), (0, 0, 1)), None),
        ("(1 -1 0) up; [001] beam", ("hkl", (1, -1, 0), (0, 1, 0)), ("uvw", (0, 0, 1), (0, 0, 1))),
        ("[1-10] -beam, (0,0,12) 1 0 -1", ("uvw", (1, -1, 0), (0, 0, -1)), ("hkl", (0, 0, 12), (1, 0, -1))),
    ],
)
def test_targets(text, primary, secondary):
    target = parse_target(text)
    assert (target.primary.kind, target.primary.indices, target.primary.direction) == primary
    if secondary is None:
        assert target.secondary is None
    else:
        assert target.secondary is not None
        assert (target.secondary.kind, target.secondary.indices, target.secondary.direction) == secondary


@pytest.mark.parametrize("text", ["[nan 0 1] beam", "[0 0 inf] beam", "[0 0 1] 0 0 nan", "[0 0 1] 1 -inf 0"])
def test_targets_are_finite(text):
    with pytest.raises(ValueError, match="finite"):
        parse_target(text)
