"""LaueTools files against the angles, positions and energies that LaueTools itself wrote into them."""

from __future__ import annotations

import importlib
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lauepilot.perception.files.lauetools import (
    FROM_LAUETOOLS,
    LaueToolsError,
    LaueToolsGeometry,
    azimuth_rad,
    read_cor,
    read_dat,
    read_det,
    read_fit,
    scattering_angles,
)
from lauepilot.simulator.conventions import HC_KEV_A, axis_rotation
from lauepilot.simulator.instrument import load_instrument

FITS = {
    "3C-SiC_img_10066": (41, 0.245, 4.3596),
    "Ge0001": (83, 0.579, 5.431),
    "Ge_blanc_0000_LT_5": (95, 0.191, 5.6575),
}


@pytest.mark.parametrize("name", FITS)
def test_fit_geometry_gives_the_files_angles(name: str, shared_data: Path) -> None:
    fit = read_fit(shared_data / "laue" / f"{name}.fit")
    assert fit.geometry is not None
    detector = fit.geometry.to_detector()
    two_theta, chi = scattering_angles(detector, fit.predicted_px)
    assert np.abs(np.rad2deg(two_theta) - fit.two_theta_deg).max() < 1e-3
    assert np.abs(np.rad2deg(chi) - fit.chi_deg).max() < 1e-3
    if "2theta_exp" in fit.columns:
        two_theta, chi = scattering_angles(detector, fit.pixels)
        assert np.abs(np.rad2deg(two_theta) - fit.columns["2theta_exp"]).max() < 1e-5
        assert np.abs(np.rad2deg(chi) - fit.columns["chi_exp"]).max() < 1e-5


@pytest.mark.parametrize("name", FITS)
def test_fit_orientation_gives_the_files_positions_and_energies(name: str, shared_data: Path) -> None:
    n, mean, _ = FITS[name]
    fit = read_fit(shared_data / "laue" / f"{name}.fit")
    assert fit.geometry is not None
    assert len(fit.hkl) == n
    q = fit.hkl @ fit.ub.T
    # |k + q| = |k| with k along +z (Laue).
    k = -(q**2).sum(axis=1) / (2.0 * q[:, 2])
    pixels = fit.geometry.to_detector().rays_to_pixels(q + k[:, None] * np.array([0.0, 0.0, 1.0]))
    # The pose in these files has three decimals of a pixel and of a degree: 0.013 px at the frame's corner.
    assert np.abs(pixels - fit.predicted_px).max() < 0.015
    deviation = np.linalg.norm(pixels - fit.pixels, axis=1)
    assert np.abs(deviation - fit.residual_px).max() < 0.015
    assert deviation.mean() == pytest.approx(mean, abs=1e-3)
    np.testing.assert_allclose(HC_KEV_A * k / (2 * np.pi), fit.energy_kev, rtol=2e-4)


@pytest.mark.parametrize("name", FITS)
def test_fit_splits_into_rotation_and_cell(name: str, shared_data: Path) -> None:
    fit = read_fit(shared_data / "laue" / f"{name}.fit")
    np.testing.assert_allclose(fit.u_lab @ fit.u_lab.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(fit.u_lab) == pytest.approx(1.0)
    np.testing.assert_allclose(fit.u_lab @ fit.b, fit.ub, atol=1e-12)
    np.testing.assert_allclose(2 * np.pi * np.linalg.inv(fit.b)[0, 0], FITS[name][2], rtol=1e-3)


@pytest.mark.parametrize(("name", "n"), [("Ge0001", 83), ("Ge_blanc_0000_LT_5", 97)])
def test_lists(name: str, n: int, shared_data: Path) -> None:
    dat, cor = read_dat(shared_data / "laue" / f"{name}.dat"), read_cor(shared_data / "laue" / f"{name}.cor")
    assert len(dat.pixels) == len(cor.pixels) == n
    np.testing.assert_allclose(dat.pixels, cor.pixels)
    assert dat.geometry is None
    assert cor.geometry is not None
    two_theta, chi = scattering_angles(cor.geometry.to_detector(), cor.pixels)
    np.testing.assert_allclose(np.rad2deg(two_theta), cor.two_theta_deg, atol=1e-5)
    np.testing.assert_allclose(np.rad2deg(chi), cor.chi_deg, atol=1e-5)
    spots = dat.spot_list(sigma_px=0.3)
    assert len(spots) == n
    assert np.all(np.diff(spots.counts) <= 0)
    np.testing.assert_allclose(spots.covariance_px2[0], np.eye(2) * 0.09)


def test_det(shared_data: Path) -> None:
    geometry = read_det(shared_data / "laue" / "calibGe111.det")
    assert geometry == LaueToolsGeometry(70.775, 941.74, 1082.56, 0.63, -0.682, 0.079142, (2048, 2048))


@given(st.floats(-5, 5), st.floats(-180, 180), st.floats(40, 400), st.floats(-500, 2500))
def test_geometry_goes_there_and_back(xbet: float, xgam: float, distance: float, centre: float) -> None:
    there = LaueToolsGeometry(distance, centre, 1000.0, xbet, xgam, 0.08, (2048, 2048))
    back = LaueToolsGeometry.from_detector(there.to_detector())
    assert back.xbet_deg == pytest.approx(xbet, abs=1e-9)
    assert np.cos(np.deg2rad(back.xgam_deg - xgam)) == pytest.approx(1.0)
    assert replace(back, xbet_deg=xbet, xgam_deg=xgam) == there


def test_untilted_detector_is_the_shipped_bm32() -> None:
    shipped = load_instrument("bm32").detector
    geometry = LaueToolsGeometry.from_detector(shipped)
    assert (geometry.xbet_deg, geometry.xgam_deg) == pytest.approx((0.0, 0.0))
    np.testing.assert_allclose(geometry.to_detector().rotation, shipped.rotation, atol=1e-12)


def test_turn_about_the_beam_is_told_and_can_be_taken_out() -> None:
    detector = LaueToolsGeometry(70.0, 1000.0, 1100.0, 0.4, -0.3, 0.08, (2048, 2048)).to_detector()
    turned = replace(detector, rotation=axis_rotation([0, 0, 1], 0.02) @ detector.rotation)
    assert azimuth_rad(turned) == pytest.approx(0.02)
    with pytest.raises(LaueToolsError, match="azimuth_rad"):
        LaueToolsGeometry.from_detector(turned)
    straight = replace(turned, rotation=axis_rotation([0, 0, 1], -azimuth_rad(turned)) @ turned.rotation)
    assert LaueToolsGeometry.from_detector(straight).xbet_deg == pytest.approx(0.4)


@pytest.mark.parametrize("change", ["mirror", "below", "cylinder", "oblong"])
def test_foreign_detectors_are_refused(change: str) -> None:
    detector = LaueToolsGeometry(70.0, 1000.0, 1100.0, 0.0, 0.0, 0.08, (2048, 2048)).to_detector()
    changed = {
        "mirror": replace(detector, rotation=detector.rotation * np.array([-1.0, 1.0, 1.0])),
        "below": replace(detector, rotation=axis_rotation([0, 0, 1], np.pi) @ detector.rotation),
        "cylinder": replace(detector, kind="cylinder"),
        "oblong": replace(detector, pixel_mm=(0.08, 0.09)),
    }[change]
    with pytest.raises(LaueToolsError, match="LaueTools"):
        LaueToolsGeometry.from_detector(changed)


def test_messages(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.fit"):
        read_fit(tmp_path / "gone.fit")
    (tmp_path / "a.fit").write_text("#nothing\n")
    with pytest.raises(LaueToolsError, match="spot_index"):
        read_fit(tmp_path / "a.fit")
    (tmp_path / "a.cor").write_text("2theta chi X Y I\n90 0 1 2 3\n91 0 1\n")
    with pytest.raises(LaueToolsError, match="spot 2 has 3 numbers"):
        read_cor(tmp_path / "a.cor")
    for number in ("nan", "inf"):
        (tmp_path / "n.dat").write_text(f"peak_X peak_Y peak_Isub\n1 2 3\n4 5 {number}\n")
        with pytest.raises(LaueToolsError, match=r"n\.dat: spot 2 has peak_Isub that are NaN"):
            read_dat(tmp_path / "n.dat")
    (tmp_path / "a.dat").write_text("peak_X peak_Y\n1 2\n")
    with pytest.raises(LaueToolsError, match="peak_Isub"):
        read_dat(tmp_path / "a.dat")
    (tmp_path / "a.det").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LaueToolsError, match="text"):
        read_det(tmp_path / "a.det")
    (tmp_path / "b.det").write_text("70, 1, 2, 0, 0, 0.08, 10, 10\n# kf_direction : X<0\n")
    with pytest.raises(LaueToolsError, match="X<0"):
        read_det(tmp_path / "b.det")
    with pytest.raises(LaueToolsError, match="shape"):
        LaueToolsGeometry(70.0, 1.0, 2.0, 0.0, 0.0, 0.05).to_detector()


def test_lauetools_itself_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own functions, where it is installed (pip install --no-deps lauetools)."""
    # A name of old numpy that LaueTools 3.2 still imports from.
    monkeypatch.setattr(np.linalg, "linalg", np.linalg, raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            theirs = importlib.import_module("LaueTools.LaueGeometry")
            crystal = importlib.import_module("LaueTools.CrystalParameters")
        except Exception as error:
            pytest.skip(f"LaueTools does not import here: {error}")
        pose = [70.3, 1010.0, 1090.0, 0.7, -1.9]
        pixels = np.random.default_rng(1).uniform(0, 2000, size=(50, 2))
        two_theta, chi = theirs.calc_uflab(pixels[:, 0], pixels[:, 1], pose, pixelsize=0.08)
        b0 = crystal.calc_B_RR([5.1, 6.2, 9.3, 81.0, 97.0, 112.0])
    detector = LaueToolsGeometry(*pose, 0.08, (2048, 2048)).to_detector()
    ours = np.rad2deg(scattering_angles(detector, pixels))
    np.testing.assert_allclose(ours, [two_theta, chi], atol=1e-9)
    # B0 is Busing and Levy's: upper triangular, positive diagonal.
    assert np.allclose(b0, np.triu(b0))
    assert np.all(np.diag(b0) > 0)
    assert np.linalg.det(FROM_LAUETOOLS) == pytest.approx(1.0)
