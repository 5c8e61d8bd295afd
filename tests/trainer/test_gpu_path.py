"""The path of a GPU without one: on fake tensors of CUDA, which have devices and dtypes and no
numbers, an operation on two devices is an error. Backward passes of torch itself need CUDA; those
of ours are called on the way.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.figures.parts.step import pairs, stepper_of
from benchmarks.gpu_parts import SMALL
from open_diht.trainer.config import ConceptSettings, ModelSettings
from open_diht.trainer.losses import fused
from open_diht.trainer.losses.chunked import Tile
from open_diht.trainer.memory import need
from open_diht.trainer.model import build_student

CUDA = "cuda:0"


def walked_back(value: Tensor) -> None:
    """In place of a backward pass: each leaf gets a gradient of its own device, and what ours
    compute is looked at."""
    assert str(value.device) == CUDA
    todo = [value.grad_fn]
    seen = set()
    while todo:
        node: Any = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        todo += [before for before, _ in node.next_functions]
        if hasattr(node, "variable"):
            node.variable.grad = torch.zeros_like(node.variable)
        elif hasattr(type(node), "_forward_cls"):
            rows = torch.zeros(len(node.saved_tensors[0]), device=CUDA)
            gradients = type(node)._forward_cls.backward(node, rows, None, None)
            assert {str(gradient.device) for gradient in gradients if gradient is not None} == {
                CUDA
            }


def moved(module: nn.Module, device: Any) -> nn.Module:
    """In place of `Module.to`, which exchanges tensors: fake ones have more references."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(
                    parameter.detach().to(device), parameter.requires_grad
                )
        part._buffers.update(
            {name: None if b is None else b.to(device) for name, b in part._buffers.items()}
        )
    return module


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A GPU; how many numbers were read from it, each time."""
    reads: list[int] = []

    def read(tensor: Tensor) -> list[float]:
        assert str(tensor.device) == CUDA
        reads.append(tensor.numel())
        return [1.0] * tensor.numel()

    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(nn.Module, "to", moved)
    monkeypatch.setattr(torch.Tensor, "backward", walked_back)
    monkeypatch.setattr(FakeTensor, "tolist", read)
    with FakeTensorMode():
        yield reads


@pytest.mark.parametrize(
    ("precision", "parts", "implementation"),
    [("fp32", 1, "eager"), ("bf16", 3, "tiles"), ("fp16", 1, "tiles"), ("fp16", 3, "eager")],
)
def test_a_step_is_on_its_device_and_reads_it_once(precision, parts, implementation, cuda):
    stepper = stepper_of(
        "ViT-B-32", 16, 32, "cuda", precision, model={"architecture": SMALL},
        schedule={"micro_batches": parts}, loss={"implementation": implementation},
        optimizer={"max_gradient_norm": 1.0},
    )  # fmt: skip
    assert stepper.step(pairs("ViT-B-32", 16, 32, "cuda", side=32), 0, 0, 1.0).finite
    assert len(cuda) == 1
    moments = [value for state in stepper.optimizer.state.values() for value in state.values()]
    assert moments and {str(value.device) for value in moments} == {CUDA}


@pytest.mark.parametrize("tower", ["vit", "timm"])
def test_the_probe_of_memory_is_on_its_device(
    tower: str, cuda: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: nullcontext())
    architecture: dict[str, Any] = dict(SMALL)
    if tower == "timm":
        vision = {"timm_model_name": "resnet10t", "timm_model_pretrained": False, "image_size": 32}
        architecture["vision_cfg"] = {**vision, "timm_pool": "", "timm_proj": "linear"}
    student = build_student(
        ModelSettings(architecture=architecture, batch_norm="batch"),
        ConceptSettings(),
        {"objects": 5},
    )[0]
    student.to("cuda").train()
    tokens = torch.ones(1, 77, dtype=torch.int64)
    assert need(student, (3, 32, 32), tokens, 4, 1).fixed > 0


class Held(TorchDispatchMode):
    """The most bytes that tensors hold at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0
        self._live: dict[int, tuple[Any, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        from torch.multiprocessing.reductions import StorageWeakRef

        found = func(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, tuple | list) else (found,):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self._live[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self._live = {
            key: (ref, size) for key, (ref, size) in self._live.items() if not ref.expired()
        }
        self.most = max(self.most, sum(size for _, size in self._live.values()))
        return found


class Allocates:
    """What the kernels allocate, and nothing else."""

    @staticmethod
    def sums(tile: Tile, beta: float) -> tuple[Tensor, Tensor, Tensor]:
        top, hard, weights = (tile.s_cn.new_empty(len(tile.s_cn)) for _ in range(3))
        return top, hard, weights

    @staticmethod
    def gradient(tile: Tile, *options: Any) -> Tensor:
        return tile.s_cn


def test_the_loss_of_65_536_pairs_takes_less_than_a_gibibyte(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Beside the features: both directions, forward and backward, tiles of their default size. The
    matrix would be 16 GiB."""
    monkeypatch.setattr(fused, "_INTERPRETED", True)
    monkeypatch.setattr(fused, "TritonPasses", Allocates)
    n = 65_536
    d = 512
    x, y = (torch.empty(n, d, device="meta", requires_grad=True) for _ in range(2))
    scale = torch.tensor(100.0, device="meta", requires_grad=True)
    hashes = torch.empty(n, 2, dtype=torch.int64, device="meta")
    normalize: Callable[..., Tensor] = torch.nn.functional.normalize

    def loss() -> Tensor:
        """As `Loss` has it; what it names is let go of when it returns."""
        a = normalize(x, dim=-1)
        b = normalize(y, dim=-1)
        options: dict[str, Any] = {"chunk": None, "mine": hashes, "all_of": hashes}
        rows = [
            fused.hn_nce_rows_fused(*sides, scale, **options).loss for sides in ((a, b), (b, a))
        ]
        return torch.stack(rows).mean()

    with Held() as held:
        loss().backward()
    assert 2 * 4 * n * d < held.most < 2**30, held.most / 2**30
