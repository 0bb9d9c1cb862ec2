"""Whole conversions against peers, start of the programs included: wall and CPU time, and memory of the process tree.

    python benchmarks/bench_run.py --imgtools /path/to/venv/bin/imgtools

dcm2niix is taken from the `bench` extra; how to install med-imagetools is in ``peers/imgtools.py``. A peer that is
missing is left out, and said so. The inputs are made in ``--work``; ``--only`` renews what it runs in today's result.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import studies
from peers import dcm2niix, imgtools
from timing import OURS, Command, Report

GPUPREP = str(Path(sysconfig.get_path("scripts"), "gpuprep"))
#: Contest → what is demanded: quantity of the peer's row, and the least.
DEMANDS = {
    "nnunet-20-rois": {"cpu_s_ratio": 100, "peak_mb_ratio": 10},
    "nnunet-20-rois-1mm": {"cpu_s_ratio": 60},
    "nnunet-10-rois": {"cpu_s_ratio": 30},
    "nifti-1-series": {"wall_s_ratio": 3},
    "nifti-4-series": {"wall_s_ratio": 3},
    "start": {"wall_s_ratio": 1 / 1.5},
}
SIZE_AT_MOST = 1.05


def convert(command: str, options: list[str], study: Path, output: Path) -> Command:
    """A conversion by gpuprep into an empty folder."""

    def prepare() -> None:
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir(parents=True)

    return Command([GPUPREP, command, *options, str(study), str(output)], prepare)


def nnunet_contest(work: Path, study: Path, peer: str | None, *extra: str) -> dict[str, Command]:
    """CT + RTSTRUCT → image and label."""
    options = ["-m", "CT,RTSTRUCT", "-ryaml", str(study / "roi_patterns.yaml"), "-ms", "sparse_mask", *extra]
    contest = {OURS: convert("nnunet", options, study, work / "ours")}
    if peer:
        contest["med-imagetools"] = imgtools.convert_to_nnunet(peer, study, work, options)
    return contest


def nifti_contest(work: Path, source: Path, series: int) -> dict[str, Command]:
    """CT series → .nii.gz."""
    contest = {OURS: convert("nifti", [], source, work / "ours")}
    if peer := dcm2niix.find():
        folders = sorted(p for p in source.rglob("CT") if p.is_dir())[:series]
        contest["dcm2niix"] = dcm2niix.convert(peer, folders, work / "theirs")
    return contest


def start_contest() -> dict[str, Command]:
    """`gpuprep --version` against importing NumPy."""
    return {OURS: Command([GPUPREP, "--version"]), "import numpy": Command([sys.executable, "-c", "import numpy"])}


def make_study(folder: Path, **sizes: int) -> Path:
    """Run `studies.make` in a process of its own: what this one held at its peak would count for every child."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(studies.make, (folder,), sizes)


def total_size(folder: Path) -> int:
    """Bytes of all .nii.gz below a folder."""
    return sum(p.stat().st_size for p in folder.rglob("*.nii.gz"))


def main() -> int:
    """Run the contests that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/bench"), help="folder for inputs and outputs")
    parser.add_argument("--imgtools", help="med-imagetools' command")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer-rounds", type=int, default=3, help="rounds of the contests that take minutes")
    parser.add_argument("--only", nargs="*", choices=list(DEMANDS), default=list(DEMANDS), metavar="NAME")
    args = parser.parse_args()
    work = args.work.resolve()
    large, phantom, four = (
        make_study(work / name, **sizes)
        for name, sizes in (
            ("large", {"patients": 1, "slices": 200, "rois": 20, "vertices": 150, "radius_px": studies.LARGE_PX}),
            ("phantom", {"patients": 1, "slices": 150, "rois": 10, "vertices": 100, "radius_px": studies.SMALL_PX}),
            ("four", {"patients": 4, "slices": 200, "rois": 1, "vertices": 100, "radius_px": studies.SMALL_PX}),
        )
    )
    contests: dict[str, tuple[Callable[[], dict[str, Command]], int]] = {
        "nnunet-20-rois": (lambda: nnunet_contest(work, large, args.imgtools), args.peer_rounds),
        "nnunet-20-rois-1mm": (
            lambda: nnunet_contest(work, large, args.imgtools, "--spacing", "1,1,1"),
            args.peer_rounds,
        ),
        "nnunet-10-rois": (lambda: nnunet_contest(work, phantom, args.imgtools), args.peer_rounds),
        "nifti-1-series": (lambda: nifti_contest(work, large, 1), args.rounds),
        "nifti-4-series": (lambda: nifti_contest(work, four, 4), args.rounds),
        "start": (start_contest, 4 * args.rounds),
    }
    report = Report("run", renewing=len(args.only) < len(DEMANDS))
    for name in args.only:
        make, rounds = contests[name]
        contestants = make()
        rows = report.contest(name, contestants, rounds)
        if len(rows) == 1:
            print("  the peer is not installed: left out")
            continue
        (theirs,) = (row for contestant, row in rows.items() if contestant != OURS)
        for quantity, least in DEMANDS[name].items():
            report.demand(f"{name}, {quantity}", theirs[quantity], at_least=least)
        if name.startswith("nifti"):
            sizes = total_size(work / "ours") / total_size(work / "theirs")
            report.demand(f"{name}, size of the files", sizes, at_most=SIZE_AT_MOST)
    return report.close()


if __name__ == "__main__":
    sys.exit(main())
