"""Draw the pictures of these pages anew: ``python docs/make_pictures.py``, in an environment with lauepilot.

The patterns are what our own commands leave behind, made small; the two diagrams are drawn from the public API.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from lauepilot.bench.precision_trials import Cell
from lauepilot.cli.calibrate import draw_residuals
from lauepilot.cli.grains import COLOURS, draw_grains, grains_of
from lauepilot.cli.index import index_file
from lauepilot.cli.overview import draw_overview
from lauepilot.cli.unknown import draw as draw_unknown
from lauepilot.cli.unknown import index_unknown
from lauepilot.perception.calibrate import calibrate
from lauepilot.perception.exchange.frames import TO_BEAM_X, TO_YOU, you_frame
from lauepilot.perception.files.readers import write_frame
from lauepilot.perception.indexing.indexer import Indexer
from lauepilot.perception.indexing.sphere import pixel_normals
from lauepilot.perception.judge import FLIPS
from lauepilot.perception.observation import SpotList
from lauepilot.perception.observer import USUAL_PRIOR
from lauepilot.perception.photons.indexer import PhotonIndexer
from lauepilot.pictures.greys import RESIDUAL, ZONE
from lauepilot.simulator.conventions import HC_KEV_A, random_rotation, rotation_matrix
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.faults import Faults
from lauepilot.simulator.instrument import load_instrument
from lauepilot.simulator.laue import RayTable, beam_spectrum, predict_spots
from lauepilot.simulator.orientation import misorientation
from lauepilot.simulator.twin import Twin

STATIC = Path(__file__).parent / "_static"
WIDTH_PX, MOST_BYTES = 880, 200_000
BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#777777"


def lauepilot(folder: Path, command: str) -> None:
    """Run one command of ours in ``folder``."""
    subprocess.run(
        [sys.executable, "-m", "lauepilot", *command.split()], cwd=folder, check=True, capture_output=True
    )


def palette(greys: int, more: tuple[str, ...] = ()) -> Image.Image:
    """Few greys, since noise is what fills a PNG, and the inks of the pictures, thinned as their edges are."""
    white = np.full(3, 255.0)
    colours = [white * (1.0 - share**1.5) for share in np.linspace(0.0, 1.0, greys)]
    for ink in (BLUE, ORANGE, "#a03000", ZONE, RESIDUAL):
        full = np.array([int(ink[k : k + 2], 16) for k in (1, 3, 5)])
        colours += [white + share * (full - white) for share in (0.3, 0.65, 1.0)]
    image = Image.new("P", (1, 1))
    image.putpalette(np.rint(colours).astype(np.uint8).ravel().tolist())
    return image


def keep(source: Path, name: str, greys: int = 8, more: tuple[str, ...] = ()) -> None:
    """Store a picture small, under ``_static``."""
    with Image.open(source) as image:
        rgb = image.convert("RGB")
        rgb.thumbnail((WIDTH_PX, 4 * WIDTH_PX), Image.Resampling.LANCZOS)
        target = STATIC / f"{name}.png"
        rgb.quantize(palette=palette(greys, more), dither=Image.Dither.NONE).save(target, optimize=True)
    size = target.stat().st_size
    print(f"{target}: {size / 1000:.0f} kB")
    if size > MOST_BYTES:
        raise SystemExit(f"{target} has {size} bytes; at most {MOST_BYTES} are wanted. Lower WIDTH_PX.")


def patterns(folder: Path) -> None:
    """First and last pattern of an alignment, an indexed frame, and a simulated one."""
    lauepilot(folder, "align --seed 1 --speed 0 --out align")
    keep(folder / "align/first_pattern.png", "align-first")
    keep(folder / "align/last_pattern.png", "align-last")
    lauepilot(folder, "simulate --crystal ge --instrument bm32 --seed 3 --faults default --out ge.tif")
    lauepilot(folder, "index ge.tif --crystal ge --instrument bm32 --out index")
    keep(folder / "index/pattern.png", "index-overlay", greys=32)
    lauepilot(folder, "simulate --crystal ca2ruo4 --instrument koala --seed 5 --out k.h5 --picture k.png")
    keep(folder / "k.png", "simulate-koala", greys=16)


def overview(folder: Path) -> None:
    """A pattern with zones, residuals and stereogram."""
    lauepilot(folder, "simulate --crystal quartz --instrument lab --seed 3 --faults default --out q.h5")
    indexed = index_file(folder / "q.h5", load_crystal("quartz"), load_instrument("lab"))
    draw_overview(indexed, folder / "overview.png")
    keep(folder / "overview.png", "overview", greys=16)


def rates(folder: Path) -> None:
    """The tube's spectrum, and what rays of silicon make of it over sin(theta)."""
    table = RayTable.build(load_crystal("si"), load_instrument("lab"))
    spectrum = beam_spectrum(table.instrument.beam)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.0, 3.4), layout="constrained")
    left.semilogy(spectrum.wavelength_a, spectrum.flux, color=BLUE, linewidth=1.0)
    left.set(xlabel="wavelength (Å)", ylabel="photons / s / mm² / Å", ylim=(1e5, 3e9), xlim=(0.3, 2.5))
    above = left.secondary_xaxis(
        "top", functions=(lambda x: HC_KEV_A / np.maximum(x, 0.05), lambda e: HC_KEV_A / np.maximum(e, 0.05))
    )
    above.set_xticks([35, 20, 15, 10, 8, 6, 5])
    above.tick_params(labelsize=7, pad=0)
    left.set_title("beam of lab: tungsten, 35 kV (keV above)", pad=16, fontsize=10)
    for hkl, colour in (((1, 1, 1), BLUE), ((1, 0, 0), ORANGE), ((1, 1, 0), GREY)):
        ray = int(np.flatnonzero(np.all(table.hkl == hkl, axis=1))[0])
        label = "".join(map(str, hkl))
        right.semilogy(table.sin_theta, table.rate[ray], color=colour, label=f"ray {label} and its harmonics")
    right.set(xlabel=r"$\sin\theta$", ylabel="photons / s in the spot")
    right.set_title("ray table of Si: 64 nodes", fontsize=10)
    right.legend(frameon=False, fontsize=8)
    figure.savefig(folder / "rates.png", dpi=130)
    keep(folder / "rates.png", "ray-rates")


def frame_about(axis: np.ndarray) -> np.ndarray:
    """Right-handed axes (3, 3), in rows, with ``axis`` as the last."""
    first = np.cross(axis, np.eye(3)[int(np.argmin(np.abs(axis)))])
    first /= np.linalg.norm(first)
    return np.stack([first, np.cross(axis, first), axis])


def turns(normals: np.ndarray, seed: np.ndarray, rays: np.ndarray, ray: np.ndarray) -> np.ndarray:
    """Turns (n,) in degrees about ``seed`` for which spots (m, 3) meet rays (k, 3), if ``seed`` is ``ray``."""
    spots, lattice = normals @ frame_about(seed).T, rays @ frame_about(ray).T
    near = np.abs(np.arccos(np.clip(spots[:, 2:], -1, 1)) - np.arccos(np.clip(lattice[:, 2], -1, 1))) < 0.003
    azimuths = [np.rad2deg(np.arctan2(v[:, 1], v[:, 0])) for v in (spots, lattice)]
    return (azimuths[0][:, None] - azimuths[1][None])[near] % 360.0


def vote(folder: Path) -> None:
    """The axis vote of one seed spot: for the right ray and for a wrong one."""
    rng = np.random.default_rng(2)
    table = RayTable.build(load_crystal("si"), load_instrument("lab"))
    detector = table.instrument.detector
    spots = predict_spots(table, random_rotation(rng), detector)
    seen = np.sort(rng.choice(80, 48, replace=False))  # of the brightest 80 two fifths are missed
    false = rng.uniform(0, 999, (48, 2))
    pixels = np.concatenate([spots.pixels[seen] + rng.normal(0, 0.5, (48, 2)), false])
    normals = pixel_normals(pixels, detector)
    figure, panels = plt.subplots(1, 2, figsize=(9.0, 3.0), sharey=True, layout="constrained")
    right = spots.ray[seen[0]]
    wrong = next(
        r for r in range(len(table)) if sorted(np.abs(table.hkl[r])) != sorted(np.abs(table.hkl[right]))
    )
    for panel, ray, colour, word in ((panels[0], right, BLUE, "right"), (panels[1], wrong, ORANGE, "wrong")):
        found = turns(normals[1:], normals[0], table.direction, table.direction[ray])
        panel.hist(found, bins=np.arange(0.0, 361.0, 1.0), color=colour)
        hkl = " ".join(str(int(i)) for i in table.hkl[ray])
        panel.set(xlabel="turn about the seed (degrees)", xlim=(0, 360))
        panel.set_title(f"the seed taken as {hkl} ({word})", fontsize=10)
    panels[0].set_ylabel("votes")
    figure.savefig(folder / "vote.png", dpi=130)
    keep(folder / "vote.png", "axis-vote")


def programs(folder: Path) -> None:
    """The frames of the programs that read orientations, seen obliquely along the beam."""
    horizontal = load_instrument("lab").goniometer
    frames = {
        "NeXus, lauepilot": np.eye(3),
        "diffcalc-core, SPEC:\nvertical plane (You 1999)": TO_YOU,
        "diffcalc-core, SPEC:\nhorizontal plane, as on lab": you_frame(horizontal).matrix,
        "hklpy2 (libhkl),\nLaueTools": TO_BEAM_X,
    }
    # Onto the page: left is left, up is up, the beam goes away.
    view = np.array([[-0.9, 0.0, 0.55], [0.0, 0.9, 0.38]])
    figure, panels = plt.subplots(1, len(frames), figsize=(9.0, 2.7), layout="constrained")
    for panel, (title, matrix) in zip(panels, frames.items(), strict=True):
        beam = view @ [0.0, 0.0, 1.0]
        panel.annotate(
            "", -0.15 * beam, -1.5 * beam, arrowprops={"arrowstyle": "-|>", "color": ORANGE, "lw": 2.0}
        )
        panel.text(*(-1.5 * beam - [0.0, 0.22]), "beam", color=ORANGE, fontsize=9, ha="center")
        for name, row in zip("xyz", matrix, strict=True):
            tip = view @ row
            panel.annotate("", tip, (0, 0), arrowprops={"arrowstyle": "-|>", "color": BLUE, "lw": 1.6})
            panel.text(*(1.2 * tip), name, color=BLUE, fontsize=11, ha="center", va="center")
        panel.set(xlim=(-1.3, 1.0), ylim=(-1.2, 1.25), aspect="equal")
        panel.set_title(title, fontsize=9)
        panel.axis("off")
    figure.savefig(folder / "programs.png", dpi=130, bbox_inches="tight")
    keep(folder / "programs.png", "program-frames")


def grains(folder: Path) -> None:
    """Three grains of silicon in one frame: 60, 25 and 10 s of one crystal each, added up."""
    crystal, instrument = load_crystal("si"), load_instrument("lab")
    shots = [
        Twin(crystal, instrument, rng=np.random.default_rng(s), faults=Faults.none()).expose(float(s))
        for s in (60, 25, 10)
    ]
    mixed = np.sum([shot.counts for shot in shots], axis=0).astype(np.uint32)
    write_frame(folder / "mixed.h5", replace(shots[0], counts=mixed, saturation=1e9), instrument)
    indexed = index_file(folder / "mixed.h5", crystal, instrument)
    draw_grains(indexed, grains_of(indexed, None), folder / "grains.png")
    keep(folder / "grains.png", "grains", greys=5, more=COLOURS)


def calibration(folder: Path) -> None:
    """Residuals of a simulated frame of germanium, with a drawing 10 mm, 100 px and 1 degree wrong and after calibration."""
    crystal, true = load_crystal("ge"), load_instrument("bm32")
    frame = Twin(crystal, true, rng=np.random.default_rng(3), faults=Faults.none()).expose(1.0)
    drawn = true.with_detector(true.detector.moved(-10.0, 100.0, -100.0, np.deg2rad(1.0), np.deg2rad(-1.0)))
    draw_residuals(calibrate(crystal, drawn, frame), folder / "residuals.png")
    keep(folder / "residuals.png", "calibration-residuals")


def mirrors(folder: Path) -> None:
    """Spots of germanium beside the beam, as they are, flipped across the beam and along it, with the best fit of each."""
    ix = Indexer(load_crystal("ge"), load_instrument("bm32"), USUAL_PRIOR)
    true = predict_spots(ix.table, random_rotation(np.random.default_rng(3)))
    rows, cols = ix.instrument.detector.shape
    figure, panels = plt.subplots(1, 3, figsize=(9.0, 3.5), sharey=True, layout="constrained")
    kinds = (
        ("as it came", None),
        ("flipped left to right", "left to right"),
        ("flipped top to bottom", "top to bottom"),
    )
    for panel, (title, flip) in zip(panels, kinds, strict=True):
        pixels = true.pixels if flip is None else FLIPS[flip](true.pixels, rows, cols)
        n = len(pixels)
        spots = SpotList(
            pixels,
            np.tile(0.04 * np.eye(2), (n, 1, 1)),
            true.rate_per_s,
            np.sqrt(true.rate_per_s),
            np.zeros(n, bool),
        )
        found = ix.index(spots)
        panel.scatter(pixels[:, 0], pixels[:, 1], s=30, facecolors="none", edgecolors=BLUE, linewidths=0.9)
        if found.confidence > 0.95 and found.refinement is not None:
            fitted = predict_spots(ix.table, found.refinement.u, found.refinement.detector).pixels
            panel.scatter(fitted[:, 0], fitted[:, 1], s=14, marker="x", color=ORANGE, linewidths=0.8)
        panel.set(xlim=(0, cols), ylim=(rows, 0), aspect="equal", xticks=[], yticks=[])
        panel.set_title(f"{title}: confidence {found.confidence:.2f}", fontsize=9)
    figure.savefig(folder / "mirrors.png", dpi=130)
    keep(folder / "mirrors.png", "mirrors")


def photon_cloud(folder: Path) -> None:
    """Forty photons of silicon over forty of background, and what the photon indexer makes of them."""
    rng = np.random.default_rng(9)
    indexer = PhotonIndexer(load_crystal("si"), load_instrument("lab"))
    crystal, detector = indexer.crystal, indexer.instrument.detector
    u = random_rotation(rng)
    spots = predict_spots(indexer.model.table, u)
    pixels = spots.pixels[rng.choice(len(spots), 40, p=spots.rate_per_s / spots.rate_per_s.sum())]
    pixels = np.concatenate([pixels + rng.normal(0.0, 2.2, pixels.shape), rng.uniform(0, 999, (40, 2))])
    pixels = pixels[detector.sees(pixels)]
    counts = np.zeros(detector.shape, dtype=int)
    np.add.at(counts, tuple(np.rint(pixels).astype(int).T[::-1]), 1)
    result = indexer.index(counts)
    if result.orientation is None:
        raise RuntimeError("The picture's frame was not indexed; draw another.")
    found = predict_spots(indexer.model.table, result.orientation.u)
    figure, (cloud, with_spots, stereo) = plt.subplots(1, 3, figsize=(10.5, 3.7), layout="constrained")
    for panel in (cloud, with_spots):
        panel.scatter(pixels[:, 0], pixels[:, 1], s=3, color="black")
        panel.set(xlim=(0, 999), ylim=(999, 0), aspect="equal", xticks=[], yticks=[])
    cloud.set_title(f"{len(pixels)} photons", fontsize=10)
    size = 900.0 * found.rate_per_s / found.rate_per_s.sum()
    with_spots.scatter(*found.pixels.T, s=size + 8.0, facecolors="none", edgecolors=ORANGE, linewidths=0.9)
    error = np.rad2deg(misorientation(result.orientation.u, u, crystal.symmetry))
    with_spots.set_title(f"found, {error:.2f} degrees off", fontsize=10)
    draws = rng.multivariate_normal(np.zeros(3), result.orientation.covariance, 60)
    axes = np.unique(np.rint(np.array(list(np.ndindex(3, 3, 3)), dtype=float) - 1.0), axis=0)
    for h in axes[np.abs(axes).sum(axis=1) > 0]:
        drawn = rotation_matrix(draws) @ result.orientation.u @ (h / np.linalg.norm(h))
        drawn = drawn[drawn[:, 2] < 0.0]
        stereo.scatter(*(drawn[:, :2] / (1.0 - drawn[:, 2:])).T, s=2, color=BLUE)
    stereo.add_patch(plt.Circle((0.0, 0.0), 1.0, fill=False, color=GREY))
    stereo.set(xlim=(-1.05, 1.05), ylim=(-1.05, 1.05), aspect="equal", xticks=[], yticks=[])
    stereo.set_title(f"posterior: {result.orientation.sigma_deg:.2f} degrees", fontsize=10)
    figure.savefig(folder / "photons.png", dpi=130)
    keep(folder / "photons.png", "photons")


def precision(folder: Path) -> None:
    """Error against photons of both ways to an orientation, with the bound: some minutes."""
    counts = (10.0, 31.6, 100.0, 316.0, 1e3, 1e4, 1e5)
    cell, rng = Cell("si"), np.random.default_rng(4)
    figure, panel = plt.subplots(figsize=(6.0, 3.6), layout="constrained")
    done = [t for c in counts for t in cell.trials(c, 1.0, 8, rng, {"photons": 8, "spots": 8 * (c > 200.0)})]
    bound = [np.rad2deg(np.sqrt(np.mean([t.bound2 for t in done if t.counts == c]))) for c in counts]
    panel.loglog(counts, bound, color=GREY, label="Cramér-Rao bound")
    for method, colour, mark in (("photons", BLUE, "o"), ("spots", ORANGE, "s")):
        errors = [
            [t.error2 for t in done if (t.method, t.counts, t.right) == (method, c, True)] for c in counts
        ]
        known = [(c, np.rad2deg(np.sqrt(np.mean(e)))) for c, e in zip(counts, errors, strict=True) if e]
        panel.loglog(*zip(*known, strict=True), mark, color=colour, markersize=5, label=method)
    panel.set(xlabel="photons in spots", ylabel="rms error (degrees)")
    panel.legend(frameon=False, fontsize=9)
    figure.savefig(folder / "precision.png", dpi=130)
    keep(folder / "precision.png", "precision")


def unknown(folder: Path) -> None:
    """A tetragonal crystal of unknown lattice: the frame, and the planes of the lattice that was found."""
    lauepilot(folder, "simulate --crystal lsco --instrument lab --seed 3 --out unknown.h5")
    found = index_unknown([folder / "unknown.h5"], load_instrument("lab"))
    draw_unknown(found, folder / "unknown.png")
    keep(folder / "unknown.png", "unknown-lattice")


def main() -> None:
    """All of them."""
    STATIC.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        for draw in (
            patterns,
            overview,
            rates,
            vote,
            programs,
            grains,
            calibration,
            mirrors,
            photon_cloud,
            precision,
            unknown,
        ):
            draw(Path(name))


if __name__ == "__main__":
    main()
