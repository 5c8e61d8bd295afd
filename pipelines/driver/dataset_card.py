"""README.md of an output folder: a data set card for hubs, whose YAML head tells loaders which
files to read.

By default `datasets.load_dataset` loads kept/, if that has rows; each other kind of rows is a
configuration with the kind's name. The head lists the column types of a kind if its parts agree on
them and the notation can express all of them. Parts with different columns then load as one table,
with null for columns that a part lacks.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from open_diht.common.installation import program_version
from open_diht.pipelines.manifests.plan import Plan, Unit
from open_diht.pipelines.report.funnel import FunnelRecord, checked_in_words, earlier_in_words
from open_diht.pipelines.settings import RunSettings
from open_diht.pipelines.stages.images import DOWNLOAD
from open_diht.pipelines.store.layout import CARD_MARK, CROISSANT, KINDS, Layout
from open_diht.pipelines.store.records import Models
from open_diht.pipelines.store.storage import StorePath, each, open_parts

LICENSES = (
    *(
        "cc0-1.0",
        "cc-by-2.0",
        "cc-by-3.0",
        "cc-by-4.0",
        "cc-by-sa-3.0",
        "cc-by-sa-4.0",
        "cc-by-nc-4.0",
    ),
    *(
        "cc-by-nc-sa-4.0",
        "cc-by-nd-4.0",
        "cc-by-nc-nd-4.0",
        "odc-by",
        "odbl",
        "pddl",
        "apache-2.0",
        "mit",
    ),
)
"""License identifiers that hubs know, as far as they are common for data. Any other license becomes
`other` in the head of the card, and the card's text has its full name."""
_OWN = "Image-text pairs of the publisher's own"
"""Title of data sets without a home page."""
NOT_STATED = ("", "unknown", "yours")
"""Values of a data set's `license` that name no license."""
MEANING = {
    "uid": "128 bits in hex",
    "caption": "the caption, unchanged",
    "complexity": "most attributes, actions and relations counted on one object",
    "actions": "verbs that the caption states as actions",
    "objects": "objects that it names",
    "attributes": "attributes of these objects",
    "spotted": "text that was read in the image, with its score",
    "overlap": "length of the longest match between caption and text in the image",
    "captions": "the captions that passed",
    "rejected_captions": "the other captions of the row, each with its reason",
    "stage": "stage that rejected the row, or in which it failed",
    "reason": "why",
}


@dataclass(frozen=True)
class Config:
    """A configuration of the data set: one kind of rows."""

    name: str
    rows: int
    schema: pa.Schema
    """Common schema of all part files. If they disagree, it has every column, with its type in one
    of the files."""
    agrees: bool = True
    """False if a column has incompatible types in different parts."""


def configs_of(layout: Layout, units: Sequence[Unit]) -> list[Config]:
    """Return the configuration of each kind of rows that has files."""
    kinds = (_config(layout, kind, units) for kind in KINDS)
    return [kind for kind in kinds if kind is not None]


def title_of(settings: RunSettings) -> str:
    """Return the title of the data set, in which foreign text is not escaped."""
    source = settings.dataset.title if settings.dataset.homepage else _OWN
    return f"{source}, filtered by preset {settings.preset.name}"


def _config(layout: Layout, kind: str, units: Sequence[Unit]) -> Config | None:
    """Return the configuration of a kind, whose parts may have different columns. Return None
    without part files."""
    paths = [layout.part(kind, name) for name in (*(unit.name for unit in units), "unreadable")]
    rows = 0
    schemas = dict[pa.Schema, None]()
    for part in each(_footer, paths, layout.root):
        if part is not None:
            rows += part.num_rows  # keep no footers: they are large, and every unit has one
            schemas[part.schema.to_arrow_schema().remove_metadata()] = None
    if not schemas:
        return None
    try:
        return Config(kind, rows, pa.unify_schemas(list(schemas), promote_options="permissive"))
    except (pa.ArrowInvalid, pa.ArrowTypeError):  # text in one file, numbers in another
        fields = {field.name: field for schema in schemas for field in schema}
        return Config(kind, rows, pa.schema(fields.values()), agrees=False)


def _footer(path: StorePath) -> pq.FileMetaData | None:
    try:
        with open_parts(path) as file:
            return pq.ParquetFile(file).metadata
    except FileNotFoundError:
        return None


def render_card(
    funnel: FunnelRecord,
    settings: RunSettings,
    plan: Plan,
    configs: Sequence[Config],
    models: Models,
) -> str:
    """Return the text of a card. The first of `configs` is the default configuration."""
    dataset = settings.dataset
    dead = funnel["dead_letter"]
    rows_in = funnel["rows_in"]
    rate = funnel["keep_rate"]
    source = dataset.title if dataset.homepage else _OWN
    title = title_of(settings)
    source_license = None if dataset.license in NOT_STATED else dataset.license
    head = {
        "pretty_name": title,
        **_license_head(settings.license, source_license),
        "tags": ["image-text", "diht"],
    }
    steps = [("", "rows in", "", f"{rows_in:,}")]
    steps += [
        (
            _text(step["stage"]),
            _text(step["reason"]),
            f"{step['rejected'] + step.get('lost', 0):,}",
            f"{step['left']:,}",
        )
        for step in funnel["steps"]
    ]
    steps += [("", "kept", "", f"{funnel['kept']:,}"), ("", "dead letter", f"{dead['rows']:,}", "")]
    if waiting := funnel["not_decided"]["rows"]:
        steps.append(("", "not decided", f"{waiting:,}", ""))
    provenance = [
        ("source", _text(f"{source}, {dataset.homepage}" if dataset.homepage else source)),
        ("input", _code(settings.input)),
        *((f"commit of {_code(name)}", _code(commit)) for name, commit in plan.pins.items()),
        ("fingerprint of the input", _code(plan.fingerprint)),
        ("stages", ", ".join(settings.stages)),
        (
            "checked against",
            (
                _text(checked_in_words(checked))
                if (checked := funnel.get("checked"))
                else "no evaluation set"
            ),
        ),
        *(
            [("compared with", _text(earlier_in_words(earlier)))]
            if (earlier := funnel.get("earlier"))
            else []
        ),
        *(
            (f"models of {stage}", ", ".join(f"{name} {_code(str(one))}" for name, one in facts))
            for stage, model in models.items()
            if stage in settings.stages and (facts := [*model.items()])
        ),
        *([("opt-outs", settings.download.opt_outs())] if DOWNLOAD in models else []),
        (
            "program",
            f"open-diht {program_version()}; `run.json` has versions and input files, and"
            f" `{CROISSANT}` all of this for programs",
        ),
    ]
    columns = []
    for config in configs:
        differ = " Types of columns differ between its files; read those that agree by themselves."
        columns.append(f"`{config.name}`: {config.rows:,} rows.{'' if config.agrees else differ}")
        fields = [
            (_code(one.name), _code(str(one.type)), MEANING.get(one.name, ""))
            for one in config.schema
        ]
        columns.append(_table(("column", "type", "content"), fields))
    preset = settings.preset.as_dict()
    body = [
        f"# {_text(title)}",
        CARD_MARK,
        (
            f"{funnel['kept']:,} of {rows_in:,} image-text"
            f" pairs{f' ({rate:.1%})' if rows_in else ''}, kept by the filters of open-diht that"
            " the funnel lists, after [DiHT](https://arxiv.org/abs/2301.02280) (CVPR 2023)."
        ),
        "## Funnel",
        _table(("stage", "reason", "rejected", "left"), steps),
        "## Columns",
        *columns,
        "## Provenance",
        _table(("", ""), provenance),
        (
            "`python -m open_diht.pipelines.verify FOLDER` checks the folder of the run, with its"
            " `work/`, against these facts and the input."
        ),
        f"Thresholds, preset {_text(settings.preset.name)}:",
        f"```yaml\n{_yaml(json.loads(json.dumps(preset))).strip()}\n```",
        "## License",
        _license(settings.license, source_license, source),
    ]
    return f"---\n{_yaml(head | _configs_head(configs))}---\n\n" + "\n\n".join(body) + "\n"


class _OneLine(yaml.SafeDumper):
    """Dumps strings of several lines on one line, so that a line of dashes in a column name cannot
    end the head."""


_OneLine.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style='"' if len(text.splitlines()) > 1 else None
    ),
)


def _yaml(value: Any) -> str:
    return yaml.dump(
        value, Dumper=_OneLine, sort_keys=False, allow_unicode=True, width=float("inf")
    )


def _configs_head(configs: Sequence[Config]) -> dict[str, object]:
    if not configs:
        return {}
    files = [
        {
            "config_name": config.name,
            **({"default": True} if config is configs[0] else {}),
            "data_files": [{"split": "train", "path": f"{config.name}/*.parquet"}],
        }
        for config in configs
    ]
    known = [(config.name, features(config.schema)) for config in configs if config.agrees]
    described = [
        {"config_name": name, "features": found} for name, found in known if found is not None
    ]
    return {"configs": files, **({"dataset_info": described} if described else {})}


def _license_head(license: str | None, source: str | None) -> dict[str, str]:
    if license is None:
        return (
            {"license": "other", "license_name": "as-the-source"}
            if source
            else {"license": "unknown"}
        )
    if license.lower() in LICENSES:
        return {"license": license.lower()}
    return {
        "license": "other",
        "license_name": re.sub(r"[^a-z0-9.]+", "-", license.lower()).strip("-.") or "other",
    }


def _license(license: str | None, source: str | None, title: str) -> str:
    if license:
        stated = f"{_text(license)}, according to its publisher."
    elif source:
        stated = "Its publisher has named no other than the source's."
    else:
        stated = "Unknown: its publisher has not stated one."
    known = _text(source) if source else f"unknown: {_text(title)} states none"
    return f"{stated} License of the source: {known}. Captions and images belong to their owners."


def features(schema: pa.Schema) -> list[dict[str, object]] | None:
    """Return the columns in the notation of a card's head. Return None if it cannot express the
    type of a column."""
    columns = [_feature(field) for field in schema]
    return (
        None if any(one is None for one in columns) else [one for one in columns if one is not None]
    )


def _feature(field: pa.Field) -> dict[str, object] | None:
    kind = _kind(field.type)
    return None if kind is None else {"name": field.name, **kind}


def _kind(kind: pa.DataType) -> dict[str, object] | None:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        inner = _kind(kind.value_type)
        return (
            None if inner is None else {"list": inner.get("dtype") or inner.get("struct") or inner}
        )
    if pa.types.is_struct(kind):
        fields = [_feature(kind.field(place)) for place in range(kind.num_fields)]
        return None if None in fields else {"struct": fields}
    plain = (
        pa.types.is_integer,
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_boolean,
        pa.types.is_null,
    )
    if any(is_kind(kind) for is_kind in (*plain, pa.types.is_timestamp, pa.types.is_date)):
        return {"dtype": str(kind).replace("date32[day]", "date32").replace("date64[ms]", "date64")}
    named = {"halffloat": "float16", "float": "float32", "double": "float64"}
    named |= {"binary": "binary", "large_binary": "large_binary"}
    return {"dtype": named[str(kind)]} if str(kind) in named else None


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _code(text: str) -> str:
    """Return foreign text as inline code that is also safe in a table."""
    return f"`{' '.join(text.replace('`', chr(39)).split())}`".replace("|", "\\|")


def _text(text: str) -> str:
    """Return foreign text as one line with backslashes and ` * [ ] < > | escaped."""
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", " ".join(text.split()))
