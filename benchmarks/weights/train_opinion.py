"""Fine-tune MiniLM's layers 1, 3 and 6 on the annotated captions, and write them as int8 for ONNX
Runtime.

`python -m benchmarks.weights.train_verifier` calls this. The token embeddings stay as they are. Two
heads are learned: one on each word (the fraction of readings that call it a stated verb) and one on
the mean of all pieces (the fractions of readings that find an action, and that call the caption
complex). Rows of CC3M and written captions have less weight, and about half of the rows without a
verb candidate are drawn in each epoch. Deterministic for one kind of processor.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.weights.label_set import Labelled
from benchmarks.weights.onnx_file import Graph
from open_diht.common.data_root import REFERENCE, REFERENCE_TEXTS, data_root
from open_diht.common.pinned import MINILM_WEIGHTS, check_pinned
from open_diht.filters.captions.graph import CaptionGraph
from open_diht.filters.captions.opinion import (
    HEADS,
    KINDS,
    LONGEST,
    PROVENANCE,
    VERSION,
    VOCABULARY,
    WEIGHTS,
    Encoded,
    encode,
    padded,
)
from open_diht.filters.captions.wordpiece import WordPieces

LAYERS = (0, 2, 5)
"""Layers of MiniLM-L6 that are kept, counted from 0."""
EPOCHS = 3
BATCH = 32
RATE = 1.5e-4
HEAD_RATE = 1.5e-3
AVERAGED = 0.6
"""Fraction of the steps after which the weights of every fifth step are averaged."""
OTHER_WEIGHT = 0.3
"""Weight of captions that are not LAION's."""
NO_CANDIDATE_WEIGHT = 0.1
"""Weight of words that are neither a verb candidate nor stated."""
DRAWN = 0.5
"""Probability that an epoch draws a row without a verb candidate."""
SEED = 0
CALIBRATED = 2_000
"""Number of captions whose activations set the ranges of int8: all if there are fewer, else up to
twice as many."""
BITS7 = 63
"""Int8 weights of linear layers have seven bits, so no processor without VNNI saturates: 2 * 255 *
63 < 2 ** 15."""
WIDTH = 384

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Example:
    encoded: Encoded
    shares: list[float]
    """For each word of `encoded`, the fraction of readings that call it stated."""
    candidates: list[bool]
    """For each word, whether the graph has it as a verb candidate."""
    stated: float
    """Fraction of readings that find an action."""
    complex: float | None
    """Fraction of readings that call the caption complex. None without labels."""
    weight: float


def examples_of(
    labelled: Sequence[Labelled], graphs: Sequence[CaptionGraph], pieces: WordPieces, laion: bool
) -> list[Example]:
    """Return one example per caption. LAION's captions have full weight and labels of
    complexity."""
    found = []
    for entry, graph in zip(labelled, graphs, strict=True):
        encoded = encode(graph.parse.words, pieces)
        words = graph.parse.words[: len(encoded.firsts)]
        verbs = {action.token for action in graph.actions}
        readings = [entry.verbs, *entry.medium, *entry.lenient]
        found.append(
            Example(
                encoded,
                [entry.share(word) if any(map(str.isalpha, word)) else 0.0 for word in words],
                [token in verbs for token in range(len(words))],
                sum(map(bool, readings)) / len(readings),
                entry.complex_share if laion else None,
                1.0 if laion else OTHER_WEIGHT,
            )
        )
    return found


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.up = nn.Linear(WIDTH, 4 * WIDTH)
        self.down = nn.Linear(4 * WIDTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, eps=1e-12)
        self.norm2 = nn.LayerNorm(WIDTH, eps=1e-12)

    def forward(self, x: Tensor, mask: Tensor, seen: dict[str, Tensor] | None, name: str) -> Tensor:
        """Return the layer's output for x (captions, pieces, width). The mask (captions, pieces) is
        False for padding. A dict `seen` is filled with the inputs of the linear layers, by name."""
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        odds = (q @ k.transpose(2, 3)) / math.sqrt(WIDTH // HEADS) + torch.where(mask, 0.0, -1e4)[
            :, None, None, :
        ]
        mixed = (odds.softmax(-1).to(v.dtype) @ v).transpose(1, 2).reshape(b, n, WIDTH)
        y = self.norm(x + F.dropout(self.out(mixed), 0.1, self.training))
        inner = F.gelu(self.up(y))
        if seen is not None:
            seen |= {f"{name}.qkv": x, f"{name}.out": mixed, f"{name}.up": y, f"{name}.down": inner}
        return self.norm2(y + F.dropout(self.down(inner), 0.1, self.training))


class Net(nn.Module):
    """The layers of MiniLM with two heads."""

    def __init__(self, minilm: State):
        super().__init__()
        told = {name.removeprefix("bert."): value for name, value in minilm.items()}
        table = told["embeddings.word_embeddings.weight"]
        self.table = nn.Embedding.from_pretrained(table, freeze=True)
        self.places = nn.Parameter(told["embeddings.position_embeddings.weight"][:LONGEST].clone())
        # A word's case enters through the token types; all begin as MiniLM's first type.
        self.kinds = nn.Parameter(
            told["embeddings.token_type_embeddings.weight"][:1].repeat(KINDS, 1)
        )
        self.norm = nn.LayerNorm(WIDTH, eps=1e-12)
        _copy(self.norm, told, "embeddings.LayerNorm")
        self.layers = nn.ModuleList(Layer() for _ in LAYERS)
        for layer, number in zip(self.layers, LAYERS, strict=True):
            at = f"encoder.layer.{number}"
            for part, name in (
                ("out", "attention.output.dense"),
                ("norm", "attention.output.LayerNorm"),
                ("up", "intermediate.dense"),
                ("down", "output.dense"),
                ("norm2", "output.LayerNorm"),
            ):
                _copy(getattr(layer, part), told, f"{at}.{name}")
            for end in ("weight", "bias"):
                parts = [
                    told[f"{at}.attention.self.{one}.{end}"] for one in ("query", "key", "value")
                ]
                getattr(layer.qkv, end).data = torch.cat(parts)
        self.word = nn.Linear(WIDTH, 1)
        self.caption = nn.Linear(WIDTH, 2)
        for head, odds in ((self.word, (-2.0,)), (self.caption, (-2.0, 0.0))):
            nn.init.zeros_(head.weight)
            head.bias.data = torch.tensor(odds)

    def forward(
        self, ids: Tensor, kinds: Tensor, seen: dict[str, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the logits of the pieces (captions, pieces), and (captions, 2) of action and
        complexity. `ids` are 0 for padding; for `seen` see `Layer.forward`."""
        mask = ids != 0
        x = self.norm(self.table(ids) + self.places[: ids.shape[1]] + self.kinds[kinds])
        x = F.dropout(x, 0.1, self.training)
        for number, layer in enumerate(self.layers):
            x = layer(x, mask, seen, str(number))
        mean = (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return self.word(x)[..., 0], self.caption(mean)


def _copy(module: nn.Module, state: State, name: str) -> None:
    module.load_state_dict({end: state[f"{name}.{end}"] for end in ("weight", "bias")})


def fine_tune(minilm: State, examples: Sequence[Example]) -> Net:
    """Return MiniLM fine-tuned on captions: the average of its weights in the last part of the
    training."""
    # Batches are small, so more threads would wait for each other, and sums would depend on their
    # number.
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    net = Net(minilm).train()
    heads = [*net.word.parameters(), *net.caption.parameters()]
    body = [
        one
        for name, one in net.named_parameters()
        if one.requires_grad and not name.startswith(("word", "capt"))
    ]
    groups = [{"params": body, "lr": RATE}, {"params": heads, "lr": HEAD_RATE}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    draw = np.random.default_rng(SEED)
    plan = [batch for _ in range(EPOCHS) for batch in _epoch(examples, draw)]
    rise = len(plan) // 10 + 1
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / rise, (len(plan) - step) / (len(plan) - rise))
    )
    mean = torch.optim.swa_utils.AveragedModel(net)
    for step, batch in enumerate(plan):
        loss = _loss(net, batch)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_([*body, *heads], 1.0)
        optimizer.step()
        schedule.step()
        if step >= AVERAGED * len(plan) and step % 5 == 0:
            mean.update_parameters(net)
        if step % 100 == 0:
            print(f"step {step:,} of {len(plan):,}: loss {loss.item():.3f}", flush=True)
    averaged = mean.module
    assert isinstance(averaged, Net)
    return averaged.eval()


def _epoch(examples: Sequence[Example], draw: np.random.Generator) -> Iterator[list[Example]]:
    chosen = [one for one in examples if any(one.candidates) or draw.random() < DRAWN]
    draw.shuffle(chosen)  # type: ignore[arg-type]
    # Batches of like length, from chunks of many batches, so that little is padding.
    batches = []
    for start in range(0, len(chosen), BATCH * 32):
        chunk = sorted(chosen[start : start + BATCH * 32], key=lambda one: len(one.encoded.ids))
        batches += [chunk[at : at + BATCH] for at in range(0, len(chunk), BATCH)]
    draw.shuffle(batches)  # type: ignore[arg-type]
    yield from batches


def _loss(net: Net, batch: Sequence[Example]) -> Tensor:
    ids, kinds = (torch.from_numpy(one) for one in padded([one.encoded for one in batch]))
    with torch.autocast("cpu", torch.bfloat16):
        words, captions = net(ids, kinds)
    rows = [row for row, one in enumerate(batch) for _ in one.shares]
    places = [place for one in batch for place in one.encoded.firsts]
    shares = torch.tensor([share for one in batch for share in one.shares])
    weights = torch.tensor(
        [
            one.weight * (1.0 if candidate or share else NO_CANDIDATE_WEIGHT)
            for one in batch
            for share, candidate in zip(one.shares, one.candidates, strict=True)
        ]
    )
    of_words = F.binary_cross_entropy_with_logits(
        words.float()[rows, places], shares, weights, reduction="sum"
    )
    told = [(one.stated, one.complex or 0.0) for one in batch]
    known = torch.tensor([(one.weight, one.weight * (one.complex is not None)) for one in batch])
    of_captions = F.binary_cross_entropy_with_logits(
        captions.float(), torch.tensor(told), known, reduction="sum"
    )
    return of_words / weights.sum() + of_captions / len(batch)


def train_opinion(
    labelled: Sequence[tuple[Sequence[Labelled], Sequence[CaptionGraph]]],
    seen: Mapping[str, Any],
    out: Path,
) -> None:
    """Fine-tune MiniLM and write the weights with their provenance."""
    folder = minilm_folder()
    vocabulary = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")[:-1]
    pieces = WordPieces(vocabulary)
    examples = [
        one
        for place, (rows, graphs) in enumerate(labelled)
        for one in examples_of(rows, graphs, pieces, laion=place == 0)
    ]
    net = fine_tune(load_file(folder / "model.safetensors"), examples)
    content = model_of(net, [one.encoded for one in examples], vocabulary)
    provenance = {
        "version": VERSION,
        "sha256": hashlib.sha256(content).hexdigest(),
        "license": "Apache-2.0, see LICENSE; the weights that it began with are Apache-2.0 as well",
        "source": (
            f"layers {', '.join(str(one + 1) for one in LAYERS)} of all-MiniLM-L6-v2"
            f" (model.safetensors, sha256 {MINILM_WEIGHTS}), fine-tuned by"
            " benchmarks/weights/train_opinion.py"
        ),
        "trained on": seen,
    }
    (out / WEIGHTS.name).write_bytes(content)
    (out / PROVENANCE.name).write_text(json.dumps(provenance, indent=1) + "\n", encoding="utf-8")
    print(f"{out / WEIGHTS.name}: {len(content) / 1e6:.1f} MB from {len(examples):,} captions")


def minilm_folder() -> Path:
    """Return the folder of MiniLM's pinned weights, which `open-diht bench-data --task reference`
    fetches."""
    folder = data_root() / REFERENCE / REFERENCE_TEXTS
    if not (folder / "model.safetensors").is_file():
        raise SystemExit(
            f"error: no MiniLM weights in {folder}; run: open-diht bench-data --task reference"
        )
    check_pinned(folder / "model.safetensors", MINILM_WEIGHTS, RuntimeError, "fetch them again")
    return folder


def model_of(net: Net, calibration: Sequence[Encoded], vocabulary: Sequence[str]) -> bytes:
    """Return the content of the int8 model for ONNX Runtime. The layers' linear maps have one scale
    per column and one fixed range of their inputs, so that a caption's scores do not depend on the
    captions next to it.
    """
    ranges = _ranges(net, calibration)
    graph = Graph()
    table = net.table.weight.detach().numpy()
    scale = np.abs(table).max(axis=1, keepdims=True) / 127
    graph.input("ids")
    graph.input("kinds")
    rows = graph.op(
        "Cast", [graph.op("Gather", [_int8(graph, table / scale, "table"), "ids"])], to=1
    )
    x = graph.op(
        "Mul", [rows, graph.op("Gather", [graph.constant(scale.astype(np.float32)), "ids"])]
    )
    x = graph.op("Add", [x, graph.op("Gather", [_floats(graph, net.kinds), "kinds"])])
    length = graph.op(
        "Slice", [graph.op("Shape", ["ids"]), *(graph.constant(np.array([at])) for at in (1, 2))]
    )
    places = graph.op("Slice", [_floats(graph, net.places), graph.constant(np.array([0])), length])
    x = _norm(graph, graph.op("Add", [x, places]), net.norm)
    is_piece = graph.op(
        "Cast", [graph.op("Not", [graph.op("Equal", ["ids", graph.constant(np.array(0))])])], to=1
    )
    mask = graph.op("Cast", [is_piece], to=6)
    thirds = graph.constant(np.array([WIDTH] * 3))
    for number, layer in enumerate(net.layers):
        assert isinstance(layer, Layer)
        mixed = _linear(graph, x, layer.qkv.weight, layer.qkv.bias, ranges[f"{number}.qkv"])
        parts = graph.ops("Split", [mixed, thirds], 3, axis=2)
        mixed = graph.op("MultiHeadAttention", [*parts, "", mask], num_heads=HEADS)
        y = _linear(graph, mixed, layer.out.weight, layer.out.bias, ranges[f"{number}.out"])
        x = _norm(graph, graph.op("Add", [x, y]), layer.norm)
        inner = graph.op(
            "Gelu", [_linear(graph, x, layer.up.weight, layer.up.bias, ranges[f"{number}.up"])]
        )
        y = _linear(graph, inner, layer.down.weight, layer.down.bias, ranges[f"{number}.down"])
        x = _norm(graph, graph.op("Add", [x, y]), layer.norm2)
    words = graph.op("MatMul", [x, graph.constant(net.word.weight.detach().numpy().T.copy())])
    words = graph.op("Add", [words, _floats(graph, net.word.bias)])
    graph.output(graph.op("Squeeze", [words, graph.constant(np.array([-1]))]), "words")
    shown = graph.op("Unsqueeze", [is_piece, graph.constant(np.array([2]))])
    axis = graph.constant(np.array([1]))
    total = graph.op("ReduceSum", [graph.op("Mul", [x, shown]), axis], keepdims=0)
    mean = graph.op("Div", [total, graph.op("ReduceSum", [shown, axis], keepdims=0)])
    captions = graph.op(
        "MatMul", [mean, graph.constant(net.caption.weight.detach().numpy().T.copy())]
    )
    graph.output(graph.op("Add", [captions, _floats(graph, net.caption.bias)]), "captions")
    return graph.model({VOCABULARY: "\n".join(vocabulary)})


def _ranges(net: Net, calibration: Sequence[Encoded]) -> dict[str, tuple[float, float]]:
    """Return the range of the inputs of each linear layer. A batch's range leaves out the highest
    and the lowest ten-thousandth; each end is the median over batches."""
    lows: dict[str, list[float]] = {}
    highs: dict[str, list[float]] = {}
    chosen = calibration[:: max(1, len(calibration) // CALIBRATED)]
    for start in range(0, len(chosen), 64):
        ids, kinds = (torch.from_numpy(one) for one in padded(chosen[start : start + 64]))
        seen: dict[str, Tensor] = {}
        with torch.no_grad():
            net(ids, kinds, seen)
        for name, values in seen.items():
            ends = np.quantile(values[ids != 0].numpy(), (1e-4, 1 - 1e-4))
            lows.setdefault(name, []).append(float(ends[0]))
            highs.setdefault(name, []).append(float(ends[1]))
    return {name: (float(np.median(lows[name])), float(np.median(highs[name]))) for name in lows}


def _linear(graph: Graph, x: str, weight: Tensor, bias: Tensor, ends: tuple[float, float]) -> str:
    columns = weight.detach().numpy().T
    scale = np.abs(columns).max(axis=0) / BITS7
    step = np.float32((ends[1] - ends[0]) / 255)
    zero = graph.constant(np.array(round(-ends[0] / float(step)), np.uint8))
    whole = graph.op("QuantizeLinear", [x, graph.constant(np.array(step)), zero])
    scales = [graph.constant(one) for one in (np.array(step), scale.astype(np.float32))]
    return graph.op(
        "MatMulIntegerToFloat",
        [whole, _int8(graph, columns / scale), *scales, zero, "", _floats(graph, bias)],
    )


def _norm(graph: Graph, x: str, norm: nn.Module) -> str:
    assert isinstance(norm, nn.LayerNorm)
    parts = [_floats(graph, norm.weight), _floats(graph, norm.bias)]
    return graph.op("LayerNormalization", [x, *parts], axis=-1, epsilon=norm.eps)


def _floats(graph: Graph, values: Tensor) -> str:
    return graph.constant(values.detach().numpy().astype(np.float32))


def _int8(graph: Graph, values: NDArray[np.float32], name: str | None = None) -> str:
    return graph.constant(np.clip(np.round(values), -127, 127).astype(np.int8), name)
