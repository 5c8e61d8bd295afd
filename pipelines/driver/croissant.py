"""croissant.json of an output folder: what the data set is and how it was made, in the Croissant
format 1.1 with its provenance (W3C PROV), for tools that read other than our records."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from open_diht.common.installation import program_version
from open_diht.pipelines.driver.dataset_card import MEANING, NOT_STATED, Config
from open_diht.pipelines.report.funnel import FunnelRecord
from open_diht.pipelines.settings import RunSettings
from open_diht.pipelines.store.records import WholeRunRecord

_TERMS = (
    *("citeAs", "column", "containedIn", "arrayShape", "equivalentProperty", "extract", "field"),
    *("fileObject", "fileProperty", "fileSet", "format", "includes", "isArray", "isLiveDataset"),
    *("jsonPath", "key", "md5", "parentField", "path", "recordSet", "references", "regex"),
    *("repeated", "replace", "samplingRate", "separator", "source", "subField", "transform"),
)
_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "dct": "http://purl.org/dc/terms/",
    "prov": "http://www.w3.org/ns/prov#",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "description": {"@container": "@language"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"},
    **{term: f"cr:{term}" for term in _TERMS},
}
_TYPES = (
    (pa.types.is_boolean, "sc:Boolean"),
    (pa.types.is_integer, "sc:Integer"),
    (pa.types.is_floating, "sc:Float"),
    (pa.types.is_string, "sc:Text"),
    (pa.types.is_large_string, "sc:Text"),
    (pa.types.is_timestamp, "sc:DateTime"),
    (pa.types.is_date, "sc:Date"),
)


def croissant_of(
    settings: RunSettings,
    run: WholeRunRecord,
    funnel: FunnelRecord,
    configs: Sequence[Config],
    title: str,
) -> dict[str, Any]:
    """Return the content of croissant.json. Columns of bytes, structures and maps are left out of
    the record sets, as are kinds of rows whose files differ in types."""
    dataset = settings.dataset
    source = {"@type": "prov:Entity", "prov:label": dataset.title, "identifier": settings.input}
    source |= {"url": dataset.homepage} if dataset.homepage else {}
    pins = [
        {"@type": "prov:Entity", "prov:label": name, "version": commit}
        for name, commit in run["dataset"].get("commits", {}).items()
    ]
    source_license = None if dataset.license in NOT_STATED else dataset.license
    stated = settings.license or source_license
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": title,
        "description": (
            f"{funnel['kept']:,} of {funnel['rows_in']:,} image-text pairs, kept by the filters of"
            " open-diht, after DiHT (https://arxiv.org/abs/2301.02280)."
        ),
        **({"license": stated} if stated else {}),
        "datePublished": run["began"],
        "version": "1.0.0",
        "distribution": [
            {
                "@type": "cr:FileSet",
                "@id": f"{config.name}-files",
                "encodingFormat": "application/x-parquet",
                "includes": f"{config.name}/*.parquet",
            }
            for config in configs
        ],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": config.name,
                "field": list(_fields(config)),
            }
            for config in configs
            if config.agrees
        ],
        "prov:wasDerivedFrom": [source, *pins],
        "prov:wasGeneratedBy": {
            "@type": "prov:Activity",
            "prov:label": f"filtering by preset {settings.preset.name}",
            "prov:startedAtTime": run["began"],
            "prov:wasAssociatedWith": {
                "@type": "prov:SoftwareAgent",
                "prov:label": "open-diht",
                "version": program_version(),
                "additionalProperty": _properties(run["versions"]),
            },
            "additionalProperty": [
                *_properties({"fingerprint of the input": run["plan"]["fingerprint"]}),
                *_properties(_counts(funnel)),
                *_properties(dict(_flat(run["preset"]))),
            ],
            "dct:hasPart": [
                _stage(stage, position, run["models"].get(stage, {}), funnel)
                for position, stage in enumerate(_stages(run, funnel))
            ],
        },
    }


def _fields(config: Config) -> Iterator[dict[str, Any]]:
    for number, column in enumerate(config.schema):
        is_list = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
        inner = column.type.value_type if is_list else column.type
        kind = next((name for is_kind, name in _TYPES if is_kind(inner)), None)
        if kind is not None:
            # Identifiers are IRIs, and readers refuse those with blanks even if they are escaped.
            plain = re.fullmatch(r"[A-Za-z0-9_.-]+", column.name)
            yield {
                "@type": "cr:Field",
                "@id": f"{config.name}/{column.name if plain else f'column~{number}'}",
                "name": column.name,
                "dataType": kind,
                **({"isArray": True, "arrayShape": "-1"} if is_list else {}),
                **({"description": MEANING[column.name]} if column.name in MEANING else {}),
                "source": {
                    "fileSet": {"@id": f"{config.name}-files"},
                    "extract": {"column": column.name},
                },
            }


def _counts(funnel: FunnelRecord) -> dict[str, int]:
    return {
        "rows in": funnel["rows_in"],
        "rows kept": funnel["kept"],
        "rows in dead_letter": funnel["dead_letter"]["rows"],
        "rows not decided": funnel["not_decided"]["rows"],
    }


def _stages(run: WholeRunRecord, funnel: FunnelRecord) -> list[str]:
    """Return the stages in the order of the run, with those that only filters belong to."""
    return [*dict.fromkeys([*run["stages"], *(step["stage"] for step in funnel["steps"])])]


def _stage(
    stage: str, position: int, model: Mapping[str, Any], funnel: FunnelRecord
) -> dict[str, Any]:
    rejected = {
        f"rejected: {step['reason']}": step["rejected"] + step.get("lost", 0)
        for step in funnel["steps"]
        if step["stage"] == stage
    }
    used = {"@type": "prov:Entity", "prov:label": f"models and versions of {stage}"}
    return {
        "@type": "prov:Activity",
        "prov:label": stage,
        "position": position,
        "additionalProperty": _properties(rejected),
        **({"prov:used": {**used, "additionalProperty": _properties(model)}} if model else {}),
    }


def _properties(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "@type": "PropertyValue",
            "propertyID": name,
            "value": value if isinstance(value, str | int | float) else json.dumps(value),
        }
        for name, value in values.items()
    ]


def _flat(value: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield nested names joined by dots, with values that are no mappings."""
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _flat(inner, f"{above}{name}.")
        else:
            yield f"{above}{name}", inner
