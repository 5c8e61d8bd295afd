"""Remedies are printed the way the installation was made."""

import json
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from open_diht.common import installation
from open_diht.common.installation import install_command, remedy


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the metadata of an installation from an index by pip, outside of any
    checkout."""
    folder = tmp_path / "site" / "open_diht-0.1.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: open-diht\nVersion: 0.1.0\n")
    (folder / "INSTALLER").write_text("pip\n")
    monkeypatch.setattr(sys, "path", [str(folder.parent)])
    monkeypatch.setattr(installation, "__file__", str(folder.parent / "common" / "installation.py"))
    monkeypatch.setattr(installation, "find_spec", lambda name: object() if name == "pip" else None)
    monkeypatch.setattr(installation, "_python", lambda: "python")
    return folder


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (None, "'open-diht[train]'"),
        (
            {"url": "file:///src/open%20diht", "dir_info": {"editable": True}},
            "-e '/src/open diht[train]'",
        ),
        ({"url": "file:///src/diht", "dir_info": {}}, "'/src/diht[train]'"),
        (
            {
                "url": "https://a.org/diht",
                "vcs_info": {"vcs": "git", "commit_id": "b", "requested_revision": "v1"},
            },
            "'open-diht[train] @ git+https://a.org/diht@v1'",
        ),
        (
            {
                "url": "https://a.org/diht",
                "vcs_info": {"vcs": "git", "commit_id": "b"},
                "subdirectory": "in",
            },
            "'open-diht[train] @ git+https://a.org/diht@b#subdirectory=in'",
        ),
        (
            {"url": "file:///w/open_diht-0.1.0-py3-none-any.whl", "archive_info": {}},
            "'open-diht[train] @ file:///w/open_diht-0.1.0-py3-none-any.whl'",
        ),
    ],
    ids=["index", "editable", "folder", "tag", "commit", "wheel"],
)
def test_a_remedy_names_where_the_installation_came_from(installed, record, words):
    if record is not None:
        (installed / "direct_url.json").write_text(json.dumps(record))
    assert remedy("train") == f"python -m pip install {words}"
    assert remedy() == f"python -m pip install {words}".replace("[train]", "").replace(
        "'open-diht'", "open-diht"
    ).replace("'/src/diht'", "/src/diht")


def test_a_checkout_that_is_not_installed_is_named_by_its_path(installed, tmp_path, monkeypatch):
    (tmp_path / "checkout" / "common").mkdir(parents=True)
    (tmp_path / "checkout" / "setup.py").touch()
    monkeypatch.setattr(
        installation, "__file__", str(tmp_path / "checkout" / "common" / "installation.py")
    )
    monkeypatch.setattr(sys, "path", [])
    assert remedy("view", "score") == f"python -m pip install -e '{tmp_path}/checkout[view,score]'"


def test_uv_installs_what_it_installed_and_where_there_is_no_pip(installed, tmp_path, monkeypatch):
    monkeypatch.setattr(installation, "uv_command", lambda: ["/bin/uv"])
    assert install_command("openvino") == "python -m pip install openvino"
    (installed / "INSTALLER").write_text("uv\n")
    assert install_command("openvino") == f"uv pip install --python {sys.executable} openvino"
    monkeypatch.setenv("VIRTUAL_ENV", sys.prefix)
    assert install_command("openvino") == "uv pip install openvino"
    monkeypatch.setattr(installation, "uv_command", lambda: [sys.executable, "-m", "uv"])
    assert install_command("openvino") == "python -m uv pip install openvino"
    (installed / "INSTALLER").write_text("pip\n")
    monkeypatch.setattr(installation, "find_spec", lambda name: None)
    assert install_command("openvino") == "python -m uv pip install openvino"


def test_without_pip_and_uv_python_brings_pip_or_uv_is_fetched(installed, monkeypatch):
    monkeypatch.setattr(installation, "uv_command", lambda: None)
    monkeypatch.setattr(
        installation, "find_spec", lambda name: object() if name == "ensurepip" else None
    )
    assert install_command("openvino") == "python -m ensurepip && python -m pip install openvino"
    monkeypatch.setattr(installation, "find_spec", lambda name: None)
    monkeypatch.setenv("VIRTUAL_ENV", sys.prefix)
    assert install_command("openvino").endswith("then: uv pip install openvino")


@pytest.mark.slow
def test_the_remedy_of_an_environment_without_pip_runs(tmp_path: Path) -> None:
    venv.create(tmp_path / "bare", with_pip=False)
    python = tmp_path / "bare" / "bin" / "python"
    code = "from open_diht.common.installation import install_command as c; print(c('--help'))"
    environment = {
        "PATH": str(python.parent),
        "PYTHONPATH": str(Path(installation.__file__).parents[1]),
    }
    asked = [str(python), "-c", code]
    command = subprocess.run(
        asked, env=environment, capture_output=True, text=True, check=True
    ).stdout
    done = subprocess.run(
        ["/bin/sh", "-c", command], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "pip install" in done.stdout, done.stderr
