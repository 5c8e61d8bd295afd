"""Settings of the text spotter, and its results."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final, Literal, Self, get_args

from open_diht.common.devices import has_bf16
from open_diht.common.fields import Above0, BadValue, Positive, Share, check_fields, one_of, shown
from open_diht.filters.spotting.decode import DecodeLimits
from open_diht.filters.spotting.weights import ModelSize

Effort = Literal["low", "medium", "high"]
EngineName = Literal["onnxruntime", "openvino", "paddle"]
Precision = Literal["auto", "bf16", "f32"]
Alphabet = Literal["latin", "all"]
Box = tuple[tuple[float, float], ...]

EFFORTS: Final[Mapping[Effort, Mapping[str, Any]]] = MappingProxyType(
    {
        "low": {"limit_side": 384, "pixel_threshold": 0.2, "reread_below": 0.85, "closer": None},
        "medium": {"limit_side": 512, "pixel_threshold": 0.3, "reread_below": 0.9, "closer": None},
        "high": {
            "limit_side": 512,
            "pixel_threshold": 0.3,
            "reread_below": 0.95,
            "closer": "small",
        },
    }
)
"""Effort -> the settings that it stands for, all of the same names. A setting that is given
wins."""
_OF_EFFORT: Final[Any] = None


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
    """The text lines, from top to bottom, then words of stacked letters; empty if no text was
    read."""
    width: int
    """Width of the upright original, in pixels."""
    height: int
    """Height of the upright original, in pixels."""


@dataclass(frozen=True, kw_only=True)
class SpotterSettings:
    """How to read the text in images."""

    effort: Effort = "medium"
    """How much text is found, at what cost: the settings of `EFFORTS`, for those that are None
    here. `replace` keeps their values, so make new settings for another effort."""
    engine: EngineName = "onnxruntime"
    """Runs PaddleOCR's models: ONNX Runtime; OpenVINO (package `openvino`), faster on processors
    with bf16; or `paddle`, PaddleOCR's own pipeline on ONNX Runtime (package `paddleocr`)."""
    precision: Precision = "auto"
    """For OpenVINO: bf16 or f32; `auto` chooses bf16 if the processor of the machine that starts
    the run has AVX512-BF16 or AMX. Its workers must have it too. All other engines compute in
    f32."""
    model: ModelSize = "tiny"
    """Size of the PP-OCRv6 detector and recognizer."""
    alphabet: Alphabet = "latin"
    """The characters that lines are read as (ignored by `paddle`): `latin` saves time; `all` also
    reads Chinese and Greek, and with `small` Japanese, which English captions do not need."""
    reread: ModelSize | None = "small"
    """Size of the recognizer that reads doubtful lines a second time (ignored by `paddle`). There
    is no second reading if it is None or the same as `model`."""
    reread_below: Share = _OF_EFFORT
    """Lines with a lower score, but at least `min_score`, are read a second time, and the second
    reading counts. By default that of `effort`."""
    turn_below: Share = 0.9
    """Lines that may be upside down (at least 1.5 times as tall as wide, or along an arc) are read
    both ways if they have a lower score, and the better reading counts; 0 turns this off (ignored
    by `paddle`)."""
    reread_chars: int = 5
    """Shorter lines are not read a second time: a preset with `min_chars: 5` seldom finds an
    overlap in them."""
    models: str | None = None
    """Folder of the installed models, by default $DIHT_OCR_MODELS or the user's cache (see
    weights.py)."""
    batch: Positive = 32
    """Most images that are sent to the OCR process at a time; it reads their lines together."""
    lines_at_once: Positive = 8
    """Most lines that are read in one call of the recognizer."""
    limit_side: Positive = _OF_EFFORT
    """Images are reduced to this longest side, in pixels, before the text detection; found lines
    are read at the decoded resolution. Text in a font of 14 pixels in an image of 640 is mostly
    found with 384, in one of 10 pixels less often; 512 finds more, in more time. By default that of
    `effort`."""
    enlarge_faint: Positive = 2
    """Detector: the part of an image with faint or small text is enlarged by this factor, at most
    to `limit_side`, and searched a second time; 1 turns this off (ignored by `paddle`)."""
    closer: ModelSize | None = None
    """Size of the detector of the second search. By default `effort` chooses it; if `effort` does
    not, it is the size of `model`. A larger one finds more small text, also in a part that cannot
    be enlarged, and needs more time for images with such text."""
    pixel_threshold: Share = _OF_EFFORT
    """Detector: pixels with a higher probability are text. By default `effort` chooses the value.
    PP-OCRv6's own is 0.2."""
    box_threshold: Share = 0.5
    """Detector: least mean probability within a box. PP-OCRv6's own (tiny: 0.4, small: 0.45) read
    more junk."""
    unclip_ratio: Above0 = 1.4
    """Detector: how far a box is grown beyond its text pixels, as a proportion of area by
    perimeter. The default is PP-OCRv6's own."""
    min_score: Share = 0.5
    """Lines recognized with a lower score are not returned; the T rule applies its own threshold
    later, by default 0.8."""
    limits: DecodeLimits = field(default_factory=lambda: DecodeLimits(decode_side=512))
    """How large an image may be. Images whose longest side has 1,024 pixels or more are reduced by
    a whole factor: text that is large enough to be found is still large enough to be read."""
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
    """How often an image is tried by itself if the OCR process dies on it, because the kernel may
    have killed the process for another reason."""
    crashes_in_a_row: Positive = 10
    """After this many images in a row lost to crashes, the environment is considered broken and
    `SpotterError` is raised."""

    @property
    def second_reader(self) -> ModelSize | None:
        """Return the size of the second recognizer. Return None without a second reading."""
        return None if self.engine == "paddle" or self.reread == self.model else self.reread

    @property
    def closer_look(self) -> ModelSize | None:
        """Return the size of another detector for the second look. Return None without one."""
        return None if self.engine == "paddle" or self.closer == self.model else self.closer

    @property
    def sizes(self) -> tuple[ModelSize, ...]:
        """Return the model sizes that must be installed, that of `model` first."""
        return tuple(
            dict.fromkeys(
                size for size in (self.model, self.second_reader, self.closer_look) if size
            )
        )

    def resolved(self) -> Self:
        """Return the settings with the precision `auto` replaced by bf16 (OpenVINO, if the
        processor has it) or f32."""
        if self.precision != "auto":
            return self
        return replace(
            self, precision="bf16" if self.engine == "openvino" and has_bf16() else "f32"
        )

    def __post_init__(self) -> None:
        for name, value in EFFORTS[one_of(EFFORTS, self.effort, "effort")].items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        _check_alphabet(self.alphabet)
        check_fields(self)
        if self.precision == "bf16" and self.engine != "openvino":
            raise BadValue(
                f"precision is 'bf16', but engine {self.engine} computes in f32; choose auto or f32"
            )


@dataclass(frozen=True, kw_only=True)
class OcrRule:
    """How images are read, in a preset. Settings that a run or `Cat` is given win."""

    effort: Effort = SpotterSettings.effort
    """How much text is found, at what cost (`SpotterSettings.effort`)."""
    alphabet: str = SpotterSettings.alphabet
    """`latin`, or `all`, which also reads Chinese and Greek (`SpotterSettings.alphabet`)."""

    def __post_init__(self) -> None:
        check_fields(self)
        _check_alphabet(self.alphabet)

    def settings(
        self, effort: str | None = None, alphabet: str | None = None, **given: Any
    ) -> SpotterSettings:
        """Return settings of the OCR. What is given and not None wins over the preset."""
        named: dict[str, Any] = {  # Any: what was typed; SpotterSettings checks it
            "effort": effort or self.effort,
            "alphabet": alphabet or self.alphabet,
        }
        return SpotterSettings(**named, **given)


def _check_alphabet(alphabet: str) -> None:
    if alphabet not in get_args(Alphabet):
        raise BadValue(
            f"alphabet is {shown(alphabet)}: other scripts than Latin are not read; choose latin,"
            " or all, which also reads Chinese and Greek, and with the model small Japanese"
        )
