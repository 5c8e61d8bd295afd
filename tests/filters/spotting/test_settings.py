"""Settings name what is wrong with them, and survive the way to the child process."""

from typing import get_args

import pytest

from open_diht.filters.spotting import settings
from open_diht.filters.spotting.decode import DecodeLimits
from open_diht.filters.spotting.settings import EFFORTS, Effort, OcrRule, SpotterSettings
from open_diht.filters.spotting.spotter import TextSpotter
from open_diht.filters.spotting.worker import settings_from_json, settings_to_json


def test_settings_survive_the_command_line():
    asked = SpotterSettings(model="small", timeout_s=1.5, limits=DecodeLimits(max_pixels=7))
    assert settings_from_json(settings_to_json(asked)) == asked


def test_which_models_must_be_installed():
    assert SpotterSettings().sizes == ("tiny", "small")
    assert SpotterSettings(reread=None).sizes == ("tiny",)
    assert SpotterSettings(model="small").sizes == ("small",)
    assert SpotterSettings(engine="paddle", closer="small").sizes == ("tiny",)
    assert (
        SpotterSettings(reread=None, closer="small").sizes == SpotterSettings(closer="small").sizes
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("engine", "tesseract"), ("model", "huge"), ("limit_side", 0), ("min_score", 1.5),
        ("timeout_s", 0), ("attempts", 0), ("effort", "hihg"), ("alphabet", "cyrillic"),
        ("alphabet", ["latin"]),
    ],
)  # fmt: skip
def test_wrong_settings_are_named(field, value):
    with pytest.raises(ValueError, match=field):
        SpotterSettings(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("engine", "able", "expected"),
    [("openvino", True, "bf16"), ("openvino", False, "f32"), ("onnxruntime", True, "f32")],
)
def test_auto_is_settled_before_the_work_is_planned(monkeypatch, engine, able, expected):
    """So that workers of another kind cannot compute otherwise under the same fingerprint."""
    monkeypatch.setattr(settings, "has_bf16", lambda: able)
    assert TextSpotter(SpotterSettings(engine=engine)).settings.precision == expected


def test_what_is_asked_for_is_kept():
    assert SpotterSettings(engine="openvino", precision="f32").resolved().precision == "f32"
    with pytest.raises(ValueError, match="precision is 'bf16'"):
        SpotterSettings(engine="onnxruntime", precision="bf16")


def test_an_effort_stands_for_settings_and_given_ones_win():
    assert tuple(EFFORTS) == get_args(Effort) and len({tuple(row) for row in EFFORTS.values()}) == 1
    for effort, row in EFFORTS.items():
        known = SpotterSettings(effort=effort)
        assert {name: getattr(known, name) for name in row} == row
        own = SpotterSettings(effort=effort, limit_side=640)
        assert (own.limit_side, own.pixel_threshold) == (640, row["pixel_threshold"])
        assert settings_from_json(settings_to_json(own)) == own
    low = SpotterSettings(
        effort="low", limit_side=384, pixel_threshold=0.2, reread_below=0.85, closer=None
    )
    assert SpotterSettings(effort="low") == low, "what earlier versions read"


def test_settings_of_a_run_win_over_those_of_the_preset():
    rule = OcrRule(effort="high", alphabet="all")
    assert rule.settings() == SpotterSettings(effort="high", alphabet="all")
    assert rule.settings("low", "latin", engine="openvino") == SpotterSettings(
        effort="low", engine="openvino"
    )
    with pytest.raises(
        ValueError, match="'cyrillic': other scripts than Latin are not read; choose latin, or all"
    ):
        OcrRule(alphabet="cyrillic")
