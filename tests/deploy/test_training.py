"""The recipes for training: their words are those of torchrun and of the trainer, their numbers
agree. The script for Slurm queues itself again where its time is up: with stand-ins for Slurm's
commands."""

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("torch", reason="torch is not installed: pip install '.[train]'")
from torch.distributed.launcher.api import LaunchConfig
from torch.distributed.run import get_args_parser

from open_diht.trainer.cli import parse
from open_diht.trainer.config_files import load_config

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
WORDS = ["/data/a cat", "vit-b-32", "/runs/b32", "loss.beta=0.5"]


def trained(words: list[str]) -> tuple[Any, Any]:
    launcher = get_args_parser().parse_args(words)
    assert (launcher.module, launcher.training_script) == (True, "open_diht.trainer")
    options = parse(launcher.training_script_args)
    load_config(options.config, options.overrides, {"data": {"sources": [{"path": options.data}]}})
    return launcher, options


def program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/bash\n{text}", encoding="utf-8")
    path.chmod(0o755)


def granted(value: str, monkeypatch: pytest.MonkeyPatch) -> int | None:
    """Return the seconds after SIGTERM before torchrun kills, as the installed torch reads them."""
    monkeypatch.setenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", value)
    return LaunchConfig(min_nodes=1, max_nodes=1, nproc_per_node=1).shutdown_timeout


def test_one_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "deploy" / "torchrun" / "train.sh"
    program(script, (DEPLOY / "torchrun" / "train.sh").read_text(encoding="utf-8"))
    program(
        tmp_path / ".venv" / "bin" / "python",
        'printf "%s\\n" "$TORCH_ELASTIC_SHUTDOWN_TIMEOUT" "$@"\n',
    )
    done = subprocess.run(
        [script, *WORDS],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "GPUS": "4"},
    )
    timeout, module, name, *words = done.stdout.splitlines()
    assert granted(timeout, monkeypatch) == 600
    assert (module, name) == ("-m", "torch.distributed.run")
    launcher, options = trained(words)
    assert (launcher.standalone, launcher.nproc_per_node, launcher.max_restarts) == (True, "4", 3)
    assert [options.data, options.config, options.workdir, *options.overrides] == WORDS


class Slurm:
    """A job of two nodes in `folder`, with programs that stand in for Slurm's."""

    def __init__(self, folder: Path):
        self.folder = folder
        tools = folder / "tools"
        program(
            tools / "srun",
            f'echo "$TORCH_ELASTIC_SHUTDOWN_TIMEOUT" > {folder}/timeout\n'
            f'printf "%s\\n" "$@" > {folder}/words; trap "exit 143" TERM; echo $$ > {folder}/pid\n'
            "for i in {1..600}; do [ -e end ] && exit $(cat end); sleep 0.05; done\n",
        )
        program(
            tools / "scontrol",
            '[ "$1 $2" = "show hostnames" ] && printf "node-7\\nnode-9\\n" || echo "$@" >'
            f" {folder}/said\n",
        )
        program(
            tools / "scancel",
            f'[ "$*" = "--signal=TERM 4321" ] && kill -TERM $(cat {folder}/pid)\n',
        )
        self.environment = {
            **os.environ,
            "PATH": f"{tools}:{os.environ['PATH']}",
            "SLURM_SUBMIT_DIR": str(folder),
            "SLURM_JOB_NODELIST": "node-[7,9]",
            "SLURM_JOB_ID": "4321",
        }

    def start(self) -> subprocess.Popen[str]:
        job = subprocess.Popen(
            ["bash", DEPLOY / "slurm" / "train.sbatch", *WORDS],
            env=self.environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        until = time.monotonic() + 60
        while not (self.folder / "pid").exists() or not (self.folder / "pid").read_text():
            assert job.poll() is None and time.monotonic() < until, job.stderr
            time.sleep(0.02)
        return job

    @property
    def requeued(self) -> bool:
        said = self.folder / "said"
        return said.exists() and said.read_text() == "requeue 4321\n"


@pytest.fixture
def slurm(tmp_path: Path) -> Slurm:
    return Slurm(tmp_path)


@pytest.mark.parametrize("status", [0, 1])
def test_a_job_that_ends_by_itself_is_not_queued_again(slurm, status, monkeypatch):
    job = slurm.start()
    (slurm.folder / "end").write_text(str(status))
    assert job.wait(60) == status and not slurm.requeued
    # As `--signal=B:USR1@300`.
    assert granted((slurm.folder / "timeout").read_text(), monkeypatch) == 300
    words = (slurm.folder / "words").read_text().splitlines()
    python = words.index(".venv/bin/python")
    assert words[:python] == ["--kill-on-bad-exit=1"]
    assert words[python + 1 : python + 3] == ["-m", "torch.distributed.run"]
    launcher, options = trained(words[python + 3 :])
    assert (launcher.nnodes, launcher.nproc_per_node, launcher.rdzv_backend) == ("2", "gpu", "c10d")
    assert launcher.rdzv_endpoint == "node-7:24321" and launcher.rdzv_id == "4321"
    assert [options.data, options.config, options.workdir, *options.overrides] == WORDS


def test_a_job_whose_time_is_up_stops_the_training_and_is_queued_again(slurm: Slurm) -> None:
    job = slurm.start()
    job.send_signal(signal.SIGUSR1)
    assert job.wait(60) == 0 and slurm.requeued


def test_a_preempted_job_waits_for_its_training(slurm: Slurm) -> None:
    """Slurm signals all processes and queues it again itself."""
    job = slurm.start()
    job.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert job.poll() is None
    os.kill(int((slurm.folder / "pid").read_text()), signal.SIGTERM)
    assert job.wait(60) == 143 and not slurm.requeued


@pytest.mark.parametrize("name", ["slurm/train.sbatch", "torchrun/train.sh"])
def test_without_words_it_says_how_to_use_it(name: str) -> None:
    done = subprocess.run(
        ["bash", DEPLOY / name, "/data/cat"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and done.stderr.startswith("usage: ")


def test_the_pods_of_the_indexed_job_find_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    service, job = yaml.safe_load_all(
        (DEPLOY / "kubernetes" / "train.yaml").read_text(encoding="utf-8")
    )
    spec = job["spec"]
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"] == ["python", "-m", "torch.distributed.run"]
    (timeout,) = container["env"]
    assert timeout["name"] == "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"
    assert granted(timeout["value"], monkeypatch) == pod["terminationGracePeriodSeconds"]
    words = [word.replace("$(JOB_COMPLETION_INDEX)", "1") for word in container["args"]]
    launcher, _ = trained(words)
    assert spec["completionMode"] == "Indexed"
    assert (
        launcher.nnodes == str(spec["completions"]) == str(spec["parallelism"])
        and launcher.node_rank == 1
    )
    assert launcher.nproc_per_node == container["resources"]["limits"]["nvidia.com/gpu"]
    assert launcher.master_addr == f"{job['metadata']['name']}-0.{service['metadata']['name']}"
    assert (
        pod["subdomain"] == service["metadata"]["name"] and service["spec"]["clusterIP"] == "None"
    )
    assert launcher.master_port == service["spec"]["ports"][0]["port"]
    assert service["spec"]["selector"] == spec["template"]["metadata"]["labels"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in pod["volumes"]
    }
