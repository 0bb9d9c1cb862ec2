"""ROI names → labels, by patterns. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpuprep.config import LabelPatterns, OnMissing, RoiOptions, RoiStrategy
from gpuprep.errors import ConfigError, RoiError
from gpuprep.texts import read_yaml

#: ROI names that a message lists.
_LISTED = 12
_EXAMPLE = "write one line a label, as in  GTV: ['gtv.*', 'gross.*']"


@dataclass(frozen=True, slots=True)
class MatchedLabel:
    """A label of one case and the ROIs that make it.

    Parameters
    ----------
    name : str
        The label.
    rois : tuple of int
        Indices of the ROIs that make it, in the order of the file; empty when the case has none.
    patterns : tuple of str
        The pattern that each of `rois` matched.
    """

    name: str
    rois: tuple[int, ...] = ()
    patterns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RoiMatch:
    """What became of the ROIs of one case."""

    labels: tuple[MatchedLabel, ...]
    unmatched: tuple[int, ...]

    @property
    def missing(self) -> tuple[str, ...]:
        """Labels without a ROI."""
        return tuple(label.name for label in self.labels if not label.rois)


def load_roi_patterns(file: Path | str) -> tuple[LabelPatterns, ...]:
    """Read a YAML map ``label: pattern``, ``label: [patterns]`` or ``label: {patterns: […], optional: true}``.

    The order of the file is the order of the labels.

    Raises
    ------
    ConfigError
        ``roi-map-unreadable`` when the file cannot be read or is no YAML; ``roi-map-invalid`` when it is something
        else than such a map, names a label ``background``, twice or by what is no text, or holds a pattern that does
        not compile.
    """
    path = Path(file)
    data = read_yaml(
        path,
        code="roi-map-unreadable",
        repeated="roi-map-invalid",
        hint=f"--roi-match-yaml takes a YAML file; {_EXAMPLE}",
    )
    if not isinstance(data, dict) or not data:
        raise _invalid("it is not a map from labels to patterns", path)
    return tuple(_label(name, value, path) for name, value in data.items())


def _label(name: object, value: object, path: Path) -> LabelPatterns:
    if not isinstance(name, str):  # YAML takes NO, on and 1 for something else
        raise _invalid(f"the label {name!r} is no text: put it into quotes", path)
    optional = False
    if isinstance(value, dict):
        if set(value) - {"patterns", "optional"} or not isinstance(value.get("optional", False), bool):
            raise _invalid(f"{name!r} may have the keys patterns and optional (true or false)", path)
        optional = bool(value.get("optional", False))
        value = value.get("patterns")
    patterns = [value] if isinstance(value, str) else value
    if not isinstance(patterns, list) or not patterns or not all(isinstance(p, str) for p in patterns):
        raise _invalid(f"{name!r} needs a pattern or a list of patterns", path)
    if name.strip().lower() == "background" or not name.strip():
        raise _invalid(f"{name!r} cannot be a label: 0 is the background already", path)
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise _invalid(f"{name!r}: pattern {pattern!r} is no regular expression: {error}", path) from error
    return LabelPatterns(name, tuple(patterns), optional)


def _invalid(message: str, path: Path) -> ConfigError:
    return ConfigError(message, code="roi-map-invalid", subject=str(path), hint=_EXAMPLE)


def match_rois(names: Sequence[str], options: RoiOptions, empty: Collection[int] = ()) -> RoiMatch:
    """Find the ROIs of each label.

    A name belongs to a label when one of its patterns matches the whole name (``re.fullmatch``), blanks around the
    name apart. Labels are served in their order; with `allow_multiple_matches` false a ROI goes to the first label
    that takes it. `RoiStrategy.KEEP_FIRST` keeps the first ROI a label in the order of its patterns, then of the
    file, empty ones last; `SEPARATE` makes one label ``label__name`` a ROI. Without labels each ROI is one, by its
    name.

    Parameters
    ----------
    names : sequence of str
        ROI names in file order; equal names are different ROIs.
    options : RoiOptions
    empty : collection of int
        Indices of ROIs that nothing was drawn of, as templates leave them.

    Raises
    ------
    RoiError
        ``no-roi-matched``: no ROI of the case matches any label (unless labels may be missing silently);
        ``label-missing``: with `OnMissing.ERROR`, a label that is not optional has no ROI.
    """
    if not options.labels:
        if not names:
            raise RoiError("it has no ROI", code="no-roi-matched")
        return RoiMatch(tuple(MatchedLabel(name, (i,), ("",)) for i, name in enumerate(names)), ())
    flags = re.IGNORECASE if options.ignore_case else 0
    taken: set[int] = set()
    labels = []
    for label in options.labels:
        found: dict[int, str] = {}
        for pattern in label.patterns:
            compiled = re.compile(pattern, flags)
            for roi, name in enumerate(names):
                free = options.allow_multiple_matches or roi not in taken
                if roi not in found and free and compiled.fullmatch(name.strip()):
                    found[roi] = pattern
        if options.strategy is RoiStrategy.KEEP_FIRST:
            found = dict(sorted(found.items(), key=lambda item: item[0] in empty)[:1])
        taken |= found.keys()
        rois = sorted(found)
        if options.strategy is RoiStrategy.SEPARATE and rois:
            labels += [MatchedLabel(f"{label.name}__{names[i]}", (i,), (found[i],)) for i in rois]
        else:
            labels.append(MatchedLabel(label.name, tuple(rois), tuple(found[i] for i in rois)))
    match = RoiMatch(tuple(labels), tuple(i for i in range(len(names)) if i not in taken))
    _refuse_missing(match, names, options)
    return match


def _refuse_missing(match: RoiMatch, names: Sequence[str], options: RoiOptions) -> None:
    if options.on_missing is not OnMissing.IGNORE and not any(label.rois for label in match.labels):
        raise RoiError(
            f"no ROI matches any label; the ROIs are {_listing(names)}",
            code="no-roi-matched",
            hint="extend the patterns of the ROI map",
        )
    optional = {label.name for label in options.labels if label.optional}
    missing = [name for name in match.missing if name not in optional]
    if options.on_missing is OnMissing.ERROR and missing:
        raise RoiError(
            f"no ROI for the label {_listing(missing)}; left over: {_listing([names[i] for i in match.unmatched])}",
            code="label-missing",
            hint="extend its patterns, mark it optional in the ROI map, or use --on-missing warn",
        )


def _listing(names: Sequence[str]) -> str:
    shown = ", ".join(repr(n) for n in names[:_LISTED]) or "none"
    return shown + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
