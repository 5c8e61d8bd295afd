"""Read YAML safely: no duplicate keys, and each error is one line with the place and a remedy."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from open_diht.common.fields import BadValue
from open_diht.common.naming import nearest

_REMEDY = "write `key: value`, indent with spaces, and quote texts that contain : # { or ["


class BadYaml(ValueError):
    """A file or text cannot be read as YAML. The one-line message names place and remedy."""


class _Loader(yaml.SafeLoader):
    """A safe YAML loader that refuses duplicate keys, where the plain loader keeps the last. Like
    YAML 1.2, it reads 5e-4 as a number and no (the language Norwegian) as a text. The plain loader
    reads them as a text and as false.
    """

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # A composed node holds the keys as written. Later it also holds keys merged by `<<`, which
        # are no duplicates.
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            name = (key.tag, str(key.value))
            if name in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"key '{key.value}' is given twice", problem_mark=key.start_mark
                )
            seen.add(name)
        return node


_REPLACED = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float", "tag:yaml.org,2002:bool")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _REPLACED]  # see below
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
# Integers with a leading zero (010, octal in YAML 1.1) and numbers with colons (1:30, base 60) are
# texts.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"^[-+]?(0|[1-9][\d_]*|0x[\da-fA-F_]+|0b[01_]+)$", re.ASCII),
    list("-+0123456789"),
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^([-+]?(\d[\d_]*\.[\d_]*|\.\d[\d_]*|(\d[\d_]*(\.\d*)?|\.\d+)[eE][-+]?\d+)"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$",
        re.ASCII,
    ),
    list("-+0123456789."),
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


@dataclass(frozen=True)
class Shelf:
    """YAML files of one kind: the files of a folder by name, and other files by path."""

    folder: Path
    what: str
    """Name of such a file in messages, for example "preset"."""
    error: type[Exception]
    """Error class for a file that cannot be used."""

    def names(self) -> list[str]:
        """Return the names of the files in the folder, sorted."""
        return sorted(path.stem for path in self.folder.glob("*.yaml"))

    def path(self, name: str) -> Path:
        """Return the path of the file of this name, or `name` if it ends in .yaml or .yml. Raise
        `error` if unknown."""
        if name.endswith((".yaml", ".yml")):
            return Path(name)
        if name not in (known := self.names()):
            raise self.error(
                f"unknown {self.what} {name!r}{nearest(name, known)}; choose {', '.join(known)}, or"
                " a .yaml file"
            )
        return self.folder / f"{name}.yaml"

    @contextmanager
    def explained(self, path: Path) -> Iterator[None]:
        """Turn `BadYaml`, `BadValue` and `error` in the block into `error` with the file's name in
        front."""
        try:
            yield
        except BadYaml as error:
            raise self.error(f"{self.what} file {error}") from None
        except (BadValue, self.error) as error:
            raise self.error(f"{self.what} file {path}: {error}") from None


def read_yaml(path: Path) -> Any:
    """Return the content of a YAML file. Raise `BadYaml` as `parse_yaml` does, and if the path is a
    URL, or the file cannot be opened or is not UTF-8."""
    if address := re.match(r"([a-zA-Z][a-zA-Z0-9+.-]+):/", str(path)):
        # Path turns two slashes into one.
        raise BadYaml(
            f"{address[1]}://{str(path)[address.end() :]} is a URL, and settings are read from"
            " local files; download it and give the path of the copy"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise BadYaml(
            f"{path}: {error.strerror or error}; give the path of a readable file"
        ) from error
    except UnicodeDecodeError as error:
        raise BadYaml(f"{path} is not UTF-8 text (byte {error.start}); save it as such") from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, place: str) -> Any:
    """Return the content of a YAML text. Raise BadYaml if it is not valid YAML, is nested too
    deeply, repeats a key, or has a value that cannot be read."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        code = ord(text[error.position])
        raise BadYaml(
            f"{place}, line {line}: not YAML, character U+{code:04X}; remove it"
        ) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = error.problem or error.context or "unreadable"
        if "given twice" in problem:
            raise BadYaml(
                f"{place}{where}: {' '.join(problem.split())}; remove one of them"
            ) from error
        said = f"{problem} {error.context}" if error.problem and error.context else problem
        raise BadYaml(f"{place}{where}: not YAML, {' '.join(said.split())}; {_REMEDY}") from error
    except RecursionError as error:
        raise BadYaml(f"{place}: the YAML is nested too deeply; flatten it") from error
    # For example a number of thousands of digits (ValueError), `!!bool foo` (KeyError) or
    # `!!timestamp foo`.
    except (ValueError, LookupError, AttributeError) as error:
        raise BadYaml(
            f"{place}: a value cannot be read ({error}); quote it, or correct it"
        ) from error
