import re
import subprocess
import sys
from pathlib import Path

import pytest

import gpuprep
from gpuprep import errors
from gpuprep.errors import ConfigError, ExitStatus, GpuprepError
from gpuprep.registry import Registry

HEAVY = ("numpy", "pydicom", "pyarrow", "imagecodecs", "scipy", "cupy", "SimpleITK", "yaml", "sqlite3")


def loaded_by(*command: str) -> set[str]:
    done = subprocess.run([sys.executable, "-X", "importtime", *command], capture_output=True, text=True, check=True)
    return {line.rsplit("|", 1)[1].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}


@pytest.mark.parametrize("arguments", [["-c", "import gpuprep"], ["-m", "gpuprep", "--version"]])
def test_nothing_heavy_is_imported_before_it_is_needed(arguments):
    assert not loaded_by(*arguments) & set(HEAVY)


def test_public_names_exist():
    assert all(hasattr(gpuprep, name) for name in gpuprep.__all__)


def all_errors():
    return [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, GpuprepError)]


@pytest.mark.parametrize("kind", all_errors())
def test_errors_travel_between_processes(kind):
    import pickle

    error = kind("what", code="a-code", subject="1.2.3", hint="do this")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert (copy.message, copy.code, copy.subject, copy.hint) == ("what", "a-code", "1.2.3", "do this")
    assert str(copy) == "1.2.3: what [a-code]"


def test_a_registry_names_its_choices():
    registry = Registry("writer", {"a": "gpuprep.errors:ConfigError"})
    assert registry.load("a") is ConfigError
    with pytest.raises(ConfigError) as caught:
        registry.load("b")
    assert caught.value.code == "unknown-writer"
    assert caught.value.hint == "choose one of: a"


def test_every_code_is_lower_case_with_hyphens():
    source = Path(gpuprep.__file__).parent
    codes = {c for p in source.rglob("*.py") for c in re.findall(r'code="([^"]+)"', p.read_text())}
    assert len(codes) > 20
    assert {c for c in codes if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", c)} == set()


def test_every_command_teaches_itself(gpuprep):
    from gpuprep.cli.main import COMMANDS

    listing = gpuprep("--help")
    assert listing.status == ExitStatus.DONE
    for command in COMMANDS:
        assert f"  {command} " in listing.stdout
        page = gpuprep(command, "--help")
        assert page.status == ExitStatus.DONE
        assert page.stdout.startswith("Usage: gpuprep")


def test_its_types_are_for_others_too():
    assert Path(gpuprep.__file__).with_name("py.typed").exists()
