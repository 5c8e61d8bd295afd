"""What users name as a model and is none: one line that says what is wrong, and never the numbers
of another model."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from open_diht.eval import cli
from open_diht.eval.errors import ModelError, WrongUse
from open_diht.eval.models import load_model
from open_diht.eval.models.weights import check_positions, shapes_of
from tests.tiny_clip import TINY

WEIGHTS = "open_clip_pytorch_model.bin"
CONFIG = "open_clip_config.json"


@pytest.fixture
def folder(tiny_folder, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def reconfigured(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        config = json.loads((folder / CONFIG).read_text())
        change(config)
        (folder / CONFIG).write_text(json.dumps(config))

    return rewrite


def as_safetensors(folder: Path, share: float) -> None:
    path = folder / "open_clip_model.safetensors"
    save_file(
        {name: value.contiguous() for name, value in torch.load(folder / WEIGHTS).items()}, path
    )
    (folder / WEIGHTS).unlink()
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no weights": (
        lambda folder: (folder / WEIGHTS).unlink(),
        "has a configuration but no weights",
    ),
    "empty": (lambda folder: (folder / WEIGHTS).write_bytes(b""), "damaged, or not a weights file"),
    "cut off": (
        lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:5000]),
        "damaged",
    ),
    "text": (
        lambda folder: (folder / WEIGHTS).write_bytes(b"not found" * 9),
        "damaged, or not a weights file",
    ),
    "cut safetensors": (
        lambda folder: as_safetensors(folder, 0.5),
        "damaged, or not a weights file",
    ),
    "no json": (lambda folder: (folder / CONFIG).write_text("{"), "cannot be loaded"),
    "no architecture": (lambda folder: (folder / CONFIG).write_text("{}"), "model_cfg"),
    "unknown setting": (
        reconfigured(lambda config: config["model_cfg"]["vision_cfg"].update(deep=3)),
        "'deep'",
    ),
    "no number": (
        reconfigured(lambda config: config["model_cfg"].update(embed_dim="x")),
        "cannot be loaded",
    ),
    "another width": (
        reconfigured(lambda config: config["model_cfg"].update(embed_dim=64)),
        "size mismatch",
    ),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_export_is_one_line_and_status_2_and_nothing_is_written(
    folder, tmp_path, capsys, what
):
    damage, message = DAMAGE[what]
    damage(folder)
    output = tmp_path / "out"
    assert cli.main(["--model", str(folder), "--tasks", "sample_t2i", "--output", str(output)]) == 2
    said = capsys.readouterr().err
    assert (
        said.startswith("error: ")
        and said.count("\n") == 1
        and message in said
        and str(folder) in said
    )
    assert not output.exists()


def test_safetensors_and_bin_hold_the_same_model(folder, tiny):
    as_safetensors(folder, 1.0)
    assert load_model(str(folder), data=folder).fingerprint == tiny.fingerprint


def test_models_are_named_as_presets_and_scores_name_them(
    folder: Path, tiny: Any, tmp_path: Path
) -> None:
    assert load_model(f"local-dir:{folder}", data=folder).fingerprint == tiny.fingerprint
    with pytest.raises(ModelError, match=r"w\.pt is damaged"):
        load_model(f"open_clip:ViT-S-32-alt:{content(tmp_path / 'w.pt', 'junk')}", data=folder)
    for name, pretrained in (
        (f"local-dir:{folder}", "w.pt"),
        ("open_clip:ViT-S-32-alt:w.pt", "v.pt"),
    ):
        with pytest.raises(WrongUse, match="give only one"):
            load_model(name, data=folder, pretrained=pretrained)
    with pytest.raises(WrongUse, match="local-dir:<folder>"):
        load_model("local-dir:", data=folder)
    with pytest.raises(WrongUse, match="/nope is not a folder"):
        load_model(f"local-dir:{tmp_path}/nope", data=folder)


def content(path: Path, what: str) -> Path:
    match what:
        case "list":
            torch.save([1, 2], path)
        case "other":
            torch.save({"state_dict": {"module.a": torch.zeros(2)}}, path)
        case "code":
            torch.save({"a": Path("x")}, path)  # anything but tensors and plain values
        case "junk":
            path.write_bytes(b"junk" * 9)
    return path


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("list", "holds no weights by name"),
        ("other", "Missing key"),
        ("code", "damaged"),
        ("junk", "damaged"),
    ],
)
def test_a_file_that_holds_other_things_is_no_checkpoint(tmp_path, what, message):
    path = content(tmp_path / "w.pt", what)
    with pytest.raises(ModelError, match=message):
        load_model("ViT-S-32-alt", data=tmp_path, pretrained=str(path))


@pytest.mark.parametrize("what", ["list", "junk"])
def test_nor_is_it_one_of_the_authors(tmp_path, what):
    with pytest.raises(ModelError, match=r"w\.pt"):
        load_model(
            "diht_vitb32_224px", data=tmp_path, pretrained=str(content(tmp_path / "w.pt", what))
        )


@pytest.mark.parametrize(
    ("key", "positions", "fits"),
    [
        ("visual.positional_embedding", 577, False),  # 336 pixels
        ("visual.positional_embedding", 257, True),
        ("positional_embedding", 77, True),
        ("positional_embedding", 32, False),
        ("text.positional_embedding", 78, True),  # CoCa's text tower has a class token
    ],
)
def test_weights_for_another_size_are_refused_where_open_clip_would_resize_them(
    tmp_path, key, positions, fits
):
    path = tmp_path / "w.safetensors"
    save_file({key: torch.zeros(positions, 8)}, path)
    assert shapes_of(path) == {key: (positions, 8)}
    settings = {
        "vision_cfg": {"image_size": 224, "patch_size": 14},
        "text_cfg": {"context_length": 77},
    }
    if fits:
        check_positions(path, "ViT-L-14", settings)
    else:
        with pytest.raises(
            ModelError, match=f"does not fit ViT-L-14: its {key} has {positions} positions"
        ):
            check_positions(path, "ViT-L-14", settings)


@pytest.mark.parametrize(
    ("word", "more", "message"),
    [
        ("", {}, "no name"),
        ("refrence", {}, "did you mean 'reference'"),
        ("reference", {"pretrained": "x"}, "leave out --pretrained"),
        ("reference", {"precision": "bf16"}, "and --precision"),
        ("FOLDER", {"pretrained": "x"}, "has its own weights"),
        ("FOLDER/open_clip_pytorch_model.bin", {}, "name its architecture"),
        ("ViT-B-32", {"pretrained": "FOLDER"}, "are a folder; name the file"),
        ("ViT-B-32", {"pretrained": "FOLDER/no.pt"}, "the weights file .* does not exist"),
        ("ViT-B-32", {"pretrained": "no.safetensors"}, "the weights file .* does not exist"),
        ("ViT-B-32", {"pretrained": "laion2b"}, "downloads nothing"),
        ("diht_vitb32_244px", {}, "did you mean 'diht_vitb32_224px'"),
    ],
)
def test_words_that_lead_nowhere_say_where_to_go(folder, word, more, message):
    more = {name: value.replace("FOLDER", str(folder)) for name, value in more.items()}
    with pytest.raises(WrongUse, match=message):
        load_model(word.replace("FOLDER", str(folder)), data=folder, **more)


@pytest.fixture
def fetched(folder, tmp_path, monkeypatch) -> Path:
    """The data folder with fetched weights of `own`, and of `own-quickgelu`, under the tag that
    open_clip knows."""
    monkeypatch.setattr("open_clip.factory._MODEL_CONFIGS", dict(open_clip.factory._MODEL_CONFIGS))
    monkeypatch.setattr(
        "open_clip.factory._MODEL_CONFIG_PATHS", list(open_clip.factory._MODEL_CONFIG_PATHS)
    )
    tag = {
        "mean": (0.1,) * 3,
        "std": (0.2,) * 3,
        "interpolation": "bilinear",
        "resize_mode": "squash",
    }
    tags: dict[str, dict[str, Any]] = {
        "own": {"plain": tag, "quick": {**tag, "quick_gelu": True}},
        "own-quickgelu": {"quick": tag},
    }
    for name, known in tags.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({**TINY, "quick_gelu": name != "own"}))
        monkeypatch.setitem(open_clip.pretrained._PRETRAINED, name, known)
        for one in (*known, "unknown"):
            (tmp_path / "weights" / name / one).mkdir(parents=True)
            shutil.copy(folder / WEIGHTS, tmp_path / "weights" / name / one / WEIGHTS)
    open_clip.add_model_config(tmp_path)
    return tmp_path


SQUASHED = {"mean": [0.1] * 3, "std": [0.2] * 3, "interpolation": "bilinear", "resize": "squash"}


@pytest.mark.parametrize(("name", "tag"), [("own", "plain"), ("own-quickgelu", "quick")])
def test_a_tag_has_its_own_preprocessing_and_a_file_has_the_default(fetched, name, tag):
    model = load_model(name, data=fetched, pretrained=tag)
    assert {key: model.preprocessing[key] for key in SQUASHED} == SQUASHED
    white = model.preprocess(Image.new("RGB", (64, 32), "white"))
    assert white.shape == (3, 32, 32) and torch.allclose(white, torch.tensor((1 - 0.1) / 0.2))
    for other in (str(fetched / "weights" / name / tag / WEIGHTS), "unknown"):
        model = load_model(name, data=fetched, pretrained=other)
        assert (
            model.preprocessing["resize"] == "shortest"
            and model.preprocessing["interpolation"] == "bicubic"
        )


def test_the_marks_of_files_that_the_hub_lacks_are_no_weights(fetched):
    """huggingface_hub's cache: an empty file below .no_exist for each name that the repository does
    not have."""
    folder = fetched / "weights" / "own" / "plain"
    mark = folder / "models--laion--own" / ".no_exist" / "5f0c" / "open_clip_model.safetensors"
    snapshot = folder / "models--laion--own" / "snapshots" / "5f0c" / WEIGHTS
    for path in (mark, snapshot):
        path.parent.mkdir(parents=True)
    mark.touch()
    (folder / WEIGHTS).rename(snapshot)
    assert str(snapshot) in load_model("own", data=fetched, pretrained="plain").name
    snapshot.unlink()
    with pytest.raises(WrongUse, match="fetch them by"):
        load_model("own", data=fetched, pretrained="plain")


def test_a_tag_of_weights_with_quickgelu_is_refused_for_an_architecture_without(fetched):
    with pytest.raises(WrongUse, match=r"name own-quickgelu, .*--weights own-quickgelu:quick`"):
        load_model("own", data=fetched, pretrained="quick")
    assert (
        load_model("own-quickgelu", data=fetched, pretrained="quick").record["activation"]
        == "quickgelu"
    )


def test_random_weights_are_random_in_a_text_tower_of_the_hub_too(tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers", reason="not installed: make setup")
    small = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    tower = tmp_path / "tower"
    # A configuration without weights.
    transformers.BertConfig(vocab_size=49408, **small).save_pretrained(tower)
    monkeypatch.setattr("open_clip.factory._MODEL_CONFIGS", dict(open_clip.factory._MODEL_CONFIGS))
    vision = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16}
    text = {"hf_model_name": str(tower), "hf_proj_type": "mlp", "context_length": 77}
    config = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": text}
    (tmp_path / "own-tower.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path)
    model = load_model("own-tower", data=tmp_path, pretrained="random")
    assert model.texts(["a cat"]).shape == (1, 32)
