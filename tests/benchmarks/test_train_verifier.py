"""Training uses the rows of the label files and no others, and writes what it trained."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from benchmarks.weights import label_set, train_verifier
from benchmarks.weights.label_set import Labelled, laion_labels, samples_folder
from benchmarks.weights.onnx_file import Graph
from open_diht.filters.captions.opinion import BUCKET, LONGEST, VOCABULARY, Encoded, padded
from tests.onnx_constants import constants

torch: Any = pytest.importorskip("torch")


@pytest.fixture
def samples() -> Path:
    """The folder of real captions."""
    return samples_folder()


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, samples: Path) -> Any:
    """Runs the command; returns the rows that each part was given, and what verifier.json says
    about them."""
    from benchmarks.weights import train_opinion

    given: dict[str, list[Labelled]] = {}

    def train(laion: list[Labelled], *_: Any) -> dict[str, Any]:
        given["verifier"] = laion
        return {"actions": {"weights": {}}, "details": {"weights": {}}}

    def opinion(labelled: Any, *_: Any) -> None:
        given["opinion"] = labelled[0][0]

    monkeypatch.setattr(train_verifier, "train", train)
    monkeypatch.setattr(train_verifier, "graphs_of", lambda *_: [])
    monkeypatch.setattr(train_opinion, "train_opinion", opinion)

    def run(*arguments: str) -> tuple[dict[str, list[Labelled]], dict[str, Any]]:
        words = ["train_verifier", "--captions", str(samples), "--out", str(tmp_path), *arguments]
        monkeypatch.setattr("sys.argv", words)
        train_verifier.main()
        told: dict[str, Any] = json.loads((tmp_path / "verifier.json").read_text(encoding="utf-8"))[
            "trained on"
        ]
        return given, told

    return run


def test_no_part_is_trained_on_the_test_rows(trained: Any) -> None:
    given, told = trained()
    for rows in given.values():
        assert {row.part for row in rows} == {"train", "development"}
        assert len(rows) == told["laion400m_sample.tsv"]["rows"]
    given, told = trained("--train-part")
    assert {row.part for rows in given.values() for row in rows} == {"train"}
    assert told["laion400m_sample.tsv"]["parts"] == ["train"]


@pytest.mark.slow
def test_rows_removed_from_the_files_are_removed_from_training(trained, tmp_path, monkeypatch):
    before, told = trained()
    here = tmp_path / "benchmarks"
    shutil.copytree(label_set.HERE / "labels", here / "labels")
    gone = {row.row for row in before["verifier"][:50]}
    for name in ("laion400m_sample.tsv", "laion400m_actions.tsv", "laion400m_complex.tsv"):
        head, *lines = (
            (here / "labels" / name).read_text(encoding="utf-8").splitlines(keepends=True)
        )
        kept = [line for line in lines if int(line.split("\t")[0]) not in gone]
        (here / "labels" / name).write_text(head + "".join(kept), encoding="utf-8")
    monkeypatch.setattr(label_set, "HERE", here)
    after, told_after = trained()
    for rows in after.values():
        assert not gone & {row.row for row in rows}
        assert (
            len(rows)
            == told["laion400m_sample.tsv"]["rows"] - 50
            == told_after["laion400m_sample.tsv"]["rows"]
        )
    name = "sha256 of the row numbers"
    assert told["laion400m_sample.tsv"][name] != told_after["laion400m_sample.tsv"][name]


def test_captions_without_lenient_labels_keep_their_strict_ones(samples, tmp_path, monkeypatch):
    shutil.copytree(label_set.HERE / "labels", tmp_path / "labels")
    (tmp_path / "labels/laion400m_complex.tsv").write_text("row\tfirst\tsecond\n")
    monkeypatch.setattr(label_set, "HERE", tmp_path)
    labelled = laion_labels(samples)
    assert len(labelled) == 10_000 and {row.complex_share for row in labelled} == {0.0, 1.0}


def test_a_written_graph_computes_what_it_says(tmp_path: Path) -> None:
    graph = Graph()
    rng = np.random.default_rng(0)
    table = rng.normal(size=(9, 4)).astype(np.float32)
    graph.input("ids")
    rows = graph.op("Gather", [graph.constant(table, "table"), "ids"])
    graph.output(graph.op("ReduceSum", [rows, graph.constant(np.array([-1]))], keepdims=0), "sums")
    content = graph.model({"name": "é"})
    session = onnxruntime.InferenceSession(content)
    ids = np.array([[1, 2], [8, 0]])
    assert session.run(None, {"ids": ids})[0] == pytest.approx(table[ids].sum(-1), abs=1e-5)
    assert session.get_modelmeta().custom_metadata_map == {"name": "é"}
    assert np.array_equal(constants(content)["table"], table)


def minilm() -> dict[str, Any]:
    """Random weights with the names and shapes of MiniLM's, of 40 pieces."""
    generator = torch.Generator().manual_seed(0)
    width = 384

    def some(*shape: int) -> Any:
        return torch.randn(*shape, generator=generator) * 0.05

    found = {
        f"embeddings.{name}_embeddings.weight": some(n, width)
        for name, n in (("word", 40), ("position", 512))
    }
    found["embeddings.token_type_embeddings.weight"] = some(2, width)
    sizes = {"attention.output.dense": (width, width), "intermediate.dense": (4 * width, width)}
    sizes |= {"output.dense": (width, 4 * width)}
    sizes |= {f"attention.self.{name}": (width, width) for name in ("query", "key", "value")}
    for layer in range(6):
        for name, shape in sizes.items():
            found[f"encoder.layer.{layer}.{name}.weight"] = some(*shape)
            found[f"encoder.layer.{layer}.{name}.bias"] = some(shape[0])
    norms = [
        "embeddings",
        *(f"encoder.layer.{n}.{part}output" for n in range(6) for part in ("attention.", "")),
    ]
    for name in norms:
        found[f"{name}.LayerNorm.weight"], found[f"{name}.LayerNorm.bias"] = (
            1 + some(width),
            some(width),
        )
    return found


@pytest.mark.slow
def test_the_int8_model_is_the_trained_one() -> None:
    from benchmarks.weights import train_opinion

    net = train_opinion.Net(minilm()).eval()
    for head in (net.word, net.caption):
        torch.nn.init.normal_(head.weight, std=0.05, generator=torch.Generator().manual_seed(1))
    rng = np.random.default_rng(0)
    lengths = [*rng.integers(3, 24, 60).tolist(), LONGEST]
    texts = [
        Encoded(rng.integers(1, 40, n).tolist(), rng.integers(0, 3, n).tolist(), [1])
        for n in lengths
    ]
    content = train_opinion.model_of(net, texts, [f"piece{n}" for n in range(40)])
    session = onnxruntime.InferenceSession(content)
    assert session.get_modelmeta().custom_metadata_map[VOCABULARY].split("\n")[39] == "piece39"
    ids, kinds = padded(texts)
    assert ids.shape[1] % BUCKET == 0
    words, captions = session.run(None, {"ids": ids, "kinds": kinds})
    with torch.no_grad():
        true_words, true_captions = (
            one.numpy() for one in net(torch.from_numpy(ids), torch.from_numpy(kinds))
        )
    real = ids != 0
    assert np.corrcoef(words[real], true_words[real])[0, 1] > 0.99
    for column in range(2):
        assert np.corrcoef(captions[:, column], true_captions[:, column])[0, 1] > 0.98
