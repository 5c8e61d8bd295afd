"""The seam for losses: what `docs/extend/loss.md` says, done from outside the package."""

import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from open_diht.trainer import loop
from open_diht.trainer.config_files import load_config, plain
from open_diht.trainer.config_names import BadConfig
from open_diht.trainer.losses import LOSSES, HnNce, InfoNce, Loss, loss_of, register
from tests.trainer.conftest import entries

PAGE = Path(__file__).parents[3] / "docs" / "extend" / "loss.md"


def snippets() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.fixture
def triplet(tmp_path: Path) -> Iterator[type[Any]]:
    """The loss of the page, in a file of its own."""
    path = tmp_path / "triplet.py"
    path.write_text(snippets()[0], encoding="utf-8")
    spec = importlib.util.spec_from_file_location("triplet", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = dict(LOSSES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "triplet", module)
        spec.loader.exec_module(module)
        yield module.Triplet
    LOSSES.clear()
    LOSSES.update(before)


@pytest.mark.slow
@pytest.mark.parametrize("parts", [1, 2])
def test_a_loss_from_outside_is_trained_and_in_the_log(parts, triplet, tiny_config, tmp_path):
    config = tiny_config(
        loss={"name": "triplet", "margin": 0.3},
        schedule={"samples": 640, "micro_batches": parts},
        optimizer={"learning_rate": 2e-3},
    )
    assert config.loss == triplet(margin=0.3)
    said: list[str] = []
    outcome = loop.train(config, tmp_path / "run", said.append)
    first, *_, last = entries(tmp_path / "run", "step")
    assert first["contrastive"] > last["contrastive"] > 0 and first["inside_margin"] > 0.9
    assert set(first).isdisjoint({"hardest"}) and {"loss", "accuracy"} <= set(first)
    assert any("inside_margin" in line for line in said)
    assert plain(config)["loss"] == {"name": "triplet", "margin": 0.3}
    assert (
        outcome.export is not None
        and ", triplet, 640 samples" in (outcome.export / "README.md").read_text()
    )


def test_the_page_trains_with_it(triplet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(loop, "train", lambda *words: asked.append(words))
    exec(snippets()[1], {})
    ((config, workdir, _),) = asked
    assert config.loss == triplet(margin=0.3) and workdir == "out/triplet"


def test_settings_of_a_loss_are_checked(triplet: Any) -> None:
    for words, message in (
        ({"name": "triplet", "margin": 3}, r"loss.margin is 3.0; it must be above 0 and below 2"),
        ({"name": "triplet", "beta": 1}, r"unknown key loss.beta; known: name, margin"),
        (
            {"name": "tripet"},
            r"'tripet' \(did you mean 'triplet'\?\); choose hn_nce, infonce, siglip, triplet",
        ),
    ):
        with pytest.raises(BadConfig, match=message):
            load_config("tiny", ["data.sources=[{path: x}]", f"loss={json.dumps(words)}"])


def test_statistics_carry_no_gradient(triplet: Any, features: Any) -> None:
    x, y = (values.requires_grad_() for values in features(5))
    loss, statistics = triplet()(x, y, torch.tensor(10.0, dtype=torch.float64))
    loss.backward()
    assert x.grad is not None and not any(value.requires_grad for value in statistics.values())


def test_names_are_unique() -> None:
    assert register(HnNce) is HnNce  # again the same is no other

    @dataclass(frozen=True, kw_only=True)
    class Other(HnNce):
        name: str = "infonce"

    with pytest.raises(ValueError, match="a loss called infonce already, InfoNce"):
        register(Other)

    class Nameless(Loss):
        pass

    with pytest.raises(ValueError, match="the loss Nameless has no name"):
        register(Nameless)  # type: ignore[type-abstract]


def test_infonce_ignores_alpha_and_beta(features: Any) -> None:
    (x, y), scale = features(7), torch.tensor(10.0, dtype=torch.float64)
    given = loss_of({"name": "infonce", "alpha": 0, "beta": 3})
    assert given(x, y, scale)[0] == InfoNce()(x, y, scale)[0]
    assert loss_of({}) == HnNce() and loss_of(given) is given
