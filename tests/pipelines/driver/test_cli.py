"""What people type: wrong use ends in one line and status 2 with nothing written; runs go on where
they stopped."""

import fcntl
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from open_diht.common.run_command import LOADING
from open_diht.filters.spotting.settings import EFFORTS, SpotterSettings
from open_diht.pipelines.driver import cli
from open_diht.pipelines.manifests.inputs import expand_inputs
from open_diht.pipelines.options import parse
from tests.pipelines.processes import REPOSITORY, Forked

SENTENCE = "A brown dog runs after a red ball"
Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def manifest(tmp_path: Path, tsv: Callable[..., Path]) -> Path:
    rows = [
        {"n": n, "url": f"http://example.org/{n}.jpg", "caption": f"{SENTENCE} {n}"}
        for n in range(20)
    ]
    return tsv(
        tmp_path / "rows.tsv",
        [*rows, {"n": 20, "url": "http://example.org/20.jpg", "caption": "Blue mug"}],
    )


def _arguments(manifest: Path, output: Path, *more: object) -> list[str]:
    return [
        "--dataset",
        "custom",
        "--input",
        str(manifest),
        "--output",
        str(output),
        *map(str, more),
    ]


WRONG: dict[str, tuple[Sequence[str], str]] = {
    "data set": (["--dataset", "laion2", "--output", "{out}"], "laion2b"),
    "data set, nothing like it": (["--dataset", "zzz", "--output", "{out}"], "custom"),
    "column": (["{good}", "--caption-column", "words"], "words"),
    "image column": (["{good}", "--image-column", "pixels"], "pixels"),
    "no column": (
        ["--dataset", "custom", "--input", "{tmp}/none.tsv", "--output", "{out}"],
        "caption",
    ),
    "file": (
        ["--dataset", "custom", "--input", "{tmp}/absent.tsv", "--output", "{out}"],
        "absent.tsv",
    ),
    "pattern": (
        ["--dataset", "custom", "--input", "{tmp}/*.parquet", "--output", "{out}"],
        "*.parquet",
    ),
    "no rows": (
        ["--dataset", "custom", "--input", "{tmp}/empty.tsv", "--output", "{out}"],
        "empty.tsv",
    ),
    "output below a file": (["{good}", "--output", "{tmp}/rows.tsv/out"], "writable"),
    "output is empty": (["{good}", "--output", ""], "--output is empty"),
    "output is a file": (["{good}", "--output", "{tmp}/rows.tsv"], "writable"),
    "output in /proc": (["{good}", "--output", "/proc/out"], "writable"),
    "output in memory": (
        ["{good}", "--output", "memory://x"],
        "choose a folder, or an address such as s3://",
    ),
    "option": (["{good}", "--colour", "red"], "--colour"),
    "abbreviated option": (["{good}", "--work", "2"], "--work"),
    "option without value": (["{good}", "--preset"], "--preset"),
    "stage": (["{good}", "--stages", "captions,spoting"], "spoting"),
    "no stage": (["{good}", "--stages", ","], "captions"),
    "preset": (["{good}", "--preset", "papr"], "paper"),
    "preset file": (["{good}", "--preset", "{tmp}/absent.yaml"], "absent.yaml"),
    "preset setting": (["{good}", "--preset", "{tmp}/wrong.yaml"], "min_complexty"),
    "runner": (["{good}", "--runner", "spark"], "direct"),
    "shard": (["{good}", "--shard", "2/2"], "2/2"),
    "shard, not numbers": (["{good}", "--shard", "a/b"], "a/b"),
    "shard, odd digits": (["{good}", "--shard", "\u00b2/3"], "shard"),
    "workers": (["{good}", "--workers", "0"], "workers"),
    "workers, too many": (
        ["{good}", "--workers", "9" * 20],
        "it must be at least 1 and at most 10000",
    ),
    "workers, more than cores can carry": (
        ["{good}", "--workers", "9999"],
        "for each; give at most",
    ),
    "workers, beyond all numbers": (
        ["{good}", "--workers", "9" * 9_999],
        "it must be a whole number",
    ),
    "workers, mistyped": (["{good}", "--worker", "2"], "did you mean --workers?"),
    "shard, negative": (
        ["{good}", "--shard=-1/3"],
        "shard '-1/3' is not i/n with 0 <= i < n, for example 0/4",
    ),
    "shard, negative, without =": (
        ["{good}", "--shard", "-1/3"],
        "a value that begins with - follows a =",
    ),
    "shard, of too many": (
        ["{good}", "--shard", "0/100000000"],
        "too many shards; give at most 10,000",
    ),
    "preset, twice": (
        ["{good}", "--preset", "strict", "--preset", "paper"],
        "given twice, as strict and paper",
    ),
    "preset, an address": (
        ["{good}", "--preset", "https://a.org/x.yaml"],
        "https://a.org/x.yaml is a URL",
    ),
    "plugin, of Python": (
        ["{good}", "--plugin", "json"],
        "--plugin json: this is a module of Python's standard",
    ),
    "worker python, direct": (
        ["{good}", "--worker-python", "python3"],
        "leave it out with --runner direct",
    ),
    "worker python, dask": (
        ["{good}", "--runner", "dask", "--worker-python", "python3"],
        "out with --runner dask",
    ),
    "start timeout, no workers to wait for": (
        ["{good}", "--start-timeout", "60"],
        "--runner direct; leave it out",
    ),
    "shard, beyond all numbers": (["{good}", "--shard", f"0/{'9' * 9_999}"], "is not i/n"),
    "preset, a key twice": (
        ["{good}", "--preset", "{tmp}/twice.yaml"],
        "key 'pairs' is given twice",
    ),
    "preset, no YAML": (
        ["{good}", "--preset", "{tmp}/broken.yaml"],
        "broken.yaml, line 2, column 1: not YAML",
    ),
    "preset, no number": (
        ["{good}", "--preset", "{tmp}/nan.yaml"],
        "text_spotting.min_score is nan",
    ),
    "OCR effort, mistyped": (["{good}", "--ocr-effort", "hihg"], "'hihg' (choose from"),
    "OCR alphabet, not read": (
        ["{good}", "--ocr-alphabet", "cyrillic"],
        "--ocr-alphabet is 'cyrillic': other scripts than Latin are not read; choose latin, or all",
    ),
    "unit rows": (["{good}", "--unit-rows", "-5"], "unit-rows"),
    "dead share": (["{good}", "--max-dead-share", "few"], "max-dead-share"),
    "dead share in percent": (
        ["{good}", "--max-dead-share", "5"],
        "it must be at least 0 and at most 1",
    ),
    "dead share, not a number": (
        ["{good}", "--max-dead-share", "nan"],
        "the value is nan; it must be a number",
    ),
    "format": (["{good}", "--format", "xml"], "xml"),
    "image paths elsewhere": (
        ["{good}", "--input", "{tmp}/far.tsv"],
        "--images-root /far/images, or /",
    ),
    "delimiter": (["{good}", "--delimiter", "::"], "delimiter"),
}


FILES = {
    **{
        "none.tsv": "a\tb\n1\t2\n",
        "empty.tsv": "n\tcaption\n",
        "wrong.yaml": "captions: {min_complexty: 1}\n",
    },
    **{
        "twice.yaml": "dedup: {pairs: true, pairs: false}\n",
        "broken.yaml": "dedup: {pairs: true\n",
    },
    "far.tsv": "caption\timage_path\nA dog runs\t/far/images/1.jpg\n",
    "nan.yaml": "text_spotting: {min_score: .nan}\n",
}


@pytest.mark.usefixtures("ocr_models")  # else their fetching is said before some errors
@pytest.mark.parametrize("kind", WRONG)
def test_wrong_use(
    kind: str, manifest: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments, names = WRONG[kind]
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    typed: list[str] = []
    for word in arguments:
        word = word.format(good="{good}", tmp=tmp_path, out=tmp_path / "out")
        typed += _arguments(manifest, tmp_path / "out") if word == "{good}" else [word]
    status = cli.main(typed)
    said, errors = capfd.readouterr()
    assert status == 2, said + errors
    assert errors.startswith("error: ") and errors.count("\n") == 1, errors
    assert names in errors and not said
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_options_of_the_ocr_win_over_the_preset(manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("base: paper\nocr: {effort: medium, alphabet: all}\n")
    typed = [*_arguments(manifest, tmp_path / "out"), "--preset", str(tmp_path / "own.yaml")]
    assert cli.settings_of(parse(typed)).ocr == SpotterSettings(effort="medium", alphabet="all")
    typed += ["--ocr-effort", "high", "--ocr-alphabet", "latin", "--ocr-engine", "onnxruntime"]
    assert cli.settings_of(parse(typed)).ocr == SpotterSettings(effort="high", engine="onnxruntime")
    for effort in EFFORTS:
        assert cli.settings_of(parse([*typed, "--ocr-effort", effort])).ocr.effort == effort


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ([], "sample"),
        (["--input", "{}"], "custom"),
        (["--input", "{}", "--dataset", "sample"], "sample"),
    ],
)
def test_input_alone_means_custom(
    words: list[str], name: str, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    arguments = [word.format(manifest) for word in words]
    settings = cli.settings_of(parse(arguments))
    assert (settings.dataset.name, settings.output) == (name, Path("out") / name)


def test_the_folder_of_a_data_set_is_read_as_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data" / "custom"
    for file in ("part/a.tsv", "part/README.md", "part/00000_stats.json"):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text("caption\turl\n")
    monkeypatch.chdir(tmp_path)
    arguments = ["--dataset", "custom"]
    settings = cli.settings_of(parse(arguments))
    assert expand_inputs(settings.input, settings.dataset) == [str(folder / "part" / "a.tsv")]


@pytest.mark.slow
def test_wrong_use_in_a_process(command: Command, manifest: Path, tmp_path: Path) -> None:
    done = command(*_arguments(manifest, tmp_path / "out", "--preset", "strickt"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "'strict'" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("given", ["laion2b", "mine.yaml"])
def test_data_that_is_not_there_yet(given: str, command: Command, tmp_path: Path) -> None:
    shutil.copy(REPOSITORY / "pipelines" / "datasets" / "laion2b.yaml", tmp_path / "mine.yaml")
    done = command("--dataset", given, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith(f"{LOADING}\nerror: ")
    assert "https://" in done.stderr and "Traceback" not in done.stderr
    assert f"  open-diht filter --dataset {given}\n" in done.stderr
    assert f"open-diht filter --dataset {given} --input " in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


@pytest.mark.slow
def test_a_run_and_the_same_again_and_other_input(
    command: Command, manifest: Path, tmp_path: Path
) -> None:
    arguments = _arguments(
        manifest, tmp_path / "out", "--stages", "captions,export", "--workers", "1"
    )
    first = command(*arguments)
    assert first.returncode == 0, first.stderr
    assert "error:" not in first.stderr and "Traceback" not in first.stderr
    assert (
        "complexity" in first.stdout
        and "kept" in first.stdout
        and str(tmp_path / "out") in first.stdout
    )
    assert "WARNING" not in first.stderr
    again = command(*arguments)
    assert again.returncode == 0 and "nothing to do: " in again.stdout

    def contents() -> dict[Path, bytes]:
        """All files but the lock, which grows by a byte whenever a run takes it."""
        files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
        return {path: path.read_bytes() for path in files if path.name != "lock"}

    files = contents()
    with open(manifest, "a", encoding="utf-8") as file:
        file.write("21\thttp://example.org/21.jpg\tA cat sleeps\n")
    changed = command(*arguments)
    assert changed.returncode == 2
    assert changed.stderr.startswith(f"{LOADING}\nerror: ") and changed.stderr.count("\n") == 2
    assert "OUTPUT" in changed.stderr and str(manifest) in changed.stderr
    assert contents() == files


@pytest.mark.usefixtures("here")
def test_too_many_dead_letters(
    manifest: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with open(manifest, "a", encoding="utf-8") as file:
        file.write("one field\nanother\n")
    arguments = _arguments(manifest, tmp_path / "out", "--stages", "captions", "--workers", 1)
    assert cli.main(arguments) == 1
    said, errors = capfd.readouterr()
    assert (
        errors.splitlines()[-1].startswith("error: dead-letter table: 2 rows")
        and "error" not in said
    )
    assert "--max-dead-share" in errors
    assert cli.main([*arguments, "--max-dead-share", "0.2"]) == 0


@pytest.mark.usefixtures("here")
def test_an_unreadable_file(
    manifest: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "b.parquet").write_bytes(b"<html>")
    manifest.rename(tmp_path / "in" / "a.tsv")
    arguments = _arguments(
        tmp_path / "in", tmp_path / "out", "--stages", "captions", "--workers", 1
    )
    assert cli.main(arguments) == 1
    said, errors = capfd.readouterr()
    assert errors.count("error:") == 1 and "b.parquet" in errors and "error" not in said


@pytest.mark.usefixtures("here")
def test_columns_named_on_the_command_line(tmp_path, tables_of, capfd):
    (tmp_path / "a.csv").write_text(f"0;{SENTENCE};http://example.org/0.jpg\n1;Blue mug;\n")
    more = [
        "--columns",
        "n,words,where",
        "--delimiter",
        ";",
        "--caption-column",
        "words",
        "--url-column",
        "where",
    ]
    arguments = _arguments(
        tmp_path / "a.csv", tmp_path / "out", *more, "--stages", "captions", "--workers", 1
    )
    assert cli.main(arguments) == 0, capfd.readouterr().err
    tables = tables_of(tmp_path / "out")
    assert [(row["n"], row["words"], row["caption"]) for row in tables["kept"]] == [
        ("0", SENTENCE, SENTENCE)
    ]
    assert [(row["n"], row["reason"]) for row in tables["rejected"]] == [("1", "action")]


@pytest.mark.usefixtures("here")
def test_two_runs_on_one_folder(
    manifest: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = _arguments(manifest, tmp_path / "out", "--stages", "captions", "--workers", 1)
    assert cli.main([*arguments, "--shard", "0/2"]) == 0
    capfd.readouterr()
    with open(tmp_path / "out" / "work" / "lock", "a", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for more in ([], ["--shard", "1/2"]):
            assert cli.main([*arguments, *more]) == 2
            errors = capfd.readouterr().err
            assert errors.startswith("error: another run") and errors.count("\n") == 1


@pytest.mark.slow
def test_two_shards_at_once_share_the_decisions_and_the_export(
    forks, pairs, paper, tmp_path, tables_of
):
    arguments = _arguments(pairs, tmp_path / "out", "--unit-rows", 8, "--workers", 1)
    said = [tmp_path / f"said-{i}" for i in range(2)]
    words = [[*arguments, "--shard", f"{i}/2"] for i in range(2)]
    shards = [
        Forked(forks, word, REPOSITORY, file, file) for word, file in zip(words, said, strict=True)
    ]
    assert [shard.wait() for shard in shards] == [0, 0], [file.read_text() for file in said]
    finished = [
        file for file in said if "is the last one and completes the output" in file.read_text()
    ]
    assert len(finished) == 1
    assert tables_of(tmp_path / "out") == paper.tables()
    manifest = json.loads(
        (tmp_path / "out" / "shards" / "manifest.json").read_text(encoding="utf-8")
    )
    tars = {path.name for path in (tmp_path / "out" / "shards").glob("*.tar")}
    assert tars and {entry["shard"] for entry in manifest["shards"]} == tars
    for what, total in (
        ("decide +([0-9]+) rows", 60),
        ("export +([0-9]+) images", manifest["samples"]),
    ):
        done = [
            sum(map(int, re.findall(f"^{what} in ", file.read_text(), re.MULTILINE)))
            for file in said
        ]
        assert min(done) > 0 and sum(done) == total, (
            "each has done a part, and none of it was done twice"
        )
