"""Text files that people write, which may be wrong in many ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gpuprep.errors import ConfigError


def read_text(path: Path, *, code: str, hint: str) -> str:
    """Return a text in UTF-8, without the mark that editors on Windows put before it.

    Raises
    ------
    ConfigError
        `code`: it cannot be read, or is no such text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise ConfigError(f"cannot read: {reason}", code=code, subject=str(path), hint=hint) from error


def read_yaml(path: Path, *, code: str, repeated: str, hint: str, texts: bool = False) -> Any:
    """Return what is in a YAML file; no map may have a key twice, of which PyYAML would take the last.

    With `texts` every value is the text that stands there: 0012 is no number, which would be 10, and a date is none.

    Raises
    ------
    ConfigError
        `code`: it cannot be read, or is no YAML. `repeated`: it has such a key.
    """
    import yaml

    base: Any = yaml.BaseLoader if texts else yaml.SafeLoader

    class UniqueKeyLoader(base):  # type: ignore[misc]
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            for key in keys:
                if keys.count(key) > 1:
                    raise ConfigError(f"{key!r} occurs twice", code=repeated, subject=str(path), hint=hint)
            found: dict[object, object] = super().construct_mapping(node, deep)
            return found

    text = read_text(path, code=code, hint=hint)
    try:
        return yaml.load(text, Loader=UniqueKeyLoader)
    except ConfigError:
        raise
    except yaml.MarkedYAMLError as error:
        places = ((error.context, error.context_mark), (error.problem, error.problem_mark))
        reason = ": ".join(f"{what} in line {at.line + 1}, column {at.column + 1}" for what, at in places if at)
    except (yaml.YAMLError, ValueError) as error:  # the latter of what looks like a date, and is none
        reason = " ".join(str(error).split())
    raise ConfigError(f"it is no YAML: {reason}", code=code, subject=str(path), hint=hint)
