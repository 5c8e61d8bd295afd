"""Few-shot probing on cached features: the paper's probe, its baselines, and curves over the number of shots.

result = run(Encoded(train=..., test=..., ...), test_labels)
result.point("probe", 5).value
"""

from open_diht.eval.fewshot.curves import CurvePoint, Encoded, FewShotResult, FewShotSettings, Hyperparameters, run
from open_diht.eval.fewshot.methods import METHODS
from open_diht.eval.fewshot.probe import Probe, fit_probe
from open_diht.eval.fewshot.shots import ShotsMissing, draw_shots

__all__ = [
    "METHODS",
    "CurvePoint",
    "Encoded",
    "FewShotResult",
    "FewShotSettings",
    "Hyperparameters",
    "Probe",
    "ShotsMissing",
    "draw_shots",
    "fit_probe",
    "run",
]
