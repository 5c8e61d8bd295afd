"""Whether hard negatives get logits that they can work with.

HN-NCE weighs negatives by e^(beta s), s being cosines times the learned scale: what is too sharp at the start is
sharper with beta. A long run learns the scale that it needs. In a short one the scale stays about where it starts: a
step of AdamW changes its logarithm by about the learning rate, which a cosine halves on the way. Of the initial scales
that the study tried with four values of beta and two lengths, the best on held-out pairs was 10 / (1 + 2 beta), as near
as its grid tells (docs/which-beta.md).
"""

from __future__ import annotations

import math

from open_diht.trainer.config import Config
from open_diht.trainer.losses import HnNce


def fitting_scale(beta: float) -> float:
    """The initial factor of the cosine that a short run is best started with."""
    return 10 / (1 + 2 * beta)


def about_scale(config: Config, steps: int) -> str | None:
    """A line about an initial scale that is too high for the loss and cannot be learned in so many steps, with what to
    set; None where there is nothing to say."""
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
