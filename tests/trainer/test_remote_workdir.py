"""A training whose WORKDIR is in an object store: a real S3 server on this machine, and the real
client."""

import io
import json
import os
import pickle
import random
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from open_diht.common import lease
from open_diht.trainer.checkpoint import Checkpoint, Checkpoints
from open_diht.trainer.cli import main
from open_diht.trainer.config_files import merged
from open_diht.trainer.loop import train
from open_diht.trainer.stores import FsspecStore
from open_diht.trainer.workdir import checkpoints_at
from tests.forks import Forks
from tests.trainer.conftest import STATEFUL
from tests.trainer.kill_runs import same_bits

pytestmark = pytest.mark.store

Configs = Callable[..., Any]
Begin = Callable[..., tuple[int, Path]]
SEED = random.SystemRandom().randrange(10**6)
LIMIT_S = 120.0


def losses(log: str | bytes) -> list[tuple[int, float]]:
    """By step, each once, whatever was taken again."""
    entries = [json.loads(line) for line in log.splitlines()]
    return sorted({(entry["step"], entry["loss"]) for entry in entries if entry["kind"] == "step"})


def plain(path: str) -> str:
    """Without what differs from run to run."""
    return re.sub(r"events\.out.*", "events", path)


@pytest.fixture(scope="module")
def settings(tiny_config: Configs, targets: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    sections: dict[str, Any] = {"data": {"cache_folder": str(tmp_path_factory.mktemp("cache"))}}
    sections |= {"concepts": {"path": str(targets)}, "log": {"tensorboard": True}}
    sections |= {"checkpoint": {"keep_last": 2, "keep_best": False}}
    return tiny_config(**merged(STATEFUL, sections))


@pytest.fixture(scope="module")
def calm(settings: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    workdir = tmp_path_factory.mktemp("calm") / "w"
    train(settings, workdir, lambda text: None)
    return workdir


def assert_equal(store: FsspecStore, calm: Path, ignoring: tuple[str, ...] = ("lease/",)) -> None:
    """What lies in the store is what lies on the disk: names, losses, the bits of model and
    checkpoints."""
    on_disk = {str(path.relative_to(calm)) for path in calm.rglob("*") if path.is_file()} - {"lock"}
    found = [path for path in store.files() if not path.startswith(ignoring)]
    assert {plain(path) for path in found} == {plain(path) for path in on_disk}
    assert losses(store.read("log.jsonl")) == losses((calm / "log.jsonl").read_text())
    for path in on_disk:
        if path.endswith((".safetensors", "_config.json")):
            assert store.read(path) == (calm / path).read_bytes(), path
        if path.endswith(".pt"):
            contents = (store.read(path), (calm / path).read_bytes())
            one, other = (
                torch.load(io.BytesIO(content), weights_only=True) for content in contents
            )
            assert same_bits(one, other), path


@pytest.fixture(scope="module")
def there(bucket: str, settings: Any) -> tuple[str, Any, list[str]]:
    """The same run in the store: its URL, its outcome, and what it said."""
    torch.set_num_threads(1)
    said: list[str] = []
    return f"{bucket}/there", train(settings, f"{bucket}/there", said.append), said


def test_it_holds_what_a_folder_holds(
    there: tuple[str, Any, list[str]], settings: Any, calm: Path
) -> None:
    url, outcome, said = there
    assert outcome.finished and outcome.export is None
    assert said[-1].startswith(
        f"model in {url}/export/, for open_clip.create_model_and_transforms('local-dir:"
    )
    assert_equal(FsspecStore(url), calm)
    assert not list(Path(settings.data.cache_folder).glob("workdirs/*")), (
        "nothing stays on the disk"
    )
    again = train(settings, url, said.append)
    assert again.finished and "resuming after step 12 of 12" in "\n".join(said)
    assert_equal(FsspecStore(url), calm)


# -- stopped and killed ----------------------------------------------------------------------------


def trained(config: Any, url: str) -> None:
    """The body of another process: a run whose lease counts for three seconds."""
    torch.set_num_threads(1)
    lease.RENEW_S = 0.5
    lease.VALID_S = 3.0
    train(config, url, lambda text: print(text, flush=True))


@pytest.fixture
def begin(forks: Forks, tmp_path: Path, bucket: str) -> Iterator[Begin]:
    """Starts a run in a process of its own, which sees the bucket; its id, and the file of what it
    says. At the end of the test none is left."""
    begun: list[int] = []

    def start(config: Any, url: str) -> tuple[int, Path]:
        said = tmp_path / f"said-{len(begun)}.txt"
        said.touch()
        begun.append(forks.start(__file__, "trained", config, url, said=said, **to_the_store()))
        return begun[-1], said

    yield start
    for process in begun:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def to_the_store() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("AWS_")}


def wait_for(step: int, said: Path, checkpoints: Checkpoints) -> None:
    """Until a step is said, and two checkpoints are whole, of which one can be damaged."""
    deadline = time.monotonic() + LIMIT_S
    while f"step {step}/" not in said.read_text() or len(checkpoints.steps()) < 2:
        assert time.monotonic() < deadline, said.read_text()[-3000:]
        time.sleep(0.05)


def harm(store: FsspecStore) -> None:
    """Damage the newest whole checkpoint, whose manifest comes last, and leave the beginning of
    another one."""
    newest, _ = max(
        path.split("/") for path in store.files("checkpoints") if path.endswith("manifest.json")
    )
    content = store.read(f"checkpoints/{newest}/training.pt")
    store.write(content[: len(content) // 2], f"checkpoints/{newest}/training.pt")
    store.write(b"torn", "checkpoints/step-000000000099/model.safetensors")


@pytest.mark.kill
@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_bits_of_an_undisturbed_run(
    bucket, settings, calm, begin, forks
):
    """Also in an upload; then with a checkpoint that is damaged and one that was torn. Nothing is
    on the disk of the machine that goes on."""
    url = f"{bucket}/killed"
    draw = random.Random(SEED)
    store = FsspecStore(url)
    whole = checkpoints_at(f"{url}/checkpoints", settings.data.cache_folder)
    for kill, step in enumerate((draw.randint(7, 9), draw.randint(10, 11))):
        process, said = begin(settings, url)
        wait_for(step, said, whole)
        time.sleep(draw.uniform(0, 0.3))
        os.kill(process, signal.SIGKILL)
        forks.wait(process)
        if kill == 0:
            harm(store)
    process, said = begin(settings, url)
    assert forks.wait(process) == 0, (SEED, said.read_text()[-3000:])
    assert "resuming after step" in said.read_text(), SEED
    damaged = {
        path.split("/")[1] for path in store.files() if path.startswith("checkpoints/damaged-")
    }
    assert len(damaged) == 1, (SEED, store.files())
    assert_equal(store, calm, ignoring=("checkpoints/damaged-", "lease/"))


def ranks_begin(folder: Path) -> None:
    """The body of a rank: a run that is asked to stop if it comes to step 4 in the store."""
    torch.set_num_threads(1)
    config, url, environment = pickle.loads((folder / "run.pickle").read_bytes())
    os.environ.update(environment)

    def say(text: str) -> None:
        print(text, flush=True)
        if text.startswith("step 4/") and url.startswith("s3://"):
            os.kill(os.getpid(), signal.SIGTERM)

    train(config, url, say)


@pytest.mark.slow
def test_ranks_stop_and_go_on_together(
    bucket: str, settings: Any, on_ranks: Any, tmp_path: Path
) -> None:
    """The ranks of a machine fetch a checkpoint once; the result is that of ranks with a folder
    that nobody stopped."""
    for name, url, starts in (("local", str(tmp_path / "w"), 1), ("remote", f"{bucket}/ranks", 2)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "run.pickle").write_bytes(pickle.dumps((settings, url, to_the_store())))
        for _ in range(starts):
            on_ranks(__file__, "ranks_begin", 2, folder)
    said = (tmp_path / "remote" / "said-by-0-of-2.txt").read_text()
    assert "stopped after step 4 of 12" in said and "resuming after step 4 of 12" in said
    assert_equal(FsspecStore(f"{bucket}/ranks"), tmp_path / "w")


@pytest.mark.slow
def test_a_branch_of_a_run_in_the_store(there, bucket, settings, calm, tmp_path):
    url = there[0]
    found: list[Checkpoint] = []
    for parent in (url, str(calm / "checkpoints" / "step-000000000012")):
        child = replace(
            settings,
            branch=replace(settings.branch, path=parent),
            schedule=replace(settings.schedule, samples=14 * 16),
        )
        to = f"{bucket}/child-{len(found)}"
        train(child, to, lambda text: None)
        assert not list(Path(settings.data.cache_folder).glob("workdirs/*")), (
            "nothing of the parent stays on the disk"
        )
        found.append(checkpoints_at(f"{to}/checkpoints", str(tmp_path)).load(14))
    remote, local = found
    assert remote.training["parent"]["path"] == f"{url}/checkpoints/step-000000000012"
    assert remote.training["parent"]["sha256"] == local.training["parent"]["sha256"]
    assert all(torch.equal(value, local.model[name]) for name, value in remote.model.items())


# -- refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "name", "says"),
    [
        ({}, "s3://no-such-bucket/run", "FileNotFoundError: The specified bucket does not exist"),
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "s3://bucket/run", "PermissionError"),
        (
            {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None},
            "s3://bucket/run",
            "NoCredentialsError",
        ),
    ],
    ids=["no bucket", "no right", "no credentials"],
)
def test_a_store_that_cannot_be_written_is_refused(
    environment, name, says, bucket, shards, tmp_path, monkeypatch, capsys
):
    import s3fs  # type: ignore[import-untyped, unused-ignore]

    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value) if value else monkeypatch.delenv(variable)
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        assert main(["--data", str(shards), "--workdir", name]) == 2
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
    err = capsys.readouterr().err
    assert (
        err.startswith(f"error: WORKDIR {name} cannot be written ({says}") and err.count("\n") == 1
    ), err
