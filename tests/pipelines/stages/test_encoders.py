"""Encoders: real ones on real images and their near copies; names that cannot be used."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from open_diht.common.encoders import LITE0, EncoderError
from open_diht.filters.spotting.decode import UnreadableImage
from open_diht.pipelines.stages import encoders
from open_diht.pipelines.stages.dedup.semantic import near_copies
from open_diht.pipelines.stages.encoders import Encoder, find_encoder, find_pair_encoder
from open_diht.pipelines.stages.vectors import unit_length
from tests.common.hostile_images import encode
from tests.tiny_clip import write_tiny

SAMPLE = Path(__file__).resolve().parents[3] / "data" / "sample" / "images"


def _jpeg(image: Image.Image, quality: int) -> bytes:
    return encode(image, "JPEG", quality=quality)


def _copies(image: Image.Image) -> dict[str, bytes]:
    """What becomes of an image on its way through the web."""
    smaller = image.resize(
        (max(1, image.width * 3 // 4), max(1, image.height * 3 // 4)), Image.Resampling.LANCZOS
    )
    return {
        "encoded again": _jpeg(image, 80),
        "resized": _jpeg(smaller, 90),
        "brighter": _jpeg(ImageEnhance.Brightness(image).enhance(1.08), 92),
    }


@pytest.fixture(scope="module")
def lite0() -> Encoder:
    try:
        return Encoder(find_encoder(LITE0))
    except EncoderError as error:
        pytest.skip(str(error))


def _photos(count: int) -> list[Path]:
    whole = [path for path in sorted(SAMPLE.glob("*.jpg")) if not path.name.startswith("broken")]
    paths = [path for path in whole if min(Image.open(path).size) >= 128]
    return paths[:: max(1, len(paths) // count)][:count]


def test_near_copies_of_images_are_found_and_others_stay(lite0: Encoder) -> None:
    paths = _photos(30)
    assert len(paths) >= 20
    originals = [path.read_bytes() for path in paths]
    copied = paths[:10]
    copies = [_copies(Image.open(path).convert("RGB")) for path in copied]
    everything = [*originals, *(one for group in copies for one in group.values())]
    results = lite0.encode(everything)
    assert not [result for result in results if isinstance(result, UnreadableImage)]
    vectors = unit_length(
        np.stack([result for result in results if not isinstance(result, UnreadableImage)])
    )
    assert vectors.shape == (len(everything), 1280)

    order = np.arange(len(everything))
    stays, _ = near_copies(vectors, order, 0.03, "kept")
    mine = [stays[len(originals) + n] == n // 3 for n in range(3 * len(copied))]
    assert sum(mine) / len(mine) >= 0.9, dict(zip(range(len(mine)), mine, strict=True))
    assert (
        stays[: len(originals)] >= 0
    ).mean() <= 0.1  # different images of the sample are not taken for copies


def test_bad_images_cost_themselves(lite0: Encoder) -> None:
    good = _photos(1)[0].read_bytes()
    results = lite0.encode([b"", good, b"<html>", good[:900], good])
    reasons = [
        str(result.reason) if isinstance(result, UnreadableImage) else "ok" for result in results
    ]
    assert reasons == ["empty", "ok", "not_an_image", "truncated", "ok"]
    first = results[1]
    last = results[4]
    assert isinstance(first, np.ndarray) and isinstance(last, np.ndarray)
    assert first.dtype == np.float16 and np.array_equal(first, last)
    assert lite0.encode([]) == []


def test_open_clip_and_timm_from_files(tmp_path: Path) -> None:
    """Random weights: that they are found, loaded and give one unit vector an image."""
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install '.[train]'")
    open_clip = pytest.importorskip(
        "open_clip", reason="open_clip is not installed: pip install '.[train]'"
    )
    timm = pytest.importorskip("timm", reason="timm is not installed: pip install '.[train]'")
    torch.manual_seed(0)
    image = _photos(1)[0].read_bytes()
    torch.save(timm.create_model("test_vit", num_classes=7).state_dict(), tmp_path / "vit.pth")
    tower = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16}
    small = {
        "embed_dim": 48,
        "vision_cfg": tower,
        "text_cfg": {"width": 64, "heads": 1, "layers": 1},
    }
    (tmp_path / "small-clip.json").write_text(json.dumps(small))
    open_clip.add_model_config(tmp_path / "small-clip.json")
    torch.save(open_clip.create_model("small-clip").state_dict(), tmp_path / "clip.pt")
    names = {
        f"timm:test_vit:{tmp_path / 'vit.pth'}": 64,
        f"open_clip:small-clip:{tmp_path / 'clip.pt'}": 48,
    }
    for name, dimension in names.items():
        encoder = find_encoder(name)
        (vector,) = Encoder(encoder).encode([image])
        assert isinstance(vector, np.ndarray) and vector.shape == (dimension,)
        assert np.linalg.norm(vector.astype(np.float32)) == pytest.approx(1, abs=1e-3)
        assert len(encoder.identity()["weights_sha256"]) == 64
    torch.save({}, tmp_path / "empty.pth")
    with pytest.raises(EncoderError, match="does not load"):
        Encoder(find_encoder(f"timm:test_vit:{tmp_path / 'empty.pth'}"))


def test_in_batches_of_one_size_an_embedding_depends_on_no_neighbour(tmp_path: Path) -> None:
    for module in ("torch", "open_clip"):
        pytest.importorskip(module, reason=f"{module} is not installed: pip install '.[score]'")
    encoder = Encoder(find_pair_encoder(f"local-dir:{write_tiny(tmp_path / 'tiny')}"), batch=4)
    assert encoder.dimension == 32 and encoder.temperature == pytest.approx(0.07, abs=1e-3)
    images = [path.read_bytes() for path in _photos(6)]
    texts = [f"a photo of {n} dogs on a beach" for n in range(6)]
    order = [5, 2, 0, 3]
    sides: list[tuple[Any, list[Any]]] = [(encoder.encode, images), (encoder.texts, texts)]
    for embed, given in sides:
        whole = embed(given)
        for some in (order, order[:1], [4, 4, 4, 4, 5]):
            found = embed([given[n] for n in some])
            assert all(np.array_equal(one, whole[n]) for one, n in zip(found, some, strict=True))
    assert encoder.texts([]) == []


def test_what_tools_keep_in_a_models_folder_does_not_change_its_identity(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "model")
    encoder = find_pair_encoder(f"local-dir:{folder}")
    before = encoder.identity()
    for name in (".cache/huggingface/download/model.safetensors.metadata", ".DS_Store"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("commit\netag\n1764374400.5\n")
    assert encoder.identity() == before
    (folder / "open_clip_config.json").write_text("{}")
    assert encoder.identity() != before


def test_wide_images_are_not_decoded_below_the_input_of_the_model(lite0: Encoder) -> None:
    """Elsewhere the model would see an enlargement of what was reduced before."""
    for width, height in ((3000, 1000), (4000, 1100), (1280, 720)):
        image = _jpeg(Image.effect_noise((width, height), 60).convert("RGB"), 90)
        pixels = lite0.decode(image)
        assert not isinstance(pixels, UnreadableImage) and min(pixels.shape[:2]) >= 224


def test_models_of_images_alone_score_nothing() -> None:
    with pytest.raises(
        EncoderError, match="unknown score model 'efficientnet-lite0'; choose reference, open_clip:"
    ):
        find_pair_encoder(LITE0)


def test_no_hub_is_asked_while_a_model_is_loaded_and_any_may_be_afterwards(tmp_path, monkeypatch):
    constants = pytest.importorskip(
        "huggingface_hub.constants", reason="not installed: pip install '.[score]'"
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    load = encoders._LOADERS["local-dir"]
    found = []

    def loading(*arguments: Any) -> Any:
        found.append(constants.is_offline_mode())
        return load(*arguments)

    monkeypatch.setitem(encoders._LOADERS, "local-dir", loading)
    Encoder(find_pair_encoder(f"local-dir:{write_tiny(tmp_path / 'tiny')}"))
    assert found == [True] and not constants.is_offline_mode()


@pytest.mark.parametrize(
    "content", [b"", b"no zip", b"\x80\x02pickle of what?"], ids=["empty", "text", "pickle"]
)
@pytest.mark.parametrize(
    "name", ["open_clip:ViT-S-32-alt:{}", "timm:test_vit:{}", "timm:test_vit:{}.safetensors"]
)
def test_a_file_without_weights_is_named_in_one_line(
    name: str, content: bytes, tmp_path: Path
) -> None:
    for module in ("torch", "open_clip", "timm"):
        pytest.importorskip(module, reason=f"{module} is not installed: pip install '.[score]'")
    encoder = name.format(tmp_path / "weights")
    Path(encoder.rpartition(":")[2]).write_bytes(content)
    with pytest.raises(
        EncoderError, match=r"^encoder '.*' does not load: [^\n]+: name a complete file of .*$"
    ):
        Encoder(find_encoder(encoder))


def test_a_tokenizer_of_the_hub_is_an_error_in_one_line(tmp_path: Path) -> None:
    pytest.importorskip(
        "transformers", reason="transformers is not installed: pip install '.[score]'"
    )
    folder = write_tiny(tmp_path / "tiny")
    about = json.loads((folder / "open_clip_config.json").read_text())
    about["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "organization/model-that-nobody-has"
    (folder / "open_clip_config.json").write_text(json.dumps(about))
    with pytest.raises(
        EncoderError, match=r"^encoder '.*' does not load: [^\n]+Nothing is downloaded: [^\n]+$"
    ):
        Encoder(find_pair_encoder(f"local-dir:{folder}"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("clip", "unknown encoder 'clip'; choose efficientnet-lite0"),
        ("", "unknown encoder"),
        (f"{LITE0}:x", "takes no argument"),
        ("open_clip:ViT-B-32", "write open_clip:ViT-B-32:<weights>"),
        (f"timm:{LITE0}", f"write timm:{LITE0}:<weights>"),
        ("timm::weights.pth", "write timm:<model>:<weights>"),
        ("timm:vit:/no/such/file", "/no/such/file is not a file; nothing is downloaded"),
        ("local-dir:/no/such/folder", "is not a folder"),
        ("local-dir:", "write local-dir:<folder>"),
    ],
)
def test_names_that_cannot_be_used(
    name: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("open_diht.common.encoders.find_spec", lambda module: object())
    with pytest.raises(EncoderError) as error:
        find_encoder(name)
    assert message in str(error.value)


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("open_diht.common.encoders.find_spec", lambda module: None)
    with pytest.raises(EncoderError, match=r"needs the package torch, .* install .*\[score\]"):
        find_encoder(LITE0)


@pytest.mark.slow
def test_torch_and_faiss_are_imported_only_when_they_are_used() -> None:
    code = (
        "import sys, open_diht.pipelines.driver.cli, open_diht.pipelines.stages.encoders as e; "
        f"e.find_encoder({LITE0!r}); "
        "print(sorted({'torch', 'faiss'} & set(sys.modules)))"
    )
    root = Path(__file__).resolve().parents[3]
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False
    )
    if "EncoderError" in said.stderr:
        pytest.skip("the packages of the encoder are not installed: pip install '.[score]'")
    assert said.stdout.strip() == "[]", said.stderr
