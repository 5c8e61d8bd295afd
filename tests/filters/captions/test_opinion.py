"""The second opinion: the same whatever is asked with a caption, on any processor, and only where
it is asked."""

import hashlib
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.weights.label_set import written_labels
from open_diht.filters.captions import opinion as opinion_module
from open_diht.filters.captions.annotate import CaptionAnnotator, provenance
from open_diht.filters.captions.opinion import (
    BUCKET,
    LONGEST,
    STEP,
    UNSURE,
    UNSURE_DETAILS,
    WEIGHTS,
    Opinion,
    OpinionMissing,
    averaged,
    encode,
    load_opinion,
    opinion_fingerprint,
    padded,
)

ODD = [
    "", "\u200b", "😀😀 👨‍👩‍👧 dancing", "東京タワーを見る人々", "Девушка танцует на пляже",
    "a dog running " * 290, "x" * 4_096, "!!! ??? ...", "Bride and Groom Dancing at Sunset",
]  # fmt: skip


@pytest.fixture(scope="module")
def annotator() -> CaptionAnnotator:
    return CaptionAnnotator(second_opinion=True)


@given(
    words=st.lists(st.text(max_size=20), max_size=60),
    others=st.lists(st.lists(st.text(max_size=9), max_size=90)),
)
@settings(max_examples=40, deadline=None)
def test_the_opinion_on_a_text_is_the_same_alone_and_among_others(words, others):
    (alone,) = load_opinion().ask([words])
    among = load_opinion().ask([*others, words, *others])[len(others)]
    assert np.array_equal(alone.actions, among.actions) and alone.complex == among.complex
    assert np.array_equal(alone.actions / STEP, np.round(alone.actions / STEP))


def test_odd_captions_are_annotated_the_same_alone_and_in_a_batch(annotator, laion):
    captions = [*laion[:100], *ODD, *laion[100:200]]
    together = annotator.annotate(captions).to_pylist()
    for place, caption in enumerate(captions[90:120], 90):
        assert annotator.annotate([caption]).to_pylist() == [together[place]], caption


def texts_of(captions: list[str]) -> list[list[str]]:
    return [caption.split() for caption in captions]


@pytest.mark.parametrize("batch", [1, 2, 7, 200])
def test_batches_of_any_size_and_threads_agree(batch, laion):
    texts = texts_of(laion[:200])
    expected = load_opinion().ask(texts)
    for ours, theirs in zip(Opinion(threads=2).ask(texts, batch), expected, strict=True):
        assert np.array_equal(ours.actions, theirs.actions) and ours.complex == theirs.complex


def test_sums_of_int8_products_are_exact_on_processors_without_vnni():
    """Such processors add two products of an unsigned and a signed byte in 16 bits, which must not
    overflow."""
    from tests.onnx_constants import constants

    weights = {
        name: one for name, one in constants(WEIGHTS.read_bytes()).items() if one.dtype == np.int8
    }
    assert len(weights) == 1 + 4 * 3
    largest = max(
        int(np.abs(one.astype(np.int64)).max()) for name, one in weights.items() if name != "table"
    )
    assert 2 * 255 * largest < 2**15


def test_only_uncertain_captions_are_asked_about_and_the_others_keep_their_scores(laion):
    captions = laion[:600]
    annotator = CaptionAnnotator(second_opinion=True)
    before = CaptionAnnotator().annotate(captions).to_pylist()
    after = annotator.annotate(captions).to_pylist()
    asked = 0
    for old, new in zip(before, after, strict=True):
        action = max([one["score"] for one in old["actions"]], default=0.0)
        detail = max([one["score"] for one in (*old["attributes"], *old["relations"])], default=0.0)
        unsure = UNSURE[0] <= action <= UNSURE[1]
        unsure |= action > UNSURE[1] and UNSURE_DETAILS[0] <= detail <= UNSURE_DETAILS[1]
        asked += unsure
        assert unsure or old == new
        assert [one["verb"] for one in old["actions"]] == [one["verb"] for one in new["actions"]]
    moves = annotator.moves
    assert moves.asked == asked
    assert 0.05 * len(captions) < asked < 0.3 * len(captions)
    assert moves.raised > 10 and moves.lowered > 10
    scores = [
        (one["score"], other["score"])
        for old, new in zip(before, after, strict=True)
        for name in ("actions", "attributes", "relations")
        for one, other in zip(old[name], new[name], strict=True)
    ]
    assert moves.total == pytest.approx(
        sum(abs(one - other) for one, other in scores), abs=1e-3 * len(scores)
    )


def test_a_score_averages_the_log_odds():
    odds = np.log(0.2 / 0.8)
    assert averaged(np.array([0.2, 0.2, 0.5]), np.array([odds, np.nan, 2.0])) == pytest.approx(
        [0.2, 0.2, 1 / (1 + np.exp(-1.0))]
    )
    assert np.isfinite(averaged(np.array([0.0, 1.0]), np.array([9.0, -9.0]))).all()


def test_long_texts_are_read_up_to_a_limit():
    pieces = load_opinion().pieces
    encoded = encode(["dancing"] * 500, pieces)
    assert len(encoded.ids) == len(encoded.kinds) == LONGEST and len(encoded.firsts) == LONGEST - 2
    ids, kinds = padded([encode(["A", "DOG"], pieces), encode(["runs"] * 9, pieces)])
    assert ids.shape == kinds.shape == (2, 12) and ids.shape[1] % BUCKET == 0
    assert kinds[0].tolist() == [0, 1, 2, *[0] * 9]


def test_the_weights_state_what_they_are_and_which_rows_they_saw():
    told = json.loads(opinion_module.PROVENANCE.read_text(encoding="utf-8"))
    assert (
        told["sha256"] == hashlib.sha256(WEIGHTS.read_bytes()).hexdigest() == opinion_fingerprint()
    )
    assert told["license"].startswith("Apache-2.0") and "MiniLM" in told["source"]
    assert told["trained on"]["laion400m_sample.tsv"]["parts"] == ["development", "train"]
    assert told["trained on"]["scenes.tsv"]["rows"] == len(written_labels("scenes.tsv"))
    assert WEIGHTS.stat().st_size <= 18_000_000
    assert provenance(second_opinion=True) == {**provenance(), "second_opinion": told["sha256"]}


@pytest.mark.parametrize("case", ["missing", "no provenance", "version", "damaged", "garbled"])
def test_unusable_weights_are_refused_with_the_command_that_restores_them(
    case, tmp_path, monkeypatch
):
    weights = tmp_path / WEIGHTS.name
    told = tmp_path / opinion_module.PROVENANCE.name
    content = b"weights"
    record = {"version": opinion_module.VERSION, "sha256": hashlib.sha256(content).hexdigest()}
    if case == "version":
        record["version"] = 99
    if case != "missing":
        weights.write_bytes(content[1:] if case == "damaged" else content)
    if case != "no provenance":
        told.write_text("{" if case == "garbled" else json.dumps(record))
    monkeypatch.setattr(opinion_module, "WEIGHTS", weights)
    monkeypatch.setattr(opinion_module, "PROVENANCE", told)
    with pytest.raises(OpinionMissing, match="--force-reinstall") as caught:
        opinion_fingerprint()
    assert "\n" not in str(caught.value) and "second_opinion" in str(caught.value)
