"""What a preset may ask of scores."""

import pytest

from open_diht.filters.presets import BadPreset, load_preset
from open_diht.filters.score import (
    CLIP_SCORE,
    MASKED_SCORE,
    NEG_CLIP_LOSS,
    MaskedRule,
    NegativesRule,
    ScoreRule,
)


def test_a_preset_without_the_section_asks_nothing():
    rule = load_preset("paper").score
    assert not rule.asks and rule.thresholds == {}
    rule = ScoreRule(min=0.28, masked=MaskedRule(min=0.2), negatives=NegativesRule(keep=0.3))
    assert rule.thresholds == {
        CLIP_SCORE: (0.28, None),
        MASKED_SCORE: (0.2, None),
        NEG_CLIP_LOSS: (None, 0.3),
    }


@pytest.mark.parametrize(
    "rule", [ScoreRule(negatives=NegativesRule()), ScoreRule(masked=MaskedRule())]
)
def test_an_empty_section_measures_and_rejects_nothing(rule):
    assert rule.asks and rule.thresholds == {}


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("{min: 0.2, keep: 0.3}", "score.min and score.keep are both given"),
        (
            "{negatives: {min: 0, keep: 0.3}}",
            "score.negatives.min and score.negatives.keep are both given",
        ),
        ("{masked: {min: 0, keep: 0.3}}", "score.masked.min and score.masked.keep are both given"),
        ("{masked: {keep: 2}}", "score.masked.keep is 2.0; it must be above 0 and at most 1"),
        ("{masked: true}", "score.masked is True"),
        ("{keep: 0}", "score.keep is 0.0; it must be above 0"),
        ("{keep: 30}", "score.keep is 30.0; it must be above 0 and at most 1"),
        *(
            (f"{{min: {least}}}", "it must be at least -1 and at most 1")
            for least in (16, 1.01, -1.5)
        ),
        ("{minimum: 1}", "unknown key score.minimum (did you mean 'min'?)"),
        ("{negatives: {batch_size: 1}}", "batch_size is 1; it must be at least 2"),
        ("{negatives: {temperature: 0}}", "temperature"),
    ],
)
def test_what_cannot_be_asked_is_named(section, message, tmp_path):
    (tmp_path / "mine.yaml").write_text(f"score: {section}")
    with pytest.raises(BadPreset) as error:
        load_preset(str(tmp_path / "mine.yaml"))
    assert message in str(error.value)


def test_its_settings_change_the_preset_and_not_what_comes_before(tmp_path):
    (tmp_path / "mine.yaml").write_text("base: paper\nscore: {min: 0.3}")
    mine = load_preset(str(tmp_path / "mine.yaml"))
    paper = load_preset("paper")
    assert (
        mine.fingerprint != paper.fingerprint
        and mine.filters_fingerprint == paper.filters_fingerprint
    )
    assert mine.as_dict()["score"]["min"] == 0.3
