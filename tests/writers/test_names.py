import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuprep.writers.names import MAX_NAME, safe_name


@given(st.text(max_size=300))
def test_any_text_becomes_a_plain_name(text):
    name = safe_name(text)
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name)
    assert len(name) <= MAX_NAME


@pytest.mark.parametrize(
    "hostile", ["../../etc/passwd", "/abs", "..", "a/b\\c", "x\0y", "~", "con", "CON", "", "  ", "-rf"]
)
def test_hostile_names_stay_inside(tmp_path, hostile):
    path = (tmp_path / safe_name(hostile)).resolve()
    assert path.parent == tmp_path.resolve()
    assert safe_name(hostile).lower() != "con"


def test_names_stay_what_they_were():
    assert safe_name("a" * 80) == "a" * 80
    # `printf con | b2sum -l 32` and so on: cases keep their files as long as this does
    assert [safe_name(text) for text in ("Con", "con", "a" * 81)] == [
        "Con_97ae4a59", "con_d1d8ab24", "a" * 71 + "_50b06609",
    ]  # fmt: skip


def test_long_names_that_begin_alike_stay_apart():
    assert safe_name("a" * 200 + "1") != safe_name("a" * 200 + "2")


@pytest.mark.parametrize(
    ("one", "other"), [("肿瘤", "肺"), ("肺L", "肾L"), ("Käse", "Köse"), ("Weiß", "Weis"), ("が", "か")]
)
def test_letters_of_other_alphabets_keep_names_apart(one, other):
    assert safe_name(one) != safe_name(other)


def test_signs_cost_no_digest():
    assert [safe_name(text) for text in ("GTV 60 Gy", "GTV – 60", "GTV/PTV")] == ["GTV_60_Gy", "GTV_60", "GTV_PTV"]


def test_accents_cost_letters_nothing_however_they_are_written():
    assert [safe_name(text) for text in ("Ösophagus", "O\u0308sophagus", "fémur 2²")] == [
        "Osophagus", "Osophagus", "femur_22",
    ]  # fmt: skip
    assert safe_name("Łódź") == safe_name("Ło\u0301dz\u0301")
