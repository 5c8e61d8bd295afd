"""Choose the device, GPU and precision that a model runs on."""

import fcntl
import itertools
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Final, Literal

from open_diht.common.command_line import WrongUse
from open_diht.common.fields import LARGEST, Range

AUTO: Final = "auto"
PRECISIONS = ("bf16", "fp32")
_BF16_FLAGS: Final = frozenset({"avx512_bf16", "amx_bf16"})


@dataclass(frozen=True, kw_only=True)
class DeviceSettings:
    """The device that a model computes on."""

    batch_size: Annotated[int, Range(at_least=1, at_most=LARGEST), "N"] | None = None
    """Images in a batch of the model (default: 32; 256 on a GPU). Batches are filled up to this
    number."""
    device: str = AUTO
    """Torch device of the model: cpu, cuda (workers are spread over all GPUs), cuda:1, ...; auto:
    cuda if this machine has one. With cuda the direct runner by default starts one process for each
    GPU."""
    precision: Literal["auto", "bf16", "fp32"] = AUTO
    """Precision of the model; auto: that of its results in OUTPUT, else bf16 if the device has
    it."""


def has_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether this is an x86 processor that multiplies bfloat16 natively. Without the file
    return False."""
    if not cpuinfo.is_file():
        return False
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    flags = next((line for line in lines if line.startswith("flags")), "")
    return not _BF16_FLAGS.isdisjoint(flags.split())


def device_here() -> str:
    """Return "cuda" if torch sees a GPU, otherwise "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def check_device(device: str, precision: str = AUTO, *, prefix: str = "") -> None:
    """Raise WrongUse if torch does not know the device, this machine lacks it, or it does not
    compute in `precision`. `prefix` is the prefix of the options in the message."""
    import torch

    option = f"--{prefix}device"
    try:
        named = torch.device(device)
    except RuntimeError:
        raise WrongUse(
            f"{option} {device!r} is no device of torch; give {option} cpu, cuda or cuda:1"
        ) from None
    if named.type == "cuda" and not torch.cuda.is_available():
        raise WrongUse(
            f"{option} {device}: torch sees no GPU on this machine; leave it out, or give"
            f" {option} cpu"
        )
    if named.type == "cuda" and (named.index or 0) >= (count := torch.cuda.device_count()):
        raise WrongUse(
            f"{option} {device}: torch sees {count} GPUs here, counted from 0; give {option} cuda"
        )
    if precision == "bf16" and not computes_bf16(device):
        option = f"--{prefix}precision"
        raise WrongUse(
            f"{option} bf16: {device} of this machine does not compute in it; give {option} fp32"
        )


def gpus_of(device: str) -> list[str]:
    """Return the GPUs that a device name means: all for `cuda`, one for `cuda:1`, none for
    `cpu`."""
    import torch

    if device == "cuda":
        return [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    return [device] if device.startswith("cuda:") else []


def computes_bf16(device: str) -> bool:
    """Return whether a device, a CUDA GPU or CPU, multiplies bfloat16 in hardware. Return False for
    other devices."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.is_available() and bool(
            torch.cuda.is_bf16_supported(including_emulation=False)
        )
    return device == "cpu" and has_bf16()


def best_precision(device: str) -> str:
    """Return the entry of `PRECISIONS` that suits a device."""
    return "bf16" if computes_bf16(device) else "fp32"


class Claim:
    """A claim of this process on one device, until it is closed or the process ends. Devices have
    numbered turns; a claim takes the lowest turn that is free on any device, which spreads this
    user's processes over the devices. A claim is a locked file in `folder`, by default a folder per
    user in the temporary folder. The file is named by the UUID of the GPU, because jobs that see
    different GPUs may number them alike."""

    def __init__(self, devices: Sequence[str], folder: Path | None = None):
        folder = folder or Path(tempfile.gettempdir()) / f"diht-gpus-{os.getuid()}"
        folder.mkdir(parents=True, exist_ok=True)
        # Each claim on a device locks another turn: until one is released, the first free turn is
        # of the least claimed.
        self.device, self._file = next(
            (device, file)
            for turn in itertools.count()
            for device in devices
            if (file := _locked(folder / f"{_identity(device)}.{turn}"))
        )

    def close(self) -> None:
        self._file.close()


def _identity(device: str) -> str:
    import torch

    if not torch.cuda.is_available():
        return device
    return str(torch.cuda.get_device_properties(device).uuid)


def _locked(path: Path) -> IO[str] | None:
    file = open(path, "a", encoding="ascii")  # noqa: SIM115  (open for as long as the claim)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file
