"""The model card: what the model is, what it was trained on, how, and how well it did on held-out pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import yaml

from open_diht.trainer.config import Config
from open_diht.trainer.config_files import plain

_OPEN_CLIP = """import open_clip
model, _, preprocess = open_clip.create_model_and_transforms("local-dir:PATH_OF_THIS_FOLDER")
tokenizer = open_clip.get_tokenizer("local-dir:PATH_OF_THIS_FOLDER")"""
_OWN = """from open_diht.trainer.export import load
model, tokenizer = load("PATH_OF_THIS_FOLDER")"""


def model_card(
    config: Config,
    *,
    samples: int,
    steps: int,
    skipped: int,
    pairs: int,
    results: Sequence[str],
    versions: Mapping[str, str],
    parent: str | None,
    own: bool,
) -> str:
    """Markdown with the header of the Hugging Face hub. `pairs`: training pairs of an epoch; `results`: lines;
    `parent`: the checkpoint that the run is a branch of; `own`: a tower is none of open_clip's."""
    losses = config.loss.describe()
    if config.concepts.path:
        losses += (
            " and concept distillation (" + ", ".join(f"{k} x{v:g}" for k, v in config.concepts.weights.items()) + ")"
        )
    model = "an architecture of its own" if config.model.architecture else config.model.name
    sources = "\n".join(f"- `{place}`" for place in config.data.places)
    start = [getattr(config.model, key) for key in ("warm_start", "warm_start_image", "warm_start_text")]
    started = parent or ", ".join(part for part in start if part) or "random numbers"
    averaged = f" They are an average over steps (EMA, decay {config.run.ema:g})." if config.run.ema else ""
    measured = "\n".join(f"- {line}" for line in results) or "- nothing was held out"
    library = "open_diht" if own else "open_clip"
    return f"""---
library_name: {library}
pipeline_tag: zero-shot-image-classification
tags:
- clip
- diht
---
# Dual encoder trained with DiHT's losses

{model}, {losses}, {samples:,} samples seen in {steps:,} steps of {config.schedule.batch_size:,} ({skipped} skipped as
not finite), {pairs:,} training pairs. Weights started from: {started}.{averaged}

This is not one of the authors' models. It follows *Filtering, Distillation, and Hard Negatives for Vision-Language
Pre-Training* (Radenovic et al., CVPR 2023) in an independent implementation. Batch size, learning rate, warm-up and
decay of the paper are not published; defaults are those of SemDeDup's CLIP ViT-B/16 on the same data (LAION-CAT-440M),
not the paper's. alpha, beta and the weights of the concept losses follow the paper to the best of our knowledge
(unverified). The program has been tested on CPUs only: no GPU had run it when it was written.

## Use

```python
{_OWN if own else _OPEN_CLIP}
```

## Data

{sources}

## Measured while training

Pairs held out from the same data ({config.data.split.holdout:.0%}, by {config.data.split.by}); 95
% Wilson intervals.
They guide a run and compare with nothing else.

{measured}

## Configuration

```yaml
{yaml.safe_dump(plain(config), sort_keys=False).strip()} ```

Versions: {", ".join(f"{name} {version}" for name, version in versions.items())}.
"""
