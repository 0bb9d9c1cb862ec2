import pytest

from gpuprep.errors import ConfigError
from gpuprep.texts import read_text, read_yaml


def test_a_text_may_come_from_windows(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffä\r\n".encode())
    assert read_text(path, code="bad", hint="") == "ä\n"


@pytest.mark.parametrize(("content", "reason"), [(None, "No such file"), ("ä".encode("latin-1"), "no text in UTF-8")])
def test_what_is_no_text_is_refused(tmp_path, content, reason):
    path = tmp_path / "a.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"a.txt: cannot read: .*{reason}") as caught:
        read_text(path, code="bad", hint="do this")
    assert (caught.value.code, caught.value.hint) == ("bad", "do this")


@pytest.mark.parametrize(
    ("text", "code", "reason"),
    [
        ("a: ['x", "bad", r"it is no YAML: .* in line 1, column 5: found unexpected end of stream in line 1, column 7"),
        ("a: b\n\tc: d", "bad", r"it is no YAML: found character '\\t' .* in line 2, column 1"),
        ("a: [2020-13-45]", "bad", "it is no YAML: month must be in 1..12"),
        ("a: \x00", "bad", "it is no YAML: unacceptable character"),
        ("a: 1\nb: {c: 1, c: 2}", "twice", "'c' occurs twice"),
    ],
)
def test_what_is_no_yaml_is_refused(tmp_path, text, code, reason):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=reason) as caught:
        read_yaml(path, code="bad", repeated="twice", hint="")
    assert caught.value.code == code
