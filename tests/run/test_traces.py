"""Boxes from source images to TIFFs: known answers, what is dropped, what is refused."""

import csv as standard_csv

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, parquet
from tiff_images import options_of

from gpuprep.coordinates import CoordinateMap
from gpuprep.errors import ConfigError, ExitStatus, InputNotFoundError
from gpuprep.run.traces import map_boxes, map_traces
from gpuprep.writers.tiff import TiffOrigin, write_tiff

# 100 × 80, turned, cut to 20 × 20 at (70, 20), doubled, padded by 5 and 7
TURNED = CoordinateMap((100, 80), (True, True), (70, 20, 20, 20), (2.0, 2.0), (5, 7, 0, 0))


@pytest.fixture(params=["standard", "compat"])
def tiffs(tmp_path, request):
    options = options_of(**({"compat": "dicom-preprocessing"} if request.param == "compat" else {}))
    origin = TiffOrigin(TURNED, 2.0, True, True, True, None, {})
    write_tiff(tmp_path / "1.2" / "1.2.3.tiff", np.zeros((1, 47, 45), np.uint8), origin, options.style, root=tmp_path)
    return tmp_path


TABLE = pa.table(
    {
        "sop_instance_uid": ["1.2.3", "1.2.3", "1.2.3", "9.9"],
        "trace_hash": ["a", "b", "c", "d"],
        "x_min": [12, 0, 50, 1],
        "x_max": [20, 15, 60, 2],
        "y_min": [42, 0, 42, 1],
        "y_max": [50, 80, 50, 2],
    }
)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_boxes_are_turned_cut_and_kept_in_order(gpuprep, tiffs, suffix):
    source, output = tiffs / f"boxes.{suffix}", tiffs / f"mapped.{suffix}"
    csv.write_csv(TABLE, source) if suffix == "csv" else parquet.write_table(TABLE, source)
    result = gpuprep("traces", tiffs, source, output)
    assert result.status == ExitStatus.CASES_FAILED
    assert "2 boxes mapped, 1 empty or outside" in result.stderr
    assert "e.g. of 9.9" in result.stderr
    rows = (csv.read_csv(output) if suffix == "csv" else parquet.read_table(output)).to_pylist()
    assert [row["trace_hash"] for row in rows] == ["a", "b"]
    # x 12…20 is 80…88 turned, 10…18 in the crop, 20…36 doubled, 25…41 padded; y 42…50 is 30…38, 10…18, 20…36, 27…43
    assert [rows[0][n] for n in ("x_min", "y_min", "x_max", "y_max")] == [25, 27, 41, 43]
    assert [rows[1][n] for n in ("x_min", "y_min", "x_max", "y_max")] == [35, 7, 45, 47]  # cut to the picture


def test_boxes_of_a_single_tiff(tiffs):
    csv.write_csv(TABLE, tiffs / "boxes.csv")
    counts = map_traces(tiffs / "1.2" / "1.2.3.tiff", tiffs / "boxes.csv", tiffs / "out.csv")
    assert (counts.mapped, counts.outside, counts.missing) == (2, 1, ("9.9",))


def test_a_table_that_cannot_be_written_is_an_output_that_cannot(gpuprep, tiffs):
    csv.write_csv(TABLE, tiffs / "boxes.csv")
    result = gpuprep("traces", tiffs, tiffs / "boxes.csv", tiffs / "boxes.csv" / "mapped.csv")
    assert result.status == ExitStatus.OUTPUT
    assert "[not-writable]" in result.stderr


def test_boxes_do_not_pass_the_rounded_picture_of_a_compat_file(tmp_path):
    style = options_of(compat="dicom-preprocessing").style
    whole = CoordinateMap((101, 67), (False, False), (0, 0, 101, 67), (50 / 101, 33 / 67), (0, 17, 0, 0))
    origin = TiffOrigin(whole, float(np.float32(50 / 101)), True, True, True, None, {})  # 67 rows are 33.17
    write_tiff(tmp_path / "1.tiff", np.zeros((1, 50, 50), np.uint8), origin, style, root=tmp_path)
    read = CoordinateMap.from_tiff(tmp_path / "1.tiff")
    assert read.active_area == whole.active_area == (0, 17, 50, 50)
    assert map_boxes(np.array([[0, 0, 101, 67.0]]), read).tolist() == [[0, 17, 50, 50]]


def test_other_columns_of_csv_are_carried_along_as_they_stand(tiffs):
    others = ["18446744073709551615", "007", "2024-01-02 03:04", "True", "", "1.50", 'a "b", c']
    header = [f"c{i}" for i in range(len(others))]
    with (tiffs / "boxes.csv").open("w", newline="") as file:
        table = standard_csv.writer(file)
        table.writerow(["sop_instance_uid", "x_min", "x_max", "y_min", "y_max", *header])
        table.writerow(["1.2.3", 12, 20, 42, 50, *others])
    map_traces(tiffs, tiffs / "boxes.csv", tiffs / "out.csv")
    with (tiffs / "out.csv").open(newline="") as file:
        (row,) = standard_csv.DictReader(file)
    assert [row[name] for name in header] == others
    map_traces(tiffs, tiffs / "boxes.csv", tiffs / "out.parquet")
    (row,) = parquet.read_table(tiffs / "out.parquet").to_pylist()
    assert [row[name] for name in header] == others


def test_two_tiffs_of_an_image_are_refused(tiffs):
    csv.write_csv(TABLE, tiffs / "boxes.csv")
    (tiffs / "older" / "1.2").mkdir(parents=True)
    (tiffs / "older" / "1.2" / "1.2.3.tiff").write_bytes((tiffs / "1.2" / "1.2.3.tiff").read_bytes())
    with pytest.raises(ConfigError) as caught:
        map_traces(tiffs, tiffs / "boxes.csv", tiffs / "out.csv")
    assert caught.value.code == "ambiguous-tiff"
    assert not (tiffs / "out.csv").exists()


def test_random_boxes_come_back():
    rng = np.random.default_rng(11)
    inner = np.sort(rng.random((10_000, 2, 2)) * (20, 20) + (10, 40), axis=1).reshape(-1, 4)
    mapped = map_boxes(inner, TURNED)
    back = np.sort(TURNED.to_source(mapped.reshape(-1, 2, 2)), axis=1).reshape(-1, 4)
    assert np.abs(back - inner).max() < 1e-9


def test_refusals(tiffs):
    for name, table, code in (
        ("a.csv", TABLE.drop_columns(["x_min"]), "bad-table"),
        ("b.csv", TABLE.set_column(2, "x_min", pa.array(list("wxyz"))), "bad-table"),
    ):
        csv.write_csv(table, tiffs / name)
        with pytest.raises(ConfigError) as caught:
            map_traces(tiffs, tiffs / name, tiffs / "out.csv")
        assert caught.value.code == code
    (tiffs / "link.csv").symlink_to(tiffs / "a.csv")
    for output in (tiffs / "a.csv", tiffs / "link.csv"):
        with pytest.raises(ConfigError) as caught:
            map_traces(tiffs, tiffs / "a.csv", output)
        assert caught.value.code == "output-is-source"
    (tiffs / "d.csv").write_text("sop_instance_uid,x_min,x_max,y_min,y_max,y_max\n1.2.3,1,2,3,4,5\n")
    with pytest.raises(ConfigError, match="columns are repeated: y_max") as caught:
        map_traces(tiffs, tiffs / "d.csv", tiffs / "out.csv")
    assert caught.value.code == "bad-table" and "x_min, y_min, x_max, y_max, each once" in caught.value.hint
    (tiffs / "c.parquet").write_text("no table")
    for source, target in (("c.parquet", "out.csv"), ("boxes.xlsx", "out.csv"), ("a.csv", "out.xlsx")):
        with pytest.raises(ConfigError) as caught:
            map_traces(tiffs, tiffs / source, tiffs / target)
        assert caught.value.code == "bad-table"
    with pytest.raises(InputNotFoundError) as missing:
        map_traces(tiffs, tiffs / "nowhere.csv", tiffs / "out.csv")
    assert missing.value.code == "path-missing"
    csv.write_csv(TABLE, tiffs / "boxes.csv")
    (tiffs / "empty").mkdir()
    for source, code in (("empty", "no-tiff-found"), ("boxes.csv", "no-tiff-found"), ("nowhere", "path-missing")):
        with pytest.raises(InputNotFoundError) as missing:
            map_traces(tiffs / source, tiffs / "boxes.csv", tiffs / "out.csv")
        assert missing.value.code == code
    assert not (tiffs / "out.csv").exists()
