"""Labels by people: what is measured from them, from a server on this machine."""

import hashlib
import json
from pathlib import Path

import pytest

from benchmarks import people
from tests.eval.fetch.test_fetch import Server, server

__all__ = ["server"]

GRAPHS = {
    "a brown dog catches a red ball": (
        "( dog , v:catch , ball ) , ( dog , is , brown ) , ( ball , is , red )"
    ),
    "two children fly a kite": "( children , v:fly , kite ) , ( children , is , 2 )",
    "girl in a pink shirt": "( girl , v:wear , shirt ) , ( shirt , is , pink )",
    "a woman with a red hat": "( woman , v:have , hat ) , ( hat , is , red )",
    "a bench": "( bench )",
}
SENTENCES = (("He flies a kite .", 1, "VERB"), ("The frog eats flies .", 3, "NON-VERB"))
JUDGED = (
    ("a brown dog catches a red ball", 1, 0),
    ("a man rides a white horse", 0, 1),
    ("IMG_2034.jpg", 0, 0),
)


@pytest.fixture
def files(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server of small files, whose hashes the program expects."""
    graphs = "caption,scene_graph\n" + "".join(
        f'{caption},"{graph}"\n' for caption, graph in GRAPHS.items()
    )
    answers = {
        "action": ["riding a bike", "they are eating"],
        "scene": ["on a beach", "taken in a park", "at home"],
    }
    sentences = "".join(
        "# https://example.org/\n"
        + "".join(
            f"{number}\t{word}\t_\t{kind if number == at else '_'}\n"
            for number, word in enumerate(words.split())
        )
        + "\n"
        for words, at, kind in SENTENCES
    )
    judged = "caption\tVisible\tIrrelevant\n" + "".join(
        f"{text}\t{yes}\t{no}\n" for text, yes, no in JUDGED
    )
    line = f"{json.dumps({'captions': answers})}\n"
    by_reader = {"FACTUAL": graphs, "HL": line, "noun-verb": sentences, "Clue": judged}
    for name, (path, _) in people.FILES.items():
        content = by_reader[name.partition(",")[0]].encode()
        server.files[f"/{path}"] = content
        monkeypatch.setitem(people.FILES, name, (path, hashlib.sha256(content).hexdigest()))
    return server


def run(server: Server, folder: Path) -> int:
    return people.main(["--data", str(folder), "--address", server.address])


def numbers(printed: str) -> dict[tuple[str, str, str], float]:
    """Return the printed numbers by set of labels, rule and column. Each lies within its
    interval."""
    found = dict[tuple[str, str, str], float]()
    name = ""
    for block in printed.strip().split("\n\n"):
        if not block.startswith("|"):
            name = block.partition(" (")[0]
            continue
        head, _, *rows = (
            [cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()
        )
        for rule, *cells in rows:
            for column, value, low, high in zip(
                head[1::3], cells[::3], cells[1::3], cells[2::3], strict=True
            ):
                assert float(low) <= float(value) <= float(high)
                found[name, rule, column] = float(value)
    return found


def test_the_numbers_are_those_of_the_labels(
    files: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(files, tmp_path) == 0
    found = numbers(capsys.readouterr().out)
    assert {name for name, _, _ in found} == people.FILES.keys()
    rules = {f"`{name}`" for name in people.PRESETS} | {"Fondant", "data-juicer"}
    assert {rule for name, rule, _ in found if name != "Clue"} == rules
    for rule in rules:
        of = {
            column: value
            for (name, one, column), value in found.items()
            if (name, one) == ("FACTUAL, test", rule)
        }
        # Two of three actions are found, nothing else: no rule sees that a girl in a shirt wears
        # it.
        assert of["precision"] == 1 and of["recall"] == 0.667 and of["F1"] == 0.8
        assert (
            found["HL", rule, "doing"] == (0.5 if rule == "Fondant" else 1)
            and found["HL", rule, "where"] == 0
        )
        clue = [found["Clue", rule, column] for column in ("kept", "visible", "irrelevant")]
        assert clue == [0.667, 0.5, 0.5]
    assert found["noun-verb, dev", "`paper`", "accuracy"] == 1, "only the marked word counts"
    assert [found["Clue", "all pairs", column] for column in ("kept", "visible", "irrelevant")] == [
        1,
        0.333,
        0.333,
    ]
    # Four captions have an object in two tuples.
    assert found["FACTUAL, dev", "`paper`", "F1 of complexity"] == 1


def test_files_are_fetched_once_and_clues_never_kept(files: Server, tmp_path: Path) -> None:
    clue, _ = people.FILES["Clue"]
    assert run(files, tmp_path) == 0
    assert len(list(tmp_path.iterdir())) == len(people.FILES) - 1
    assert not [path for path in tmp_path.iterdir() if "Coherence" in path.name]
    files.asked.clear()
    assert run(files, tmp_path) == 0
    assert files.asked == [f"/{clue}"]


@pytest.mark.parametrize("damage", ["absent", "changed", "cached"])
def test_files_that_are_missing_or_changed_cost_one_line(files, tmp_path, capsys, damage):
    path, _ = people.FILES["HL"]
    kept = tmp_path / path.replace("/", "-")
    if damage == "absent":
        del files.files[f"/{path}"]
    elif damage == "changed":
        files.files[f"/{path}"] = b"{}"
    else:
        kept.write_bytes(b"{}")
    assert run(files, tmp_path) == 2
    said = capsys.readouterr()
    assert said.out == "" and len(said.err.splitlines()) == 1
    assert (str(kept) if damage == "cached" else f"{files.address}/{path}") in said.err
    assert kept.exists() == (damage == "cached")


def test_peers_count_what_their_public_rules_count() -> None:
    texts = ["a dog running on the grass", "a brown dog catches a red ball", "sofa", "a red sofa"]
    found = dict(people.by_rule(texts))
    assert found["Fondant"].acts.tolist() == [False, True, False, False], "running has no nsubj"
    assert found["data-juicer"].acts.tolist() == [True, True, False, False]
    assert found["data-juicer"].actions[0] == {texts[0].index("running")}
    assert (
        found["Fondant"].complex.tolist()
        == found["data-juicer"].complex.tolist()
        == [True, True, False, True]
    )


def test_degrees_count_the_tuples_of_an_object() -> None:
    assert people.degree(
        "( bus , next to , bus:1 ) , ( bus , is , red ) , ( man , pv:sit on , bus )"
    ) == (True, 3)
    assert people.degree("( man , v:have , hat ) , ( hat , v:be on , head ) , ( pole )") == (
        False,
        2,
    )
    assert people.degree("( pole )") == (False, 0)
