"""The distribution has one package, wherever and however it is installed, and leaves a user's own
modules alone."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections import Counter
from glob import glob
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from open_diht.recipes import RECIPES
from tests.wheel import build_wheel, copy_tree

REPOSITORY = Path(__file__).resolve().parents[1]
FOLDERS = ("common", "filters", "pipelines", "trainer", "eval")
ENDINGS = (
    ".py",
    ".yaml",
    ".txt",
    ".json",
    ".tsv",
    ".npz",
    ".onnx",
    ".j2",
    ".css",
    ".js",
    "py.typed",
)
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
MINE = "MINE = True\n"
CAPTIONS = [
    "a brown dog catches a red ball",
    "IMG_2034.jpg",
    "two small children ride wooden horses",
]


def run(
    *command: object, folder: Path, path: str | None = None, status: int | None = 0
) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, with `path` as PYTHONPATH and nothing else of this process's
    import path."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {} if path is None else {"PYTHONPATH": path}
    done = subprocess.run(
        [*map(str, command)], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert status is None or done.returncode == status, done.stderr
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory) -> Path:
    """A folder with the wheel's content, as `pip install --target` leaves it."""
    folder = tmp_path_factory.mktemp("site") / "packages"
    install = ["install", "--quiet", "--no-deps", "--no-index", "--no-compile", "--target"]
    run(*PIP, *install, folder, wheel, folder=folder.parent)
    return folder


@pytest.fixture
def users(tmp_path) -> Path:
    """A user's folder with a manifest and modules whose names are those of our folders."""
    folder = tmp_path / "mine"
    (folder / "common").mkdir(parents=True)
    (folder / "common" / "__init__.py").write_text(MINE)
    for name in set(FOLDERS) - {"common"}:
        (folder / f"{name}.py").write_text(MINE)
    lines = [
        f"https://example.org/{number}.jpg\t{caption}" for number, caption in enumerate(CAPTIONS)
    ]
    (folder / "manifest.tsv").write_text("url\tcaption\n" + "\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy of the repository's code with its links."""
    tree = tmp_path_factory.mktemp("checkout") / "tree"
    left_out = shutil.ignore_patterns("__pycache__")
    for name in (*FOLDERS, "deploy", "open_diht"):
        shutil.copytree(REPOSITORY / name, tree / name, symlinks=True, ignore=left_out)
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(REPOSITORY / name, tree / name)
    return tree


def sources() -> set[str]:
    """Files of the package that an installation needs, as paths below the repository."""
    paths = {
        os.path.relpath(path, REPOSITORY)
        for path in glob(f"{REPOSITORY}/open_diht/**/*", recursive=True)
    }
    recipes = {f"open_diht/deploy/{name}" for names in RECIPES.values() for name in names}
    return recipes | {
        path
        for path in paths
        if path.endswith(ENDINGS) and not path.startswith("open_diht/deploy/")
    }


def files_of(wheel: Path) -> list[str]:
    return [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]


def test_the_wheel_holds_the_package_once_and_nothing_else(wheel):
    found = Counter(files_of(wheel))
    assert set(found) == sources() and set(found.values()) == {1}
    tops = {name.partition("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert tops == {"open_diht", next(top for top in tops if top.endswith(".dist-info"))}


@pytest.mark.slow
def test_the_sdist_holds_the_package_and_makes_the_same_wheel(checkout, wheel, tmp_path):
    build = f"import setuptools.build_meta as b; b.build_sdist({str(tmp_path)!r})"
    run(sys.executable, "-c", build, folder=checkout)
    (path,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        assert not [member.name for member in archive if not (member.isfile() or member.isdir())], (
            "links are files"
        )
        archive.extractall(tmp_path, filter="data")
    (tree,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert {path.name for path in tree.iterdir() if path.is_dir()} == {
        "open_diht",
        "open_diht.egg-info",
    }
    run(
        *PIP,
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        tmp_path / "again",
        tree,
        folder=tmp_path,
    )
    (again,) = (tmp_path / "again").iterdir()
    assert sorted(files_of(again)) == sorted(files_of(wheel))


@pytest.mark.slow
def test_a_wheel_filters_outside_a_checkout_and_leaves_a_users_own_modules_alone(site, users):
    path = f".{os.pathsep}{site}"  # the user's own come first
    asked = [
        "filter",
        "--dataset",
        "custom",
        "--input",
        "manifest.tsv",
        "--output",
        "out",
        "--stages",
        "captions",
    ]
    run(
        sys.executable,
        "-m",
        "open_diht",
        *asked,
        "--unit-rows",
        "2",
        "--workers",
        "2",
        folder=users,
        path=path,
    )
    assert pq.read_table(users / "out" / "kept")["caption"].to_pylist() == [
        CAPTIONS[0],
        CAPTIONS[2],
    ]
    names = ", ".join(FOLDERS)
    code = (
        f"import open_diht.pipelines.driver.cli, open_diht.eval, {names}\nassert all(m.MINE for m"
        f" in ({names}))"
    )
    run(
        sys.executable,
        "-c",
        f"{code}\nassert open_diht.__file__.startswith({str(site)!r})",
        folder=users,
        path=path,
    )


@pytest.mark.slow
def test_a_wheel_has_no_sample_and_says_so(site, tmp_path):
    words = ("filter", "--dataset", "sample")
    done = run(sys.executable, "-m", "open_diht", *words, folder=tmp_path, path=str(site), status=2)
    assert not list(tmp_path.iterdir())
    _, line = done.stderr.splitlines()  # after the line on loading libraries
    assert line.startswith("error: the sample is not in data/sample: it comes with the repository")
    assert "--dataset and --input" in line


@pytest.mark.slow
def test_the_recipe_of_slurm_that_an_installation_writes_filters(site: Path, users: Path) -> None:
    run(sys.executable, "-m", "open_diht", "deploy", "slurm", folder=users, path=str(site))
    words = ["custom", "manifest.tsv", "out", "--stages", "captions", "--unit-rows", "2"]
    run("bash", "slurm/filter.sbatch", *words, folder=users, path=str(site))
    assert pq.read_table(users / "out" / "kept")["caption"].to_pylist() == [
        CAPTIONS[0],
        CAPTIONS[2],
    ]


@pytest.mark.slow
def test_the_wheel_of_an_image_is_that_of_the_installation(
    site: Path, users: Path, tmp_path: Path
) -> None:
    run(sys.executable, "-m", "open_diht", "deploy", "kubernetes", folder=users, path=str(site))
    (packed,) = (users / "kubernetes").glob("*.whl")
    install = [
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--no-compile",
        "--target",
        tmp_path / "image",
    ]
    run(*PIP, *install, packed, folder=users)
    assert sorted(files_of(packed)) == sorted(
        path.relative_to(site).as_posix()
        for path in (site / "open_diht").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    )
    (about,) = (tmp_path / "image").glob("open_diht-*.dist-info/METADATA")
    assert "Provides-Extra: download" in about.read_text(encoding="utf-8")


@pytest.mark.slow
def test_torchrun_starts_our_trainer_next_to_a_users_own(site: Path, users: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed: pip install '.[train]'")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m"]
    done = run(*launcher, "open_diht.trainer", "--help", folder=users, path=str(site))
    assert done.stdout.count("usage: python -m open_diht.trainer ") == 2


@pytest.mark.slow
def test_an_editable_install_shows_the_package_alone(checkout, users, tmp_path):
    folder = tmp_path / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    (there,) = folder.glob("lib/python*/site-packages")
    libraries = [path for path in sys.path if path.endswith("-packages")]
    (there / "libraries.pth").write_text("\n".join(libraries) + "\n", encoding="utf-8")
    python = folder / "bin" / "python"
    pip = [
        *PIP,
        "--python",
        python,
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
    ]
    run(*pip, "--editable", checkout, folder=tmp_path)
    where = "import open_diht.filters.presets as p; print(p.__file__)"
    shown = run(python, "-c", where, folder=tmp_path).stdout.strip()
    assert shown == str(checkout / "open_diht" / "filters" / "presets" / "__init__.py")
    found = (
        f"from importlib.util import find_spec; print([name for name in {FOLDERS!r} if"
        " find_spec(name)])"
    )
    assert run(python, "-c", found, folder=tmp_path).stdout.strip() == "[]"
    names = ", ".join(FOLDERS)
    mine = f"import {names}; assert all(module.MINE for module in ({names}))"
    run(python, "-c", mine, folder=users)
    (checkout / "filters" / "added.py").write_text(MINE)
    run(python, "-c", "from open_diht.filters.added import MINE", folder=tmp_path)
    (checkout / "filters" / "added.py").unlink()
    shown = run(folder / "bin" / "open-diht", "--version", folder=users).stdout
    assert re.fullmatch(r"open-diht \d+\.\d+\.\d+\n", shown)


def test_a_copy_that_lost_its_links_says_how_to_make_them(checkout, tmp_path):
    tree = tmp_path / "tree"
    shutil.copytree(checkout, tree, symlinks=True, ignore=shutil.ignore_patterns("*.egg-info"))
    for name in FOLDERS:  # as archives without links hold them
        (tree / "open_diht" / name).unlink()
        (tree / "open_diht" / name).write_text(f"../{name}")
    done = run(sys.executable, "setup.py", "--version", folder=tree, status=1)
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: open_diht/common in {tree} is not a folder")
    remedy = re.search(r"make them again: (.*)$", line)
    assert remedy
    run("sh", "-c", remedy[1], folder=tree)
    assert run(sys.executable, "setup.py", "--version", folder=tree).stdout.strip()
    assert (tree / "open_diht" / "trainer" / "loop.py").is_file()


def test_a_folder_that_was_left_out_is_left_out_of_the_copy_for_workers(checkout, tmp_path):
    tree = tmp_path / "tree"  # as images of the filters are built, without the trainer
    shutil.copytree(checkout, tree, symlinks=True, ignore=shutil.ignore_patterns("*.egg-info"))
    shutil.rmtree(tree / "trainer")
    copy = copy_tree(tmp_path / "copy", tree)
    assert (copy / "open_diht" / "filters").is_dir() and not (
        copy / "open_diht" / "trainer"
    ).exists()
    assert run(sys.executable, "setup.py", "--version", folder=tree).stdout.strip()


def test_no_file_imports_a_folder_by_a_second_name():
    tops = ("open_diht", "study", "benchmarks", "deploy", "examples", "tests", "docs")
    paths = [path for top in tops for path in glob(f"{REPOSITORY}/{top}/**/*.py", recursive=True)]
    assert len(paths) > 700
    found = []
    for path in paths:
        for node in ast.walk(ast.parse(Path(path).read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += (
                [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            )
            found += [f"{path}: {name}" for name in names if name.partition(".")[0] in FOLDERS]
    assert not found


@pytest.mark.slow
def test_no_module_is_there_under_two_names():
    """Where the root of the repository is on the path, the folders can be imported by their own
    names, too."""
    code = (
        "import os, sys; sys.path.insert(0, os.getcwd())\nimport open_diht.pipelines.driver.cli,"
        " open_diht.eval.cli, study.cli\nimport open_diht.pipelines.stages.transforms,"
        " open_diht.pipelines.teachers.cli\ntry: import torch\nexcept ModuleNotFoundError:"
        " pass\nelse: import open_diht.trainer.loop, open_diht.eval.models\nfiles ="
        " [os.path.realpath(m.__file__) for m in set(sys.modules.values()) if getattr(m,"
        " '__file__', None)]\nours = [path for path in files if path.startswith(os.getcwd() + '/')"
        " and '/.venv/' not in path]\nassert len(ours) > 100 and len(ours) == len(set(ours)) and"
        f" not {{*{FOLDERS!r}}} & sys.modules.keys()"
    )
    run(sys.executable, "-c", code, folder=REPOSITORY)
