"""Whole conversions against peers, interleaved: medians of ratios in one run.

    python benchmarks/bench_run.py --imgtools /path/to/venv/bin/imgtools

dcm2niix is taken from the `bench` extra; med-imagetools needs an environment of its own (its pins differ from ours):
``python -m venv peer && peer/bin/pip install med-imagetools==2.16.0``. A peer that is missing is left out, and said so.
The inputs are made in ``--work``; results go to ``benchmarks/results/``, where ``--only`` renews what it runs.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import sys
import sysconfig
from collections.abc import Callable
from datetime import date
from pathlib import Path

import studies
from timing import Contestant, compare, describe_machine, print_table, run_in_turn

HERE = Path(__file__).parent
SCRIPTS = Path(sysconfig.get_path("scripts"))


def fresh(folder: Path) -> Callable[[], None]:
    """Return a function that empties a folder."""

    def prepare() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)

    return prepare


def nnunet_contest(work: Path, study: Path, imgtools: str | None, extra: list[str]) -> list[Contestant]:
    """CT + RTSTRUCT → image and label."""
    rois = study / "roi_patterns.yaml"
    ours, theirs = work / "ours", work / "theirs"
    common = ["-m", "CT,RTSTRUCT", "-ryaml", str(rois), "-ms", "sparse_mask", *extra]
    contest = [Contestant("gpuprep", [str(SCRIPTS / "gpuprep"), "nnunet", *common, str(study), str(ours)], fresh(ours))]
    if imgtools:
        index = work / "imgtools-index"
        command = [imgtools, "nnunet-pipeline", str(study), str(theirs), *common, "-j", "1"]
        command += ["--crawl-directory", str(index)]

        def prepare() -> None:
            fresh(theirs)()
            shutil.rmtree(index, ignore_errors=True)

        contest.append(Contestant("med-imagetools", command, prepare))
    return contest


def nifti_contest(work: Path, source: Path, series: int) -> list[Contestant]:
    """CT series → .nii.gz."""
    ours, theirs = work / "ours", work / "theirs"
    contest = [
        Contestant("gpuprep", [str(SCRIPTS / "gpuprep"), "nifti", str(source), str(ours)], fresh(ours)),
    ]
    dcm2niix = shutil.which("dcm2niix", path=str(SCRIPTS)) or shutil.which("dcm2niix")
    if dcm2niix:
        folders = sorted(p for p in source.rglob("CT") if p.is_dir())[:series]
        one = [dcm2niix, "-z", "i", "-b", "n", "-o", str(theirs)]
        command = [*one, str(folders[0])]
        if series > 1:
            joined = "\\0".join(map(str, folders))
            command = ["sh", "-c", f"printf '{joined}' | xargs -0 -P2 -I{{}} {' '.join(one)} -f %f_%p_%s_%j {{}}"]
        contest.append(Contestant("dcm2niix", command, fresh(theirs)))
    return contest


def import_contest() -> list[Contestant]:
    """`gpuprep --version` against importing NumPy."""
    return [
        Contestant("gpuprep", [str(SCRIPTS / "gpuprep"), "--version"], lambda: None),
        Contestant("import numpy", [sys.executable, "-c", "import numpy"], lambda: None),
    ]


def make_study(folder: Path, **sizes: int) -> Path:
    """Run `studies.make` in a process of its own: what this one held at its peak would count for every child."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(studies.make, (folder,), sizes)


def total_size(folder: Path) -> int:
    """Bytes of all .nii.gz below a folder."""
    return sum(p.stat().st_size for p in folder.rglob("*.nii.gz"))


def main() -> None:
    """Run the contests that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/bench"), help="folder for inputs and outputs")
    parser.add_argument("--imgtools", help="med-imagetools' command")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer-rounds", type=int, default=3, help="rounds of the contests that take minutes")
    parser.add_argument("--only", nargs="*", help="names of contests")
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
    contests = {
        "nnunet-20-rois": (lambda: nnunet_contest(work, large, args.imgtools, []), args.peer_rounds),
        "nnunet-20-rois-1mm": (
            lambda: nnunet_contest(work, large, args.imgtools, ["--spacing", "1,1,1"]),
            args.peer_rounds,
        ),
        "nnunet-10-rois": (lambda: nnunet_contest(work, phantom, args.imgtools, []), args.peer_rounds),
        "nifti-1-series": (lambda: nifti_contest(work, large, 1), args.rounds),
        "nifti-4-series": (lambda: nifti_contest(work, four, 4), args.rounds),
        "start": (import_contest, 4 * args.rounds),
    }
    path = HERE / "results" / f"run-{date.today().isoformat()}.json"
    result = {"date": date.today().isoformat(), "machine": describe_machine(), "contests": {}}
    if args.only and path.exists():
        result = json.loads(path.read_text())
    for name, (contest, rounds) in contests.items():
        if args.only and name not in args.only:
            continue
        contestants = contest()
        rows = compare(run_in_turn(contestants, rounds), "gpuprep")
        print_table(f"{name} ({rounds} rounds)", rows)
        if len(contestants) == 1:
            print("  the peer is not installed: left out")
        if name.startswith("nifti") and len(contestants) == 2:
            sizes = total_size(work / "ours"), total_size(work / "theirs")
            print(f"  files: ours {sizes[0] / 1e6:.2f} MB, theirs {sizes[1] / 1e6:.2f} MB")
        result["contests"][name] = rows
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\n{path}")


if __name__ == "__main__":
    main()
