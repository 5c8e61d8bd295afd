"""`open-diht deploy`: write the recipes for a cluster, with the paths of this installation.

    open-diht deploy slurm --to recipes

A recipe for a container image comes with a wheel of this installation and with its versions, which
the image installs. Exit status: 0 success, also if the same files were there; 2 wrong use, and
nothing was written.
"""

import io
import os
import re
import shlex
import sys
import zipfile
from argparse import Namespace
from collections.abc import Sequence
from importlib.metadata import distribution, distributions
from pathlib import Path

from open_diht.common.command_line import OK, Parser, WrongUse, command, refuse_empty
from open_diht.common.installation import NAME

RECIPES = {
    "slurm": ("slurm/filter.sbatch", "slurm/concepts.sbatch", "slurm/train.sbatch"),
    "torchrun": ("torchrun/train.sh",),
    "kubernetes": tuple(
        f"kubernetes/{name}"
        for name in ("Dockerfile", "filter.yaml", "train.Dockerfile", "train.yaml")
    ),
    "dask": ("dask/slurm.py", "dask/kubernetes.yaml", "kubernetes/Dockerfile"),
    "flink": ("flink/Dockerfile", "flink/docker-compose.yaml", "flink/kubernetes.yaml"),
    "dataflow": tuple(
        f"dataflow/{name}" for name in ("Dockerfile", "main.py", "metadata.json", "template.json")
    ),
}
_HERE = Path(__file__).parent
_COMMAND = re.compile(r"^#   (.*)$", re.MULTILINE)
"""A line of a command in the comments of a recipe."""


def parse(
    arguments: Sequence[str] | None = None, prog: str = "python -m open_diht.recipes"
) -> Namespace:
    """Parse the command line, by default that of this process."""
    parser = Parser(
        prog=prog, description="Writes the recipes for a cluster, and prints what to run next."
    )
    parser.add_argument("name", choices=RECIPES, help="where to run")
    parser.add_argument("--to", metavar="DIR", help="folder to write into (default: the name)")
    return parser.parse_args(arguments)


def _deploy(options: Namespace) -> int:
    refuse_empty(options, "to")
    to = Path(options.to or options.name).expanduser().absolute()
    files = {}
    commands = []
    for recipe in RECIPES[options.name]:
        text = _adapted(
            (_HERE / "deploy" / recipe).read_text(encoding="utf-8"), shlex.quote(str(to))
        )
        files[Path(recipe).name] = text.encode()
        commands += _COMMAND.findall(text) if recipe.startswith(f"{options.name}/") else []
    if "Dockerfile" in files:
        files |= {_wheel_name(): _wheel(), "constraints.txt": _versions().encode()}
    try:
        if differ := [
            name
            for name in files
            if (to / name).exists() and (to / name).read_bytes() != files[name]
        ]:
            raise WrongUse(
                f"{to} has other files of the names {', '.join(differ)}; remove them, or name a"
                " folder with --to"
            )
        to.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (to / name).write_bytes(content)
            (to / name).chmod(0o755 if name.endswith(".sh") else 0o644)
    except OSError as error:
        raise WrongUse(
            f"{to} cannot be written ({error.strerror}); name another folder with --to"
        ) from error
    print(
        f"{to} has {', '.join(files)}. Read them, put in your values, then:\n", *commands, sep="\n"
    )
    return OK


main = command(parse, _deploy)


def _adapted(text: str, to: str) -> str:
    """Return a recipe of the repository with this Python in place of a checkout's, for files in the
    folder `to`."""
    python = shlex.quote(sys.executable)
    major, minor = sys.version_info[:2]
    for old, new in (
        # The versions that an image gets are those of this Python.
        (r"(?:(?<=python)|(?<=python:))3\.11", f"{major}.{minor}"),
        (r"python311", f"python{major}{minor}"),
        (r"sys\.version_info < \(3, 11\)", f"sys.version_info[:2] != ({major}, {minor})"),
        (r"^COPY setup\.py .* /src/$", f"COPY {_wheel_name()} constraints.txt /src/"),
        (r"^COPY (\w+) /src/\1\n", ""),
        (r"/src\[", f"/src/{_wheel_name()}["),
        (r"/src/requirements\.lock", "/src/constraints.txt"),
        (r"^COPY deploy/\w+/", "COPY "),
        (r"context: \.\./\.\., dockerfile: deploy/\w+/", "context: ., dockerfile: "),
        (r"(?<=TAG) \.( +\(from the root of the checkout\))?$", f" {to}"),
        (r"^cd .*/\.\./\.\.\"\n", ""),  # to the root of a checkout
        (r"(?<!/)\.venv/bin/python -m deploy\.dask\.slurm", f"{python} {to}/slurm.py"),
        (r"(?<!/)\.venv/bin/python", python),
        (r"(?<!/)\.venv/bin/open-diht", f"{python} -m open_diht"),
        (r"The checkout \(with its \.venv\)", sys.prefix),
        (r"(?<![\w/])deploy/\w+/", f"{to}/"),
    ):
        text = re.sub(old, new.replace("\\", r"\\"), text, flags=re.MULTILINE)
    return text


def _wheel_name() -> str:
    return f"open_diht-{distribution(NAME).version}-py3-none-any.whl"


def _wheel() -> bytes:
    """Return a wheel of this installation. It has the same bytes each time: its files have the date
    of ZipInfo."""
    about = distribution(NAME)
    found = io.BytesIO()
    info = f"open_diht-{about.version}.dist-info"
    texts = {
        "METADATA": about.read_text("METADATA") or about.read_text("PKG-INFO") or "",
        "RECORD": "",
    }
    texts |= {"entry_points.txt": about.read_text("entry_points.txt") or ""}
    texts |= {"WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"}
    with zipfile.ZipFile(found, "w", zipfile.ZIP_DEFLATED) as wheel:
        for folder, folders, names in os.walk(_HERE, followlinks=True):
            # In a checkout these are links to its folders.
            folders[:] = sorted({*folders} - {"__pycache__"})
            for path in (Path(folder, name) for name in sorted(names)):
                place = zipfile.ZipInfo(path.relative_to(_HERE.parent).as_posix())
                wheel.writestr(place, path.read_bytes(), zipfile.ZIP_DEFLATED)
        for name, text in texts.items():
            wheel.writestr(zipfile.ZipInfo(f"{info}/{name}"), text, zipfile.ZIP_DEFLATED)
    return found.getvalue()


def _versions() -> str:
    """Return the versions of all installed packages but this one, without the mark of a build such
    as `+cpu`."""
    # Python imports the first of two distributions of a name. A folder that a broken installation
    # left has no metadata, and where `importlib_metadata` has replaced Python's reader, asking for
    # its name is an error.
    found = [
        one
        for one in reversed([*distributions()])
        if one.read_text("METADATA") or one.read_text("PKG-INFO")
    ]
    versions = {one.name: one.version.partition("+")[0] for one in found}
    return "".join(
        f"{name}=={version}\n" for name, version in sorted(versions.items()) if name != NAME
    )


if __name__ == "__main__":
    sys.exit(main())
