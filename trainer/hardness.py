"""Check that the initial scale of the logits suits the hardness beta.

HN-NCE weighs negatives by e^(beta s), where s is the cosine times the learned scale, so beta sharpens a
scale that is already too sharp. A long run learns the scale that it needs. In a short one it stays
about where it starts: a step of AdamW changes its logarithm by about the learning rate, which a cosine
schedule halves on average. The study tried initial scales with four values of beta and two lengths; the
best on held-out pairs was 10 / (1 + 2 beta), within the resolution of its grid (docs/which-beta.md).
"""

from __future__ import annotations

import math

from open_diht.trainer.config import Config
from open_diht.trainer.losses import HnNce


def fitting_scale(beta: float) -> float:
    """Return the initial factor of the cosine that suited the short runs of the study best."""
    return 10 / (1 + 2 * beta)


def about_scale(config: Config, steps: int) -> str | None:
    """Return a warning if the initial scale is too high for the loss and a run is too short to lower it, or None."""
    if not isinstance(config.loss, HnNce) or config.model.warm_start:
        return None  # a warm start brings a scale that was learned
    beta, scale = config.loss.constants[1], 1 / config.model.temperature
    fitting, reach = fitting_scale(beta), config.optimizer.learning_rate * steps / 2
    if not beta or math.log(scale / fitting) <= reach + 0.01:
        return None
    return (
        f"loss.beta {beta:g} at model.temperature {config.model.temperature:g}, a scale of {scale:.3g}: {steps:,} "
        f"steps can change it by a factor of about {math.exp(reach):.3g}, and hard negatives would weigh too much; "
        f"model.temperature={1 / fitting:.2g} (a scale of {fitting:.3g}) starts lower, or loss.beta=0 does without"
    )
