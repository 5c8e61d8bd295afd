"""Settings name what is wrong with them, and survive the way to the child process."""

import pytest

from open_diht.filters.spotting.decode import DecodeLimits
from open_diht.filters.spotting.settings import SpotterSettings
from open_diht.filters.spotting.worker import settings_from_json, settings_to_json


def test_settings_survive_the_command_line() -> None:
    settings = SpotterSettings(model="small", timeout_s=1.5, limits=DecodeLimits(max_pixels=7))
    assert settings_from_json(settings_to_json(settings)) == settings


def test_which_models_must_be_installed() -> None:
    assert SpotterSettings().sizes == ("tiny", "small")
    assert SpotterSettings(reread=None).sizes == ("tiny",)
    assert SpotterSettings(model="small").sizes == ("small",)
    assert SpotterSettings(engine="paddle").sizes == ("tiny",)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("engine", "tesseract"),
        ("model", "huge"),
        ("limit_side", 0),
        ("min_score", 1.5),
        ("timeout_s", 0),
        ("attempts", 0),
    ],
)
def test_wrong_settings_are_named(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        SpotterSettings(**{field: value})  # type: ignore[arg-type]
