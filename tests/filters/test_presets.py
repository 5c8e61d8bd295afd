"""Presets load, and what is wrong with one is said with its place and its remedy."""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest

from open_diht.common.fields import BadValue, Range
from open_diht.filters.captions.rules import CaptionRule
from open_diht.filters.dedup import DedupRule
from open_diht.filters.presets import BadPreset, ImageRule, Preset, load_preset, preset_names
from open_diht.filters.score import MaskedRule, ScoreRule
from open_diht.filters.spotting.overlap import PAPER, TOLERANT, OverlapRule, overlap_lengths

Write = Callable[[str], str]

SECTIONS = (
    "must map sections (captions, columns, images, text_spotting, ocr, score, dedup, evaluation,"
    " against, foresee) to settings"
)


@pytest.fixture
def write(tmp_path) -> Write:
    """write(text): the name of a preset file."""

    def written(text: str) -> str:
        (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
        return str(tmp_path / "mine.yaml")

    return written


def test_the_shipped_presets_load():
    assert preset_names() == [
        "balanced",
        "laion-paper",
        "paper",
        "paper-dedup",
        "precise",
        "safe",
        "strict",
        "tmars",
    ]
    for name in preset_names():
        preset = load_preset(name)
        assert preset.name == name and set(preset.foresee) <= set(preset_names())


def test_paper_counts_every_candidate_and_strict_asks_the_verifier():
    paper = load_preset("paper")
    strict = load_preset("strict")
    assert paper.captions == CaptionRule() and paper.text_spotting == PAPER
    assert strict.text_spotting == TOLERANT
    assert strict.captions.min_action_score > 0 and strict.captions.min_attribute_score > 0


def test_balanced_is_strict_with_lower_bars():
    balanced = load_preset("balanced")
    strict = load_preset("strict")
    bars = ("min_action_score", "min_attribute_score", "min_relation_score")
    low, high = ({bar: getattr(one.captions, bar) for bar in bars} for one in (balanced, strict))
    assert all(0 < low[bar] < high[bar] for bar in bars)
    assert (
        dataclasses.replace(
            balanced, name="strict", captions=dataclasses.replace(balanced.captions, **high)
        )
        == strict
    )
    # And with it whatever strict keeps.
    assert load_preset("paper").foresee == (
        "balanced",
        "strict",
    )


def test_tmars_decides_by_the_masked_score_alone():
    tmars = load_preset("tmars")
    assert tmars.score == ScoreRule(masked=MaskedRule(keep=0.5))
    assert tmars.captions.min_complexity == tmars.captions.min_actions == 0
    longest = "a" * tmars.captions.max_chars
    (length,) = overlap_lengths([longest], [[(longest, 1.0)]], tmars.text_spotting)
    assert length < tmars.text_spotting.min_chars, (
        "no caption is long enough to be rejected for its text"
    )


def test_precise_is_strict_with_a_second_opinion_and_its_own_bars():
    precise = load_preset("precise")
    strict = load_preset("strict")
    bars = {
        bar: getattr(strict.captions, bar)
        for bar in ("min_action_score", "min_attribute_score", "min_relation_score")
    }
    captions = dataclasses.replace(precise.captions, second_opinion=False, **bars)
    assert dataclasses.replace(precise, name="strict", captions=captions) == strict
    asking = [name for name in preset_names() if load_preset(name).captions.second_opinion]
    assert asking == ["precise"]


def test_a_preset_with_other_annotations_cannot_be_foreseen(write):
    with pytest.raises(
        BadPreset, match=r"foresee names precise, which needs a new parse.*`foresee: \[\]`"
    ):
        load_preset(write("base: paper\nforesee: [precise]"))
    with pytest.raises(BadPreset, match="foresee names strict, which needs a new parse"):
        load_preset(write("base: paper\ncaptions: {second_opinion: true}\nforesee: [strict]"))


@pytest.mark.parametrize(
    ("captions", "foresee"),
    [
        ("second_opinion: true", ()),
        ("second_opinion: false", ("balanced", "strict")),
        ("", ("balanced", "strict")),
    ],
)
def test_what_a_base_foresees_is_inherited_where_it_needs_no_new_parse(write, captions, foresee):
    preset = load_preset(write(f"base: paper\ncaptions: {{{captions}}}"))
    assert preset.foresee == foresee and preset.captions.second_opinion == (foresee == ())


def test_paper_dedup_is_paper_but_for_duplicates():
    paper = load_preset("paper")
    dedup = load_preset("paper-dedup")
    assert dataclasses.replace(dedup, name="paper", dedup=paper.dedup) == paper
    assert paper.dedup == load_preset("strict").dedup == DedupRule()
    assert dedup.dedup.pairs and dedup.dedup.images and dedup.dedup.semantic
    assert (
        dedup.fingerprint != paper.fingerprint
        and dedup.filters_fingerprint == paper.filters_fingerprint
    )


def test_a_file_says_what_differs_from_a_preset_or_from_the_defaults(write):
    strict = load_preset("strict")
    mine = load_preset(
        write("base: strict\ncaptions: {min_action_score: 0.5}\ncolumns: {aesthetic: {min: 5}}\n")
    )
    assert mine.captions == dataclasses.replace(strict.captions, min_action_score=0.5)
    assert (mine.images, mine.text_spotting, mine.dedup) == (
        strict.images,
        strict.text_spotting,
        strict.dedup,
    )
    assert [one.reason for one in mine.columns] == ["aesthetic"]
    with pytest.raises(BadPreset, match=r"base is 'stric'.*choose"):
        load_preset(write("base: stric\n"))
    preset = load_preset(write("captions: {min_complexity: 2}\nimages:\n"))
    assert preset.name == "mine" and preset.captions == CaptionRule(min_complexity=2)
    assert preset.images == ImageRule() and preset.text_spotting == OverlapRule()


def test_lists_and_whole_numbers(write):
    text = (
        "captions: {attribute_kinds: [colour], min_action_score: 1}\ntext_spotting: {edits: [[5,"
        " 1], [9, 3]]}"
    )
    preset = load_preset(write(text))
    assert preset.captions.attribute_kinds == ("colour",) and preset.text_spotting.edits == (
        (5, 1),
        (9, 3),
    )
    same = load_preset(write(text.replace("min_action_score: 1", "min_action_score: 1.0")))
    assert preset.fingerprint == same.fingerprint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "captions: {min_complexty: 2}",
            "unknown key captions.min_complexty (did you mean 'min_complexity'?); k",
        ),
        (
            "caption: {}",
            (
                "unknown key caption (did you mean 'captions'?); known: captions, columns, images,"
                " text"
            ),
        ),
        ("3: {}", "unknown key 3; known: captions"),
        ("name: mine", "unknown key name; known: captions"),
        ("captions: {max_chars: }", "captions.max_chars is None; it must be a whole number"),
        (
            "captions: {attribute_kinds: [1, x]}",
            "captions.attribute_kinds[0] is 1; choose adjective, predicate",
        ),
        (
            "captions: {min_action_score: 2}",
            "min_action_score is 2.0; it must be at least 0 and at most 1",
        ),
        (
            "captions: {min_actions: -1}",
            "min_actions is -1; it must be at least 0 and at most 2147483647",
        ),
        ("text_spotting: {unit: page}", "unit is 'page'; choose line, word, joined"),
        (
            "ocr: {effort: hihg}",
            "ocr.effort is 'hihg' (did you mean 'high'?); choose low, medium, high",
        ),
        (
            "ocr: {alphabet: cyrillic}",
            "alphabet is 'cyrillic': other scripts than Latin are not read; choose latin, ",
        ),
        (
            "text_spotting: {min_score: -1}",
            "text_spotting.min_score is -1.0; it must be at least 0 and at most 1",
        ),
        (
            "text_spotting: {common_chance: 1.0e-9}",
            "common_chance is 1e-09; it must be 0 (off) or at least",
        ),
        (
            "text_spotting: {edits: [[6, -1]]}",
            "text_spotting.edits[0][1] is -1; it must be at least 0",
        ),
        ("dedup: {eps: 0}", "dedup.eps is 0.0; it must be above 0 and below 1"),
        ("dedup: {keep: last}", "dedup.keep is 'last'; choose first, far, near"),
        ("dedup: {image: true}", "unknown key dedup.image (did you mean 'images'?)"),
        (
            "dedup: {pairs: true, pairs: false}",
            "line 1, column 22: key 'pairs' is given twice; remove one of them",
        ),
        ("foresee: [stict]", "foresee names stict; choose from balanced, laion-paper, paper, "),
        ("", SECTIONS),
        ("- captions", SECTIONS),
        ("captions: {", "line 1, column 12: not YAML, "),
    ],
)
def test_what_is_wrong_is_said_with_place_and_remedy(write, text, message):
    name = write(text)
    with pytest.raises(BadPreset) as error:
        load_preset(name)
    assert message in str(error.value)
    assert name in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "papr",
            "unknown preset 'papr' (did you mean 'paper'?); choose balanced, laion-paper, paper, ",
        ),
        (
            "",
            (
                "choose balanced, laion-paper, paper, paper-dedup, precise, safe, strict, tmars, or"
                " a .yaml file"
            ),
        ),
        (
            "nowhere.yaml",
            "preset file nowhere.yaml: No such file or directory; give the path of a readable file",
        ),
        ("nowhere/mine.yml", "preset file nowhere/mine.yml: No such file or directory"),
    ],
)
def test_an_unknown_name_is_said_with_its_remedy(name, message):
    with pytest.raises(BadPreset) as error:
        load_preset(name)
    assert message in str(error.value)


def leaves(hint: Any) -> list[Any]:
    """The types of what a field holds, with their ranges."""
    inner = [kind for kind in get_args(hint) if isinstance(kind, type) or get_args(kind)]
    return (
        [hint]
        if get_origin(hint) is Annotated or not inner
        else [leaf for kind in inner for leaf in leaves(kind)]
    )


@pytest.mark.parametrize("rule", [CaptionRule, ImageRule, OverlapRule, DedupRule])
def test_every_number_of_a_preset_has_a_range(rule):
    hints = get_type_hints(rule, include_extras=True)
    found = [(name, leaf) for name, hint in hints.items() for leaf in leaves(hint)]
    assert found and not [name for name, leaf in found if leaf in (int, float)]
    assert all(
        isinstance(leaf.__metadata__[0], Range)
        for _, leaf in found
        if get_origin(leaf) is Annotated
    )


@pytest.mark.parametrize("score", [-1.0, 1.5, float("nan"), float("inf")])
def test_a_program_is_refused_what_a_file_is(score):
    with pytest.raises(BadValue, match="min_score is"):
        OverlapRule(min_score=score)


def other_value(value: Any) -> Any:
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
    for section in ("captions", "images", "text_spotting")
    for field in dataclasses.fields(getattr(load_preset("paper"), section))
]


@pytest.mark.parametrize(("section", "name"), SETTINGS)
def test_the_fingerprint_changes_with_each_setting(section, name):
    preset = load_preset("paper")
    rule = getattr(preset, section)
    changed: Preset = dataclasses.replace(
        preset, **{section: dataclasses.replace(rule, **{name: other_value(getattr(rule, name))})}
    )
    assert changed.fingerprint != preset.fingerprint
    assert (changed.captions_fingerprint != preset.captions_fingerprint) is (section == "captions")


def test_outputs_of_earlier_versions_keep_their_fingerprints():
    """A new field of a rule at its default would change these, and with them the survivors of every
    output: leave it out of what `_fingerprint` hashes while it has its default."""
    paper = load_preset("paper")
    assert paper.captions_fingerprint == "d0a32dca1003f119"
    assert (paper.filters_fingerprint, paper.fingerprint) == (
        "356cec4fb7a9b111",
        "ba60fec03e9648d5",
    )


def test_the_fingerprint_is_of_settings_not_of_names_and_a_preset_is_a_record(write):
    assert (
        dataclasses.replace(load_preset("paper"), name="other").fingerprint
        == load_preset("paper").fingerprint
    )
    assert load_preset(write("{}")).fingerprint == load_preset(write("captions: {}")).fingerprint
    record = load_preset("strict").as_dict()
    assert record["name"] == "strict"
    assert record["captions"]["min_action_score"] == load_preset("strict").captions.min_action_score
