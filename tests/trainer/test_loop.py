"""A run from its configuration to an exported model: what it writes, how it goes on, what it
refuses."""

import json
import multiprocessing
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import yaml
from safetensors.torch import load_file

from open_diht.common import shard_index
from open_diht.common.command_line import WrongUse
from open_diht.common.fields import build
from open_diht.common.training_data import TRAINING_DATA
from open_diht.eval.fetch.archives import write_tar
from open_diht.trainer import checks
from open_diht.trainer.checkpoint import Checkpoints
from open_diht.trainer.cli import main
from open_diht.trainer.config import Config
from open_diht.trainer.config_files import merged
from open_diht.trainer.data import BadSource, DataError, TooManyBad
from open_diht.trainer.data import shards as sources
from open_diht.trainer.loop import stop_requests, train
from open_diht.trainer.memory import Need
from open_diht.trainer.step import Stepper
from open_diht.trainer.stores import LocalStore
from tests.forks import Forks
from tests.trainer.conftest import drawn, entries, interrupted, losses
from tests.trainer.kill_runs import same_bits

Values = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def finished(
    tiny_config: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Any, list[str]]:
    """A run with held-out pairs, TensorBoard and an average, its outcome and what it said."""
    workdir = tmp_path_factory.mktemp("run") / "w"
    said: list[str] = []
    config = tiny_config(
        data={"split": {"holdout": 0.25}}, run={"ema": 0.5},
        log={"tensorboard": True, "every_steps": 2}, checkpoint={"every_samples": 48},
        check={"every_samples": 64},
    )  # fmt: skip
    return workdir, train(config, workdir, said.append), said


def test_outcome(finished: tuple[Path, Any, list[str]]) -> None:
    _, outcome, _ = finished
    assert outcome.finished and (outcome.step, outcome.samples) == (10, 160)
    ways = ("image_to_text", "text_to_image")
    assert set(outcome.checks) == {f"retrieval/{way}_r{k}" for way in ways for k in (1, 5, 10)}
    share = outcome.checks["retrieval/image_to_text_r1"]
    assert 0 <= share.low <= share.value <= share.high <= 1 and share.chance == pytest.approx(
        1 / share.n
    )


def test_log_lines(finished: tuple[Path, Any, list[str]]) -> None:
    steps = entries(finished[0], "step")
    assert [line["step"] for line in steps] == [2, 4, 6, 8, 10]
    for line in steps:
        assert line["samples"] == 16 * line["step"]
        assert {
            "loss",
            "contrastive",
            "accuracy",
            "scale",
            "gradient_norm",
            "learning_rate",
            "peak_memory_gib",
            "eta_s",
            "skipped",
            "bad_samples",
            "hardest",
        } <= line.keys()
        assert line["samples_per_s"] > 0 and 0 <= line["data_wait"] <= 1
    checks = entries(finished[0], "check")
    assert [line["step"] for line in checks] == [4, 8, 10]
    assert {f"retrieval/image_to_text_r1{ending}" for ending in ("", "_low", "_chance")} <= checks[
        0
    ].keys()


def test_progress_lines(finished: tuple[Path, Any, list[str]]) -> None:
    said = finished[2]
    line = next(text for text in said if text.startswith("step 4/10"))
    pattern = (
        r"step 4/10  loss \d+\.\d+  accuracy \d+\.\d%  scale \d+\.\d\d  grad \S+  lr \d\.\d\de-\d\d"
        r"  [\d,]+ images/s  "
        r"peak \d+\.\d GiB  data wait \d+%  ETA \d+:\d\d"
    )
    assert re.fullmatch(pattern, line), line
    held_out = next(text for text in said if text.startswith("step 4: held-out retrieval"))
    assert "image to text: R@1" in held_out and "chance" in held_out


def test_what_lies_in_the_workdir(finished: tuple[Path, Any, list[str]]) -> None:
    workdir = finished[0]
    names = {"checkpoints", "config.yaml", "export", "lock", "log.jsonl", "tensorboard"}
    names |= {"train.html"}
    assert {path.name for path in workdir.iterdir()} == names
    assert list((workdir / "tensorboard").iterdir())
    steps = sorted(path.name for path in (workdir / "checkpoints").iterdir())
    assert "step-000000000010" in steps and len(steps) in (3, 4)  # the last three, and the best


def test_the_page_has_the_curves_of_the_run(finished: tuple[Path, Any, list[str]]) -> None:
    workdir, _, said = finished
    page = (workdir / "train.html").read_text()
    assert any(f"{workdir}/train.html" in text for text in said)
    for title in ("Loss", "Held-out recall and accuracy", "Learning rate"):
        assert f'aria-label="{title}: ' in page
    last = entries(workdir, "step")[-1]
    assert f"Step {last['step']}: loss <b>{last['loss']:.4f}</b>" in page
    assert "http" not in page.replace("http-equiv", "") and 'content="15"' not in page


def test_the_export_is_the_average_and_has_a_card(finished: tuple[Path, Any, list[str]]) -> None:
    workdir, outcome, _ = finished
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{outcome.export}")
    state = torch.load(
        workdir / "checkpoints" / "step-000000000010" / "training.pt", weights_only=True
    )
    assert all(
        torch.equal(value, state["average"][f"clip.{name}"])
        for name, value in model.state_dict().items()
    )
    card = (outcome.export / "README.md").read_text()
    for words in ("HN-NCE (alpha 1, beta 0.25)", "not one of the authors' models", "SemDeDup",
                  "(unverified)",
                  "EMA, decay 0.5",
                  "held-out retrieval", "160 samples seen in 10 steps",
                  "library_name: open_clip"):  # fmt: skip
        assert words in card, words


def test_a_finished_run_trains_no_further(
    finished: tuple[Path, Any, list[str]], tmp_path: Path
) -> None:
    workdir, outcome, _ = finished
    copy = shutil.copytree(workdir, tmp_path / "copy")
    config = build(Config, yaml.safe_load((copy / "config.yaml").read_text()))
    said: list[str] = []
    again = train(config, copy, said.append)
    assert again.finished and again.checks == outcome.checks
    assert [line["step"] for line in entries(copy, "step")] == [2, 4, 6, 8, 10]
    assert any("resuming after step 10 of 10" in text for text in said)


@pytest.mark.parametrize("workers", [0, 2])
def test_sigterm_saves_and_the_same_call_goes_on(
    workers: int, tiny_config: Callable[..., Any], tmp_path: Path
) -> None:
    config = tiny_config(data={"workers": workers}, checkpoint={"every_samples": 10_000})
    before = signal.getsignal(signal.SIGTERM)
    outcome, said = interrupted(config, tmp_path / "a", 4)
    assert (outcome.finished, outcome.step, outcome.signal, outcome.export) == (
        False,
        4,
        signal.SIGTERM,
        None,
    )
    assert said[-1] == "stopped after step 4 of 10; run the same command to resume"
    assert signal.getsignal(signal.SIGTERM) is before
    assert train(config, tmp_path / "a", said.append).finished
    train(config, tmp_path / "b", said.append)
    assert len(losses(tmp_path / "a")) == 10 and losses(tmp_path / "a") == losses(tmp_path / "b")
    models = [
        (tmp_path / run / "export" / "open_clip_model.safetensors").read_bytes() for run in "ab"
    ]
    assert models[0] == models[1]


OFF: dict[str, dict[str, Any]] = {
    "data": {"captions": {"caption": 1.0}, "negatives": ""},
    "optimizer": {"layer_decay": {"image": 1.0, "text": 1.0}},
}
"""Settings that are given, and ask for what a run without them does."""


def test_settings_that_ask_for_nothing_change_no_bit(
    tiny_config: Callable[..., Any], tmp_path: Path
) -> None:
    train(tiny_config(), tmp_path / "absent")
    train(tiny_config(**OFF), tmp_path / "given")
    one, other = (
        Checkpoints(LocalStore(tmp_path / run / "checkpoints")).load(10)
        for run in ("absent", "given")
    )
    assert same_bits(
        [one.model, one.training["optimizer"]], [other.model, other.training["optimizer"]]
    )
    assert losses(tmp_path / "absent") == losses(tmp_path / "given")


def test_wrong_captions_are_learnt_from_and_their_number_is_logged(
    tiny_config, shards, tmp_path, monkeypatch
):
    """Every fourth sample has none; a run that was stopped ends in the same bits."""
    members = []
    for number in range(96):
        image, text = drawn(number)
        fields = (
            {}
            if number % 4 == 0
            else {"wrong": [drawn((number + n) % 96)[1].decode() for n in (1, 2)]}
        )
        members.append(
            (f"{number:06d}", {"png": image, "txt": text, "json": json.dumps(fields).encode()})
        )
    (tmp_path / "data").mkdir()
    write_tar(tmp_path / "data" / "0.tar", members)
    data = {
        "sources": [{"path": str(tmp_path / "data")}],
        "negatives": "wrong",
        "split": {"holdout": 0.1},
    }
    monkeypatch.setattr(Need, "parts", lambda self, pairs, free: 2)
    config = tiny_config(data=data, schedule={"samples": 96, "micro_batches": "auto"})
    stopped, said = interrupted(config, tmp_path / "a", 3)
    assert not stopped.finished and train(config, tmp_path / "a", said.append).finished
    train(config, tmp_path / "b", said.append)
    assert len(losses(tmp_path / "a")) == 6 and losses(tmp_path / "a") == losses(tmp_path / "b")
    fractions = [line["negatives"] for line in entries(tmp_path / "b", "step")]
    assert all(fraction * 16 % 1 == 0 for fraction in fractions) and 0.5 < sum(fractions) / 6 < 0.9
    assert any("  negatives 0." in text for text in said)


@pytest.fixture(scope="module")
def checked(
    tiny_config: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, Path]:
    """A configuration whose steps 6 and 10 are saved and checked, and the WORKDIR of a run with
    it."""
    config = tiny_config(
        data={"split": {"holdout": 0.25}}, run={"ema": 0.5}, checkpoint={"every_samples": 96},
        check={"every_samples": 96},
    )  # fmt: skip
    workdir = tmp_path_factory.mktemp("checked") / "calm"
    assert train(config, workdir).finished
    return config, workdir


@pytest.mark.parametrize("step", [6, 10])
def test_a_check_that_fails_loses_no_step_and_the_resumed_run_makes_it(
    step, checked, tmp_path, monkeypatch
):
    """In the middle and at the end, where by default the first checkpoint and the first check of a
    short run are."""
    (config, calm), again = checked, tmp_path / "w"
    measure = checks.measure

    def failing(parts: Any, *arguments: Any) -> Any:
        if Checkpoints(LocalStore(again / "checkpoints")).steps()[-1:] == [step]:
            raise DataError("images/0.jpg cannot be read as an image")
        return measure(parts, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(checks, "measure", failing)
        for _ in range(2):
            with pytest.raises(DataError, match="cannot be read as an image"):
                train(config, again)
    assert len(losses(again)) == step
    checkpoints = [Checkpoints(LocalStore(run / "checkpoints")) for run in (calm, again)]
    assert not checkpoints[1].load(step).checked
    outcome = train(config, again)
    assert outcome.finished and outcome.checks
    assert losses(again) == losses(calm)
    numbers = [[line.items() for line in entries(run, "check")] for run in (calm, again)]
    assert numbers[0] == numbers[1] and len(numbers[0]) == 2
    for name in ("open_clip_model.safetensors", "README.md"):
        assert (again / "export" / name).read_bytes() == (calm / "export" / name).read_bytes()
    ones, others = ({at: each.load(at) for at in each.steps()} for each in checkpoints)
    assert ones.keys() == others.keys() == {6, 10}
    for at, one in ones.items():
        other = others[at]
        assert other.checked and (one.metric, one.model.keys()) == (
            other.metric,
            other.model.keys(),
        )
        assert one.metric is not None and same_bits(
            (one.model, one.training), (other.model, other.training)
        )


@pytest.mark.parametrize("key", ["warm_start", "warm_start_image"])
def test_a_resumed_run_does_without_the_weights_it_started_from(
    key, finished, tiny_config, tmp_path
):
    """Also with a frozen tower, whose weights the checkpoint holds."""
    (tmp_path / "first").mkdir()
    weights = shutil.copy(
        finished[0] / "export" / "open_clip_model.safetensors", tmp_path / "first"
    )
    config = tiny_config(
        model={key: str(tmp_path / "first"), "freeze_image": True}, schedule={"samples": 96}
    )
    _, said = interrupted(config, tmp_path / "w", 4)
    assert f"from {weights}" in next(text for text in said if text.startswith("warm start: "))
    again = shutil.copytree(tmp_path / "w", tmp_path / "again")
    train(config, again)
    (tmp_path / "first").rename(tmp_path / "moved")
    said.clear()
    assert train(config, tmp_path / "w", said.append).finished
    assert not [text for text in said if "warm start" in text]
    ends = [folder / "export" / "open_clip_model.safetensors" for folder in (tmp_path / "w", again)]
    assert ends[0].read_bytes() == ends[1].read_bytes()
    data = [
        {"path": path, "checked": None} for path in (*config.data.places, str(tmp_path / "first"))
    ]
    assert json.loads((again / "export" / TRAINING_DATA).read_text()) == data
    with pytest.raises(WrongUse, match=f"model.{key}: .*first does not exist"):
        train(config, tmp_path / "other")


def test_the_bias_of_siglip_is_trained_resumed_and_exported(
    tiny_config: Callable[..., Any], tmp_path: Path
) -> None:
    config = tiny_config(
        loss={"name": "siglip"}, model={"bias": -10, "temperature": 0.1}, run={"ema": 0.5},
        schedule={"micro_batches": 2}, checkpoint={"every_samples": 10_000},
    )  # fmt: skip
    assert not interrupted(config, tmp_path / "a", 4)[0].finished
    outcomes = [train(config, tmp_path / run, lambda text: None) for run in "ab"]
    logs = [
        [(line["loss"], line["bias"]) for line in entries(tmp_path / run, "step")] for run in "ab"
    ]
    assert len(logs[0]) == 10 and logs[0] == logs[1] and logs[0][0][1] == -10
    exported = []
    for outcome in outcomes:
        assert (
            outcome.export is not None
            and ", SigLIP, 160 samples" in (outcome.export / "README.md").read_text()
        )
        model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{outcome.export}")
        exported.append((model.logit_scale.item(), model.logit_bias.item()))
    assert exported[0] == exported[1] and exported[0][1] != -10


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["a step", "a check", "a save"])
def test_a_signal_to_all_processes_ends_no_worker_and_loses_no_step(
    moment, tiny_config, tmp_path, monkeypatch
):
    """As from torchrun or `scancel`, and twice, because the one passes on what the other has sent
    already."""
    owner, name = {
        "a step": (Stepper, "step"),
        "a check": (checks, "measure"),
        "a save": (Checkpoints, "save"),
    }[moment]
    done = getattr(owner, name)
    calls = []

    def disturbed(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            for pid in (
                *(child.pid for child in multiprocessing.active_children()),
                os.getpid(),
            ) * 2:
                os.kill(pid or 0, signal.SIGTERM)
        return done(*arguments)

    monkeypatch.setattr(owner, name, disturbed)
    config = tiny_config(
        data={"workers": 2, "split": {"holdout": 0.2}},
        check={"every_samples": 32},
        checkpoint={"every_samples": 48},
    )
    stopped = train(config, tmp_path, lambda text: None)
    assert (stopped.finished, stopped.signal) == (False, signal.SIGTERM)
    assert stopped.step == {"a step": 1, "a check": 2, "a save": 3}[moment]
    newest = max((tmp_path / "checkpoints").glob("step-*"))
    assert newest.name == f"step-{stopped.step:012d}"
    assert train(config, tmp_path, lambda text: None).finished


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_request_is_answered_at_once_and_once(
    number: int, capfd: pytest.CaptureFixture[str]
) -> None:
    before = {each: signal.signal(each, signal.SIG_DFL) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        with stop_requests() as request:
            os.kill(os.getpid(), number)
            (line,) = capfd.readouterr().err.strip().splitlines()
            assert (
                request.signal == number
                and signal.Signals(number).name in line
                and "checkpoint" in line
            )
            # A launcher passes on what its ranks have already had.
            os.kill(os.getpid(), signal.SIGTERM)
            assert capfd.readouterr().err == ""
        with stop_requests(first=False):
            os.kill(os.getpid(), number)
        assert capfd.readouterr().err == ""
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def test_a_second_ctrl_c_ends_it_at_once_and_a_second_sigterm_does_not(tiny_config, tmp_path):
    def say(text: str) -> None:
        if text.startswith("step 2/"):
            for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
                os.kill(os.getpid(), number)

    # A shell's background job ignores it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            train(tiny_config(), tmp_path, say)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not (tmp_path / "checkpoints").exists()


def test_another_configuration_is_refused(tiny_values: Values, tmp_path: Path) -> None:
    values = tiny_values()
    interrupted(build(Config, values), tmp_path, 2)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    other = build(Config, merged(values, {"loss": {"beta": 0.5}, "run": {"seed": 1}}))
    with pytest.raises(
        WrongUse, match=r"another loss.beta, run.seed; use the same values, or another WORKDIR"
    ):
        train(other, tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    harmless = merged(
        values, {"log": {"every_steps": 3}, "data": {"prefetch": 5}, "loss": {"chunk": 4}}
    )
    assert train(build(Config, harmless), tmp_path, lambda text: None).finished


Own = tuple[Path, Callable[..., Config]]


@pytest.fixture
def own(tiny_values: Values, shards: Path, tmp_path: Path) -> Own:
    """Shards that a test may change, and configurations with them: settings of data, and other
    sections."""
    folder = Path(shutil.copytree(shards, tmp_path / "data"))

    def config(data: dict[str, Any], **sections: Any) -> Config:
        return build(
            Config, tiny_values(data={"sources": [{"path": str(folder)}], **data}, **sections)
        )

    return folder, config


def test_other_data_are_refused(own: Own, tmp_path: Path) -> None:
    data, config = own
    interrupted(config({}), tmp_path / "w", 2)
    moved = data.rename(tmp_path / "moved")
    there = config({"sources": [{"path": str(moved)}]})
    interrupted(there, tmp_path / "w", 4)  # moved, but the same
    (moved / "00001.tar").unlink()
    with pytest.raises(
        BadSource, match=r"the data changed since the run began: shard 00001\.tar is missing"
    ):
        train(there, tmp_path / "w")


def test_a_run_goes_on_without_a_lost_shard_where_it_is_told_to(own: Own, tmp_path: Path) -> None:
    data, config = own
    interrupted(config({"max_bad_share": 0.4}), tmp_path / "w", 4)
    assert entries(tmp_path / "w", "step")[-1]["bad_samples"] == 0
    (data / "00001.tar").unlink()
    told = config({"max_bad_share": 0.4, "skip": ["00001.tar"]})
    shutil.copytree(tmp_path / "w", tmp_path / "again")
    said: list[str] = []
    outcomes = [train(told, tmp_path / run, said.append) for run in ("w", "again")]
    assert all(outcome.finished for outcome in outcomes)
    assert any(
        "leaves out 1 shards with 32 of 96 samples (33.33%): samples of later shards" in text
        for text in said
    )
    assert losses(tmp_path / "w") == losses(tmp_path / "again")
    assert entries(tmp_path / "w", "step")[-1]["bad_samples"] == 32


@pytest.mark.slow
def test_checks_leave_a_lost_shard_out_as_the_training_does(own: Own, tmp_path: Path) -> None:
    """The shard is lost and left out: checks, in the middle and at the end, measure the pairs that
    are left."""
    data, config = own
    held = {"split": {"holdout": 0.25}}
    check = {"every_samples": 32}
    interrupted(config({"max_bad_share": 0.4, **held}, check=check), tmp_path / "w", 4)
    (data / "00001.tar").unlink()
    told = config({"max_bad_share": 0.4, "skip": ["00001.tar"], **held}, check=check)
    outcome = train(told, tmp_path / "w")
    assert outcome.finished and len(entries(tmp_path / "w", "check")) == 5
    # Never had the shard.
    whole = train(config({"max_bad_share": 0.01, **held}, check=check), tmp_path / "other")
    name = "retrieval/image_to_text_r1"
    assert outcome.checks[name].n == whole.checks[name].n > 0


def test_a_shard_that_goes_before_a_check_costs_the_check_its_pairs_alone(
    own: Own, tmp_path: Path
) -> None:
    data, config = own
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        if text.startswith("step 2/"):
            (data / "00000.tar").unlink()

    assert train(
        config({"max_bad_share": 0.4, "split": {"holdout": 0.1}}), tmp_path / "w", say
    ).finished
    lost = [text for text in said if "held-out pairs could not be read" in text]
    assert len(lost) == 1 and int(lost[0].split()[0]) >= 1


def test_a_check_opens_no_index_but_those_of_the_pairs_it_measures(
    tiny_config, tmp_path, monkeypatch
):
    opened: list[str] = []
    load = shard_index.load

    def counted(path: Any, *content: bytes) -> Any:
        opened.append(Path(path).name)
        return load(path, *content)

    monkeypatch.setattr(shard_index, "load", counted)
    measure = checks.measure
    by_check: list[list[str]] = []

    def measured(*arguments: Any) -> Any:
        before = len(opened)
        found = measure(*arguments)
        by_check.append(opened[before:])
        return found

    monkeypatch.setattr(checks, "measure", measured)
    settings = {"every_samples": 80, "retrieval_samples": 4}
    train(
        tiny_config(data={"split": {"holdout": 0.25}}, check=settings), tmp_path, lambda text: None
    )
    assert by_check == [["00000.tar.npz"]] * 2


@pytest.mark.slow
def test_what_the_program_chose_stays_for_the_run(tiny_config, tmp_path, monkeypatch):
    """The number of streams is derived from the data: another version may derive another one."""
    config = tiny_config()
    _, said = interrupted(config, tmp_path / "w", 4)
    assert any("from 2 streams" in text for text in said)
    monkeypatch.setattr(sources, "MOST_STREAMS", 1)
    train(config, tmp_path / "w", said.append)
    assert any("from 2 streams" in text for text in said[-12:])
    train(tiny_config(data={"streams": 2}), tmp_path / "calm", lambda text: None)
    assert losses(tmp_path / "w") == losses(tmp_path / "calm")


@pytest.mark.slow
def test_bad_samples_are_counted_over_a_whole_run(own: Own, tmp_path: Path) -> None:
    """A limit that began anew with every resume would not be one."""
    data, config = own
    content = bytearray((data / "00000.tar").read_bytes())
    for index in range(0, len(content) - 8, 512):
        if content[index : index + 4] == b"\x89PNG" and index % 3 == 0:
            content[index : index + 4] = b"HTML"
    (data / "00000.tar").write_bytes(content)
    train(config({"max_bad_share": 0.9}), tmp_path / "calm")
    calm = [line["bad_samples"] for line in entries(tmp_path / "calm", "step")]
    # What the first epoch holds, of 6 steps, and no more.
    limit = config({"max_bad_share": (calm[5] + 0.5) / 96})
    for step in (2, 3, 6, 8):
        interrupted(limit, tmp_path / "w", step)
    train(limit, tmp_path / "w")
    assert [line["bad_samples"] for line in entries(tmp_path / "w", "step")] == calm
    assert calm[-1] > calm[1] > 0
    limit = config({"max_bad_share": (calm[5] - 0.5) / 96})
    interrupted(limit, tmp_path / "x", 2)
    with pytest.raises(TooManyBad, match=rf"epoch 0: {calm[5]} bad samples, more than"):
        train(limit, tmp_path / "x")


@pytest.mark.parametrize("name", ["config.yaml", "train.html", "export/notes.txt"])
def test_files_of_others_are_not_written_over(
    name: str, tiny_config: Callable[..., Any], tmp_path: Path
) -> None:
    """As where a configuration lies in the folder that is given as WORKDIR."""
    theirs = tmp_path / name
    theirs.parent.mkdir(exist_ok=True)
    theirs.write_text("mine")
    says = (
        rf"holds {theirs.relative_to(tmp_path).parts[0]} but no log.jsonl: .* WORKDIR, or move it"
        r" away"
    )
    with pytest.raises(WrongUse, match=says):
        train(tiny_config(), tmp_path)
    assert theirs.read_text() == "mine" and not (tmp_path / "log.jsonl").exists()


@pytest.mark.parametrize("where", ["file", "file/below"])
def test_a_workdir_that_cannot_be_is_one_line(
    where: str, tiny_config: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        WrongUse, match=rf"WORKDIR .*/{where} cannot be written \(.*\): take another one"
    ):
        train(tiny_config(), tmp_path / where)


def refused(config: Any, workdir: Path) -> None:
    """The body of another process that finds the folder in use."""
    with pytest.raises(WrongUse, match=r"another run is writing to"):
        train(config, workdir)


def test_a_folder_in_use_is_refused(
    tiny_config: Callable[..., Any], tmp_path: Path, forks: Forks
) -> None:
    config = tiny_config()
    asked: list[str] = []

    def say(text: str) -> None:
        if text.startswith("step 1/") and not asked:  # it is repeated if the answer takes long
            asked.append(text)
            forks.call(__file__, "refused", config, tmp_path, said=tmp_path / "said.txt")

    train(config, tmp_path, say)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"data": {"drop_last": False}}, "data.drop_last is false"),
        ({"schedule": {"micro_batches": 16}, "run": {"device": "cuda"}}, "torch sees no GPU"),
        ({"check": {"zero_shot": "nowhere"}}, "holds 0 folders of classes"),
        ({"concepts": {"path": "nowhere"}}, "nowhere holds no concept targets"),
        ({"schedule": {"batch_size": 1000}}, "lower the batch size"),
        (
            {"data": {"split": {"holdout": 0.001}}},
            "holdout 0.001 holds out no pair of .*: raise it, or set it",
        ),
        ({"model": {"image_size": 7}}, "model.image_size is 7, less than a patch of 8 pixels"),
    ],
)
def test_wrong_use(
    sections: dict[str, Any], message: str, tiny_config: Callable[..., Any], tmp_path: Path
) -> None:
    if torch.cuda.is_available() and "device" in sections.get("run", {}):
        pytest.skip("there is a GPU")
    with pytest.raises((ValueError, RuntimeError), match=message):
        train(tiny_config(**sections), tmp_path)
    assert not (tmp_path / "checkpoints").exists()


def test_a_run_that_diverges_ends_and_keeps_its_last_good_checkpoint(words, tmp_path, capsys):
    sections = {
        "run": {"max_nonfinite": 3},
        "checkpoint": {"every_samples": 16},
        "schedule": {"warmup_samples": 0},
    }
    assert main(words(optimizer={"learning_rate": 1e30}, **sections)) == 1
    said = capsys.readouterr()
    assert (
        "error: 3 steps in a row had a loss or gradient that is not finite (run.max_nonfinite)"
        in said.err
    )
    assert "skipped 2" in said.out
    skipped = [line["step"] for line in entries(tmp_path / "w", "event")]
    newest = max((tmp_path / "w" / "checkpoints").glob("step-*"))
    assert int(newest.name.removeprefix("step-")) == skipped[-1]  # of a step that changed nothing
    state = load_file(newest / "model.safetensors")
    assert all(bool(tensor.isfinite().all()) for tensor in state.values())
    assert torch.load(newest / "training.pt", weights_only=True)["skipped"]["total"] == 2


# -- command line ----------------------------------------------------------------------------------


def test_command_line(words: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*words(), "schedule.samples=32"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "step 2/2" in out and f"model in {tmp_path}/w/export/" in out
    assert main([*words, "loss.beta=0.9"]) == 2
    assert "error: " in (err := capsys.readouterr().err) and err.count("\n") == 1


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stop_request_is_said_by_the_status(number, status, words, tmp_path, monkeypatch, capsys):
    from open_diht.trainer import cli

    def say(text: str) -> None:
        print(text)
        if text.startswith("step 3/"):
            os.kill(os.getpid(), number)

    monkeypatch.setattr(cli, "say", say)
    words = words(checkpoint={"every_samples": 10_000}, schedule={"samples": 96})
    assert main(words) == status
    assert "stopped after step 3 of 6; run the same command to resume" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "w" / "checkpoints").iterdir()] == [
        "step-000000000003"
    ]
    monkeypatch.setattr(cli, "say", print)
    assert main(words) == 0
    assert "resuming after step 3 of 6" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "x"], "the following arguments are required: --workdir"),
        (["--workdir", "w", "--config", "tinny"], "did you mean 'tiny'"),
        (["--workdir", "w", "--data", "nowhere"], "nowhere"),
        (["--workdir", "w", "--dat", "x"], "unrecognized arguments"),
        (
            ["--workdir", "w", "--data", "x", "los.beta=1"],
            r"unknown key los \(did you mean 'loss'\?\)",
        ),
    ],
)
def test_wrong_words_are_one_line_and_status_2(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    err = capsys.readouterr().err
    assert re.search(message, err) and err.startswith("error: ") and err.count("\n") == 1
    assert not list(tmp_path.rglob("checkpoints"))
