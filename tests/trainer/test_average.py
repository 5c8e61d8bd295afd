"""Averages of two exports: exact at the ends, refused for others, with their provenance, evaluated
as any export."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from open_diht.common.files import sha256_file
from open_diht.common.training_data import TRAINING_DATA, decontaminated
from open_diht.eval import cli as bench
from open_diht.trainer.architecture import build
from open_diht.trainer.average import average, main
from open_diht.trainer.config import TransformSettings
from open_diht.trainer.config_files import merged
from open_diht.trainer.export import WEIGHTS, export, load
from open_diht.trainer.transforms import preprocessing
from tests.tiny_clip import TINY


def exported(
    folder: Path, seed: int, transform: TransformSettings | None = None, **changes: Any
) -> Path:
    torch.manual_seed(seed)
    shape = merged(TINY, changes)
    card = f"---\ntags: [clip]\n---\n# Card of {seed}\n\n## Use\n"
    return export(
        folder,
        shape,
        build(shape, 0.07).state_dict(),
        preprocessing(transform or TransformSettings(), 32),
        card,
    )


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return exported(tmp_path / "a", 1), exported(tmp_path / "b", 2)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_the_ends_are_the_models_and_between_them_lies_their_mean(alpha, pair, tmp_path, capsys):
    assert main([*map(str, pair), "--alpha", str(alpha), "--output", str(tmp_path / "ab")]) == 0
    assert (
        f"average in {tmp_path}/ab/, for open_clip.create_model_and_transforms("
        in capsys.readouterr().out
    )
    a, b, found = (load_file(folder / WEIGHTS) for folder in (*pair, tmp_path / "ab"))
    assert found.keys() == a.keys()
    for name, value in found.items():
        expected = ((1 - alpha) * a[name].double() + alpha * b[name].double()).float()
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-9)
        assert alpha == 0.3 or torch.equal(value, (a, b)[int(alpha)][name])
    card = (tmp_path / "ab" / "README.md").read_text()
    assert card.startswith("---\ntags: [clip]\n---\n") and card.count("---\ntags") == 1
    for seed, folder in enumerate(pair, 1):
        assert (
            f"| `{folder}` | `{sha256_file(folder / WEIGHTS)}` |" in card
            and f"### Card of {seed}" in card
        )
    assert f"with alpha {alpha:g}" in card
    load(tmp_path / "ab")


def checked(*tasks: str, distance: int = 22) -> list[dict[str, Any]]:
    rules = {"rule": {"distance": distance}, "compared": 9}
    return [{"path": "data", "checked": {"sets": [{"name": "set", "tasks": list(tasks)}], **rules}}]


NOT_CHECKED = [{"path": "data", "checked": None}]


@pytest.mark.parametrize(
    ("a", "b", "says"),
    [
        (
            checked("pets", "cars"),
            checked("pets", distance=30),
            r"decontaminated against pets: .* up to 22 of 128 bits",
        ),
        (checked("pets"), checked("cars"), "not decontaminated against pets"),
        (checked("cars"), NOT_CHECKED, "not decontaminated against pets"),
        (None, checked("cars"), "not decontaminated against pets"),
        (checked("pets"), NOT_CHECKED, "unknown"),
        (checked("pets"), None, "unknown"),
        (None, None, "unknown"),
    ],
)
def test_the_data_of_both_count(a, b, says, pair, tmp_path):
    for folder, record in zip(pair, (a, b), strict=True):
        if record is not None:
            (folder / TRAINING_DATA).write_text(json.dumps(record))
    average(pair[0], pair[1], tmp_path / "ab")
    assert re.fullmatch(says, decontaminated(tmp_path / "ab", "pets"))


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "longer texts": (
        {"text_cfg": {"context_length": 16}},
        r"architectures: positional_embedding is .*77.* and .*16",
    ),
    "more layers": (
        {"text_cfg": {"layers": 2}},
        r"transformer\.resblocks\.1\.\S+ is not there in the first and ",
    ),
    "heads": (
        {"text_cfg": {"heads": 4}},
        r"differ in model_cfg\.text_cfg\.heads of open_clip_config\.json",
    ),
    "pixels": (
        {"transform": TransformSettings(mean=(0.5, 0.5, 0.5))},
        r"differ in preprocess_cfg\.mean",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_architectures_are_refused(name, pair, tmp_path, capsys):
    changes, says = OTHERS[name]
    other = exported(tmp_path / "c", 3, **changes)
    assert main([str(pair[0]), str(other), "--output", str(tmp_path / "ac")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and not (tmp_path / "ac").exists()
    assert re.search(says, error), error


def test_wrong_words(pair, tmp_path, capsys):
    for b, output, says in (
        (pair[1], pair[1], "exists; name"),
        (tmp_path, tmp_path / "o", "not an exported model"),
    ):
        assert main([str(pair[0]), str(b), "--output", str(output)]) == 2
        assert says in capsys.readouterr().err
    assert main([*map(str, pair), "--alpha", "1.5", "--output", str(tmp_path / "o")]) == 2
    for words in (
        [*map(str, pair), "--output", "s3://b/o"],
        ["s3://b/a", str(pair[1]), "--output", str(tmp_path / "o")],
    ):
        assert main(words) == 2 and "is no folder on a disk" in capsys.readouterr().err


@pytest.mark.slow
def test_an_average_is_evaluated(pair, tmp_path):
    """On 60 stamps of the suite demo; at the ends the numbers are those of the models."""
    for alpha in ("0.5", "1"):
        assert main([*map(str, pair), "--alpha", alpha, "--output", str(tmp_path / alpha)]) == 0
    found = {}
    for model in (pair[1], tmp_path / "1", tmp_path / "0.5"):
        words = [
            "--model",
            str(model),
            "--tasks",
            "stamps",
            "--output",
            str(tmp_path / "out" / model.name),
        ]
        words += ["--cache", str(tmp_path / "cache"), "--workers", "0", "--device", "cpu"]
        words += ["--shots", "0", "--sample", "60"]
        assert bench.main(words) == 0
        rows = json.loads((tmp_path / "out" / model.name / "results.json").read_text())
        (row,) = (row for row in rows if row["metric"] == "mean_per_class")
        found[model.name] = row["value"], row["n"]
    assert found["1"] == found["b"] and found["0.5"][1] == 60 and 0 <= found["0.5"][0] <= 1
