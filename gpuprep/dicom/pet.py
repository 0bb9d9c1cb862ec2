"""What turns the values of a PET series into SUVbw, from its headers.

The standardised uptake value by body weight (g/ml) is activity (Bq/ml) × weight (g) / decayed dose (Bq). Which times
and factors to take for which vendor follows the vendor-neutral pseudo-code for SUV of RSNA's Quantitative Imaging
Biomarkers Alliance (QIBA wiki, "Standardized Uptake Value (SUV)"); a value it needs and that is missing is an error
that names it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from gpuprep.dicom.datasets import parse_file, pydicom_errors, quiet_pydicom, raw_text
from gpuprep.dicom.findings import Finding
from gpuprep.dicom.header import InstanceHeader, parse_float
from gpuprep.errors import HeaderError

#: Enhanced PET Image and Legacy Converted Enhanced PET Image.
ENHANCED_PET_UIDS = ("1.2.840.10008.5.1.4.1.1.130", "1.2.840.10008.5.1.4.1.1.128.1")
#: A dose below this was meant as MBq: no PET dose is so small, Bq.
LEAST_DOSE_BQ = 1e5
#: No patient weighs more than this; what does was meant as g, kg.
MOST_WEIGHT_KG = 650.0
#: Longer decay between injection and scan, in half-lives, is a mistaken time.
MOST_HALF_LIVES = 10.0
#: What Corrected Image says of PET that is corrected for attenuation (PS3.3 C.8.9.1).
ATTENUATION = "ATTN"
#: An injection "after" the scan was the evening before when that makes a wait of at most this; nor is a series dated
#: longer than this after its acquisition.
MOST_OVERNIGHT = timedelta(hours=12)

_GE_CREATOR, _GE_SCAN_DATETIME = "GEMS_PETD_01", (0x0009, 0x0D)
_PHILIPS_CREATOR, _PHILIPS_SUV, _PHILIPS_ACTIVITY = "Philips PET Private Group", (0x7053, 0x00), (0x7053, 0x09)
_STORED = "--pet stored writes the values as they are, without SUV"


@dataclass(frozen=True, slots=True, kw_only=True)
class PetHeader:
    """What the SUV of a series depends on; None or empty where the header does not say.

    Parameters
    ----------
    subject : str
        Series Instance UID, for messages.
    units, suv_type, decay_correction : str
        (0054,1001), (0054,1006) and (0054,1102).
    corrections : frozenset of str
        Corrected Image (0028,0051).
    weight_kg, dose_bq, half_life_s : float or None
        (0010,1030), (0018,1074) and (0018,1075).
    injections : int
        Items in the Radiopharmaceutical Information Sequence (0054,0016); the values are those of the first.
    injected_at : datetime or None
        Radiopharmaceutical Start DateTime (0018,1078).
    injection_time : timedelta or None
        Radiopharmaceutical Start Time (0018,1072), since midnight.
    series_at, first_acquired_at, ge_scanned_at : datetime or None
        Series date and time, the earliest acquisition in the series, and GE's private scan date and time (0009,xx0D).
    philips_suv_factor, philips_activity_factor : float or None
        Private (7053,xx00), which makes SUVbw, and (7053,xx09), which makes Bq/ml.
    """

    subject: str = ""
    units: str = ""
    suv_type: str = ""
    decay_correction: str = ""
    corrections: frozenset[str] = frozenset()
    weight_kg: float | None = None
    dose_bq: float | None = None
    half_life_s: float | None = None
    injections: int = 0
    injected_at: datetime | None = None
    injection_time: timedelta | None = None
    series_at: datetime | None = None
    first_acquired_at: datetime | None = None
    ge_scanned_at: datetime | None = None
    philips_suv_factor: float | None = None
    philips_activity_factor: float | None = None


@dataclass(frozen=True, slots=True)
class SuvScale:
    """What rescaled values are multiplied by to be SUVbw, g/ml.

    Parameters
    ----------
    factor : float
    basis : dict
        The values it was computed from, JSON-ready; ``method`` names the branch.
    findings : tuple of Finding
        ``suv-scan-time``, ``suv-injection-time``: times that contradicted each other, and which one was taken.
    """

    factor: float
    basis: dict[str, Any]
    findings: tuple[Finding, ...] = ()


def compute_suv_scale(header: PetHeader) -> SuvScale:
    """Compute the factor to SUVbw.

    Raises
    ------
    HeaderError
        ``suv-units-missing``, ``suv-units-unknown``; ``suv-type-not-bw``: the values are SUV by something else than
        weight; ``suv-philips-factor-missing``: counts without Philips's factors; ``suv-not-corrected``: not corrected
        for decay and attenuation; ``suv-decay-correction-missing``, ``suv-not-decay-corrected``: not to the scan start
        or the injection; ``suv-weight-missing``, ``suv-weight-invalid``; ``suv-several-injections``;
        ``suv-dose-missing``, ``suv-dose-invalid``; ``suv-half-life-missing``; ``suv-injection-time-missing``;
        ``suv-scan-time-missing``; ``suv-implausible-decay``: the injection is not before the scan, or too long before.
    """
    match header.units:
        case "GML":
            if header.suv_type not in ("", "BW"):
                raise _refuse(header, f"the values are SUV by {header.suv_type}, not by weight", "suv-type-not-bw")
            return SuvScale(1.0, {"method": "suv"})
        case "CNTS":
            if header.philips_suv_factor:
                return SuvScale(header.philips_suv_factor, {"method": "philips-suv-factor"})
            if not header.philips_activity_factor:
                raise _refuse(
                    header, "counts without the private factors (7053,xx00), (7053,xx09)", "suv-philips-factor-missing"
                )
            scale = _from_activity(header)
            factor = header.philips_activity_factor
            basis = scale.basis | {"method": "philips-activity-factor", "activity_factor": factor}
            return SuvScale(factor * scale.factor, basis, scale.findings)
        case "BQML":
            return _from_activity(header)
        case "":
            raise _refuse(header, "Units (0054,1001) is missing", "suv-units-missing")
        case units:
            raise _refuse(header, f"there is no way from units {units!r} to SUV", "suv-units-unknown")


def corrections_of(instance: InstanceHeader) -> frozenset[str]:
    """Return the values of Corrected Image (0028,0051), such as `ATTENUATION`."""
    return frozenset(part.strip() for part in instance.corrected_image.split("\\"))


def read_suv_scale(images: Sequence[InstanceHeader], series: Sequence[InstanceHeader] = ()) -> SuvScale:
    """Read and compute the factor to SUVbw of a volume.

    Parameters
    ----------
    images : sequence of InstanceHeader
        Those of the volume.
    series : sequence of InstanceHeader
        All of its series: other time points, whose acquisition times count too, and what was set aside, such as
        screenshots.

    Raises
    ------
    HeaderError
        As `compute_suv_scale` and `read_pet_header`.
    """
    return compute_suv_scale(read_pet_header(images, series))


@quiet_pydicom()
def read_pet_header(images: Sequence[InstanceHeader], series: Sequence[InstanceHeader] = ()) -> PetHeader:
    """Read what SUV depends on: times from the headers of the series, the rest from the file of the first image.

    Parameters
    ----------
    images, series : sequence of InstanceHeader
        As in `read_suv_scale`.

    Raises
    ------
    HeaderError
        ``suv-enhanced``: of an enhanced PET, which tells units and corrections in other places; ``suv-units-mixed``;
        ``unreadable``.
    """
    first = images[0]
    if first.sop_class_uid in ENHANCED_PET_UIDS and not first.units:
        raise HeaderError(
            "no SUV: it is an enhanced PET, of which units and corrections are not read",
            code="suv-enhanced",
            subject=first.series_instance_uid,
            hint=_STORED,
        )
    units = {i.units for i in images}
    if len(units) > 1:
        raise HeaderError(
            f"its images have the units {', '.join(sorted(u or 'none' for u in units))}",
            code="suv-units-mixed",
            subject=first.series_instance_uid,
            hint=_STORED,
        )
    try:
        with Path(first.path).open("rb") as stream:
            data = parse_file(stream, first.size).dataset
        sequence = data.get(0x00540016)
        items = list(sequence.value) if sequence is not None and sequence.VR == "SQ" else []
    except pydicom_errors() as error:
        raise HeaderError(f"pydicom raised {type(error).__name__}", code="unreadable", subject=first.path) from error
    dose = items[0] if items else {}
    alike = [*images, *(i for i in series if i.units == first.units)]
    zone = parse_zone(_text(data, 0x00080201))
    return PetHeader(
        subject=first.series_instance_uid,
        units=first.units,
        suv_type=_text(data, 0x00541006),
        decay_correction=_text(data, 0x00541102),
        corrections=corrections_of(first),
        weight_kg=parse_float(_text(data, 0x00101030)),
        dose_bq=parse_float(_text(dose, 0x00181074)),
        half_life_s=parse_float(_text(dose, 0x00181075)),
        injections=len(items),
        injected_at=parse_datetime(_text(dose, 0x00181078), zone),
        injection_time=parse_time(_text(dose, 0x00181072)),
        series_at=_join(first.series_date, first.series_time),
        first_acquired_at=min(_acquisitions(alike, zone), default=None),
        ge_scanned_at=parse_datetime(_private(data, _GE_CREATOR, _GE_SCAN_DATETIME), zone),
        philips_suv_factor=parse_float(_private(data, _PHILIPS_CREATOR, _PHILIPS_SUV)),
        philips_activity_factor=parse_float(_private(data, _PHILIPS_CREATOR, _PHILIPS_ACTIVITY)),
    )


def _from_activity(header: PetHeader) -> SuvScale:
    if not {ATTENUATION, "DECY"} <= header.corrections:
        raise _refuse(header, "Corrected Image (0028,0051) does not name both ATTN and DECY", "suv-not-corrected")
    if not header.decay_correction:
        raise _refuse(header, "Decay Correction (0054,1102) is missing", "suv-decay-correction-missing")
    if header.decay_correction not in ("START", "ADMIN"):
        raise _refuse(
            header, f"Decay Correction is {header.decay_correction!r}, not START or ADMIN", "suv-not-decay-corrected"
        )
    weight_kg = _positive(header, header.weight_kg, "Patient's Weight (0010,1030)", "suv-weight-missing")
    if weight_kg > MOST_WEIGHT_KG:
        raise _refuse(header, f"a weight of {weight_kg:g} kg: grams?", "suv-weight-invalid")
    if header.injections > 1:
        raise _refuse(header, f"{header.injections} injections", "suv-several-injections")
    dose_bq = _positive(header, header.dose_bq, "Radionuclide Total Dose (0018,1074)", "suv-dose-missing")
    if dose_bq < LEAST_DOSE_BQ:
        raise _refuse(header, f"a dose of {dose_bq:g} Bq: MBq?", "suv-dose-invalid")
    basis: dict[str, Any] = {
        "method": "activity",
        "weight_kg": weight_kg,
        "dose_bq": dose_bq,
        "decay_correction": header.decay_correction,
    }
    if header.decay_correction == "ADMIN":
        return SuvScale(weight_kg * 1000 / dose_bq, basis)
    half_life_s = _positive(header, header.half_life_s, "Radionuclide Half Life (0018,1075)", "suv-half-life-missing")
    scanned_at, scan_findings = _scan_start(header)
    decay_s, injection_findings = _decay_s(header, scanned_at, half_life_s)
    decayed_bq = dose_bq * 2.0 ** (-decay_s / half_life_s)
    basis |= {
        "half_life_s": half_life_s,
        "scan_start": scanned_at.isoformat(),
        "decay_s": decay_s,
        "decayed_dose_bq": decayed_bq,
    }
    return SuvScale(weight_kg * 1000 / decayed_bq, basis, (*scan_findings, *injection_findings))


def _scan_start(header: PetHeader) -> tuple[datetime, list[Finding]]:
    """Return what START refers to: the series' time, unless the series was made after it was acquired."""
    series, acquired, ge = header.series_at, header.first_acquired_at, header.ge_scanned_at
    if series is not None and (acquired is None or series <= acquired):
        return series, []
    late = "the series is dated after its acquisition" if series is not None else "the series has no date and time"
    if ge is not None:
        return ge, [Finding("suv-scan-time", f"{late}: GE's private scan time taken")]
    if acquired is not None:
        return acquired, [Finding("suv-scan-time", f"{late}: the earliest acquisition taken")]
    raise _refuse(header, "neither Series nor Acquisition Date and Time are there", "suv-scan-time-missing")


def _decay_s(header: PetHeader, scanned_at: datetime, half_life_s: float) -> tuple[float, list[Finding]]:
    """Return the seconds between injection and scan.

    The injection's full date counts, unless it is impossible, as where dates were shifted and this one forgotten; then
    its time of day does, on the day of the scan or the evening before.
    """
    most_s = MOST_HALF_LIVES * half_life_s
    findings = []
    if header.injected_at is not None:
        decay_s = (scanned_at - header.injected_at).total_seconds()
        if 0 <= decay_s <= most_s:
            return decay_s, []
        findings.append(
            Finding(
                "suv-injection-time", f"injection date and time are {decay_s:g} s before the scan: time alone taken"
            )
        )
    elif header.injection_time is None:
        raise _refuse(header, "Radiopharmaceutical Start Time (0018,1072) is missing", "suv-injection-time-missing")
    time = header.injection_time if header.injection_time is not None else _since_midnight(header.injected_at)
    waited = _since_midnight(scanned_at) - time
    if waited < timedelta(0) and waited + timedelta(days=1) <= MOST_OVERNIGHT:
        waited += timedelta(days=1)
        findings.append(Finding("suv-injection-time", "injected the evening before the scan"))
    decay_s = waited.total_seconds()
    if not 0 <= decay_s <= most_s:
        raise _refuse(
            header,
            f"the injection is {decay_s:g} s before the scan, of half-life {half_life_s:g} s",
            "suv-implausible-decay",
        )
    return decay_s, findings


def _positive(header: PetHeader, value: float | None, name: str, code: str) -> float:
    if value is None or value <= 0:
        raise _refuse(header, f"{name} is missing or not positive", code)
    return value


def _refuse(header: PetHeader, reason: str, code: str) -> HeaderError:
    return HeaderError(f"no SUV: {reason}", code=code, subject=header.subject, hint=_STORED)


# --- Values ----------------------------------------------------------------------------------------------------------

_DATE = re.compile(r"(\d{4})\.?(\d\d)\.?(\d\d)", re.ASCII)
_TIME = re.compile(r"(\d\d):?(?:(\d\d):?(?:(\d\d)(\.\d+)?)?)?", re.ASCII)
_ZONE = re.compile(r"[+-]\d{4}$", re.ASCII)


def parse_time(text: str) -> timedelta | None:
    """Return the time since midnight that a TM value states, also in its shortened and old forms, or None."""
    found = _TIME.fullmatch(text.strip())
    if not found:
        return None
    hours, minutes, seconds = (int(part or 0) for part in found.group(1, 2, 3))
    if hours > 23 or minutes > 59 or seconds > 60:
        return None
    return timedelta(hours=hours, minutes=minutes, seconds=seconds + float(found[4] or 0))


def parse_datetime(text: str, zone: timedelta | None = None) -> datetime | None:
    """Return what a DT value with at least a date and an hour states, or None.

    Parameters
    ----------
    text : str
        With or without an offset from UTC.
    zone : timedelta, optional
        Offset from UTC of the times of the data set: what is stated with another one is brought to it. When it is not
        known the offset is dropped, for the times are local, at the same place.
    """
    text = text.strip()
    stated = parse_zone(text[-5:]) if _ZONE.search(text) else None
    moment = _join(text[:8], _ZONE.sub("", text)[8:])
    if moment is None or stated is None or zone is None:
        return moment
    try:
        return moment + (zone - stated)
    except OverflowError:
        return None


def parse_zone(text: str) -> timedelta | None:
    """Return the offset from UTC that ``+0130`` states, or None."""
    text = text.strip()
    if not _ZONE.fullmatch(text):
        return None
    return timedelta(hours=int(text[1:3]), minutes=int(text[3:])) * (-1 if text[0] == "-" else 1)


def _join(date: str, time: str) -> datetime | None:
    found, since_midnight = _DATE.fullmatch(date.strip()), parse_time(time)
    if not found or since_midnight is None:
        return None
    try:
        return datetime(*map(int, found.groups())) + since_midnight  # type: ignore[arg-type]
    except (ValueError, OverflowError):
        return None


def _since_midnight(moment: datetime | None) -> timedelta:
    if moment is None:
        return timedelta(0)
    return moment - moment.replace(hour=0, minute=0, second=0, microsecond=0)


def _acquisitions(images: Iterable[InstanceHeader], zone: timedelta | None) -> Iterator[datetime]:
    """Yield when images were acquired; a time without a date is of the day of its series, or past the next midnight."""
    for image in images:
        moment = _join(image.acquisition_date, image.acquisition_time) or parse_datetime(
            image.acquisition_datetime, zone
        )
        if moment is None:
            moment, series_at = (_join(image.series_date, t) for t in (image.acquisition_time, image.series_time))
            if moment and series_at and series_at - moment > MOST_OVERNIGHT:
                continue
        if moment is not None:
            yield moment


def _text(data: Any, tag: int) -> str:
    element = data.get_item(tag) if hasattr(data, "get_item") else None
    return raw_text(element, "LO")


def _private(data: Any, creator: str, place: tuple[int, int]) -> str:
    group, element = place
    for block in range(0x10, 0x100):
        if _text(data, group << 16 | block).strip() == creator:
            return _text(data, group << 16 | block << 8 | element)
    return ""
