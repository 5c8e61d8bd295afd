"""README.md of an output folder: a data set card, as hubs show it, whose head tells loaders and viewers what to read.

`datasets.load_dataset` of the folder, or of a repository with the same files, gives kept/; the other kinds are
configurations by their names. All types stand there, so that parts of manifests with different columns are read as one
table, null where a part has no such column.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import yaml

from open_diht.pipelines.report.data import Funnel, Json, read_funnel

CARD = "README.md"
MARK = "<!-- A card of open-diht; without this line it is yours, and the next publication leaves it alone. -->"
LICENCES = (
    *("cc0-1.0", "cc-by-2.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-4.0"),
    *("cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-4.0", "odc-by", "odbl", "pddl", "apache-2.0", "mit"),
)
"""Names of licences that hubs know, those that data have. Others are `other` in the head, and in full in the text."""
_MEANING = {
    "uid": "128 bits in hex",
    "caption": "the caption, unchanged",
    "complexity": "most attributes, actions and relations counted on one object",
    "actions": "what the caption states to be done",
    "objects": "what it speaks of",
    "attributes": "what it says of these",
    "spotted": "text that was read in the image, with its score",
    "overlap": "length of the longest match between caption and text in the image",
    "stage": "where the row was rejected",
    "reason": "why",
}


@dataclass(frozen=True)
class Config:
    """One kind of rows, a configuration of the data set."""

    name: str
    rows: int
    schema: pa.Schema
    """Of all its parts together."""
    agrees: bool = True
    """Whether no column has types that cannot be one in several parts."""


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where the rows come from, and what was done with them."""

    title: str
    """Of the source."""
    homepage: str
    source_licence: str | None
    """What is known of the licence of the source, for people."""
    licence: str | None
    """What the user says that the licence of the results is."""
    input: str
    """As the user typed it."""
    commits: Mapping[str, str]
    """Of the repositories that it names."""
    preset: Mapping[str, Any]
    stages: Sequence[str]
    version: str
    """Of the program."""
    plan: str
    """Fingerprint of the input."""


def render_card(funnel: Json, provenance: Provenance, configs: Sequence[Config]) -> str:
    """The card. `funnel` is what `funnel.json` says; `configs` those kinds that have rows, the default first."""
    run = read_funnel(funnel)
    title = f"{provenance.title}, filtered"
    head = _yaml(_head(title, provenance, configs))
    share = run.share(run.kept)
    body = [
        f"# {_text(title)}",
        MARK,
        f"{run.kept:,} of {run.rows_in:,} image-text pairs{'' if share is None else f' ({share:.1%})'}, kept by the "
        "CAT filters (Complexity, Action, Text-spotting) of open-diht, after "
        "[DiHT](https://arxiv.org/abs/2301.02280) (CVPR 2023).",
        "## Funnel",
        _funnel(run),
        "## Columns",
        *(part for config in configs for part in (_rows(config), _columns(config.schema))),
        "## Provenance",
        _provenance(provenance),
        f"Thresholds, preset {_text(str(provenance.preset.get('name')))}:",
        f"```yaml\n{_yaml(json.loads(json.dumps(provenance.preset))).strip()}\n```",
        "## Licence",
        _licence(provenance),
    ]
    return f"---\n{head}---\n\n" + "\n\n".join(body) + "\n"


class _OneLine(yaml.SafeDumper):
    """Writes every text on one line: a line of dashes in the name of a column must not end the head."""


_OneLine.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style='"' if len(text.splitlines()) > 1 else None
    ),
)


def _yaml(value: Any) -> str:
    text: str = yaml.dump(value, Dumper=_OneLine, sort_keys=False, allow_unicode=True, width=float("inf"))
    return text


def _head(title: str, provenance: Provenance, configs: Sequence[Config]) -> dict[str, Any]:
    head: dict[str, Any] = {"pretty_name": title, **_licence_head(provenance), "tags": ["image-text", "diht"]}
    if configs:
        head["configs"] = [
            {
                "config_name": config.name,
                **({"default": True} if config is configs[0] else {}),
                "data_files": [{"split": "train", "path": f"{config.name}/*.parquet"}],
            }
            for config in configs
        ]
    known = [(config.name, features(config.schema)) for config in configs if config.agrees]
    described = [{"config_name": name, "features": found} for name, found in known if found is not None]
    return {**head, "dataset_info": described} if described else head


def _licence_head(found: Provenance) -> dict[str, str]:
    licence = found.licence
    if licence is None:
        return {"license": "other", "license_name": "as-the-source"} if found.source_licence else {"license": "unknown"}
    if licence.lower() in LICENCES:
        return {"license": licence.lower()}
    return {"license": "other", "license_name": re.sub(r"[^a-z0-9.]+", "-", licence.lower()).strip("-.") or "other"}


def features(schema: pa.Schema) -> list[dict[str, Any]] | None:
    """Columns and their types in the words of a card's head; None where one has a type that these words lack."""
    found = [_feature(field) for field in schema]
    return None if any(one is None for one in found) else [one for one in found if one is not None]


def _feature(field: pa.Field) -> dict[str, Any] | None:
    kind = _kind(field.type)
    return None if kind is None else {"name": field.name, **kind}


def _kind(kind: pa.DataType) -> dict[str, Any] | None:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        inner = _kind(kind.value_type)
        return None if inner is None else {"list": inner.get("dtype") or inner.get("struct") or inner}
    if pa.types.is_struct(kind):
        fields = [_feature(kind.field(place)) for place in range(kind.num_fields)]
        return None if None in fields else {"struct": fields}
    plain = (pa.types.is_integer, pa.types.is_string, pa.types.is_large_string, pa.types.is_boolean, pa.types.is_null)
    if any(is_kind(kind) for is_kind in (*plain, pa.types.is_timestamp, pa.types.is_date)):
        return {"dtype": str(kind).replace("date32[day]", "date32").replace("date64[ms]", "date64")}
    named = {"halffloat": "float16", "float": "float32", "double": "float64"}
    named |= {"binary": "binary", "large_binary": "large_binary"}
    return {"dtype": named[str(kind)]} if str(kind) in named else None


def _funnel(run: Funnel) -> str:
    rows = [("", "rows in", "", f"{run.rows_in:,}")]
    rows += [(_text(step.stage), _text(step.reason), f"{step.gone:,}", f"{step.left:,}") for step in run.steps]
    rows += [("", "kept", "", f"{run.kept:,}"), ("", "dead letter", f"{run.dead_rows:,}", "")]
    if run.not_decided:
        rows.append(("", "not decided", f"{run.not_decided:,}", ""))
    return _table(("stage", "reason", "rejected", "left"), rows)


def _rows(config: Config) -> str:
    differ = "" if config.agrees else " Types of columns differ between its files; read those that agree by themselves."
    return f"`{config.name}`: {config.rows:,} rows.{differ}"


def _columns(schema: pa.Schema) -> str:
    rows = [(_code(field.name), _code(str(field.type)), _MEANING.get(field.name, "")) for field in schema]
    return _table(("column", "type", "content"), rows)


def _provenance(found: Provenance) -> str:
    rows = [("source", _text(f"{found.title}, {found.homepage}" if found.homepage else found.title))]
    rows += [("input", _code(found.input))]
    rows += [(f"commit of {_code(name)}", _code(commit)) for name, commit in found.commits.items()]
    rows += [("fingerprint of the input", _code(found.plan)), ("stages", ", ".join(found.stages))]
    rows += [("program", f"open-diht {found.version}; `run.json` has all versions, models and files")]
    return _table(("", ""), rows)


def _licence(found: Provenance) -> str:
    source = _text(found.source_licence) if found.source_licence else f"unknown: {_text(found.title)} states none"
    if found.licence:
        stated = f"{_text(found.licence)}, as its publisher says."
    elif found.source_licence:
        stated = "Its publisher has named no other than the source's."
    else:
        stated = "Unknown: its publisher has not said."
    return f"{stated} Licence of the source: {source}. Captions and images belong to their owners."


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _code(text: str) -> str:
    """Foreign text as it is, in a table too."""
    return f"`{' '.join(text.replace('`', chr(39)).split())}`".replace("|", "\\|")


def _text(text: str) -> str:
    """Foreign text as one line in which Markdown and HTML see no marks of theirs."""
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", " ".join(text.split()))
