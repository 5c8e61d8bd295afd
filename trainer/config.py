"""The configuration of a training run, in frozen sections.

Marks state where many defaults come from. (recipe): the public recipe of SemDeDup's CLIP ViT-B/16
on the same data, LAION-CAT-440M (Abbas et al. 2023, tables A2 and A3); DiHT's own batch size,
learning rate, warm-up and decay are not published. (paper): stated in the paper or its official
repository. (unverified): follows the paper to the best of our knowledge. (convention): common to
CLIP training code. (ours): a choice of this project. Quote only values marked (paper) as the
paper's.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from open_diht.common.fields import Above0, Below1, Positive, Range, Share, Total, check_fields
from open_diht.trainer.data.settings import DataSettings
from open_diht.trainer.losses import HnNce, loss_of

Factor = Annotated[float, Range(at_least=0, at_most=1e6)]


def _yes_or_no(value: Any) -> str:
    """Return the first value, also of nested dicts, that YAML 1.1 reads as true or false, or ""
    without one."""
    if isinstance(value, dict):
        return next(filter(None, map(_yes_or_no, value.values())), "")
    return value if isinstance(value, str) and value.lower() in ("yes", "no", "on", "off") else ""


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """The dual encoder and its initial weights."""

    name: str = "ViT-B-32"
    """Name of an open_clip architecture, see `open_clip.list_models()`. (paper: ViT-B-32, ViT-B-16,
    ViT-L-14, ViT-L-14-336)"""
    architecture: dict[str, Any] | None = None
    """An architecture in open_clip's form (embed_dim, vision_cfg, text_cfg), used instead of
    `name`. The key `tower` in vision_cfg or text_cfg selects a tower of your own by its import
    path."""
    image_size: Positive | None = None
    """Side of the square input image, in pixels. None: the architecture's own. A warm start resizes
    open_clip's position embeddings."""
    patch_dropout: Annotated[float, Range(at_least=0, at_most=0.95)] = 0.0
    """Fraction of each image's patches that a training step drops, for ViT only. 0.5 about doubles
    the speed (FLIP). (ours)"""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass instead of keeping them: less memory, about a
    third more time."""
    batch_norm: Literal["frozen", "batch"] = "frozen"
    """frozen: batch norms keep their initial statistics, so that a step does not depend on how its
    batch is spread over ranks; an image tower with batch norms then needs pretrained weights.
    batch: they use and learn the statistics of the batch, which requires one process and one
    micro-batch. (ours)"""
    compile: bool = False
    """Compile the student with torch.compile: faster after minutes of compilation. A CPU needs a
    C++ compiler."""
    warm_start: str = ""
    """Initial weights of the whole model: a file, or a folder that holds one, with open_clip's
    names (such as `export/` of another run). The temperature is loaded too; concept heads are
    not."""
    warm_start_image: str = ""
    """Initial weights of the image tower: a file of timm or open_clip weights, a folder that holds
    one, or `package:NAME` for a Python package that ships the file. It excludes `warm_start`."""
    warm_start_text: str = ""
    """Initial weights of the text tower: a file of open_clip weights, a folder that holds one, or
    `package:NAME`. It excludes `warm_start`."""
    freeze_image: bool = False
    """Freeze the image tower (locked-image tuning, LiT: a baseline). A timm trunk's projection is
    still trained, unless text_cfg has the key `tower`."""
    freeze_text: bool = False
    """Freeze the text tower. A separate text projection is still trained if open_clip leaves it
    unlocked."""
    temperature: Above0 = 0.07
    """Initial temperature. Logits are cosines divided by the learned temperature. (paper)"""
    max_scale: Above0 = 100.0
    """Upper limit of the cosine's factor, 1 / temperature, applied after each finite step.
    (convention)"""
    bias: Annotated[float, Range(at_least=-100, at_most=100)] | None = None
    """Initial bias of the logits. Of the built-in losses only `loss.name: siglip` learns one and
    requires it: -10, with temperature 0.1. None: no bias. (SigLIP's paper)"""

    def __post_init__(self) -> None:
        check_fields(self)
        if word := _yes_or_no(self.architecture):
            raise ValueError(
                f"model.architecture holds {word!r}, which is a text; write true or false"
            )
        if self.warm_start and (self.warm_start_image or self.warm_start_text):
            raise ValueError(
                "model.warm_start gives all weights: leave out warm_start_image and warm_start_text"
            )
        if 1 / self.temperature > self.max_scale * (1 + 1e-9):  # tolerates rounding
            raise ValueError(
                f"model.temperature {self.temperature} means a scale of {1 / self.temperature:.4g},"
                f" above model.max_scale {self.max_scale}"
            )


@dataclass(frozen=True, kw_only=True)
class ConceptSettings:
    """Concept distillation: linear heads on the image encoder learn a teacher's stored
    predictions."""

    path: str = "auto"
    """Output folder of `make concepts`. Separate several folders by commas, one per data source.
    auto: `concepts` in the folder of each data source, if all of them hold targets; none for
    `data.loader`. Empty: no distillation."""
    objects: Factor = 1.0
    """Factor of the loss on objects. 0: no such head. (unverified)"""
    attributes: Factor = 1.0
    """Factor of the loss on attributes. 0: no such head. (unverified)"""
    features: Literal["projected", "normalized", "pre_projection"] = "projected"
    """Input of the heads. projected: the image embedding; normalized: that embedding after L2
    normalization; pre_projection: the input of the image tower's projection. (ours)"""
    learning_rate_factor: Above0 = 10.0
    """The heads' learning rate as a multiple of `optimizer.learning_rate`. (unverified)"""
    weight_decay_factor: Factor = 0.01
    """The heads' weight decay as a multiple of `optimizer.weight_decay`. (unverified)"""

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def weights(self) -> dict[str, float]:
        """Maps the name of a head to the factor of its loss, for the heads that are trained."""
        both = {"objects": self.objects, "attributes": self.attributes}
        return {head: weight for head, weight in both.items() if weight}


Fall = Annotated[float, Range(above=0, at_most=1)]


@dataclass(frozen=True, kw_only=True)
class LayerDecay:
    """How much the learning rate falls from each layer of a tower to the layer before it."""

    image: Fall = 1.0
    """Factor per layer of the image tower: a transformer of open_clip, or a tower of timm with the
    layers that timm lists, of which some hold what follows the last block. 1: all layers learn
    alike."""
    text: Fall = 1.0
    """Factor per layer of the text tower, a transformer of open_clip."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class DistillationSettings:
    """Distillation from the stored embeddings of a teacher with two towers, by the loss of
    MobileCLIP ([Vasu et al. 2024](https://arxiv.org/abs/2311.17049))."""

    path: str | None = None
    """Folder of the embeddings. Separate several folders by commas, one per data source. auto:
    those in the folder of each data source; a source without, and `data.loader`, are refused.
    Embeddings of drawn crops show the student these instead of those of `transform.crop_scale`.
    None: no such distillation."""
    weight: Factor = 1.0
    """Factor of the loss, which is added to the others. MobileCLIP's mix of (1 - l) and l is a
    factor of l / (1 - l). 0: no such loss. (ours)"""
    temperature: Above0 | None = None
    """Temperature of the teacher's softmax. The student's is the learned one. None: the teacher's
    own, which is stored with the embeddings. (MobileCLIP's paper)"""
    teachers: Positive | None = None
    """Number of teachers whose embeddings, of equal length, are concatenated. The student learns
    the mean of their distributions. None: 1. Tars of DataCompDR do not contain it: set 2 for those
    that Apple published. (MobileCLIP's code)"""
    max_missing_share: Share = 0.05
    """Largest tolerated fraction of samples without the targets that are learned, embeddings or
    concepts: of a source before the first step, as far as a sample of its shards shows, and of an
    epoch while it is read. More end the run. (ours)"""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """The AdamW optimizer, which does not decay biases, norms and the temperature (convention)."""

    learning_rate: Above0 = 5e-4
    """Peak learning rate. (recipe)"""
    weight_decay: Factor = 0.2
    """Decoupled weight decay of parameters with two or more dimensions. (recipe)"""
    layer_decay: LayerDecay = field(default_factory=LayerDecay)
    """Lower learning rates for layers nearer to the input, for fine-tuning. The norm and the
    projection at the end of a tower have the full rate, the last block `learning_rate` times the
    factor, and so on down to the embeddings."""
    betas: tuple[Below1, Below1] = (0.9, 0.98)
    """Decay rates of the first and second moments. (recipe)"""
    eps: Above0 = 1e-6
    """Term added to the root of the second moment. (recipe)"""
    max_gradient_norm: Above0 | None = None
    """Norm to which larger gradients are scaled down. None: no clipping. (convention: no
    clipping)"""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings:
    """The length of the run and its batches, in samples seen, which do not depend on the number of
    ranks."""

    samples: Total | None = None
    """Samples to see over the whole run. Set either this or `epochs`. (paper: 16 and 32 billion;
    recipe: 14.08 billion)"""
    epochs: Above0 | None = None
    """Samples to see over the whole run, as a multiple of the samples of an epoch. Set either this
    or `samples`."""
    batch_size: Positive = 33_792
    """Pairs per step over all ranks and micro-batches, negatives of each other unless the loss
    masks them. (recipe)"""
    micro_batches: Literal["auto"] | Positive = 1
    """Number of parts in which each rank computes its pairs of a batch, with the gradient of the
    whole batch (GradCache). Values above 1 divide the memory of activations by this number, for one
    more forward pass. auto: the fewest parts that fit in free memory, measured at the start on a
    few pairs; a resumed run with the same number of ranks keeps the number."""
    warmup_samples: Annotated[int, Range(at_least=0, at_most=10**15)] = 2_000 * 33_792
    """Samples over which the learning rate rises linearly. (recipe: 2,000 steps)"""
    shape: Literal["cosine", "constant"] = "cosine"
    """Learning rate after the warm-up. cosine: a cosine over the rest of the run. constant: the
    peak until the cooldown. A run at a constant rate can take any length and be cooled down from
    any of its checkpoints (`branch`). (recipe: cosine)"""
    cooldown: Share = 0.0
    """Fraction of the run's samples, at its end, over which the learning rate falls linearly. Shape
    cosine has none."""
    final_learning_rate: Share = 0.0
    """Learning rate at the end of the cosine or cooldown, as a fraction of the peak.
    (convention)"""

    def __post_init__(self) -> None:
        check_fields(self)
        if (self.samples is None) == (self.epochs is None):
            raise ValueError(
                "set either schedule.samples or schedule.epochs, and the other one to null"
            )
        if self.cooldown and self.shape != "constant":
            raise ValueError(
                f"schedule.cooldown is {self.cooldown}, and a cosine falls by itself: set"
                " schedule.shape=constant"
            )
        if self.micro_batches != "auto" and self.micro_batches > self.batch_size:
            raise ValueError(
                f"schedule.micro_batches is {self.micro_batches}; it must be at most"
                " schedule.batch_size"
            )


@dataclass(frozen=True, kw_only=True)
class BranchSettings:
    """A new run that starts from another run's checkpoint, including its optimizer state."""

    path: str = ""
    """Path or URL of a checkpoint, `WORKDIR/checkpoints/step-...`, or of a WORKDIR, for its newest
    checkpoint. Model, concept heads and frozen parts must be the parent's; other settings may
    differ, but the parent's samples must fill whole batches. The count of samples seen continues
    from the parent's, so `schedule.samples` includes them. Empty: no parent."""


@dataclass(frozen=True, kw_only=True)
class TransformSettings:
    """Augmentation and normalization of images."""

    crop_scale: tuple[float, float] = (0.9, 1.0)
    """Range of the fraction of the area that a random crop keeps in training. Colors are not
    changed. (paper)"""
    flip: Share = 0.0
    """Fraction of the images that are mirrored in training. (paper: none)"""
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    """Mean subtracted from red, green and blue, which are scaled to 0 to 1. (paper)"""
    std: tuple[Above0, Above0, Above0] = (0.26862954, 0.26130258, 0.27577711)
    """Standard deviation that divides red, green and blue after the mean is subtracted. (paper)"""

    def __post_init__(self) -> None:
        check_fields(self)
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise ValueError(
                f"transform.crop_scale is ({low}, {high}); it must satisfy 0 < low <= high <= 1"
            )


@dataclass(frozen=True, kw_only=True)
class RuntimeSettings:
    """Seed, device, precision and limits of the run."""

    seed: Annotated[int, Range(at_least=0, at_most=2**63 - 1)] = 0
    """Seed of the initial weights, the order of the data, augmentation, dropout and drawn
    captions."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to train on. auto: CUDA if there is a GPU, otherwise the CPU."""
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    """Autocast precision of the encoders. Loss, heads and weights are always float32. bf16 and fp16
    are slow on most CPUs. (ours)"""
    tf32: bool = False
    """Round the factors of float32 matrix products and convolutions to 10 bits on NVIDIA GPUs from
    Ampere on, for tensor cores: several times as fast. This affects the loss and the heads, and
    with precision fp32 also the encoders. Logits keep three more bits than in bf16. (ours)"""
    ema: Below1 = 0.0
    """Decay per step of a moving average of the weights, which checks and the export then use. 0:
    no average."""
    deterministic: bool = False
    """Use only deterministic algorithms, and fail if an operation has none. Only CUDA needs it: CPU
    runs are repeatable without it."""
    threads: Annotated[int, Range(at_least=1, at_most=4096)] | None = None
    """CPU threads of torch in each rank. None: torch's own choice. A resumed run is bit-equal only
    with the same number."""
    max_nonfinite: Positive = 20
    """Number of consecutive steps with a non-finite loss or gradient that ends the run. Fewer are
    skipped and counted."""
    timeout_s: Above0 = 1800.0
    """Seconds that ranks wait for each other before the run fails."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class CheckpointSettings:
    """When checkpoints are written, and which are kept."""

    every_samples: Total = 20_000_000
    """Samples between checkpoints. One is also written when a branch starts, at the end of the run
    and on a stop request. (ours)"""
    keep_last: Positive = 3
    """Number of newest checkpoints to keep. A run that finds the newest one damaged uses the one
    before, if there is one."""
    keep_every_samples: Total | None = None
    """Keep for good the first checkpoint at or after each multiple of this number of samples. None:
    keep no others."""
    keep_best: bool = True
    """Keep the checkpoint with the best held-out retrieval (mean of all recalls) too, if it was
    measured."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class LogSettings:
    """Progress lines, and where they are written."""

    every_steps: Positive = 50
    """Steps between progress lines, whose values also go to `log.jsonl`. The last step always has
    one."""
    peak_tflops: Above0 | None = None
    """Peak of one device on dense matrices in the precision of the encoders, in 1e12 FLOP/s, from
    which the MFU of the progress line is computed. None: the data sheet's value for known devices
    and precisions (`trainer/utilization.py`); others have no MFU."""
    tensorboard: bool = True
    """Write curves to `tensorboard/`, if the tensorboard package is installed."""
    wandb: str = ""
    """Weights & Biases project to report to, which needs the wandb package. Empty: none."""
    other_run: str = ""
    """WORKDIR of another training, whose curves `train.html` draws into the same charts, as they
    are when this run starts. Empty: none."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class CheckSettings:
    """Quality measured while training. Use it to guide a run; publish numbers from the
    evaluation."""

    every_samples: Total | None = None
    """Samples between checks. There is always one at the end. None: only at the end."""
    retrieval_samples: Annotated[int, Range(at_least=0, at_most=10**7)] = 5_000
    """Largest number of held-out pairs (`data.split.holdout`) among which retrieval is measured. 0:
    no retrieval."""
    zero_shot: str = ""
    """Folder on which zero-shot accuracy is measured, with one folder of images per class. The
    folder names, with blanks for underscores, are the class names, unless `classnames.txt` gives
    them, in the order of the sorted folders. Empty: none."""
    templates: tuple[str, ...] = ("a photo of a {}.",)
    """Prompts of a class, each with one `{}` for its name. A class's vector is the normalized mean
    of its normalized prompts."""
    batch_size: Positive = 256
    """Pairs, images or prompts that a rank encodes at once."""
    tasks: str = ""
    """Comma-separated suites, suite files and tasks of the evaluation (`--tasks` of `python -m
    open_diht.eval`). The first rank measures them at each check, without few-shot, while the others
    wait. An unknown task is an error at the start; a later failure is reported and the training
    continues. `DIHT_BENCH_DATA` names the folder of the data. Empty: none."""

    def __post_init__(self) -> None:
        check_fields(self)
        for template in self.templates:
            if template.count("{}") != 1:
                raise ValueError(
                    f"check.templates has {template!r}; a template holds {{}} exactly once"
                )
        if self.zero_shot and not self.templates:
            raise ValueError(
                "check.templates is empty: zero-shot classification needs at least one"
            )


@dataclass(frozen=True, kw_only=True)
class Config:
    """The configuration of a training run. See `trainer/configs/` for examples, without data.

    Examples:
        >>> from open_diht import load_config
        >>> config = load_config("vit-b-32", base={"data": {"sources": [{"path": "/data/cat"}]}})
        >>> config.loss.name, config.loss.beta
        ('hn_nce', 0.25)
    """

    data: DataSettings
    """The data to read."""
    schedule: ScheduleSettings
    """Length of the run, batches and learning rate."""
    branch: BranchSettings = field(default_factory=BranchSettings)
    """The run that this one branches from, if any."""
    model: ModelSettings = field(default_factory=ModelSettings)
    """The dual encoder."""
    loss: Any = field(default_factory=HnNce)
    """The contrastive loss: an `open_diht.trainer.losses.Loss`, or a mapping of its `name` and
    settings."""
    concepts: ConceptSettings = field(default_factory=ConceptSettings)
    """Concept distillation."""
    distillation: DistillationSettings = field(default_factory=DistillationSettings)
    """Distillation from embeddings."""
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    """The AdamW optimizer."""
    transform: TransformSettings = field(default_factory=TransformSettings)
    """Augmentation and normalization of images."""
    run: RuntimeSettings = field(default_factory=RuntimeSettings)
    """Seed, device, precision and limits."""
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)
    """When checkpoints are written, and which are kept."""
    log: LogSettings = field(default_factory=LogSettings)
    """Progress lines, and where they are written."""
    check: CheckSettings = field(default_factory=CheckSettings)
    """Quality measured while training."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "loss", loss_of(self.loss))
        if self.data.negatives and not self.loss.takes_texts:
            raise ValueError(
                f"data.negatives is {self.data.negatives}, but loss.name {self.loss.name} takes no"
                " texts without images: leave it out, or set loss.name=hn_nce or infonce"
            )
        if self.loss.biased and self.model.bias is None:
            raise ValueError(
                f"loss.name {self.loss.name} learns a logit bias: set its start, model.bias=-10,"
                " with model.temperature=0.1"
            )
        if self.model.bias is not None and not self.loss.biased:
            raise ValueError(
                f"model.bias is {self.model.bias}, but loss.name {self.loss.name} learns none:"
                " leave it out, or set loss.name=siglip"
            )
