"""Presets load, and what is wrong with one is said with its place and its remedy."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from filters.captions.rules import CaptionRule
from filters.dedup import DedupRule
from filters.presets import BadPreset, PictureRule, Preset, load_preset, preset_names
from filters.spotting.overlap import PAPER, TOLERANT, OverlapRule

Write = Callable[[str], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """write(text): the name of a preset file."""

    def written(text: str) -> str:
        (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
        return str(tmp_path / "mine.yaml")

    return written


def test_the_shipped_presets_load() -> None:
    assert preset_names() == ["paper", "paper-dedup", "strict"]
    for name in preset_names():
        preset = load_preset(name)
        assert preset.name == name
        assert set(preset.foresee) <= set(preset_names())


def test_paper_counts_every_candidate_and_strict_asks_the_verifier() -> None:
    paper, strict = load_preset("paper"), load_preset("strict")
    assert paper.captions == CaptionRule()
    assert paper.text_spotting == PAPER
    assert strict.text_spotting == TOLERANT
    assert strict.captions.min_action_score > 0 and strict.captions.min_attribute_score > 0


def test_paper_dedup_is_paper_but_for_duplicates() -> None:
    paper, dedup = load_preset("paper"), load_preset("paper-dedup")
    assert dataclasses.replace(dedup, name="paper", dedup=paper.dedup) == paper
    assert paper.dedup == load_preset("strict").dedup == DedupRule()
    assert dedup.dedup.pairs and dedup.dedup.pictures and dedup.dedup.semantic
    assert dedup.fingerprint != paper.fingerprint and dedup.filters_fingerprint == paper.filters_fingerprint


def test_a_file_need_only_say_what_differs(write: Write) -> None:
    preset = load_preset(write("captions: {min_complexity: 2}\npictures:\n"))
    assert preset.name == "mine"
    assert preset.captions == CaptionRule(min_complexity=2)
    assert preset.pictures == PictureRule()
    assert preset.text_spotting == OverlapRule()


def test_lists_and_whole_numbers(write: Write) -> None:
    text = "captions: {attribute_kinds: [colour], min_action_score: 1}\ntext_spotting: {edits: [[5, 1], [9, 3]]}"
    preset = load_preset(write(text))
    assert preset.captions.attribute_kinds == ("colour",)
    assert preset.text_spotting.edits == ((5, 1), (9, 3))
    same = load_preset(write(text.replace("min_action_score: 1", "min_action_score: 1.0")))
    assert preset.fingerprint == same.fingerprint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("captions: {min_complexty: 2}", "captions: unknown setting 'min_complexty' (did you mean 'min_complexity'?)"),
        ("captions: {1: 2}", "captions: unknown setting 1; choose from min_complexity, min_actions"),
        ("caption: {}", "unknown section 'caption' (did you mean 'captions'?); choose from captions, pictures"),
        ("3: {}", "unknown section 3; choose from captions"),
        ("captions: [1]", "captions is [1]; expected settings, each `name: value`"),
        ("captions: 3", "captions is 3; expected settings"),
        ("captions: {min_complexity: 1.5}", "captions: min_complexity is 1.5; expected int"),
        ("captions: {min_complexity: true}", "captions: min_complexity is True; expected int"),
        ("captions: {max_chars: }", "captions: max_chars is None; expected int"),
        ("captions: {count_actions: 1}", "captions: count_actions is 1; expected bool"),
        ("captions: {min_action_score: high}", "captions: min_action_score is 'high'; expected float"),
        ("captions: {attribute_kinds: colour}", "attribute_kinds is 'colour'; expected a list such as ["),
        ("captions: {attribute_kinds: [1, x]}", "attribute_kinds is [1, 'x']; expected a list such as ["),
        ("captions: {attribute_kinds: [{a: 1}]}", "attribute_kinds is [{'a': 1}]; expected a list such as ["),
        ("captions: {attribute_kinds: [smell]}", "attribute_kinds: unknown ['smell']; choose from adjective"),
        ("captions: {min_action_score: 2}", "min_action_score is 2.0; it must lie between 0 and 1"),
        ("captions: {min_action_score: .nan}", "min_action_score is nan; it must lie between 0 and 1"),
        ("captions: {min_actions: -1}", "min_actions is -1; it must be at least 0"),
        ("captions: {max_chars: 0}", "max_chars is 0; it must be at least 1"),
        ("pictures: {min_side: -3}", "min_side is -3; it must be at least 0"),
        ("text_spotting: {unit: page}", "unit is 'page'; choose line, word or joined"),
        ("text_spotting: {min_chars: 0}", "min_chars is 0; it must be at least 1"),
        ("text_spotting: {edits: [[6]]}", "edits is [[6]]; expected a list such as [[6, 1], [8, 2]]"),
        ("text_spotting: {edits: [6, 1]}", "edits is [6, 1]; expected a list such as [[6, 1], [8, 2]]"),
        ("text_spotting: {look_alikes: [1]}", "look_alikes is [1]; expected a list such as"),
        ("dedup: {eps: 0}", "eps is 0.0; it must lie between 0 and 1"),
        ("dedup: {keep: last}", "keep is 'last'; choose first, far, near"),
        ("dedup: {points: 0}", "points is 0; it must be at least 1"),
        ("dedup: {picture: true}", "unknown setting 'picture' (did you mean 'pictures'?)"),
        ("foresee: strict", "foresee is 'strict'; expected a list of paper, paper-dedup, strict"),
        ("foresee: [stict]", "foresee is ['stict']; expected a list of paper, paper-dedup, strict"),
        ("foresee: [{a: 1}]", "foresee is [{'a': 1}]; expected a list of paper, paper-dedup, strict"),
        ("", "must map sections (captions, pictures, text_spotting, dedup) to settings"),
        ("- captions", "must map sections (captions, pictures, text_spotting, dedup) to settings"),
        ("captions: {", "is not YAML"),
        ("captions: \x00", "is not YAML"),
    ],
)
def test_what_is_wrong_is_said_with_place_and_remedy(write: Write, text: str, message: str) -> None:
    name = write(text)
    with pytest.raises(BadPreset) as error:
        load_preset(name)
    assert message in str(error.value)
    assert name in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("papr", "unknown preset 'papr' (did you mean 'paper'?); choose paper or paper-dedup or strict, or a .yaml"),
        ("", "unknown preset ''; choose paper or paper-dedup or strict, or a .yaml file"),
        ("nowhere.yaml", "preset file 'nowhere.yaml': No such file or directory; give the path of a readable file"),
        ("nowhere/mine.yml", "preset file 'nowhere/mine.yml': No such file or directory"),
    ],
)
def test_an_unknown_name_is_said_with_its_remedy(name: str, message: str) -> None:
    with pytest.raises(BadPreset) as error:
        load_preset(name)
    assert message in str(error.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00captions")
    with pytest.raises(BadPreset, match=r"folder\.yaml.*choose"):
        load_preset(str(tmp_path / "folder.yaml"))
    with pytest.raises(BadPreset, match=r"bytes\.yaml.*not UTF-8 text; save it as such"):
        load_preset(str(tmp_path / "bytes.yaml"))


def another(value: Any) -> Any:
    """Another valid value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value / 2 + 0.1
    if isinstance(value, tuple):
        return value[:-1]
    return "joined"


SETTINGS = [
    (section, field.name)
    for section in ("captions", "pictures", "text_spotting")
    for field in dataclasses.fields(getattr(load_preset("paper"), section))
]


@pytest.mark.parametrize(("section", "name"), SETTINGS)
def test_the_fingerprint_changes_with_each_setting(section: str, name: str) -> None:
    preset = load_preset("paper")
    rule = getattr(preset, section)
    changed: Preset = dataclasses.replace(
        preset, **{section: dataclasses.replace(rule, **{name: another(getattr(rule, name))})}
    )
    assert changed.fingerprint != preset.fingerprint
    assert (changed.captions_fingerprint != preset.captions_fingerprint) is (section == "captions")


def test_the_fingerprint_is_of_settings_not_of_names(write: Write) -> None:
    assert dataclasses.replace(load_preset("paper"), name="other").fingerprint == load_preset("paper").fingerprint
    assert load_preset(write("{}")).fingerprint == load_preset(write("captions: {}")).fingerprint


def test_a_preset_is_a_record() -> None:
    record = load_preset("strict").as_dict()
    assert record["name"] == "strict"
    assert record["captions"]["min_action_score"] == load_preset("strict").captions.min_action_score
