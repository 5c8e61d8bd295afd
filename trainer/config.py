"""What a run is asked to do: frozen sections, one docstring per field with where its default comes from.

Provenance marks. (recipe): the public recipe of SemDeDup's CLIP ViT-B/16 on the same data, LAION-CAT-440M (Abbas et al.
2023, tables A2 and A3); DiHT's own batch size, learning rate, warm-up and decay are not published. (paper): stated in
the paper or its official repository. (unverified): follows the paper to the best of our knowledge. (convention): what
CLIP training code agrees on. (ours): a choice of this project. None but (paper) may be quoted as the paper's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from open_diht.common.fields import Above0, Below1, Positive, Range, Share, Total, check_fields
from open_diht.trainer.data.settings import DataSettings
from open_diht.trainer.losses import HnNce, loss_of

Factor = Annotated[float, Range(at_least=0, at_most=1e6)]


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """The dual encoder and where its weights start."""

    name: str = "ViT-B-32"
    """An architecture of open_clip, see `open_clip.list_models()`. (paper: ViT-B-32, ViT-B-16, ViT-L-14,
    ViT-L-14-336)"""
    architecture: dict[str, Any] | None = None
    """An architecture in open_clip's own form (embed_dim, vision_cfg, text_cfg), instead of the one called `name`. A
    vision_cfg or text_cfg with a key `tower` is a small tower of this project, or one of your own by its import path;
    a text_cfg with a key `vocabulary`, a file of a word in each line, has whole words as ids."""
    image_size: Positive | None = None
    """Side of the square image, in pixels; None: the architecture's. Position embeddings are resized on a warm
    start."""
    patch_dropout: Annotated[float, Range(at_least=0, at_most=0.95)] = 0.0
    """Proportion of the patches of an image that a training step leaves out, ViT only; 0.5 doubles the speed (FLIP).
    (ours)"""
    gradient_checkpointing: bool = False
    """Compute activations twice instead of keeping them: less memory, about a third more time."""
    batch_norm: Literal["frozen", "batch"] = "frozen"
    """frozen: batch norms keep the statistics that they start with, so that a step does not depend on how its batch is
    spread; a tower that has any needs weights. batch: they learn them from the batch, in one process and one
    micro-batch only. (ours)"""
    compile: bool = False
    """torch.compile the encoders: faster after minutes of compilation; needs a C++ compiler on a CPU."""
    warm_start: str = ""
    """Weights of the whole model to start from: a file, or a folder with one, in open_clip's naming (such as `export/`
    of another run). The temperature comes along; concept heads do not."""
    warm_start_image: str = ""
    """Weights of the image tower to start from: a file of timm or open_clip weights, or `package:NAME`, a Python
    package that ships the file. Not allowed together with `warm_start`."""
    warm_start_text: str = ""
    """Weights of the text tower to start from; as above."""
    freeze_image: bool = False
    """Do not train the image tower (locked-image tuning, LiT: a baseline); a timm trunk keeps its trained
    projection."""
    freeze_text: bool = False
    """Do not train the text tower; a text projection of its own stays trained where open_clip leaves it so."""
    temperature: Above0 = 0.07
    """Initial temperature; logits are cosines divided by it. (paper)"""
    max_scale: Above0 = 100.0
    """The factor of the cosine, 1 / temperature, is clamped to this after each step. (convention)"""
    bias: Annotated[float, Range(at_least=-100, at_most=100)] | None = None
    """Initial bias of the logits, which `loss.name: siglip` learns, and no other loss that comes along: -10, with
    temperature 0.1. (SigLIP's paper)"""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.warm_start and (self.warm_start_image or self.warm_start_text):
            raise ValueError("model.warm_start gives all weights: leave out warm_start_image and warm_start_text")
        if 1 / self.temperature > self.max_scale * (1 + 1e-9):
            raise ValueError(
                f"model.temperature {self.temperature} means a scale of {1 / self.temperature:.4g}, above "
                f"model.max_scale {self.max_scale}"
            )


@dataclass(frozen=True, kw_only=True)
class ConceptSettings:
    """Concept distillation: linear heads on the image encoder learn stored predictions of a teacher."""

    path: str = "auto"
    """Output folder of `make concepts`; several, one per data source, separated by commas. auto: `concepts` in the
    folder of each data source, if all have one. Empty: no distillation."""
    objects: Factor = 1.0
    """Factor of the loss on objects; 0: no such head. (unverified)"""
    attributes: Factor = 1.0
    """Factor of the loss on attributes; 0: no such head. (unverified)"""
    features: Literal["projected", "normalized", "pre_projection"] = "projected"
    """What the heads see: the image embedding before normalisation, after it, or what enters the projection. (ours)"""
    learning_rate_factor: Above0 = 10.0
    """The heads' learning rate, in units of `optimizer.learning_rate`. (unverified)"""
    weight_decay_factor: Factor = 0.01
    """The heads' weight decay, in units of `optimizer.weight_decay`. (unverified)"""

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def weights(self) -> dict[str, float]:
        """Head to the factor of its loss, of the heads that are trained."""
        both = {"objects": self.objects, "attributes": self.attributes}
        return {head: weight for head, weight in both.items() if weight}


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """AdamW. Biases, norms and the temperature are not decayed. (convention)"""

    learning_rate: Above0 = 5e-4
    """Peak learning rate. (recipe)"""
    weight_decay: Factor = 0.2
    """Decoupled weight decay. (recipe)"""
    betas: tuple[Below1, Below1] = (0.9, 0.98)
    """Decay of the moments. (recipe)"""
    eps: Above0 = 1e-6
    """Added to the root of the second moment. (recipe)"""
    max_gradient_norm: Above0 | None = None
    """Gradients are scaled down to this norm; none: they are not clipped. (convention: not clipped)"""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings:
    """How long, in samples seen: the only clock. Batch size and number of ranks do not change what a number means."""

    samples: Total | None = None
    """Samples to see over the whole run. Give this or `epochs`. (paper: 16 and 32 billion; recipe: 14.08 billion)"""
    epochs: Above0 | None = None
    """Samples to see, in units of the samples of an epoch of the data."""
    batch_size: Positive = 33_792
    """Pairs of a step over all ranks and micro-batches, all of them each other's negatives. (recipe)"""
    micro_batches: Literal["auto"] | Positive = 1
    """Each rank computes its share of a batch in that many parts, with the gradient of one batch (GradCache): memory
    divided by this, one more forward pass. auto: as few as fit in the memory that is free, by a probe of a few pairs at
    the start; the run keeps the number as long as it has as many ranks."""
    warmup_samples: Annotated[int, Range(at_least=0, at_most=10**15)] = 2_000 * 33_792
    """The learning rate rises linearly over these samples. (recipe: 2,000 steps)"""
    shape: Literal["cosine", "constant"] = "cosine"
    """After the warm-up: a cosine over the rest of the run; or the peak until the cooldown. A run of constant rate can
    go on for as long as one likes, and be cooled down from any of its checkpoints (`branch`). (recipe: cosine)"""
    cooldown: Share = 0.0
    """With shape constant: over the last samples of the run, this proportion of all, the rate falls linearly."""
    final_learning_rate: Share = 0.0
    """Cosine and cooldown end here, as a proportion of the peak. (convention)"""

    def __post_init__(self) -> None:
        check_fields(self)
        if (self.samples is None) == (self.epochs is None):
            raise ValueError("set either schedule.samples or schedule.epochs, and the other one to null")
        if self.cooldown and self.shape != "constant":
            raise ValueError(
                f"schedule.cooldown is {self.cooldown}, and a cosine falls by itself: set schedule.shape=constant"
            )
        if self.micro_batches != "auto" and self.micro_batches > self.batch_size:
            raise ValueError(f"schedule.micro_batches is {self.micro_batches}; it must be at most schedule.batch_size")


@dataclass(frozen=True, kw_only=True)
class BranchSettings:
    """A new run from a checkpoint of another one, with its optimiser state."""

    path: str = ""
    """The checkpoint, `WORKDIR/checkpoints/step-...`, or a WORKDIR, for its newest; or the URL of one. Model and
    concept heads stay, all other settings may be new. Samples seen go on from the parent's, so `schedule.samples`
    counts them too. Empty: the run begins by itself."""


@dataclass(frozen=True, kw_only=True)
class TransformSettings:
    """How an image becomes an input."""

    crop_scale: tuple[float, float] = (0.9, 1.0)
    """Proportion of the area that a random crop keeps while training; no colour change. (paper)"""
    flip: Share = 0.0
    """Proportion of the images that are mirrored while training. (paper: none)"""
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    """Subtracted from red, green, blue in 0 to 1. (paper)"""
    std: tuple[Above0, Above0, Above0] = (0.26862954, 0.26130258, 0.27577711)
    """Divides them after that. (paper)"""

    def __post_init__(self) -> None:
        check_fields(self)
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise ValueError(f"transform.crop_scale is ({low}, {high}); it must satisfy 0 < low <= high <= 1")


@dataclass(frozen=True, kw_only=True)
class RuntimeSettings:
    """How the run is carried out."""

    seed: Annotated[int, Range(at_least=0, at_most=2**63 - 1)] = 0
    """Fixes initial weights, order of the data, augmentation and dropout."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA where there is a GPU."""
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    """Autocast of the encoders; loss, heads and weights are float32 always. bf16 or fp16 on a CPU is slow. (ours)"""
    tf32: bool = False
    """Products of float32 matrices and convolutions on CUDA, of the loss and the heads, with precision fp32 of the
    encoders too, round what they multiply to 10 bits, as tensor cores do: several times as fast; logits keep four times
    the precision of bf16. (ours)"""
    ema: Below1 = 0.0
    """Decay per step of an average of the weights, which checks and export then use; 0: none."""
    deterministic: bool = False
    """Refuse kernels whose result differs from run to run on CUDA. On a CPU runs are repeatable anyway."""
    threads: Annotated[int, Range(at_least=1, at_most=4096)] | None = None
    """CPU threads of torch in each rank; none: torch's own choice. A resumed run is bit-equal with the same number."""
    max_nonfinite: Positive = 20
    """So many steps in a row with a loss or gradient that is not finite end the run; fewer are skipped and counted."""
    timeout_s: Above0 = 1800.0
    """How long ranks wait for each other, in seconds."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class CheckpointSettings:
    """What is kept to go on from."""

    every_samples: Total = 20_000_000
    """A checkpoint is written each time that many samples were seen, and at the end. (ours)"""
    keep_last: Positive = 3
    """Newest checkpoints kept; what is damaged falls back to the one before."""
    keep_every_samples: Total | None = None
    """Checkpoints that pass a multiple of this are kept for good; none: none is."""
    keep_best: bool = True
    """Keep the one with the best held-out retrieval as well, where there are held-out samples."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class LogSettings:
    """What is said and written while training."""

    every_steps: Positive = 50
    """A progress line, and its values in `log.jsonl`, each so many steps and at the last one."""
    peak_tflops: Above0 | None = None
    """What one device can compute of dense matrices in `run.precision`, in 1e12 FLOP/s, for the MFU of the progress
    line; none: that of the data sheet where the device is known (`trainer/utilisation.py`), else no MFU is said."""
    tensorboard: bool = True
    """Write `tensorboard/` where the tensorboard package is installed."""
    wandb: str = ""
    """Project of Weights & Biases to report to, needs the wandb package; empty: none."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class CheckSettings:
    """Quality measured while training, on all ranks. It guides; numbers to publish come from the evaluation."""

    every_samples: Total | None = None
    """Measured each time that many samples were seen, and at the end; none: at the end only."""
    retrieval_samples: Annotated[int, Range(at_least=0, at_most=10**7)] = 5_000
    """Retrieval among at most so many held-out pairs (`data.split.holdout`); 0: no retrieval."""
    zero_shot: str = ""
    """Folder with one folder of images per class, named like the class, or `classnames.txt` with the names in the
    order of the sorted folders: zero-shot accuracy on it. Empty: none."""
    templates: tuple[str, ...] = ("a photo of a {}.",)
    """Prompts; a class is the normalised mean of its normalised prompts."""
    batch_size: Positive = 256
    """Images, or prompts, encoded at once by a rank."""
    tasks: str = ""
    """Suites, suite files and tasks of the evaluation, comma-separated (`--tasks` of `python -m open_diht.eval`),
    measured at each check without few-shot, on the first rank while the others wait. One that does not exist is refused
    at the start; one that fails later is said, and the training goes on. The data lie where `DIHT_BENCH_DATA` says.
    Empty: none."""

    def __post_init__(self) -> None:
        check_fields(self)
        for template in self.templates:
            if template.count("{}") != 1:
                raise ValueError(f"check.templates has {template!r}; a template holds {{}} exactly once")
        if self.zero_shot and not self.templates:
            raise ValueError("check.templates is empty: zero-shot classification needs at least one")


@dataclass(frozen=True, kw_only=True)
class Config:
    """A training run. See `trainer/configs/` for complete ones.

    Example:
        >>> from open_diht import load_config
        >>> config = load_config("vit-b-32", base={"data": {"sources": [{"path": "/data/cat"}]}})
        >>> config.loss.name, config.loss.beta
        ('hn_nce', 0.25)
    """

    data: DataSettings
    """What is read."""
    schedule: ScheduleSettings
    """How long, and in which batches."""
    branch: BranchSettings = field(default_factory=BranchSettings)
    """Which run this one continues with other settings."""
    model: ModelSettings = field(default_factory=ModelSettings)
    """The dual encoder."""
    loss: Any = field(default_factory=HnNce)
    """The contrastive loss, a `open_diht.trainer.losses.Loss`; or its `name` and settings, of which it is made."""
    concepts: ConceptSettings = field(default_factory=ConceptSettings)
    """Concept distillation."""
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    """AdamW."""
    transform: TransformSettings = field(default_factory=TransformSettings)
    """From image to input."""
    run: RuntimeSettings = field(default_factory=RuntimeSettings)
    """Seed, device, precision, limits."""
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)
    """What is kept."""
    log: LogSettings = field(default_factory=LogSettings)
    """What is said."""
    check: CheckSettings = field(default_factory=CheckSettings)
    """Quality while training."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "loss", loss_of(self.loss))
        if self.loss.biased and self.model.bias is None:
            raise ValueError(
                f"loss.name {self.loss.name} learns a bias of the logits: say where it starts, model.bias=-10, with "
                "model.temperature=0.1"
            )
        if self.model.bias is not None and not self.loss.biased:
            raise ValueError(
                f"model.bias is {self.model.bias}, but loss.name {self.loss.name} learns none: leave it out, or set "
                "loss.name=siglip"
            )
