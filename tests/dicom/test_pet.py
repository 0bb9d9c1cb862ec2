"""SUVbw factors against values computed by hand, branch by branch."""

from dataclasses import replace
from datetime import datetime, timedelta

import pydicom
import pytest

from gpuprep.dicom.header import read_headers
from gpuprep.dicom.pet import PetHeader, compute_suv_scale, parse_datetime, parse_time, parse_zone, read_suv_scale
from gpuprep.dicom.synth import axial_geometry, build_pet_slice, plan_series, write_dataset
from gpuprep.errors import HeaderError

#: Relative; the factors are float64, the decimal strings of a header have up to 16 characters.
FACTOR_TOLERANCE = 1e-12

SCAN = datetime(2024, 1, 2, 10, 0, 0)
#: Two half-lives pass before the scan: 4e8 Bq become 1e8 Bq; 80 000 g / 1e8 Bq.
ACTIVITY = PetHeader(
    subject="1.2.3",
    units="BQML",
    decay_correction="START",
    corrections=frozenset({"ATTN", "DECY"}),
    weight_kg=80.0,
    dose_bq=4e8,
    half_life_s=3600.0,
    injections=1,
    injection_time=timedelta(hours=8),
    series_at=SCAN,
    first_acquired_at=SCAN,
)
DECAYED, UNDECAYED = 8e-4, 2e-4


@pytest.mark.parametrize(
    ("changes", "factor", "method", "findings"),
    [
        ({}, DECAYED, "activity", []),
        ({"decay_correction": "ADMIN"}, UNDECAYED, "activity", []),
        ({"decay_correction": "ADMIN", "injection_time": None, "half_life_s": None}, UNDECAYED, "activity", []),
        ({"injected_at": datetime(2024, 1, 2, 9)}, 2 * UNDECAYED, "activity", []),
        # the injection's date was shifted, its time was not
        ({"injected_at": datetime(2024, 1, 3, 8)}, DECAYED, "activity", ["suv-injection-time"]),
        ({"injected_at": datetime(2024, 1, 3, 9), "injection_time": None}, 2 * UNDECAYED, "activity",
         ["suv-injection-time"]),
        # 23:00 to 01:00
        ({"injection_time": timedelta(hours=23), "series_at": datetime(2024, 1, 2, 1)}, DECAYED, "activity",
         ["suv-injection-time"]),
        # 22:00 to 10:00 is six half-lives of two hours, and as long as an evening before may be
        ({"injection_time": timedelta(hours=22), "half_life_s": 7200.0}, 64 * UNDECAYED, "activity",
         ["suv-injection-time"]),
        ({"half_life_s": 720.0}, 1024 * UNDECAYED, "activity", []),
        ({"weight_kg": 650.0, "decay_correction": "ADMIN"}, 650e3 / 4e8, "activity", []),
        ({"dose_bq": 1e5, "decay_correction": "ADMIN"}, 0.8, "activity", []),
        # a series made at 15:00 of images acquired from 10:00 on
        ({"series_at": datetime(2024, 1, 2, 15)}, DECAYED, "activity", ["suv-scan-time"]),
        ({"series_at": None}, DECAYED, "activity", ["suv-scan-time"]),
        ({"series_at": datetime(2024, 1, 2, 15), "ge_scanned_at": datetime(2024, 1, 2, 9)}, 2 * UNDECAYED, "activity",
         ["suv-scan-time"]),
        ({"first_acquired_at": None}, DECAYED, "activity", []),
        ({"units": "GML", "weight_kg": None, "dose_bq": None}, 1.0, "suv", []),
        ({"units": "GML", "suv_type": "BW"}, 1.0, "suv", []),
        ({"units": "CNTS", "philips_suv_factor": 0.25, "philips_activity_factor": 3.0}, 0.25, "philips-suv-factor", []),
        ({"units": "CNTS", "philips_activity_factor": 3.0}, 3 * DECAYED, "philips-activity-factor", []),
        ({"units": "CNTS", "philips_suv_factor": 0.0, "philips_activity_factor": 3.0}, 3 * DECAYED,
         "philips-activity-factor", []),
    ],
)  # fmt: skip
def test_factor(changes, factor, method, findings):
    scale = compute_suv_scale(replace(ACTIVITY, **changes))
    assert scale.factor == pytest.approx(factor, rel=FACTOR_TOLERANCE)
    assert scale.basis["method"] == method
    assert [f.code for f in scale.findings] == findings


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"units": ""}, "suv-units-missing"),
        ({"units": "PROPCPS"}, "suv-units-unknown"),
        ({"units": "GML", "suv_type": "LBM"}, "suv-type-not-bw"),
        ({"units": "CNTS"}, "suv-philips-factor-missing"),
        ({"corrections": frozenset({"DECY"})}, "suv-not-corrected"),
        ({"corrections": frozenset()}, "suv-not-corrected"),
        ({"decay_correction": ""}, "suv-decay-correction-missing"),
        ({"decay_correction": "NONE"}, "suv-not-decay-corrected"),
        ({"weight_kg": None}, "suv-weight-missing"),
        ({"weight_kg": 0.0}, "suv-weight-missing"),
        ({"weight_kg": 650.1}, "suv-weight-invalid"),
        ({"injections": 2}, "suv-several-injections"),
        ({"injections": 0, "dose_bq": None}, "suv-dose-missing"),
        ({"dose_bq": 0.0}, "suv-dose-missing"),
        ({"dose_bq": 99_999.0}, "suv-dose-invalid"),
        ({"half_life_s": None}, "suv-half-life-missing"),
        ({"injection_time": None}, "suv-injection-time-missing"),
        ({"series_at": None, "first_acquired_at": None}, "suv-scan-time-missing"),
        ({"injection_time": timedelta(hours=11)}, "suv-implausible-decay"),
        ({"injection_time": timedelta(hours=21, minutes=59), "half_life_s": 7200.0}, "suv-implausible-decay"),
        ({"half_life_s": 719.0}, "suv-implausible-decay"),
    ],
)
def test_what_is_missing_is_named(changes, code):
    with pytest.raises(HeaderError) as caught:
        compute_suv_scale(replace(ACTIVITY, **changes))
    assert caught.value.code == code
    assert caught.value.subject == "1.2.3"
    assert "--pet stored" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("101112", 36672), ("101112.5", 36672.5), ("1011", 36660), ("10", 36000), ("10:11:12", 36672), ("235960", 86400),
     ("", None), ("noon", None), ("251112", None)],
)  # fmt: skip
def test_times(text, seconds):
    assert parse_time(text) == (None if seconds is None else timedelta(seconds=seconds))


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("20240102101112.25", datetime(2024, 1, 2, 10, 11, 12, 250_000)),
        ("20240102101112+0200", datetime(2024, 1, 2, 10, 11, 12)),
        ("20240102", None),
        ("20241302101112", None),
        ("99991231235960", None),
        ("", None),
    ],
)
def test_dates_with_times(text, moment):
    assert parse_datetime(text) == moment


@pytest.mark.parametrize(
    ("text", "zone", "hour"),
    [
        ("20240102101112+0200", timedelta(hours=2), 10),
        ("20240102101112+0000", timedelta(hours=2), 12),
        ("20240102101112-0500", timedelta(hours=-6), 9),
        ("20240102101112", timedelta(hours=2), 10),
    ],
)
def test_dates_of_another_zone(text, zone, hour):
    assert parse_datetime(text, zone) == datetime(2024, 1, 2, hour, 11, 12)
    assert parse_datetime("00010101000000+0300", zone) is None


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("+0130", 90), ("+1245", 765), ("-0500", -300), ("+0000", 0), ("", None), ("Z", None), ("0130", None)],
)
def test_zones(text, minutes):
    assert parse_zone(text) == (None if minutes is None else timedelta(minutes=minutes))


def headers_of(folder, change):
    """Write two synthetic PET slices, changed by `change(data, index)`, and read their headers."""
    series = plan_series(axial_geometry((2, 4, 4), spacing_xyz_mm=(4, 4, 4)))
    paths = []
    for index in range(2):
        data = build_pet_slice(series, index, [[1000.0] * 4] * 4)
        change(data, index)
        paths.append(folder / f"{index}.dcm")
        write_dataset(data, paths[-1])
    return read_headers([str(p) for p in paths])


def test_factor_from_files(tmp_path):
    # 70 kg, 3.5e8 Bq of 18F one hour before the scan: 70 000 / (3.5e8 × 2^(-3600 / 6586.2)) = 2.92127e-4 ml⁻¹ g / Bq
    scale = read_suv_scale(headers_of(tmp_path, lambda data, index: None))
    assert scale.factor == pytest.approx(2.92127e-4, rel=1e-5)
    assert scale.basis["decay_s"] == 3600
    assert not scale.findings


@pytest.mark.parametrize("has_date", [True, False])
def test_the_earliest_acquisition_counts(tmp_path, has_date):
    def change(data, index):
        data.SeriesTime = "200000"
        if not has_date:
            del data.AcquisitionDate
        data.AcquisitionTime = ("102112", "101112")[index]

    scale = read_suv_scale(headers_of(tmp_path, change))
    assert scale.basis["scan_start"] == "2024-01-02T10:11:12"


def test_acquisitions_past_midnight_without_a_date_are_no_earlier_ones(tmp_path):
    def change(data, index):
        data.SeriesTime = "235000"
        del data.AcquisitionDate
        data.AcquisitionTime = ("000600", "235000")[index]
        data.RadiopharmaceuticalInformationSequence[0].RadiopharmaceuticalStartTime = "225000"

    scale = read_suv_scale(headers_of(tmp_path, change))
    assert scale.basis["scan_start"] == "2024-01-02T23:50:00"
    assert scale.basis["decay_s"] == 3600
    assert not scale.findings


def test_screenshots_in_the_series_have_no_say_and_other_time_points_do(tmp_path):
    def change(data, index):
        data.SeriesTime = "200000"
        if index:
            data.AcquisitionTime = "102112"

    def become_screenshot(data, index):
        del data.Units, data.PatientWeight
        data.AcquisitionTime = "080000"

    first, second = headers_of(tmp_path, change)
    (tmp_path / "more").mkdir()
    screenshot, _ = headers_of(tmp_path / "more", become_screenshot)
    scale = read_suv_scale([second], [screenshot, first, second])
    assert scale.basis["scan_start"] == "2024-01-02T10:11:12"
    assert scale.basis["weight_kg"] == 70


def test_an_injection_stated_in_another_zone(tmp_path):
    def change(data, index):
        data.TimezoneOffsetFromUTC = "+0200"
        (dose,) = data.RadiopharmaceuticalInformationSequence
        dose.RadiopharmaceuticalStartDateTime = "20240102073112.000000+0000"  # 09:31:12 local time

    scale = read_suv_scale(headers_of(tmp_path, change))
    assert scale.basis["scan_start"] == "2024-01-02T10:11:12"
    assert scale.basis["decay_s"] == 2400
    assert not scale.findings


@pytest.mark.parametrize(("element", "factor"), [(0x00, 0.5), (0x09, 0.5 * 2.92127e-4)])
def test_private_factors_of_philips(tmp_path, element, factor):
    def change(data, index):
        data.Units = "CNTS"
        block = data.private_block(0x7053, "Philips PET Private Group", create=True)
        block.add_new(element, "DS", "0.5")

    assert read_suv_scale(headers_of(tmp_path, change)).factor == pytest.approx(factor, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "items", "code"),
    [
        ("RadiopharmaceuticalInformationSequence", 0, "suv-dose-missing"),
        ("RadiopharmaceuticalInformationSequence", 2, "suv-several-injections"),
        ("Units", 0, "suv-units-missing"),
    ],
)
def test_what_a_file_lacks_or_has_twice(tmp_path, name, items, code):
    def change(data, index):
        if items:
            setattr(data, name, list(data[name].value) * items)
        else:
            delattr(data, name)

    with pytest.raises(HeaderError) as caught:
        read_suv_scale(headers_of(tmp_path, change))
    assert caught.value.code == code


@pytest.mark.parametrize("as_one", [True, False])
def test_acquisitions_of_the_day_before_their_series(tmp_path, as_one):
    def change(data, index):
        data.SeriesDate, data.SeriesTime = "20240103", "003000"
        data.AcquisitionDate, data.AcquisitionTime = "20240102", "235000"
        if as_one:
            del data.AcquisitionDate, data.AcquisitionTime
            data.AcquisitionDateTime = "20240102235000"
        data.RadiopharmaceuticalInformationSequence[0].RadiopharmaceuticalStartTime = "225000"

    scale = read_suv_scale(headers_of(tmp_path, change))
    assert scale.basis["scan_start"] == "2024-01-02T23:50:00"
    assert scale.basis["decay_s"] == 3600


def test_private_scan_time_of_ge(tmp_path):
    def change(data, index):
        data.SeriesTime = "200000"
        block = data.private_block(0x0009, "GEMS_PETD_01", create=True)
        block.add_new(0x0D, "DT", "20240102100112.00")

    scale = read_suv_scale(headers_of(tmp_path, change))
    assert scale.basis["scan_start"] == "2024-01-02T10:01:12"


def test_mixed_units_are_refused(tmp_path):
    def change(data, index):
        data.Units = ("BQML", "GML")[index]

    with pytest.raises(HeaderError) as caught:
        read_suv_scale(headers_of(tmp_path, change))
    assert caught.value.code == "suv-units-mixed"


@pytest.mark.parametrize("keyword", ["EnhancedPETImageStorage", "LegacyConvertedEnhancedPETImageStorage"])
def test_enhanced_pet_is_refused(tmp_path, keyword):
    def change(data, index):
        data.SOPClassUID = getattr(pydicom.uid, keyword)
        del data.Units

    with pytest.raises(HeaderError) as caught:
        read_suv_scale(headers_of(tmp_path, change))
    assert caught.value.code == "suv-enhanced" and "--pet stored" in caught.value.hint


def test_a_vanished_file_is_unreadable(tmp_path):
    headers = headers_of(tmp_path, lambda data, index: None)
    (tmp_path / "0.dcm").unlink()
    with pytest.raises(HeaderError) as caught:
        read_suv_scale(headers)
    assert caught.value.code == "unreadable"


def test_real_series_in_suv(data_dir):
    files = sorted((data_dir / "ct-rtstruct" / "ibsi_sts_002" / "dicom").glob("*/PET/image/*"))
    scale = read_suv_scale(read_headers([str(p) for p in files]))
    assert (scale.factor, scale.basis) == (1.0, {"method": "suv"})
