"""Few-shot probing on cached features: the paper's probe, its baselines, and curves over the number
of shots.

result = run(Encoded(train=..., test=..., ...), test_labels) result.point("probe", 5).value
"""

from open_diht.eval.fewshot.curves import Encoded, FewShotResult, FewShotSettings, run
from open_diht.eval.fewshot.methods import METHODS
from open_diht.eval.fewshot.shots import ShotsMissing, draw_shots

__all__ = [
    "METHODS",
    "Encoded",
    "FewShotResult",
    "FewShotSettings",
    "ShotsMissing",
    "draw_shots",
    "run",
]
