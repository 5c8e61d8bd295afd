"""Settings of the text spotter, and its results."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from open_diht.common.devices import has_bf16
from open_diht.common.fields import Above0, BadValue, Positive, Share, check_fields
from open_diht.filters.spotting.decode import DecodeLimits
from open_diht.filters.spotting.weights import ModelSize

EngineName = Literal["onnxruntime", "openvino", "paddle"]
Precision = Literal["auto", "bf16", "f32"]
Alphabet = Literal["latin", "all"]
Box = tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True)
class Spotted:
    """One line of text in an image."""

    text: str
    """The line as recognized; never empty."""
    score: float
    """Mean probability of its characters, 0 to 1."""
    box: Box
    """Four corners (x, y), clockwise from the top left, in pixels of the upright original image."""


@dataclass(frozen=True, kw_only=True)
class Spotting:
    """The text that was read in one image."""

    spotted: tuple[Spotted, ...]
    """The text lines, from top to bottom, then words of stacked letters; empty if no text was read."""
    width: int
    """Width of the upright original, in pixels."""
    height: int
    """Height of the upright original, in pixels."""


@dataclass(frozen=True, kw_only=True)
class SpotterSettings:
    """How to read the text in images."""

    engine: EngineName = "onnxruntime"
    """Runs PaddleOCR's models: ONNX Runtime; OpenVINO (package `openvino`), faster on processors
    with bf16; or `paddle`, PaddleOCR's own pipeline on ONNX Runtime (package `paddleocr`)."""
    precision: Precision = "auto"
    """For OpenVINO: bf16 or f32; `auto` chooses bf16 if the processor of the machine that starts
    the run has AVX512-BF16 or AMX. Its workers must have it too. All other engines compute in f32."""
    model: ModelSize = "tiny"
    """Size of the PP-OCRv6 detector and recognizer."""
    alphabet: Alphabet = "latin"
    """The characters that lines are read as (ignored by `paddle`): `latin` saves time; `all` also
    reads Chinese and Greek, and with `small` Japanese, which English captions do not need."""
    reread: ModelSize | None = "small"
    """Size of the recognizer that reads doubtful lines a second time (ignored by `paddle`). There is no second reading
    if it is None or the same as `model`."""
    reread_below: Share = 0.85
    """Lines with a lower score, but at least `min_score`, are read a second time, and the second reading counts."""
    turn_below: Share = 0.9
    """Lines that may be upside down (at least 1.5 times as tall as wide, or along an arc) are read both ways if they
    have a lower score, and the better reading counts; 0 turns this off (ignored by `paddle`)."""
    reread_chars: int = 5
    """Shorter lines are not read a second time: a preset with `min_chars: 5` seldom finds an overlap in them."""
    models: str | None = None
    """Folder of the installed models, by default $DIHT_OCR_MODELS or the user's cache (see weights.py)."""
    batch: Positive = 32
    """Most images that are sent to the OCR process at a time; it reads their lines together."""
    lines_at_once: Positive = 8
    """Most lines that are read in one call of the recognizer."""
    limit_side: Positive = 384
    """Images are reduced to this longest side, in pixels, before the text detection; found lines
    are read at the decoded resolution. Text in a font of 14 pixels in an image of 640 is mostly
    found, in one of 10 pixels less often; 512 finds more, in more time."""
    enlarge_faint: Positive = 2
    """Detector: the part of an image with faint or small text is enlarged by so much, at most to
    `limit_side`, and searched a second time; 1 turns this off (ignored by `paddle`)."""
    pixel_threshold: Share = 0.2
    """Detector: text pixels have a higher probability. The default is PP-OCRv6's own, as for `unclip_ratio`."""
    box_threshold: Share = 0.5
    """Detector: least mean probability within a box. PP-OCRv6's own (tiny: 0.4, small: 0.45) read more junk."""
    unclip_ratio: Above0 = 1.4
    """Detector: how far a box is grown beyond its text pixels, as a proportion of area by perimeter."""
    min_score: Share = 0.5
    """Lines recognized with a lower score are not returned; the T rule applies its own threshold
    later, by default 0.8."""
    limits: DecodeLimits = field(default_factory=lambda: DecodeLimits(decode_side=512))
    """How large an image may be. Images whose longest side has 1,024 pixels or more are reduced by a
    whole factor: text that is large enough to be found is still large enough to be read."""
    recycle_after: Positive = 5000
    """The OCR process is replaced after the batch that brings it to this many images, because OCR
    engines leak memory."""
    recycle_rss_mib: Positive = 2048
    """The OCR process is replaced when its resident memory exceeds this, in MiB."""
    timeout_s: Above0 = 60.0
    """Longest time for an image, and for a batch of images, in seconds; a normal image takes a few
    hundredths of a second."""
    start_timeout_s: Above0 = 300.0
    """Longest time for the OCR process to load its models, in seconds."""
    attempts: Positive = 2
    """How often an image is tried by itself if the OCR process dies on it, because the kernel may have
    killed the process for another reason."""
    crashes_in_a_row: Positive = 10
    """After this many images in a row lost to crashes, the environment is considered broken and
    `SpotterError` is raised."""

    @property
    def second_reader(self) -> ModelSize | None:
        """Return the size of the second recognizer. Return None without a second reading."""
        return None if self.engine == "paddle" or self.reread == self.model else self.reread

    @property
    def sizes(self) -> tuple[ModelSize, ...]:
        """Return the model sizes that must be installed."""
        return (self.model, self.second_reader) if self.second_reader else (self.model,)

    def resolved(self) -> SpotterSettings:
        """Return the settings with the precision `auto` replaced by bf16 (OpenVINO, if the processor has it) or f32."""
        if self.precision != "auto":
            return self
        return replace(self, precision="bf16" if self.engine == "openvino" and has_bf16() else "f32")

    def __post_init__(self) -> None:
        check_fields(self)
        if self.precision == "bf16" and self.engine != "openvino":
            raise BadValue(f"precision is 'bf16', but engine {self.engine} computes in f32; choose auto or f32")
