"""What a model's folder says of its training data: checked against a task, not, or unknown."""

import json
from pathlib import Path

import pytest

from open_diht.common.training_data import TRAINING_DATA, decontaminated, record_of
from open_diht.eval.results import note_of

CHECKED = {
    "sets": [{"name": "pets", "tasks": ["pets", "pets_i2t"]}],
    "rule": {"distance": 22},
    "compared": 9,
}


@pytest.fixture
def place(tmp_path) -> Path:
    (tmp_path / "out" / "shards").mkdir(parents=True)
    (tmp_path / "out" / "funnel.json").write_text(json.dumps({"checked": CHECKED}))
    return tmp_path / "out"


@pytest.mark.parametrize("within", ["", "shards", "shards/*.tar", "shards/0-0.tar"])
@pytest.mark.parametrize("chosen", [False, True])
def test_the_record_of_filtering_is_found_from_what_a_training_names(
    place, within, chosen, tmp_path
):
    record = record_of([str(place / within)], chosen)
    (tmp_path / TRAINING_DATA).write_text(json.dumps(record))
    if chosen:  # rejected rows may be among them
        assert decontaminated(tmp_path, "pets") == "unknown"
        return
    assert record[0]["checked"] == CHECKED
    assert decontaminated(tmp_path, "pets_i2t").startswith("decontaminated against pets_i2t: ")
    assert decontaminated(tmp_path, "cars") == "not decontaminated against cars"


def test_what_no_record_says_is_unknown(place, tmp_path):
    # These weights may have seen anything.
    started = record_of([str(place)], False, ["package:weights"])
    assert started[-1] == {"path": "package:weights", "checked": None}
    other = record_of([str(place), str(tmp_path / "other")], False)
    for record in (started, other, [], "nonsense", [{"checked": 3}]):
        (tmp_path / TRAINING_DATA).write_text(json.dumps(record))
        assert decontaminated(tmp_path, "pets") == "unknown"
    assert decontaminated(None, "pets") == decontaminated(tmp_path / "absent", "pets") == "unknown"
    (place / "funnel.json").write_text("{")
    assert record_of([str(place)], False)[0]["checked"] is None


def test_weights_with_a_record_are_as_clean_as_it_says(place, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / TRAINING_DATA).write_text(json.dumps(record_of([str(place)], False)))
    record = record_of([str(place)], False, [str(tmp_path / "a")])
    (tmp_path / TRAINING_DATA).write_text(json.dumps(record))
    assert record == [{"path": str(place), "checked": CHECKED}] * 2
    assert decontaminated(tmp_path, "pets").startswith("decontaminated against pets: ")


@pytest.mark.parametrize(
    ("compared", "said"),
    [
        (0, "not decontaminated against pets"),
        (None, "unknown"),
        (1, "decontaminated against pets:"),
    ],
)
def test_data_of_which_no_image_was_compared_is_not_decontaminated(compared, said, tmp_path):
    checked = [CHECKED, {**CHECKED, "compared": compared}]
    (tmp_path / TRAINING_DATA).write_text(
        json.dumps([{"path": "a", "checked": one} for one in checked])
    )
    assert decontaminated(tmp_path, "pets").startswith(said)


def test_models_whose_training_data_differs_are_compared_without_a_note():
    a, b = (
        {"rules": 1, "training_data": said}
        for said in ("unknown", "not decontaminated against pets")
    )
    assert note_of("", a, b) == ""
    assert note_of("", a, {**b, "rules": 2}) == "the protocols differ in rules"
