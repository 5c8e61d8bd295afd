"""A tiny dual encoder, exported as a user would find it, and small sets in the layouts we read."""

import importlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

IN_CI = os.environ.get("CI", "").lower() in ("1", "true", "yes")


def needed(module: str) -> Any:
    """The module; where it is not installed an error in CI, which must not look well untested, a
    skip elsewhere."""
    if IN_CI:
        return importlib.import_module(module)
    return pytest.importorskip(
        module, reason=f"{module} is not installed: make test, or pip install '.[eval,dev]'"
    )


def not_at_hand(what: Exception) -> NoReturn:
    """Data is missing: a failure in CI, a skip elsewhere."""
    if IN_CI:
        pytest.fail(f"CI has to fetch it first, `make bench-data TASK=demo`: {what}")
    pytest.skip(str(what))


needed("torch")
needed("open_clip")

from PIL import Image  # noqa: E402

from open_diht.eval.data import Memo  # noqa: E402
from open_diht.eval.features import FeatureCache  # noqa: E402
from open_diht.eval.fetch.archives import jpeg  # noqa: E402
from open_diht.eval.models import load_model  # noqa: E402
from open_diht.eval.models.model import Model  # noqa: E402
from open_diht.eval.tasks import Source, Task  # noqa: E402
from tests.tiny_clip import write_tiny  # noqa: E402
from tests.webdatasets import write_webdataset  # noqa: E402

COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220)}


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny(tiny_folder) -> Model:
    return load_model(str(tiny_folder), data=tiny_folder)


@pytest.fixture
def memo(tmp_path) -> Memo:
    return Memo(tmp_path / "hashes")


@pytest.fixture
def cache(tmp_path, tiny) -> FeatureCache:
    return FeatureCache(tmp_path / "features", tiny, batch=4, text_batch=8)


def a_task(name: str, kind: str, metric: str, **more: Any) -> Task:
    """A task on the set of that name, in the webdataset layout."""
    given = {"title": name.capitalize(), "license": "CC0-1.0", "get": "paint some"}
    return Task(
        name=name,
        kind=kind,
        metric=metric,
        **{**given, "sources": (Source(layout="webdataset", path=name),), **more},
    )


def image(colour: str = "red", number: int = 0, size: tuple[int, int] = (40, 36)) -> Image.Image:
    """A colour with some noise that depends on `number` alone."""
    noise = np.random.default_rng(number).integers(-20, 20, (size[1], size[0], 3))
    return Image.fromarray(np.clip(np.array(COLOURS[colour]) + noise, 0, 255).astype(np.uint8))


def paint(path: Path, colour: str, number: int) -> None:
    """Write such an image, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image(colour, number).save(path)


@pytest.fixture
def colour_set(tmp_path) -> Callable[..., Path]:
    """Writes `n` coloured images of three classes as a webdataset; returns the data root."""

    def write(
        name: str = "colours",
        n: int = 12,
        names: Sequence[str] = tuple(COLOURS),
        split: str = "test",
    ) -> Path:
        root = tmp_path / "data"
        samples = (
            (f"s{index:04d}", {"jpg": jpeg(image(names[index % 3], index)), "cls": str(index % 3)})
            for index in range(n)
        )
        write_webdataset(
            root / name,
            samples,
            split=split,
            class_names=names,
            templates=["a {c} thing.", "{c}!"],
            per_shard=5,
        )
        return root

    return write
