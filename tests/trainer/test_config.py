"""Configurations: nothing unknown, typed, documented, and the same after a round trip."""

import dataclasses
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from open_diht.common.fields import build, field_docstrings
from open_diht.trainer import config as module
from open_diht.trainer.config import Config
from open_diht.trainer.config_files import differences, load_config, merged, plain
from open_diht.trainer.config_names import BadConfig, config_names

DATA = {"data": {"sources": [{"path": "out/sample"}]}}


@pytest.mark.parametrize("name", config_names())
def test_shipped_configurations_load_and_survive_a_round_trip(name: str) -> None:
    config = load_config(name, base=DATA)
    written = yaml.safe_dump(plain(config))
    assert build(Config, yaml.safe_load(written)) == config


def test_what_is_shipped() -> None:
    assert set(config_names()) >= {"tiny", "vit-b-32", "vit-b-16", "vit-l-14", "vit-l-14-336"}
    large = load_config("vit-l-14-336", base=DATA)
    assert (large.model.name, large.schedule.samples) == ("ViT-L-14-336", 400_000_000)
    assert large.model.gradient_checkpointing and large.optimizer.weight_decay == 0.2


def test_defaults_are_the_documented_ones() -> None:
    config = load_config("vit-b-32", base=DATA)
    assert (config.loss.alpha, config.loss.beta, config.loss.detach_weights) == (1.0, 0.25, False)
    assert (config.optimizer.learning_rate, config.optimizer.weight_decay) == (5e-4, 0.2)
    assert (config.optimizer.betas, config.optimizer.eps) == ((0.9, 0.98), 1e-6)
    assert config.schedule.batch_size == 33_792 and config.schedule.warmup_samples == 2_000 * 33_792
    assert config.concepts.weights == {"objects": 1.0, "attributes": 1.0}


def test_every_field_has_a_docstring() -> None:
    sections = [
        one for one in vars(module).values() if getattr(one, "__module__", "") == module.__name__
    ]
    sections = [one for one in sections if dataclasses.is_dataclass(one)]
    missing = {
        one.__name__: {each.name for each in dataclasses.fields(one)} - field_docstrings(one).keys()
        for one in sections
    }
    assert len(missing) > 8 and not any(missing.values()), missing


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["loss.bta=0.5"],
            r"unknown key loss.bta \(did you mean 'beta'\?\); known: name, alpha, beta",
        ),
        (["optimiser.lr=1"], r"unknown key optimiser \(did you mean 'optimizer'\?\)"),
        (["loss.beta=-1"], "loss.beta is -1.0; it must be at least 0 and at most 100"),
        (
            ["schedule.micro_batches=99999"],
            "micro_batches is 99999; it must be at most schedule.batch_size",
        ),
        (["run.timeout_s=.inf"], "run.timeout_s is inf; it must be above 0"),
        (
            ["loss.name=hn-nce"],
            r"loss.name is 'hn-nce' \(did you mean 'hn_nce'\?\); choose hn_nce, infonce",
        ),
        (["run.deterministic=1"], "run.deterministic is 1; it must be true or false"),
        (["loss.beta"], "'loss.beta' is not key=value"),
        (["check.templates=[a photo]"], "a template holds {} exactly once"),
        (
            ["schedule.samples=1000", "schedule.epochs=2"],
            "either schedule.samples or schedule.epochs",
        ),
        (["loss.alpha=0"], "set mask_duplicates to false"),
        (["model.max_scale=5"], "means a scale of 6.667, above model.max_scale"),
        (["check.templates={"], r"check\.templates=\{, line 1, column 2: not YAML"),
    ],
)
def test_wrong_words(words: list[str], message: str) -> None:
    with pytest.raises(BadConfig, match=message):
        load_config("tiny", words, DATA)


def test_a_word_without_a_value_is_an_empty_text() -> None:
    assert load_config("tiny", ["concepts.path=", "check.tasks="], DATA).concepts.path == ""


def test_words_keep_their_types() -> None:
    words = [
        "loss.beta=1",
        "optimizer.learning_rate=3e-4",
        "optimizer.max_gradient_norm=1",
        "concepts.objects=0.5",
    ]
    config = load_config("tiny", [*words, "schedule.samples=100"], DATA)
    assert (config.loss.beta, config.optimizer.learning_rate) == (1.0, 3e-4)
    assert config.optimizer.max_gradient_norm == 1.0 and config.schedule.samples == 100
    assert config.concepts.weights == {"objects": 0.5, "attributes": 1.0}


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=r"unknown configuration 'tinny' \(did you mean 'tiny'\?\)"):
        load_config("tinny")
    with pytest.raises(
        BadConfig,
        match=r"data.sources is empty: name at least one folder of shards, or data.loader",
    ):
        load_config("tiny")
    with pytest.raises(BadConfig, match=r"configuration file nowhere.yaml: No such file"):
        load_config("nowhere.yaml")
    bad = tmp_path / "bad.yaml"
    bad.write_text("loss: [")
    with pytest.raises(BadConfig, match=r"bad.yaml, line 1, column 8: not YAML, [^\n]*$"):
        load_config(str(bad))
    bad.write_text("- 1")
    with pytest.raises(BadConfig, match=r"holds list, not sections"):
        load_config(str(bad))


@pytest.mark.parametrize(
    ("of_file", "words", "gone"),
    [
        ({"schedule": {"epochs": 3}}, ["schedule.samples=400"], "schedule.epochs"),
        ({"schedule": {"samples": 400}}, ["schedule.epochs=3.0"], "schedule.samples"),
        ({"data": {"subset": "a.npy"}}, ["data.selection=b"], "data.subset"),
        ({"data": {"selection": "b"}}, ["data.subset=a.npy"], "data.selection"),
        ({"data": {"selection": "b", "skip": ["a.tar"]}}, ["data.loader=a:B"],
         "data.selection data.skip data.sources"),
        ({"model": {"architecture": {"embed_dim": 8}}}, ["model.name=ViT-B-16"],
         "model.architecture"),
        ({"model": {"warm_start_image": "a", "warm_start_text": "b"}}, ["model.warm_start=c"],
         "model.warm_start_image model.warm_start_text"),
        ({"model": {"warm_start": "c"}}, ["model.warm_start_image=a"], "model.warm_start"),
        ({"loss": {"beta": 0.5}, "model": {"bias": -10}}, ["loss.name=siglip"], "loss.beta"),
    ],
)  # fmt: skip
def test_a_value_that_is_given_replaces_those_of_the_file_that_it_excludes(
    of_file, words, gone, tmp_path
):
    values = merged(merged(DATA, {"schedule": {"samples": 10}}), of_file)
    mine = tmp_path / "mine.yaml"
    other = tmp_path / "other.yaml"
    mine.write_text(yaml.safe_dump(values))
    config = plain(load_config(str(mine), words))
    for word in words:
        section, key = word.partition("=")[0].split(".")
        assert str(config[section][key]) == word.partition("=")[2]
        other.write_text(yaml.safe_dump({"extends": "mine", section: {key: config[section][key]}}))
    without = plain(build(Config, DATA | {"schedule": {"samples": 1}}))
    for name in gone.split():
        section, key = name.split(".")
        assert config[section].get(key) in (without[section].get(key), None, [])
    assert plain(load_config(str(other))) == config, "a file that extends the other does the same"


def test_another_loss_keeps_the_settings_that_it_has(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "extends: tiny\nmodel: {bias: -10}\nloss: {name: siglip, mask_duplicates: false}\n"
    )
    for words in (["loss.name=siglip"], ["loss.name=infonce", "model.bias=null"]):
        loss = load_config(str(mine), words, DATA).loss
        assert (loss.name, loss.tells_duplicates) == (words[0].partition("=")[2], False)


def test_a_default_gives_way_to_the_file(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    default = {"data": {"sources": [{"path": "out/sample"}]}}
    mine.write_text("extends: vit-b-32\n")
    assert load_config(str(mine), defaults=default).data.places == ("out/sample",)
    given = {
        "sources: [{path: a}, {path: b}]": ("a", "b"),
        "loader: a:B, path: pairs.npz": ("pairs.npz",),
    }
    for data, places in given.items():
        mine.write_text(f"extends: vit-b-32\ndata: {{{data}}}\n")
        assert load_config(str(mine), defaults=default).data.places == places
        assert load_config(
            str(mine), base=DATA | {"data": {"sources": [{"path": "c"}]}}
        ).data.places == ("c",)


def test_a_wrong_value_is_one_traceback() -> None:
    with pytest.raises(BadConfig) as raised:
        load_config("tiny", ["schedule.micro_batches=99999"], DATA)
    assert "".join(traceback.format_exception(raised.value)).count("Traceback") == 1


def test_files_extend_files(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(
        yaml.safe_dump({**DATA, "schedule": {"samples": 10}, "loss": {"beta": 0.1, "alpha": 0.9}})
    )
    (tmp_path / "mine.yaml").write_text("extends: base\nloss: {beta: 0.2}\n")
    config = load_config(str(tmp_path / "mine.yaml"))
    assert (config.loss.alpha, config.loss.beta) == (0.9, 0.2)
    (tmp_path / "base.yaml").write_text("extends: mine\n")
    with pytest.raises(BadConfig, match=r"extends itself"):
        load_config(str(tmp_path / "mine.yaml"))


def test_a_file_anywhere_extends_a_configuration_that_comes_along(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("extends: vit-b-32\nloss: {beta: 0.2}\n")
    config = load_config(str(mine), base=DATA)
    assert (config.model.name, config.loss.beta) == ("ViT-B-32", 0.2)
    (tmp_path / "vit-b-32.yaml").write_text("extends: vit-b-16\n")  # a file beside it comes first
    assert load_config(str(mine), base=DATA).model.name == "ViT-B-16"
    mine.write_text("extends: vit-b-23\n")
    with pytest.raises(BadConfig, match=r"extends 'vit-b-23', but .* does not exist"):
        load_config(str(mine))


def test_probabilities_of_captions_replace_those_of_the_configuration(tmp_path: Path) -> None:
    given = ["data.captions={caption: 0.5, blip: 0.5}"]
    assert load_config("vit-b-16-reinforced", given, base=DATA).data.captions == {
        "caption": 0.5,
        "blip": 0.5,
    }


def test_differences_name_what_differs(tiny_values: Callable[..., dict[str, Any]]) -> None:
    one = plain(build(Config, tiny_values()))
    other = merged(one, {"loss": {"beta": 0.5}, "run": {"seed": 3}})
    assert differences(one, other) == ["loss.beta", "run.seed"]
    assert differences(one, one) == []
