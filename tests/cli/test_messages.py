"""What people read when they got something wrong: what happened, a code, and what to do."""

import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest

from gpuprep.cli import options
from gpuprep.cli.main import cli
from gpuprep.dicom.synth import write_study
from gpuprep.errors import ExitStatus
from gpuprep.writers.paths import CASE_FIELD, HEADER_FIELDS, IMAGE_FIELD


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    write_study(folder, slices=4, size=16)
    return folder


@pytest.fixture
def places(study, tmp_path):
    """Texts in arguments → paths."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "readme.txt").write_text("no DICOM")
    (tmp_path / "broken.yaml").write_text("GTV: [\nCTV: x")
    (tmp_path / "junk.parquet").write_bytes(b"junk")
    (tmp_path / "none.csv").write_text("case,plane,volume_id\n")
    return {"STUDY": study, "MAP": study / "roi_patterns.yaml", "TMP": tmp_path}


NNUNET = "nnunet -m CT,RTSTRUCT -ryaml"
#: What the system refuses to look at, as it does what lies in a folder that may not be entered.
TOO_LONG = "x" * 300


@pytest.mark.parametrize(
    ("command", "status", "said"),
    [
        ("show TMP/nowhere", ExitStatus.NO_INPUT, ["[path-missing]", "check the path"]),
        ("index TMP/nowhere -o TMP/i.parquet", ExitStatus.NO_INPUT, ["[path-missing]", "check the path"]),
        ("index STUDY -o TMP/empty", ExitStatus.NO_INPUT, ["[index-unreadable]", "FILE.parquet"]),
        ("show TMP/empty", ExitStatus.NO_INPUT, []),
        ("index TMP/empty -o TMP/i.parquet", ExitStatus.NO_INPUT, ["0 files"]),
        ("index STUDY -o TMP/i.csv", ExitStatus.CONFIG, ["[bad-index-name]", "call it i.csv.parquet"]),
        ("nifti --index TMP/i STUDY TMP/out", ExitStatus.CONFIG, ["[bad-index-name]", "call it i.parquet"]),
        ("masks info STUDY/SYNTH-001/RTSTRUCT/RS.dcm --image TMP/empty", ExitStatus.CASES_FAILED,
         ["[dangling-reference]", "hint: name the folder of its images with --image"]),
        ("show TMP/junk.parquet", ExitStatus.CONFIG, ["[not-an-index]", "gpuprep index"]),
        ("nifti TMP/empty TMP/out", ExitStatus.NO_INPUT, ["[no-dicom-found]", "no files", "check the paths"]),
        ("nifti TMP/notes TMP/out", ExitStatus.NO_INPUT, ["[no-dicom-found]", "none of 1 files", "gpuprep show"]),
        ("nifti -m MR STUDY TMP/out", ExitStatus.NO_INPUT, ["0 of 0 cases", "gpuprep show"]),
        ("nifti STUDY TMP/notes/readme.txt", ExitStatus.OUTPUT, ["hint: "]),
        (f"{NNUNET} TMP/none.yaml STUDY TMP/out", ExitStatus.CONFIG, ["No such file", "--roi-match-yaml"]),
        (f"{NNUNET} TMP/broken.yaml STUDY TMP/out", ExitStatus.CONFIG, ["no YAML", "line 2", "one line a label"]),
        (f"{NNUNET} MAP TMP/nowhere TMP/out", ExitStatus.NO_INPUT, ["[path-missing]", "check the path"]),
        ("nnunet -m CT,SEG -ryaml MAP STUDY TMP/out", ExitStatus.NO_INPUT,
         ["1 image series without a segmentation", "gpuprep show"]),
        ("nnunet -m CT STUDY TMP/out", ExitStatus.CONFIG, ["--roi-match-yaml"]),
        ("nifti --devices x TMP/nowhere TMP/out", ExitStatus.CONFIG, ["[bad-devices]", "--devices 0"]),
        ("nifti --crop roi STUDY TMP/out", ExitStatus.CONFIG, ["[bad-crop]", "add RTSTRUCT or SEG to --modalities"]),
        ("tiff -j 1 STUDY STUDY", ExitStatus.CONFIG, ["[output-is-source]", "choose another"]),
        ("synth TMP/notes/readme.txt", ExitStatus.OUTPUT, ["[not-writable]", "where a folder should be", "hint: "]),
        ("nifti STUDY TMP/notes/readme.txt/out", ExitStatus.OUTPUT, ["[not-writable]", "where a folder should be"]),
        (f"nifti STUDY TMP/{TOO_LONG}", ExitStatus.OUTPUT, ["File name too long", "hint: "]),
        (f"index STUDY -o TMP/{TOO_LONG}.parquet", ExitStatus.OUTPUT, ["File name too long", "hint: "]),
        (f"nifti TMP/{TOO_LONG}.parquet TMP/out", ExitStatus.NO_INPUT, ["File name too long", "[path-missing]"]),
        (f"tiff TMP/{TOO_LONG}.txt TMP/out", ExitStatus.NO_INPUT, ["File name too long", "[path-missing]"]),
        (f"masks info TMP/{TOO_LONG}.seg.nrrd", ExitStatus.NO_INPUT, ["File name too long", "[path-missing]"]),
        ("index STUDY -o TMP/notes/readme.txt/i.parquet", ExitStatus.OUTPUT, ["where a folder should be", "hint: "]),
        ("supervisely-annotations -m CT,RTSTRUCT -ryaml MAP --volumes TMP/none.csv STUDY TMP/out", ExitStatus.CONFIG,
         ["[bad-volumes]", "no line says a volume", "case,plane,volume_id"]),
        ("frobnicate", ExitStatus.CONFIG, ["No such command", "--help"]),
    ],
)  # fmt: skip
def test_a_mistake_gets_a_status_and_advice(gpuprep, places, command, status, said):
    result = gpuprep(*fill(command, places))
    assert result.status == status
    assert "Traceback" not in result.stderr
    for text in said:
        assert text in result.stderr


@pytest.mark.parametrize(
    ("command", "warned"),
    [
        ("tiff -m --filter nearest --target-frames 3 STUDY TMP/out", ["--crop-max", "--filter", "--target-frames"]),
        ("tiff -c -m -p center -s 8,8 --filter nearest STUDY TMP/out", []),
        (
            "tiff --scheduler tcp://nowhere:1 --devices 1 --spacing 1,1 --filter nearest "
            "STUDY/SYNTH-001/CT/IM0001.dcm TMP/out.tiff",
            ["--devices", "--scheduler"],
        ),
        ("nifti --masks npz --dose-grid image STUDY TMP/out", ["--masks", "--dose-grid"]),
        ("nifti --on-missing error --contour-overlap xor STUDY TMP/out", ["--on-missing", "--contour-overlap"]),
        ("nifti -m CT,RTSTRUCT --masks npz STUDY TMP/out", []),
        (f"{NNUNET} MAP --region-codes bitmask STUDY TMP/out", ["--region-codes"]),
        ("supervisely -m CT,RTSTRUCT -ryaml MAP --overlap last --instances component STUDY TMP/out", ["--overlap"]),
        ("supervisely -m CT,RTSTRUCT -ryaml MAP --layout plane --instances component STUDY TMP/out", ["--instances"]),
    ],
)
def test_an_option_without_use_is_told(gpuprep, places, command, warned):
    result = gpuprep(*fill(command, places))
    assert re.findall("^warning: (.+) has no use: ", result.stderr, re.M) == warned


@pytest.mark.parametrize(
    "command",
    [
        f"{NNUNET} MAP",
        "medsegpy --format 3d -m CT,RTSTRUCT -ryaml MAP",
        "supervisely -m CT,RTSTRUCT -ryaml MAP",
        "nifti",
        "tiff",
    ],
)
def test_a_job_that_no_worker_can_do_leaves_nothing(gpuprep, places, monkeypatch, command):
    monkeypatch.chdir(places["TMP"])
    before = sorted(places["TMP"].rglob("*"))
    for output, status, code in (
        ("out", ExitStatus.CONFIG, "relative-output"),
        ("TMP/out", ExitStatus.NO_BACKEND, "cluster-unreachable"),
    ):
        result = gpuprep(*fill(f"{command} --scheduler nonsense STUDY {output}", places))
        assert result.status == status and f"[{code}]" in result.stderr
    assert sorted(places["TMP"].rglob("*")) == before


def fill(command, places):
    """Return the arguments of a command, in which places have names."""
    words = [(word, *word.partition("/")) for word in command.split()]
    return [str(places[head] / tail) if head in places else word for word, head, _, tail in words]


def test_info_names_backends_decoders_and_versions(gpuprep):
    result = gpuprep("info")
    assert result.status == ExitStatus.DONE
    for text in ("backends", "cpu", "cuda", "reference", "decoders", "JPEG 2000", "RLE Lossless", "numpy", "cores"):
        assert text in result.stdout
    assert re.search(r"^decoders on the device\n  DALI  (works: DALI \d|not used: .*\[[a-z-]+\]$)", result.stdout, re.M)


def test_show_prints_the_tree_of_a_study(gpuprep, study):
    result = gpuprep("show", study)
    assert result.status == ExitStatus.DONE
    for text in (
        "patient SYNTH-001",
        "CT ",
        "4 instances",
        "RTSTRUCT",
        "by series-uid",
        "1 segmentation linked, 0 not",
    ):
        assert text in result.stdout


def list_commands(command, name="gpuprep"):
    context = click.Context(command)
    if not isinstance(command, click.Group):
        return [(name, command)]
    inner = {n: command.get_command(context, n) for n in command.list_commands(context)}
    return [found for n, one in inner.items() for found in list_commands(one, f"{name} {n}")]


@pytest.mark.parametrize(
    ("name", "command"), list_commands(cli), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_command_and_option_is_explained(name, command):
    assert command.help and command.help.split("\n")[0].endswith(".")
    silent = [option.opts for option in command.params if isinstance(option, click.Option) and not option.help]
    assert not silent


@pytest.mark.parametrize(("name", "command"), [c for c in list_commands(cli) if c[0] != "gpuprep info"])
def test_every_command_has_an_example_that_it_understands(name, command):
    examples = re.findall(rf"^ *{name} (.*?)(?: \||   #|$)", command.help, re.M)
    assert examples
    for arguments in map(shlex.split, examples):
        assert command.make_context(name, arguments)


def test_commands_of_the_readme_are_understood():
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = re.findall(r"^gpuprep .*?(?= +#|$)", text, re.M)
    assert len(lines) > 10
    for line in lines:
        ((name, command),) = [c for c in list_commands(cli) if line.startswith(f"{c[0]} ")]
        assert command.make_context(name, shlex.split(line.removeprefix(name)))


def test_what_may_not_be_read_is_told_with_a_code(monkeypatch, tmp_path):
    monkeypatch.setattr("os.access", lambda *_: False)
    assert options.PATH.convert(tmp_path, None, None) == tmp_path


def test_help_tells_the_fields_of_file_names(gpuprep):
    words = set(re.findall(r"\w+", gpuprep("nifti", "--help").stdout))
    assert words >= {*HEADER_FIELDS, CASE_FIELD, IMAGE_FIELD}


def test_a_reader_that_has_gone_is_no_bug(study):
    command = [sys.executable, "-m", "gpuprep", "show", str(study)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 128 + signal.SIGPIPE


def test_a_job_writes_its_report_for_a_reader_that_has_gone(places):
    command = [sys.executable, "-m", "gpuprep", "nifti", str(places["STUDY"]), str(places["TMP"] / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        process.stdout.close()
    assert process.returncode == 128 + signal.SIGPIPE
    assert (places["TMP"] / "out" / "gpuprep" / "report.json").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("command", ["show STUDY", "manifest STUDY", "info", "--version", "nifti STUDY TMP/out"])
def test_what_cannot_be_printed_is_no_bug(places, command):
    with Path("/dev/full").open("w") as full:
        run = [sys.executable, "-m", "gpuprep", *fill(command, places)]
        done = subprocess.run(run, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        assert (done.returncode, "Traceback" in done.stderr) == (ExitStatus.OUTPUT, False)
        assert "No space left on device" in done.stderr
        assert subprocess.run(run, stdout=full, stderr=full, check=False).returncode == ExitStatus.OUTPUT


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_job_needs_no_terminal_nor_anything_in_its_place(places, closed):
    command = f'"$@" {closed}'
    run = [sys.executable, "-m", "gpuprep", "nifti", *map(str, (places["STUDY"], places["TMP"] / "out"))]
    assert subprocess.run(["sh", "-c", command, "sh", *run], check=False).returncode == ExitStatus.DONE
    assert (places["TMP"] / "out" / "index.csv").read_text().startswith("path,")


def test_help_is_printed_in_any_encoding(gpuprep, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    result = gpuprep("--help")
    assert result.status == ExitStatus.DONE and result.stderr == ""
    assert "RTSTRUCT or SEG \\u2192" in result.stdout


def test_help_tells_every_command_and_the_exit_status(gpuprep):
    text = gpuprep("--help").stdout
    for command in ("nnunet", "nifti", "index", "show", "synth", "info"):
        assert gpuprep(command, "--help").status == ExitStatus.DONE
        assert f"\n  {command}" in text
    assert "Exit status: 0 all done" in text
