"""The end of a run, for people and for programs."""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from gpuprep.report.table import printable
from gpuprep.run.ledger import CaseRow, FileProblem
from gpuprep.writers.atomic import writing_text

_CSV_COLUMNS = ("case", "patient", "status", "code", "stage", "subject", "message", "hint", "decoder", "backend",
                "input_bytes", "seconds", "labels", "unmatched_rois", "warnings", "outputs")  # fmt: skip


def format_summary(rows: Sequence[CaseRow], problems: Sequence[FileProblem], unlabelled: int) -> str:
    """Return the table that ends a run: how many cases are done, which failed by code, which files were unusable."""
    done = sum(row.status == "done" for row in rows)
    failed = [row for row in rows if row.status == "failed"]
    lines = [f"{done} of {len(rows)} cases done"]
    if not rows:
        lines.append(
            "nothing here to convert; gpuprep show SOURCE tells which series there are and what belongs together"
        )
    for code, count in sorted(Counter(row.code for row in failed).items(), key=lambda item: (-item[1], item[0])):
        example = next(row for row in failed if row.code == code)
        lines.append(f"  failed {count:5d}  {code:24s} e.g. {example.case}: {describe_failure(example)}")
        if example.hint:
            lines.append(f"{'':15s}hint: {example.hint}")
    warned = [row for row in rows if row.status == "done" and row.details.get("warnings")]
    if warned:
        cases = "1 case" if len(warned) == 1 else f"{len(warned)} cases"
        lines.append(f"  warnings in {cases}, e.g. {warned[0].case}: {printable(warned[0].details['warnings'][0])}")
    if unlabelled:
        lines.append(
            f"{unlabelled} image series without a segmentation {'was' if unlabelled == 1 else 'were'} left out"
        )
    for code, count in sorted(Counter(p.code for p in problems).items()):
        path = next(p for p in problems if p.code == code).path
        lines.append(f"  unusable files {count:5d}  {code:18s} e.g. {printable(path)}")
    return "\n".join(lines)


def describe_failure(row: CaseRow) -> str:
    """Return in one line what ended a case, and in which file if it was one."""
    place = f"{row.subject}: " if row.subject.startswith(os.sep) else ""
    return printable(place + row.message)


def write_reports(folder: Path, rows: Sequence[CaseRow], problems: Sequence[FileProblem]) -> tuple[Path, Path]:
    """Write ``report.json`` (everything) and ``report.csv`` (one line a case) into `folder`; return their paths."""
    json_path, csv_path = folder / "report.json", folder / "report.csv"
    with writing_text(json_path) as stream:
        stream.write('{\n "cases": ')
        _write_list(rows, stream)
        stream.write(',\n "unusable_files": ')
        _write_list(problems, stream)
        stream.write("\n}\n")
    with writing_text(csv_path) as stream:
        table = csv.DictWriter(stream, _CSV_COLUMNS, lineterminator="\n")
        table.writeheader()
        for row in rows:
            table.writerow(_csv_row(row))
    return json_path, csv_path


def _write_list(items: Sequence[CaseRow | FileProblem], stream: TextIO) -> None:
    """Write a list of the top level as JSON, one item at a time: a million rows fit into memory once."""
    for number, item in enumerate(items):
        text = json.dumps(asdict(item), indent=1, sort_keys=True).replace("\n", "\n  ")
        stream.write(f"{',' if number else '['}\n  {text}")
    stream.write("\n ]" if items else "[]")


def _csv_row(row: CaseRow) -> dict[str, Any]:
    labels = row.details.get("labels", ())
    return {
        **{c: getattr(row, c) for c in _CSV_COLUMNS if hasattr(row, c)},
        "labels": "; ".join(f"{m['name']} <- {', '.join(m['rois']) or 'absent'}" for m in labels),
        "unmatched_rois": "; ".join(row.details.get("unmatched_rois", ())),
        "warnings": "; ".join(row.details.get("warnings", ())),
        "outputs": "; ".join(o.path for o in row.outputs),
    }
