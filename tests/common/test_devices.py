"""Which GPU a process takes, and what a machine can compute in."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from open_diht.common import devices
from open_diht.common.command_line import WrongUse
from open_diht.common.devices import (
    Claim,
    check_device,
    computes_bf16,
    device_here,
    gpus_of,
    has_bf16,
)

GPUS = ["cuda:0", "cuda:1", "cuda:2"]


def test_processes_spread_over_the_gpus(tmp_path: Path) -> None:
    claims = [Claim(GPUS, tmp_path) for _ in range(3)]
    assert [claim.device for claim in claims] == GPUS
    claims += [Claim(GPUS, tmp_path) for _ in range(4)]
    assert sorted(Counter(claim.device for claim in claims).values()) == [2, 2, 3]
    claims[1].close()
    assert Claim(GPUS, tmp_path).device == "cuda:1", "one that has ended makes room"
    for claim in claims:
        claim.close()


def test_jobs_that_number_their_gpus_alike_do_not_take_them_for_the_same(tmp_path, monkeypatch):
    """CUDA_VISIBLE_DEVICES makes each job's first one cuda:0."""
    monkeypatch.setattr(devices, "_identity", lambda device: "GPU-aa")
    first = Claim(["cuda:0"], tmp_path)
    monkeypatch.setattr(devices, "_identity", lambda device: "GPU-bb")
    second = Claim(["cuda:0"], tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["GPU-aa.0", "GPU-bb.0"]
    first.close()
    second.close()


def test_what_a_devices_name_stands_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert (
        gpus_of("cuda") == GPUS
        and gpus_of("cuda:1") == ["cuda:1"]
        and gpus_of("cpu") == gpus_of("mps") == []
    )
    for there, name in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert device_here() == name


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    check_device("cpu")
    with pytest.raises(WrongUse, match="--device cuda:1: torch sees no GPU on this machine"):
        check_device("cuda:1")
    with pytest.raises(
        WrongUse, match=r"^--score-device cuda: torch sees no GPU .* or give --score-device cpu$"
    ):
        check_device("cuda", prefix="score-")


def test_a_device_that_does_not_exist_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("gpu", "CUDA", "cuda:x", ""):
        with pytest.raises(WrongUse, match=f"^--device '{name}' is no device of torch"):
            check_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_device("cuda")
    check_device("cuda:1")
    with pytest.raises(WrongUse, match=r"^--score-device cuda:2: torch sees 2 GPUs"):
        check_device("cuda:2", prefix="score-")


def test_a_precision_that_the_device_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "has_bf16", lambda: False)
    check_device("cpu", "fp32")
    check_device("cpu", "auto")
    with pytest.raises(
        WrongUse, match=r"^--score-precision bf16: cpu .* give --score-precision fp32$"
    ):
        check_device("cpu", "bf16", prefix="score-")
    assert not computes_bf16("cpu") and not computes_bf16("mps")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("fpu avx512f avx512_bf16", True),
        ("fpu amx_bf16 amx_tile", True),
        ("fpu avx512f avx512_vnni", False),
    ],
)
def test_the_processor_says_what_it_has(tmp_path: Path, flags: str, expected: bool) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(f"processor\t: 0\nmodel name\t: avx512_bf16 in name only\nflags\t\t: {flags}\n")
    assert has_bf16(file) is expected
    assert not has_bf16(tmp_path / "none")
