"""Few-shot probing on cached features: the paper's probe, its baselines, and curves over the number of shots.

result = run(Encoded(train=..., test=..., ...), test_labels)
result.point("probe", 5).value
"""

from open_diht.eval.fewshot.curves import Choice, CurvePoint, Encoded, FewShotResult, FewShotSettings, run
from open_diht.eval.fewshot.methods import METHODS
from open_diht.eval.fewshot.probe import Probe, fit_probe
from open_diht.eval.fewshot.shots import ShotsMissing, draw_shots

__all__ = [
    "METHODS",
    "Choice",
    "CurvePoint",
    "Encoded",
    "FewShotResult",
    "FewShotSettings",
    "Probe",
    "ShotsMissing",
    "draw_shots",
    "fit_probe",
    "run",
]
