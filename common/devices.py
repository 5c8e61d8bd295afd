"""What a teacher computes on: which GPU of several, and in which numbers."""

from __future__ import annotations

import argparse
import fcntl
import itertools
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Final

from open_diht.common.command_line import WrongUse, number
from open_diht.common.fields import Positive

AUTO = "auto"
PRECISIONS = ("bf16", "fp32")
_BF16_FLAGS: Final = frozenset({"avx512_bf16", "amx_bf16"})


def has_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor multiplies bfloat16 by itself; False where there is no such file, as on macOS."""
    if not cpuinfo.is_file():
        return False
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    flags = next((line for line in lines if line.startswith("flags")), "")
    return not _BF16_FLAGS.isdisjoint(flags.split())


def device_here() -> str:
    """cuda where torch sees a GPU, else cpu."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def check_device(device: str, option: str = "--device") -> None:
    """Raises WrongUse where a GPU is named, by `option`, and torch sees none."""
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise WrongUse(f"{option} {device}: torch sees no GPU on this machine; leave it out, or give {option} cpu")


def add_device_options(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup, model: str, *, prefix: str = "", batch: str
) -> None:
    """The options that say how a `model`, as people call it, computes: device and precision under `prefix`, and how
    many images it sees at a time, under the name `batch`."""
    parser.add_argument(
        batch, type=number(Positive), metavar="N", help=f"images the {model} sees at a time (default 32; 256 on a GPU)"
    )
    parser.add_argument(
        f"--{prefix}device",
        default=AUTO,
        metavar="DEVICE",
        help=f"torch device of the {model}: cpu, cuda (all GPUs, a process each), cuda:1, ...; auto: cuda where this "
        "machine has one (default)",
    )
    parser.add_argument(
        f"--{prefix}precision",
        choices=(AUTO, *PRECISIONS),
        default=AUTO,
        help=f"what the {model} computes in; auto: what OUTPUT has of it, or else bf16 where the device has it "
        "(default)",
    )


def gpus_of(device: str) -> list[str]:
    """The GPUs that a device's name stands for: all of `cuda`, one of `cuda:1`, none of `cpu`."""
    import torch

    if device == "cuda":
        return [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    return [device] if device.startswith("cuda:") else []


def computes_bf16(device: str) -> bool:
    """Whether a device multiplies bfloat16 by itself; of kinds other than GPUs of CUDA and processors it is not known,
    and taken for no."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.is_available() and bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device == "cpu" and has_bf16()


def best_precision(device: str) -> str:
    """Of `PRECISIONS` the one that a device is good at."""
    return "bf16" if computes_bf16(device) else "fp32"


class Claim:
    """A device of this machine that this process computes on until it ends, or until the claim is closed: of several
    that one which the fewest claims are on, of all invocations of this user.

    A claim is a locked file. GPUs go by their identity, for jobs that see different ones number them alike.
    """

    def __init__(self, devices: Sequence[str], folder: Path | None = None):
        folder = folder or Path(tempfile.gettempdir()) / f"diht-gpus-{os.getuid()}"
        folder.mkdir(parents=True, exist_ok=True)
        self.device, self._file = next(
            (device, file)
            for turn in itertools.count()
            for device in devices
            if (file := _locked(folder / f"{_identity(device)}.{turn}"))
        )

    def close(self) -> None:
        """Give it back."""
        self._file.close()


def _identity(device: str) -> str:
    import torch

    if not torch.cuda.is_available():
        return device
    return str(torch.cuda.get_device_properties(device).uuid)


def _locked(path: Path) -> IO[str] | None:
    file = open(path, "a", encoding="ascii")  # noqa: SIM115  (it is open as long as the claim holds)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file
