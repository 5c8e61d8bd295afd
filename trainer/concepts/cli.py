"""Command line of the torch half of `make concepts`: train the teacher's heads, and store their
predictions.

Exit status: 0 success, or left to the last shard; 1 the folder cannot be used, another run works in
it, it was removed meanwhile, or its store failed; 2 wrong use, nothing was written; 130 stopped by
Ctrl-C; 141 if the reader of the output has closed it.
"""

import argparse
import fcntl
import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from open_diht.common.command_line import OK, command, say
from open_diht.common.files import remove_temporaries
from open_diht.common.lease import LeaseLost, held
from open_diht.trainer.concepts.heads import Head, HeadProgress, HeadTrainer
from open_diht.trainer.concepts.predict import write_targets
from open_diht.trainer.concepts.store import ConceptStore, Unfinished
from open_diht.trainer.errors import DataError, TrainingError
from open_diht.trainer.head_options import HeadSettings, parse
from open_diht.trainer.stores import LocalStore, Store

HEADS = "heads.safetensors"
VERSION = 2  # increase it when equal data and settings give other heads or metrics
# fewer test samples make metrics rough: a 95 % interval of a fraction is then up to 20 points wide
FEW = 100


class AtWork(DataError):
    """Another process makes targets in this local folder."""


def _make(options: argparse.Namespace) -> int:
    try:
        make_targets(options.concepts, options.settings, options.k)
    except (Unfinished, AtWork) as error:
        if not options.shard:
            raise
        say(f"shard {options.shard}: heads and targets are left to the last shard ({error})")
    return OK


main = command(parse, _make, failed=(TrainingError, LeaseLost))


def make_targets(folder: str | Path, settings: HeadSettings, k: int) -> dict[str, Any]:
    """Train the heads and store the targets. Up-to-date targets are kept, and an interrupted
    training resumes. A local folder is locked, a URL is not. Raises `BadConcepts`, `AtWork`, and
    for a URL `WrongUse` or `StoreError`.
    """
    store = ConceptStore(folder)
    with _alone(store.folder):
        began = time.time()
        made_from = {
            "version": VERSION,
            "settings": {
                name: value for name, value in asdict(settings).items() if name != "device"
            },
            "vocabulary_hash": store.vocabulary["hash"],
            "data": [[entry["unit"], entry["features"], entry["labels"]] for entry in store.shards],
        }
        fingerprint = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()
        heads = _kept(store.folder, fingerprint)
        if heads is None:
            progress = HeadProgress(store.folder, fingerprint)
            heads = HeadTrainer(store, settings, say, progress).train()
            _keep(store.folder, fingerprint, made_from, heads)
            progress.forget()
        for line in table(heads):
            say(line)
        manifest = write_targets(store, heads, heads_hash=fingerprint, k=k, device=settings.device)
        say(
            f"targets: {manifest['samples']:,} images in {len(manifest['shards'])} shards, {k} of"
            f" each head, in {store.folder}/targets ({time.time() - began:.0f} s)"
        )
        return manifest


@contextmanager
def _alone(folder: Store) -> Iterator[None]:
    """Lock a local folder, and remove leftovers of killed runs. Raises `AtWork` if another process
    has the lock."""
    if not isinstance(folder, LocalStore):
        yield
        return
    (folder.folder / "work").mkdir(parents=True, exist_ok=True)
    with open(folder.folder / "work" / "heads.lock", "a", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AtWork(f"another run is working in {folder}; wait for it") from error
        for name in ("", "targets", "work/heads"):
            remove_temporaries(folder.folder / name)
        with held(folder.folder):
            yield


def _kept(folder: Store, fingerprint: str) -> dict[str, Head] | None:
    try:
        about = json.loads(folder.read("heads.json"))
        content = folder.read(HEADS)
        if (
            about["fingerprint"] != fingerprint
            or about["sha256"] != hashlib.sha256(content).hexdigest()
        ):
            return None
        tensors = load(content)
    except (FileNotFoundError, ValueError, KeyError, SafetensorError):
        return None
    return {
        head: Head(tensors[f"{head}.weight"], tensors[f"{head}.bias"], metrics)
        for head, metrics in about["metrics"].items()
    }


def _keep(
    folder: Store, fingerprint: str, made_from: dict[str, Any], heads: dict[str, Head]
) -> None:
    tensors: dict[str, Tensor] = {}
    for name, head in heads.items():
        tensors |= {
            f"{name}.weight": head.weight.contiguous(),
            f"{name}.bias": head.bias.contiguous(),
        }
    content = save(tensors)
    about = {
        "fingerprint": fingerprint,
        "sha256": hashlib.sha256(content).hexdigest(),
        "metrics": {name: head.metrics for name, head in heads.items()},
        **made_from,
    }
    folder.write(content, HEADS)  # before heads.json, which has its SHA-256
    folder.write((json.dumps(about, indent=1) + "\n").encode(), "heads.json")


def table(heads: dict[str, Head]) -> list[str]:
    """Return a table of the heads' metrics on test samples, with the metric of guessing by
    frequency in brackets."""
    lines = [
        f"{'head':<11} {'concepts':>8} {'trained':>11} {'chosen by':>9} {'tested':>7}  {'loss':>13}"
        f"  {'top-1':>34}  {'recall@10':>15}  {'per concept':>15}   (in brackets: guessing by"
        " frequency)"
    ]
    for name, head in heads.items():
        m = head.metrics
        top1 = (
            f"{m['top1']:.1%}, {m['top1_low']:.1%} to {m['top1_high']:.1%} ({m['prior_top1']:.1%})"
        )
        recalls = [
            f"{m[key]:>6.1%} ({m['prior_' + key]:>6.1%})"
            for key in ("recall_at_10", "macro_recall_at_10")
        ]
        lines.append(
            f"{name:<11} {m['concepts']:>8,.0f} {m['train_samples']:>11,.0f}"
            f" {m['validation_samples']:>9,.0f} {m['test_samples']:>7,.0f}  {m['loss']:>5.2f}"
            f" ({m['prior_loss']:>5.2f})  {top1:>34}  " + "  ".join(recalls)
        )
    few = [f"{name} {head.metrics['test_samples']:,.0f}" for name, head in heads.items()
           if head.metrics["test_samples"] < FEW]  # fmt: skip
    if few:
        lines.append(
            f"tested on few images ({', '.join(few)}): these figures are rough; --holdout takes"
            " more"
        )
    return lines
