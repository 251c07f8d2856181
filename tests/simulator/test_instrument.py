"""Instrument files: those shipped, and messages that name file, key, value and what is allowed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from lauepilot.simulator.instrument import (
    InstrumentError,
    instrument_names,
    load_instrument,
    parse_instrument,
)
from lauepilot.simulator.laue import beam_spectrum

LAB = """
name: mine
title: Mine
exposure_s: 10
beam:
  radiation: xray
  spectrum: {kind: tungsten_tube, kv: 35, current_ma: 10, distance_mm: 500, filtration_mm: {Be: 0.5}}
  size_mm: [0.5, 0.5]
detectors:
  - kind: flat
    shape: [100, 120]
    pixel_mm: [1, 1]
    distance_mm: 40
    centre_px: [59.5, 49.5]
    normal: [0, 0, -1]
    col_direction: [1, 0, 0]
    row_direction: [0, -1, 0]
goniometer:
  - {name: phi, direction: [0, 1, 0], limits: [-90, 90], speed: 5}
"""


@pytest.mark.parametrize("name", instrument_names())
def test_shipped_instruments_are_sound(name: str) -> None:
    instrument = load_instrument(name)
    assert instrument.name == name
    assert instrument.source
    for detector in instrument.detectors:
        np.testing.assert_allclose(detector.rotation.T @ detector.rotation, np.eye(3), atol=1e-9)
        assert detector.mask().mean() > 0.5
    spectrum = beam_spectrum(instrument.beam)
    assert spectrum.radiation == instrument.beam.radiation
    assert spectrum.total() > 0
    assert len(instrument.goniometer.rotations) >= 1


def test_the_five_that_were_promised() -> None:
    assert {"lab", "lab-toronto", "bm32", "aps34", "koala"} <= set(instrument_names())


def test_own_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(LAB)
    mine = load_instrument(path)
    assert mine.detector.shape == (100, 120)
    assert mine.with_detector(mine.detector.moved(distance_mm=1.0)).detector.distance_mm == 41.0
    assert mine.detector.distance_mm == 40.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("exposure_s", -1), r"exposure_s: Input should be greater than 0; got -1"),
        (("exposur_s", 1), r"exposur_s: Extra inputs are not permitted; got 1"),
        (
            ("detectors.0.kind", "sphere"),
            r"detectors\.0\.kind: Input should be 'flat' or 'cylinder'; got 'sphere'",
        ),
        (("detectors.0.shape", [100]), r"detectors\.0\.shape"),
        (("detectors.0.normal", [0, 1, -1]), r"detectors\.0: .*right angles"),
        (("detectors.0.normal", [0, 0, 0]), r"detectors\.0: .*must not be \(0, 0, 0\)"),
        (("detectors.0.distance_mm", float("nan")), r"detectors\.0\.distance_mm: .*finite"),
        (("beam.polarisation", 3), r"beam\.polarisation: .*less than or equal to 1; got 3"),
        (("goniometer.0.limits", [9, -9]), r"goniometer\.0: .*low < high"),
        (("goniometer.0.speed", 0), r"goniometer\.0\.speed: .*greater than 0; got 0"),
    ],
)
def test_wrong_values(change: tuple[str, object], message: str) -> None:
    content = yaml.safe_load(LAB)
    *path, last = change[0].split(".")
    place = content
    for part in path:
        place = place[int(part)] if part.isdigit() else place[part]
    place[last] = change[1]
    with pytest.raises(InstrumentError, match=rf"mine\.yaml is not a valid instrument:\n  {message}"):
        parse_instrument(yaml.safe_dump(content), "mine.yaml")


def test_missing_and_unreadable(tmp_path: Path) -> None:
    with pytest.raises(InstrumentError, match="exposure_s: Field required; got nothing"):
        parse_instrument(LAB.replace("exposure_s: 10", ""), "mine.yaml")
    with pytest.raises(InstrumentError, match="Did you mean 'bm32'"):
        load_instrument("bm23")
    with pytest.raises(InstrumentError, match=r"No instrument file .*gone\.yaml"):
        load_instrument(tmp_path / "gone.yaml")
    with pytest.raises(InstrumentError, match="is not YAML"):
        parse_instrument("a: [", "x.yaml")
    with pytest.raises(InstrumentError, match="it holds list"):
        parse_instrument("[1, 2]", "x.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(InstrumentError, match="not a text file"):
        load_instrument(tmp_path / "b.yaml")


def test_a_wrong_member_of_a_list_is_one_error() -> None:
    """The true one alone: that no good detector or axis is left over follows from it."""
    for wrong, key in (("distance_mm: -1", "detectors.0.distance_mm"), ("speed: 0", "goniometer.0.speed")):
        right = {"distance_mm: -1": "distance_mm: 40", "speed: 0": "speed: 5"}[wrong]
        with pytest.raises(InstrumentError) as caught:
            parse_instrument(LAB.replace(right, wrong), "mine.yaml")
        lines = str(caught.value).splitlines()
        assert len(lines) == 2
        assert lines[1].startswith(f"  {key}: Input should be greater than 0")
    content = yaml.safe_load(LAB) | {"goniometer": []}
    with pytest.raises(InstrumentError, match=r"goniometer: Tuple should have at least 1 item.*; got \[\]"):
        parse_instrument(yaml.safe_dump(content), "mine.yaml")


@pytest.mark.parametrize(
    ("spectrum", "message"),
    [
        ("{kind: laser}", r"kind: Input should be one of tungsten_tube, .*, csv; got 'laser'"),
        ("{kv: 35}", r"kind: Input should be one of tungsten_tube.*; got nothing"),
        ("{kind: [1]}", r"kind: Input should be one of tungsten_tube.*; got \[1\]"),
        (
            "{kind: maxwellian, temperature_k: 300, total_flux: 1, wavelength_min_a: 1}",
            r"wavelength_max_a: Field required; maxwellian takes temperature_k, .*wavelength_max_a; got nothing",
        ),
        (
            "{kind: bending_magnet, critical_energy_kev: 19, flux_peak: 1, energy_range: [5, 23]}",
            r"energy_range: Extra inputs are not permitted; bending_magnet takes .*energy_range_kev.*; got \[5, 23\]",
        ),
        (
            "{kind: bending_magnet, critical_energy_kev: many, flux_peak: 1}",
            r"critical_energy_kev: Input should be a valid number; got 'many'",
        ),
        (
            "{kind: bending_magnet, critical_energy_kev: 19, flux_peak: '1', energy_range_kev: [5]}",
            r"flux_peak: Input should be a valid number; got '1'\n  beam\.spectrum\.energy_range_kev\.1: Field required",
        ),
        (
            "{kind: tungsten_tube, kv: 35, current_ma: .nan, distance_mm: 500, filtration_mm: {Be: thin}}",
            r"filtration_mm\.Be: Input should be a valid number; got 'thin'\n  beam\.spectrum\.current_ma: .*finite",
        ),
        (
            "{kind: tabulated, flux: 1, energy_kev: [1, 2]}",
            r"flux: Input should be a valid (list|array); got 1",
        ),
        ("{kind: csv, path: 3}", r"path: Input should be a valid string; got 3"),
    ],
)
def test_spectra_are_checked_when_the_file_is_read(
    spectrum: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """File, key, what is allowed and what came, and no spectrum is computed for it."""
    content = yaml.safe_load(LAB)
    content["beam"]["spectrum"] = yaml.safe_load(spectrum)
    monkeypatch.setattr("lauepilot.simulator.spectra.Spectrum", None)
    head = r"mine\.yaml is not a valid instrument:\n  beam\.spectrum\."
    with pytest.raises(InstrumentError, match=head + message):
        parse_instrument(yaml.safe_dump(content), "mine.yaml")


def test_all_spectra_can_be_written_as_yaml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lauepilot.simulator.spectra.Spectrum", None)
    for spectrum in (
        {"kind": "tabulated", "flux": [1, 2.5], "energy_kev": [8, 9], "radiation": "xray"},
        {"kind": "csv", "path": "flux.csv", "radiation": "neutron"},
        {"kind": "bending_magnet", "critical_energy_kev": 19, "flux_peak": 1e12, "energy_range_kev": [5, 23]},
        {
            "kind": "maxwellian",
            "temperature_k": 300,
            "total_flux": 1,
            "wavelength_min_a": 1,
            "wavelength_max_a": 2,
        },
    ):
        content = yaml.safe_load(LAB)
        content["beam"]["spectrum"] = spectrum
        assert parse_instrument(yaml.safe_dump(content)).beam.spectrum == spectrum


def test_spectra_that_do_not_fit() -> None:
    beam = parse_instrument(LAB).beam
    with pytest.raises(
        InstrumentError, match=r"beam\.spectrum\.kind: got 'laser'; allowed are tungsten_tube"
    ):
        beam_spectrum(replace(beam, spectrum={"kind": "laser"}))
    with pytest.raises(InstrumentError, match="is for xray, the beam is neutron"):
        beam_spectrum(parse_instrument(LAB.replace("radiation: xray", "radiation: neutron")).beam)
    with pytest.raises(InstrumentError, match=r"beam\.spectrum \(tungsten_tube\): .*volts"):
        beam_spectrum(replace(beam, spectrum={"kind": "tungsten_tube", "volts": 35}))


def test_axis_names_differ() -> None:
    twice = LAB + "  - {name: phi, direction: [1, 0, 0], limits: [-90, 90], speed: 5}\n"
    with pytest.raises(InstrumentError, match="axis names must differ; got phi, phi"):
        parse_instrument(twice, "mine.yaml")
