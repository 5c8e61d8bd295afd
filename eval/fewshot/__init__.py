"""Few-shot probing on cached features: the paper's probe, its baselines, and curves over the number of shots.

result = run(train_features, train_labels, train_keys, test_features, test_labels, classifier, logit_scale)
result.point("probe", 5).value
"""

from eval.fewshot.curves import Choice, CurvePoint, FewShotResult, FewShotSettings, run
from eval.fewshot.methods import METHODS
from eval.fewshot.probe import Probe, fit_probe
from eval.fewshot.shots import ShotsMissing, draw_shots

__all__ = [
    "METHODS",
    "Choice",
    "CurvePoint",
    "FewShotResult",
    "FewShotSettings",
    "Probe",
    "ShotsMissing",
    "draw_shots",
    "fit_probe",
    "run",
]
