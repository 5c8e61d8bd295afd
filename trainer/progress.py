"""Speed over the steps since the last progress line, and the line itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from open_diht.common.progress import duration
from open_diht.trainer.step import StepResult


class TrainingProgress:
    """Measures one window of steps after the other."""

    def __init__(
        self,
        total_steps: int,
        batch_size: int,
        step: int,
        clock: Callable[[], float] = time.perf_counter,
        full_speed: float | None = None,
    ):
        """`full_speed`: images/s of devices that did nothing but the model's own arithmetic, where that is known."""
        self._full_speed = full_speed
        self._total, self._batch, self._clock = total_steps, batch_size, clock
        self._began, self._from, self._waited = clock(), step, 0.0
        self._first, self._aside = step, 0.0

    def speed(self, step: int, waited_s: float) -> dict[str, float]:
        """samples_per_s over all ranks and data_wait (proportion of the time spent waiting for batches) since the last
        call; eta_s, which counts what is done aside as well, as often as so far; mfu where the full speed is known.
        `waited_s` is the seconds waited so far in all."""
        now = self._clock()
        spent = max(now - self._began, 1e-9)
        steps = step - self._from
        speed = {
            "samples_per_s": steps * self._batch / spent,
            "data_wait": min(1.0, (waited_s - self._waited) / spent),
            "eta_s": (self._total - step) * (spent / max(steps, 1) + self._aside / max(step - self._first, 1)),
        }
        if self._full_speed is not None:
            speed["mfu"] = speed["samples_per_s"] / self._full_speed
        self._began, self._from, self._waited = now, step, waited_s
        return speed

    @contextmanager
    def not_counted(self) -> Iterator[None]:
        """Something else than training is done meanwhile: a check, a checkpoint."""
        began = self._clock()
        yield
        aside = self._clock() - began
        self._began += aside
        self._aside += aside


def line(step: int, total: int, result: StepResult, speed: dict[str, float], rate: float, skipped: int) -> str:
    """The progress line. `speed`: of `TrainingProgress`, and peak_memory_gib."""
    values = result.values
    heads = [f"{name} {value:.3f}" for name, value in values.items() if name not in _COMMON]
    parts = [
        f"step {step:,}/{total:,}",
        f"loss {values['loss']:.4f}",
        *([f"contrastive {values['contrastive']:.4f}", *heads] if heads else []),
        *([f"accuracy {values['accuracy']:.1%}"] if "accuracy" in values else []),
        f"scale {result.scale:.2f}",
        f"grad {result.gradient_norm:.3g}",
        f"lr {rate:.2e}",
        f"{speed['samples_per_s']:,.0f} images/s",
        *([f"MFU {speed['mfu']:.1%}"] if "mfu" in speed else []),
        f"peak {speed['peak_memory_gib']:.1f} GiB",
        f"data wait {speed['data_wait']:.0%}",
        f"ETA {duration(speed['eta_s'])}",
    ]
    return "  ".join(parts + ([f"skipped {skipped}"] if skipped else []))


_COMMON = ("loss", "contrastive", "accuracy", "hardest")
