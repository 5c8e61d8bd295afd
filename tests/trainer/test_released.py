"""The authors' checkpoints, by files of their shape: the names map one to one, the hash in the name
counts, QuickGELU is refused. The released files themselves are not tried: they are not ours to
ship."""

import hashlib
import re
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

from open_diht.trainer.architecture import build
from open_diht.trainer.released import RELEASED, load_released, main
from open_diht.trainer.warm_start import BadWeights
from tests.trainer.conftest import ONE_LAYER


def shape_of(name: str) -> dict[str, Any]:
    """Weights of the official state dict by name and shape, from the published hyper-parameters."""
    layers, width, patch, size, embed, text_width = {
        "diht_vitb32_224px": (12, 768, 32, 224, 512, 512),
        "diht_vitb16_224px": (12, 768, 16, 224, 512, 512),
        "diht_vitl14_224px": (24, 1024, 14, 224, 768, 768),
        "diht_vitl14_336px": (24, 1024, 14, 336, 768, 768),
    }[name]
    shapes: dict[str, Any] = {
        "logit_scale": (), "positional_embedding": (77, text_width),
        "text_projection": (text_width, embed), "token_embedding.weight": (49408, text_width),
        "ln_final.weight": (text_width,), "ln_final.bias": (text_width,),
        "visual.class_embedding": (width,),
        "visual.positional_embedding": ((size // patch) ** 2 + 1, width),
        "visual.proj": (width, embed), "visual.conv1.weight": (width, 3, patch, patch),
    }  # fmt: skip
    for norm in ("ln_pre", "ln_post"):
        shapes |= {f"visual.{norm}.weight": (width,), f"visual.{norm}.bias": (width,)}
    for prefix, count, w in (
        ("visual.transformer", layers, width),
        ("transformer", 12, text_width),
    ):
        for i in range(count):
            block = f"{prefix}.resblocks.{i}"
            for norm in ("ln_1", "ln_2"):
                shapes |= {f"{block}.{norm}.weight": (w,), f"{block}.{norm}.bias": (w,)}
            shapes |= {
                f"{block}.attn.in_proj_weight": (3 * w, w), f"{block}.attn.in_proj_bias": (3 * w,),
                f"{block}.attn.out_proj.weight": (w, w), f"{block}.attn.out_proj.bias": (w,),
                f"{block}.mlp.c_fc.weight": (4 * w, w), f"{block}.mlp.c_fc.bias": (4 * w,),
                f"{block}.mlp.c_proj.weight": (w, 4 * w), f"{block}.mlp.c_proj.bias": (w,),
            }  # fmt: skip
    return shapes


@pytest.mark.parametrize("name", RELEASED)
def test_names_and_shapes_are_those_of_open_clip(name: str) -> None:
    known = RELEASED[name]
    with torch.device("meta"):
        clip = build(open_clip.get_model_config(known.architecture), 0.07)
    found = {key: tuple(value.shape) for key, value in clip.state_dict().items()}
    assert found == shape_of(name)
    assert sum(p.numel() for p in clip.parameters()) == known.parameters
    assert {type(m).__name__ for m in clip.modules() if "GELU" in type(m).__name__} == {"GELU"}


def saved(tmp_path: Path, model: dict[str, Any] = ONE_LAYER) -> tuple[Path, Any]:
    """A file named as the authors name theirs, and the model in it."""
    torch.manual_seed(4)
    clip = build(model, 0.07).eval()
    plain = tmp_path / "plain.ckpt"
    torch.save(clip.state_dict(), plain)
    return (
        plain.rename(
            tmp_path / f"diht_vitb32_224px_{hashlib.sha256(plain.read_bytes()).hexdigest()}.ckpt"
        ),
        clip,
    )


def test_loads_by_name(tmp_path: Path) -> None:
    path, clip = saved(tmp_path)
    loaded, model = load_released("diht_vitb32_224px", path, architecture=ONE_LAYER)
    assert model == ONE_LAYER and not loaded.training
    images = torch.randn(2, 3, 32, 32)
    texts = torch.randint(1, 40, (2, 8))
    with torch.no_grad():
        for found, expected in zip(loaded(images, texts), clip(images, texts), strict=True):
            torch.testing.assert_close(found, expected)
    load_released(
        "diht_vitb32_224px",
        path.rename(tmp_path / "a name without a hash.ckpt"),
        architecture=ONE_LAYER,
    )


def test_a_cut_file(tmp_path: Path) -> None:
    path, _ = saved(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        BadWeights, match=r"damaged or incomplete: its SHA-256 is .*; download it again"
    ):
        load_released("diht_vitb32_224px", path, architecture=ONE_LAYER)


def test_quickgelu_is_refused(tmp_path: Path) -> None:
    """It would load without an error, and compute something else."""
    path, _ = saved(tmp_path)
    with pytest.raises(
        BadWeights, match=r"the architecture has QuickGELU; the released models need exact GELU"
    ):
        load_released("diht_vitb32_224px", path, architecture={**ONE_LAYER, "quick_gelu": True})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s.pop("ln_final.bias"),
            "1 weights missing, 0 unknown, 0 of another shape .first: ln_final.bias",
        ),
        (lambda s: s.update(extra=torch.zeros(1)), "0 weights missing, 1 unknown"),
        (lambda s: s.update(logit_scale=torch.zeros(2)), "1 of another shape"),
    ],
)
def test_another_model(change: Any, message: str, tmp_path: Path) -> None:
    _, clip = saved(tmp_path)
    state = clip.state_dict()
    change(state)
    other = tmp_path / "other.ckpt"
    torch.save(state, other)
    with pytest.raises(BadWeights, match=message):
        load_released("diht_vitb32_224px", other, architecture=ONE_LAYER)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diht_vitb23", "x.ckpt", "--output", str(tmp_path / "o")]) == 2
    assert "choose diht_vitb32_224px" in capsys.readouterr().err
    assert (
        main(["diht_vitb32_224px", str(tmp_path / "none.ckpt"), "--output", str(tmp_path / "o")])
        == 2
    )
    assert "is not a file" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command loads a small model under the released name."""
    load = load_released
    monkeypatch.setattr(
        "open_diht.trainer.released.load_released", lambda name, path: load(name, path, ONE_LAYER)
    )


def test_an_exported_model_is_replaced(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = saved(tmp_path)
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert main(["diht_vitb32_224px", str(path), "--output", "o"]) == 0
    names = {"README.md", "open_clip_config.json", "open_clip_model.safetensors"}
    assert {file.name for file in (tmp_path / "o").iterdir()} == names


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (
            ".",
            (
                r"holds diht_vitb32_224px_.*\.ckpt, and the folder is replaced as a whole; name a"
                r" new folder"
            ),
        ),
        ("../o/sub/..", "holds .hidden, and the folder is replaced"),
        ("sub/file", "is a file; name a new folder"),
        ("/", "is the root of the file system"),
    ],
)
def test_an_output_that_holds_other_files_stays(
    output, message, small, tmp_path, monkeypatch, capsys
):
    here = tmp_path / "o"
    (here / "sub").mkdir(parents=True)
    (here / "sub" / "file").touch()
    path, _ = saved(here)
    if output != ".":
        path = path.rename(tmp_path / path.name)
        (here / ".hidden").touch()
    monkeypatch.chdir(here)
    before = sorted(here.rglob("*"))
    assert main(["diht_vitb32_224px", str(path), "--output", output]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert sorted(here.rglob("*")) == before
