"""Nothing that comes with weights runs: folders and files with a trap of each kind, in all that
takes a model."""

import builtins
import json
import pickle
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

open_clip = pytest.importorskip(
    "open_clip", reason="open_clip is not installed: pip install '.[eval]'"
)
transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install '.[eval]'"
)
import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from open_diht.common import reference_encoder  # noqa: E402
from open_diht.common.command_line import WrongUse  # noqa: E402
from open_diht.common.encoders import EncoderError  # noqa: E402
from open_diht.eval import cli, compare  # noqa: E402
from open_diht.pipelines.stages.encoders import (  # noqa: E402
    Encoder,
    find_encoder,
    find_pair_encoder,
)
from open_diht.pipelines.teachers.teacher import find_teacher  # noqa: E402
from open_diht.trainer import hub as trainer_hub  # noqa: E402
from open_diht.trainer.architecture import (  # noqa: E402
    BadArchitecture,
    architecture,
    build,
    tokenizer,
)
from open_diht.trainer.average import main as average  # noqa: E402
from open_diht.trainer.checkpoint import Checkpoint, Checkpoints, Damaged  # noqa: E402
from open_diht.trainer.config import ModelSettings  # noqa: E402
from open_diht.trainer.export import export, load, loaded_by  # noqa: E402
from open_diht.trainer.released import load_released  # noqa: E402
from open_diht.trainer.stores import store_at  # noqa: E402
from open_diht.trainer.warm_start import warm_start  # noqa: E402
from tests.tiny_clip import TINY, write_tiny  # noqa: E402

CONFIG = "open_clip_config.json"
MODULE = "trap_of_a_folder"
WORDS = "study.towers:BagOfWords"
OWN_TEXT = {"tower": WORDS, "words": ["a", "dog"], "width": 8, "context_length": 4}
BERT = {"vocab_size": 49408, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
ENDS = (Exception, SystemExit)
"""How a model is refused does not matter here: the modules' own tests have the messages."""


def rewritten(folder: Path, **parts: dict[str, Any]) -> None:
    about = json.loads((folder / CONFIG).read_text())
    for name, part in parts.items():
        about["model_cfg"][name].update(part)
    (folder / CONFIG).write_text(json.dumps(about))


def tokenizer_of_its_own(folder: Path, **text: Any) -> None:
    names = {
        "tokenizer_class": "Trap",
        "auto_map": {"AutoTokenizer": [f"{MODULE}.Trap", f"{MODULE}.Trap"]},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    (folder / "config.json").write_text(json.dumps({"model_type": "of-its-own"}))
    rewritten(folder, text_cfg={"hf_tokenizer_name": str(folder), **text})


def text_model_of_its_own(folder: Path, kind: str, *classes: str) -> None:
    """The configuration is known to transformers only by the code; so is, in the other trap, the
    model."""
    names = {name: f"{MODULE}.Trap" for name in classes}
    (folder / "config.json").write_text(json.dumps({"model_type": kind, "auto_map": names}))
    rewritten(folder, text_cfg={"hf_model_name": str(folder), "hf_proj_type": "mlp"})


class Runs:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"open({str(self.mark)!r}, 'w')",)


PICKLES: dict[str, Callable[[Path, Path], Any]] = {
    "archive": lambda path, mark: torch.save({"a": Runs(mark)}, path),
    "legacy": lambda path, mark: torch.save(
        {"a": Runs(mark)}, path, _use_new_zipfile_serialization=False
    ),
    "pickle": lambda path, mark: path.write_bytes(pickle.dumps({"a": Runs(mark)})),
}


def image_tower_of_timm(folder: Path, mark: Path) -> None:
    PICKLES["archive"](folder / "pytorch_model.bin", mark)
    (folder / "config.json").write_text(
        json.dumps({"architecture": "test_vit", "pretrained_cfg": {}})
    )
    rewritten(
        folder, vision_cfg={"timm_model_name": f"local-dir:{folder}", "timm_model_pretrained": True}
    )
    about = json.loads((folder / CONFIG).read_text())
    about["model_cfg"]["text_cfg"] = (
        OWN_TEXT  # next to a tower of one's own the trainer builds open_clip's by itself
    )
    (folder / CONFIG).write_text(json.dumps(about))


def weights_of_a_folder(write: Callable[[Path, Path], Any], folder: Path, mark: Path) -> None:
    write(folder / "open_clip_pytorch_model.bin", mark)


TRAPS: dict[str, Callable[[Path, Path], Any]] = {
    "tokenizer with permission": lambda folder, mark: tokenizer_of_its_own(
        folder, tokenizer_kwargs={"trust_remote_code": True}
    ),
    "tokenizer that asks": lambda folder, mark: tokenizer_of_its_own(folder),
    "text model": lambda folder, mark: text_model_of_its_own(
        folder, "of-its-own", "AutoConfig", "AutoModel"
    ),
    "text model of a known configuration": lambda folder, mark: text_model_of_its_own(
        folder, "encoder-decoder", "AutoModel"
    ),
    "image tower": lambda folder, mark: rewritten(folder, vision_cfg={"tower": f"{MODULE}:Trap"}),
    "text tower": lambda folder, mark: rewritten(folder, text_cfg={"tower": f"{MODULE}:Trap"}),
    "timm": image_tower_of_timm,
    **{f"weights: {name}": partial(weights_of_a_folder, write) for name, write in PICKLES.items()},
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def mark(tmp_path, monkeypatch) -> Path:
    """A file that is there once a trap ran, or a question whether to run it was answered by the
    careless."""
    path = tmp_path / "ran"

    def asked(*words: Any) -> str:
        path.touch()
        return "y"

    monkeypatch.setattr(builtins, "input", asked)
    monkeypatch.setattr(
        "transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules")
    )
    return path


@pytest.fixture
def folder(whole, tmp_path, mark, monkeypatch) -> Path:
    """A model's folder, which is the current one and on the path of imports, with a module that
    leaves the mark."""
    # A module of a known folder would not run again.
    path = Path(shutil.copytree(whole, tmp_path / tmp_path.name))
    (path / f"{MODULE}.py").write_text(f"open({str(mark)!r}, 'w')\nclass Trap: ...\n")
    monkeypatch.chdir(path)
    monkeypatch.syspath_prepend(path)
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    return path


def with_safetensors(folder: Path) -> Path:
    """`trainer.export.load` reads this file alone."""
    save_file(open_clip.CLIP(**TINY).state_dict(), folder / "open_clip_model.safetensors")
    return folder


def start(**settings: Any) -> list[str]:
    model = architecture(ModelSettings(architecture=TINY))
    return warm_start(build(model, 0.07), ModelSettings(**settings), model["text_cfg"])


OF_FOLDERS: dict[str, Callable[[Path], Any]] = {
    "bench": lambda folder: cli.main(
        [
            "--model",
            str(folder),
            "--tasks",
            "sample_t2i",
            "--sample",
            "4",
            "--output",
            str(folder / "out"),
        ]
    ),
    "filter --score-model": lambda folder: Encoder(find_pair_encoder(f"local-dir:{folder}")),
    "export.load": lambda folder: load(with_safetensors(folder), towers=[WORDS]),
    "model.warm_start": lambda folder: start(warm_start=str(folder)),
    "model.warm_start_image": lambda folder: start(warm_start_image=str(folder)),
}


@pytest.mark.parametrize("use", OF_FOLDERS)
def test_the_folder_without_a_trap_is_taken(use, folder, mark):
    assert OF_FOLDERS[use](folder) != 2 and not mark.exists()


@pytest.mark.parametrize("use", OF_FOLDERS)
@pytest.mark.parametrize("trap", TRAPS)
def test_no_folder_runs_code(trap, use, folder, mark):
    TRAPS[trap](folder, mark)
    with suppress(*ENDS):
        OF_FOLDERS[use](folder)
    assert not mark.exists() and not (folder.parent / "modules").exists()


@pytest.mark.parametrize("trap", TRAPS)
def test_each_trap_does_run_where_nobody_looks(trap, folder, mark, monkeypatch):
    """Otherwise the test above could pass for traps that are none."""
    TRAPS[trap](folder, mark)
    model = json.loads((folder / CONFIG).read_text())["model_cfg"]
    read = torch.load
    # timm reads weights alone by itself: this is how it would read them if it did not.
    monkeypatch.setattr(
        torch, "load", lambda *given, **named: read(*given, **{**named, "weights_only": False})
    )
    with suppress(*ENDS):
        if trap.endswith("tower"):
            build(model, 0.07)
        elif trap == "timm":
            open_clip.CLIP(model["embed_dim"], model["vision_cfg"], TINY["text_cfg"])
        else:
            open_clip.create_model_and_transforms(f"local-dir:{folder}", weights_only=False)
            open_clip.get_tokenizer(f"local-dir:{folder}")
    assert mark.exists()


OF_FILES: dict[str, Callable[[str], Any]] = {
    "bench --pretrained": lambda path: cli.main(
        [
            "--model",
            "ViT-S-32-alt",
            "--pretrained",
            path,
            "--tasks",
            "sample_t2i",
            "--output",
            f"{path}.out",
        ]
    ),
    "filter, open_clip": lambda path: Encoder(find_pair_encoder(f"open_clip:ViT-S-32-alt:{path}")),
    "filter, timm": lambda path: Encoder(find_encoder(f"timm:test_vit:{path}")),
    "concepts, timm": lambda path: find_teacher("timm:test_vit", path).load(),
    "concepts, torchvision": lambda path: find_teacher("torchvision:resnet18", path).load(),
    "concepts, open_clip": lambda path: find_teacher("open_clip:ViT-S-32-alt", path).load(),
    "model.warm_start": lambda path: start(warm_start=path),
    "trainer.released": lambda path: load_released("diht_vitb32_224px", Path(path), TINY),
}


# The first column reads a file by its content, the second would by its name.
@pytest.mark.parametrize(
    ("kind", "ending"), [*((kind, "bin") for kind in PICKLES), ("archive", "npz")]
)
@pytest.mark.parametrize("use", OF_FILES)
def test_no_file_of_weights_runs_code(use, kind, ending, tmp_path, mark, capsys):
    path = tmp_path / f"w.{ending}"
    PICKLES[kind](path, mark)
    try:
        OF_FILES[use](str(path))
        refused = capsys.readouterr().err
    except ENDS as error:
        refused = str(error)
    assert str(path) in refused and not mark.exists()


WITH_TEXTS: dict[str, Callable[[Path], Any]] = {**OF_FOLDERS, "export.load": load}


@pytest.mark.parametrize("use", ["bench", "filter --score-model", "export.load"])
def test_attention_is_computed_in_torch_whatever_kernel_is_named(use, folder, mark, monkeypatch):
    """A kernel is code in the cache of a hub. A folder that names one is used without."""
    rewritten(folder, text_cfg={"hf_model_name": str(folder), "hf_proj_type": "mlp"})
    text = {"model_type": "bert", **BERT}
    (folder / "config.json").write_text(json.dumps(text))
    for old in folder.glob("open_clip_*model.*"):
        old.unlink()
    model = json.loads((folder / CONFIG).read_text())["model_cfg"]
    save_file(build(model, 0.07).state_dict(), folder / "open_clip_model.safetensors")
    kernel = "kernels-community/flash-attn"
    (folder / "config.json").write_text(json.dumps({**text, "attn_implementation": kernel}))
    monkeypatch.setattr(
        "transformers.modeling_utils.is_kernel", lambda name: name == kernel and not mark.touch()
    )
    with suppress(*ENDS):
        transformers.AutoModel.from_config(transformers.AutoConfig.from_pretrained(folder))
    assert mark.exists(), "otherwise this trap is none"
    mark.unlink()
    assert WITH_TEXTS[use](folder) not in (1, 2) and not mark.exists()


def into_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def into_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "header alone": lambda path: path.write_bytes(path.read_bytes()[:20]),
    "empty": lambda path: path.write_bytes(b""),
    "missing": Path.unlink,
    "folder": into_folder,
    "link to nothing": into_link,
    "other bytes": lambda path: path.write_bytes(b"\xff\xfe\x00" * 99),
    "list": lambda path: path.write_text("[1]"),
    "null": lambda path: path.write_text('{"model_cfg": null, "preprocess_cfg": {}}'),
    "text": lambda path: path.write_text('{"model_cfg": "ViT-B-32", "preprocess_cfg": {}}'),
    "no towers": lambda path: path.write_text(
        '{"model_cfg": {"embed_dim": 4}, "preprocess_cfg": {}}'
    ),
    "tower of text": lambda path: path.write_text(
        '{"model_cfg": {"embed_dim": 4, "vision_cfg": "a", "text_cfg": {}}, "preprocess_cfg": {}}'
    ),
    "unknown keys": lambda path: rewritten(path.parent, vision_cfg={"widthh": 3}),
    "wrong types": lambda path: rewritten(path.parent, vision_cfg={"width": "a", "layers": None}),
    "no width": lambda path: rewritten(path.parent, text_cfg={"width": 0, "heads": 0}),
    "other shapes": lambda path: rewritten(path.parent, text_cfg={"vocab_size": 100}),
    "deep": lambda path: path.write_text("[" * 100_000),
}
OF_DESCRIPTIONS = (
    "list",
    "null",
    "text",
    "no towers",
    "tower of text",
    "unknown keys",
    "wrong types",
    "no width",
    "other shapes",
    "deep",
)
DAMAGED = [
    (kind, name)
    for kind in DAMAGE
    for name in (CONFIG, "open_clip_model.safetensors")
    if name == CONFIG or kind not in OF_DESCRIPTIONS
]


@pytest.mark.parametrize(("kind", "name"), DAMAGED)
def test_a_damaged_export_is_one_line(kind, name, folder, mark, tmp_path, capsys):
    for old in folder.glob("open_clip_pytorch_model.*"):
        old.unlink()
    (with_safetensors(folder) / "README.md").write_text("# Card\n")
    shutil.copytree(folder, tmp_path / "good")
    DAMAGE[kind](folder / name)
    with pytest.raises(WrongUse) as refused:
        load(folder)
    assert "\n" not in str(refused.value).strip()
    assert (
        cli.main(
            ["--model", str(folder), "--tasks", "sample_t2i", "--output", str(tmp_path / "out")]
        )
        == 2
    )
    with pytest.raises(EncoderError):
        Encoder(find_pair_encoder(f"local-dir:{folder}"))
    for pair in ((folder, tmp_path / "good"), (tmp_path / "good", folder)):
        status = average([*map(str, pair), "--output", str(tmp_path / "average")])
        error = capsys.readouterr().err
        assert status == 2 and "Traceback" not in error and not (tmp_path / "average").exists(), (
            error
        )


def test_no_checkpoint_runs_code(tmp_path, mark):
    checkpoints = Checkpoints(store_at(str(tmp_path)))
    checkpoints.save(
        Checkpoint(step=1, samples=4, model={"a": torch.zeros(1)}, training={"a": Runs(mark)})
    )
    with pytest.raises(Damaged, match="matches its manifest but cannot be read"):
        checkpoints.load(1)
    assert not mark.exists()


def test_no_result_runs_code(tmp_path, mark, capsys):
    row = {
        "task": "t",
        "kind": "classification",
        "metric": "top1",
        "value": 1.0,
        "low": 0.5,
        "high": 1.0,
        "n": 1,
    }
    for name in ("a", "b"):
        (tmp_path / name / "items").mkdir(parents=True)
        (tmp_path / name / "results.json").write_text(
            json.dumps([{**row, "protocol": {"data": {}}}])
        )
        np.savez(tmp_path / name / "items" / "t.npz", keys=np.array([Runs(mark)], dtype=object))
    assert compare.main([str(tmp_path / "a"), str(tmp_path / "b")]) == 1
    assert "does not hold arrays" in capsys.readouterr().err and not mark.exists()


def test_no_model_that_runs_code_is_published(folder, mark, hub):
    TRAPS["tokenizer with permission"](folder, mark)
    PICKLES["archive"](folder / "open_clip_model.safetensors", mark)
    (folder / "README.md").write_text("# Card\n")
    assert trainer_hub.main([str(folder), "hf://me/small"]) == 2
    assert not hub.repositories and not mark.exists()


def test_towers_of_a_folder_are_imported_only_by_name_of_the_user(folder, mark):
    (folder / f"{MODULE}.py").write_text(
        f"import torch\nopen({str(mark)!r}, 'w')\n"
        "class Trap(torch.nn.Linear):\n"
        "    input_shape = (4,)\n"
        "    def __init__(self, embed_dim): super().__init__(4, embed_dim)\n"
    )
    name = f"{MODULE}:Trap"
    model = {"embed_dim": 2, "vision_cfg": {"tower": name}, "text_cfg": OWN_TEXT}
    export(folder, model, build(model, 0.07).state_dict(), {}, "# Card\n")
    mark.unlink()
    with pytest.raises(
        BadArchitecture, match=rf"would import the tower {WORDS}; .* towers=\['{WORDS}', '{name}'\]"
    ):
        load(folder)
    assert not mark.exists()
    assert (
        loaded_by(model, folder)
        == f"open_diht.trainer.export.load('{folder}', towers=['{WORDS}', '{name}'])"
    )
    clip, tokens = load(folder, towers=[name, WORDS])
    assert clip.encode_image(torch.ones(1, 4)).shape == (1, 2) and tokens(["a dog"]).shape == (1, 4)


def test_the_reference_runs_no_code_of_its_folder(folder, mark):
    for trap in ("tokenizer that asks", "text model"):
        TRAPS[trap](folder, mark)
        with pytest.raises(reference_encoder.ReferenceMissing, match="does not load"):
            reference_encoder._load_text(folder)
        assert not mark.exists()


@pytest.mark.parametrize("trap", ["tokenizer that asks", "text model"])
def test_a_model_that_needs_code_is_refused_without_a_question(trap, folder, mark):
    """Nor does the user's own configuration run code of a model on the hub."""
    TRAPS[trap](folder, mark)
    with pytest.raises(EncoderError, match="Python code of its own, which is never run"):
        Encoder(find_pair_encoder(f"local-dir:{folder}"))
    model = json.loads((folder / CONFIG).read_text())["model_cfg"]
    with pytest.raises(BadArchitecture, match="Python code of its own, which is never run"):
        tokenizer(model), build(model, 0.07)
    assert not mark.exists()
