"""The recipes in deploy/: they parse, their numbers agree with each other and with the code, their
options exist."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy.dask import slurm
from open_diht.pipelines.options import filter_parser
from open_diht.pipelines.runners.beam_options import check_beam_options
from open_diht.pipelines.teachers.options import parse as parse_concepts
from tests.imports import packages

REPOSITORY = Path(__file__).resolve().parents[2]
DEPLOY = REPOSITORY / "deploy"
BEAM = re.search(r'"apache-beam==([\d.]+)"', (REPOSITORY / "setup.py").read_text(encoding="utf-8"))[
    1
]  # type: ignore[index]
PARSER = filter_parser("make filter")
OURS = {name for action in PARSER._actions for name in action.option_strings}


def files(*endings: str) -> list[Path]:
    return sorted(
        path for path in DEPLOY.rglob("*") if path.is_file() and str(path).endswith(endings)
    )


def shown(path: Path) -> str:
    return str(path.relative_to(DEPLOY))


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text(encoding="utf-8")))


def by_name(name: str) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (document["kind"], document["metadata"]["name"]): document for document in documents(name)
    }


def run(*words: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """A command in an environment with these variables on top."""
    return subprocess.run(
        words, env={**os.environ, **variables}, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("path", files(".yaml", ".yml", ".json"), ids=shown)  # JSON is YAML
def test_documents_parse(path: Path) -> None:
    found = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    assert found and all(isinstance(document, dict) for document in found)
    assert path.suffix != ".json" or json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", files(".sh", ".sbatch", "README.md"), ids=shown)
def test_shell_parses(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for block in (
        re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        if path.suffix == ".md"
        else [text]
    ):
        done = run("bash", "-n", "-c", block)
        assert done.returncode == 0 and done.stderr == ""


@pytest.mark.parametrize("path", files(".py"), ids=shown)
def test_python_parses(path: Path) -> None:
    ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", files("Dockerfile"), ids=shown)
def test_images_copy_what_is_there_and_check_themselves(path: Path) -> None:
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in text.splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            for source in line.split()[1:-1]:
                assert source.endswith("*") or (REPOSITORY / source).exists(), source
    assert "pip check" in text, "what does not fit together is found when the image is built"
    copied = set(re.findall(r"^COPY (\w+) /src/\1$", text, re.MULTILINE))
    runs = ("trainer", "eval") if path.name.startswith("train") else ("pipelines", "filters")
    assert copied == {"open_diht"} | imported_from(*runs), (
        "the packages that a run imports, and no more"
    )


@pytest.mark.parametrize("path", files("/Dockerfile"), ids=shown)
def test_images_of_the_filters_bring_what_they_need(path: Path) -> None:
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    assert "open_diht.filters.spotting.weights" in text, "models are inside"
    (extras,) = re.findall(r"'/src\[([a-z0-9,]+)\]'|^ARG EXTRAS=([a-z0-9,]+)$", text, re.MULTILINE)
    extras = "".join(extras)
    assert {"download"} <= set(extras.split(",")), "also for a manifest that has only urls"
    assert "load_tool()" in text, "and it loads"
    for version in re.findall(r"apache/beam_python[\d.]+_sdk:([\d.]+)", text):
        assert version == BEAM
    assert all(
        version == BEAM for version in re.findall(r'apache_beam.__version__ == "([\d.]+)"', text)
    )


def test_the_image_of_dataflow_is_launcher_and_worker_and_brings_only_what_filtering_needs() -> (
    None
):
    text = (DEPLOY / "dataflow" / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    stages = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    assert stages == [
        f"apache/beam_python3.11_sdk:{BEAM}",
        "python:3.11-slim-bookworm",
    ], "of Beam's, what is copied"
    assert 'ENTRYPOINT ["/opt/apache/beam/boot"]' in text
    assert "COPY --from=beam /opt/apache/beam /opt/apache/beam" in text
    assert (
        "python_template_launcher" in text
        and "FLEX_TEMPLATE_PYTHON_PY_FILE=/template/main.py" in text
    )
    template = json.loads((DEPLOY / "dataflow" / "template.json").read_text(encoding="utf-8"))
    assert template["image"] == template["defaultEnvironment"]["sdkContainerImage"], "one image"
    (extras,) = re.findall(r"'/src\[([a-z0-9,]+)\]'", text)
    assert set(extras.split(",")) == {"download", "cloud"} and "apt-get" not in text
    assert "pip uninstall --yes google-cloud-aiplatform" in text and "-name tests" in text
    assert "uv pip install" in text and "--compile-bytecode" not in text
    found = installed_with("open-diht", {"download"})
    assert {"apache-beam", "spacy", "onnxruntime", "img2dataset"} <= found
    heavy = {
        "torch",
        "torchvision",
        "paddlepaddle",
        "paddleocr",
        "tensorflow",
        "transformers",
        "dask",
    }
    assert not heavy & found


def installed_with(distribution: str, extras: set[str]) -> set[str]:
    """Names of all that comes with extras of a distribution, as far as it is installed here."""
    found: set[str] = set()
    left = [(distribution, frozenset(extras))]
    while left:
        name, asked = left.pop()
        try:
            requirements = [Requirement(line) for line in requires(name) or ()]
        except PackageNotFoundError:
            continue
        for one in requirements:
            wanted = one.marker is None or any(
                one.marker.evaluate({"extra": extra}) for extra in (*asked, "")
            )
            if wanted and canonicalize_name(one.name) not in found:
                found.add(canonicalize_name(one.name))
                left.append((one.name, frozenset(one.extras)))
    return found


@pytest.mark.parametrize("path", files("README.md", ".yaml"), ids=shown)
def test_versions_in_recipes_are_those_of_the_code(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert set(re.findall(r"job-server[-:](\d+\.\d+\.\d+)", text)) <= {BEAM}


def imported_from(*starts: str) -> set[str]:
    """Those packages of the checkout, and the ones that they import."""
    found = set()
    left = set(starts)
    while left:
        found.add(top := left.pop())
        for path in (REPOSITORY / top).rglob("*.py"):
            left |= {
                name for name in packages(path) if (REPOSITORY / name / "__init__.py").is_file()
            } - found
    return found


def check_arguments(arguments: list[str], runner: str) -> None:
    _, rest = PARSER.parse_known_args(arguments)
    check_beam_options(rest, runner)


def test_the_indexed_job_has_as_many_shards_as_completions() -> None:
    (job,) = documents("kubernetes/filter.yaml")
    spec = job["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    assert spec["completionMode"] == "Indexed"
    assert f"--shard=$(JOB_COMPLETION_INDEX)/{spec['completions']}" in container["args"]
    check_arguments(
        [argument.replace("$(JOB_COMPLETION_INDEX)", "0") for argument in container["args"]],
        "direct",
    )


def test_the_flink_cluster_of_the_manifest_fits_together() -> None:
    found = by_name("flink/kubernetes.yaml")
    master = found["Service", "diht-flink"]
    ports = {port["name"]: port["port"] for port in master["spec"]["ports"]}
    for key, text in found["ConfigMap", "diht-flink"]["data"].items():
        assert yaml.safe_load(text)["jobmanager.rpc.address"] == master["metadata"]["name"], key
    for name, component in (
        ("diht-flink-jobmanager", "jobmanager"),
        ("diht-flink-taskmanager", "taskmanager"),
    ):
        spec = found["Deployment", name]["spec"]
        assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"]
        assert spec["template"]["spec"]["containers"][0]["args"] == [component]
    assert master["spec"]["selector"]["component"] == "jobmanager"
    (driver,) = found["Job", "diht-filter"]["spec"]["template"]["spec"]["containers"]
    assert f"--flink_master={master['metadata']['name']}:{ports['rest']}" in driver["args"]
    check_arguments(driver["args"], "flink")
    (boot,) = (
        argument.split("=")[1]
        for argument in driver["args"]
        if argument.startswith("--boot-command")
    )
    assert f"chmod 755 {boot}" in (DEPLOY / "flink" / "Dockerfile").read_text(encoding="utf-8")


def test_the_dask_cluster_of_the_manifest_fits_together() -> None:
    found = by_name("dask/kubernetes.yaml")
    service = found["Service", "diht-dask"]
    address = f"tcp://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    for component in ("scheduler", "worker"):
        spec = found["Deployment", f"diht-dask-{component}"]["spec"]
        assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"]
        assert spec["selector"]["matchLabels"]["component"] == component
    assert service["spec"]["selector"]["component"] == "scheduler"
    workers = found["Deployment", "diht-dask-worker"]["spec"]
    (worker,) = workers["template"]["spec"]["containers"]
    assert address in worker["args"] and "--nthreads=1" in worker["args"], (
        "which RUNNER=dask asks for"
    )
    (driver,) = found["Job", "diht-filter"]["spec"]["template"]["spec"]["containers"]
    assert (
        f"--dask-scheduler={address}" in driver["args"]
        and f"--workers={workers['replicas']}" in driver["args"]
    )
    check_arguments(driver["args"], "dask")
    image = (DEPLOY / "kubernetes" / "Dockerfile").read_text(encoding="utf-8")
    assert "--build-arg EXTRAS=download,cloud,dask" in image and '"/src[$EXTRAS]"' in image


def test_dask_workers_of_slurm_are_processes_of_one_thread_and_get_the_whole_of_a_job() -> None:
    pytest.importorskip(
        "dask_jobqueue", reason="dask-jobqueue is not installed: pip install dask-jobqueue"
    )
    typed = ["--jobs=8", "--cores=16", "--memory=32GB", "--queue=long", "--"]
    options = slurm.parser().parse_args([*typed, "--input=/data/a *.tsv", "--output=/data/o"])
    with slurm.cluster_of(
        options, scheduler_options={"host": "127.0.0.1", "dashboard_address": None}
    ) as cluster:
        script = cluster.job_script()
    assert (
        "#SBATCH -p long" in script
        and "#SBATCH --cpus-per-task=16" in script
        and "#SBATCH -t 24:00:00" in script
    )
    assert f"{sys.executable} -m distributed.cli.dask_worker tcp://127.0.0.1:" in script
    assert (
        "--nthreads 1 " in script
        and "--nworkers 16 " in script
        and "export OMP_NUM_THREADS=1" in script
    )
    command = slurm.run_command(options, "tcp://10.0.0.1:4000")
    assert command[1:3] == ["-m", "open_diht.pipelines"]
    asked = PARSER.parse_args(command[3:])
    assert (asked.runner, asked.dask_scheduler, asked.workers) == (
        "dask",
        "tcp://10.0.0.1:4000",
        128,
    )
    assert asked.input == "/data/a *.tsv"


def test_template_parameters_are_options_and_their_patterns_compile() -> None:
    metadata = json.loads((DEPLOY / "dataflow" / "metadata.json").read_text(encoding="utf-8"))
    for parameter in metadata["parameters"]:
        if f"--{parameter['name'].replace('_', '-')}" not in OURS:
            check_beam_options([f"--{parameter['name']}=1"], "dataflow")
        assert all(re.compile(pattern) for pattern in parameter["regexes"])
        assert parameter["label"] and parameter["helpText"]
    template = json.loads((DEPLOY / "dataflow" / "template.json").read_text(encoding="utf-8"))
    assert template["sdkInfo"]["language"] == "PYTHON"


def words_to_python(
    folder: Path, script: str, array: dict[str, int], words: list[str]
) -> list[str]:
    """What a script for Slurm, which has these words, gives to Python in a task of an array."""
    python = folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    variables = {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in array.items()}
    variables |= {"SLURM_SUBMIT_DIR": str(folder), "SLURM_CPUS_PER_TASK": "16"}
    return run(
        "bash", DEPLOY / "slurm" / f"{script}.sbatch", *words, **variables
    ).stdout.splitlines()


@pytest.mark.parametrize(
    ("array", "shard"),
    [
        ({}, "0/1"),
        ({"ID": 0, "MIN": 0, "COUNT": 4}, "0/4"),
        ({"ID": 3, "MIN": 0, "COUNT": 4}, "3/4"),
        ({"ID": 4, "MIN": 1, "COUNT": 4}, "3/4"),
        ({"ID": 7, "MIN": 3, "COUNT": 3, "STEP": 2}, "2/3"),
    ],
)
def test_a_slurm_array_counts_its_shards_from_zero(
    tmp_path: Path, array: dict[str, int], shard: str
) -> None:
    words = ["custom", "/data/a *.tsv", "/data/out", "--preset", "strict"]
    module, name, *words = words_to_python(tmp_path, "filter", array, words)
    assert (module, name) == ("-m", "open_diht.pipelines")
    options = PARSER.parse_args(words)
    assert (options.shard, options.workers, options.input) == (shard, 16, "/data/a *.tsv")
    assert options.preset == "strict"


def test_the_slurm_script_of_concepts_counts_shards_too(tmp_path: Path) -> None:
    array = {"ID": 14, "MIN": 10, "STEP": 2, "COUNT": 4}
    words = ["--data", "/data/a b", "--teacher", "swag-vit-h14"]
    module, name, command, *words = words_to_python(tmp_path, "concepts", array, words)
    assert (module, name, command) == ("-m", "open_diht", "concepts")
    options = parse_concepts(words)
    assert (options.shard, options.data, options.teacher) == ("2/4", "/data/a b", "swag-vit-h14")


@pytest.mark.parametrize("name", ["filter", "concepts"])
def test_an_array_that_is_a_list_is_refused_where_a_task_would_be_no_shard(name: str) -> None:
    variables = {
        f"SLURM_ARRAY_TASK_{name}": value
        for name, value in {"ID": "5", "MIN": "0", "COUNT": "3"}.items()
    }
    done = run("bash", DEPLOY / "slurm" / f"{name}.sbatch", "custom", "in.tsv", "out", **variables)
    assert done.returncode == 2 and done.stderr.endswith("give a range, as in 0-2\n")


@pytest.mark.parametrize("path", files(".sbatch"), ids=shown)
def test_a_slurm_script_without_arguments_says_how_to_use_it(path: Path) -> None:
    done = run("bash", path)
    assert done.returncode == 2 and done.stderr.startswith("usage: sbatch")


def test_make_builds_prism_of_the_sdks_own_version() -> None:
    make = shutil.which("make")
    if make is None:
        pytest.skip("make is not installed")
    done = subprocess.run(
        [make, "-n", "prism"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert f"github.com/apache/beam/sdks/v2/go/cmd/prism@v{BEAM}" in done.stdout, done.stderr


@pytest.mark.parametrize(
    "file", ["kubernetes/filter.yaml", "kubernetes/train.yaml", "dask/kubernetes.yaml"]
)
def test_pods_of_nobody_may_write_on_their_volume(file: str) -> None:
    for document in yaml.safe_load_all((DEPLOY / file).read_text(encoding="utf-8")):
        pod = document["spec"].get("template", {}).get("spec", {})
        if any("persistentVolumeClaim" in volume for volume in pod.get("volumes", ())):
            assert pod["securityContext"]["fsGroup"] == 65534
