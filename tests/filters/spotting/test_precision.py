"""bf16 where the processor has it and the engine can use it."""

from pathlib import Path

import pytest

from open_diht.common.devices import has_bf16
from open_diht.filters.spotting import precision
from open_diht.filters.spotting.precision import resolved
from open_diht.filters.spotting.settings import EngineName, SpotterSettings
from open_diht.filters.spotting.spotter import TextSpotter


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("fpu avx512f avx512_bf16", True), ("fpu amx_bf16 amx_tile", True), ("fpu avx512f avx512_vnni", False)],
)
def test_the_processor_says_what_it_has(tmp_path: Path, flags: str, expected: bool) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(f"processor\t: 0\nmodel name\t: avx512_bf16 in name only\nflags\t\t: {flags}\n")
    assert has_bf16(file) is expected
    assert not has_bf16(tmp_path / "none")


@pytest.mark.parametrize(
    ("engine", "able", "expected"),
    [("openvino", True, "bf16"), ("openvino", False, "f32"), ("onnxruntime", True, "f32")],
)
def test_auto_is_settled_before_the_work_is_planned(
    monkeypatch: pytest.MonkeyPatch, engine: EngineName, able: bool, expected: str
) -> None:
    """So that workers of another kind cannot compute otherwise under the same fingerprint."""
    monkeypatch.setattr(precision, "has_bf16", lambda: able)
    assert TextSpotter(SpotterSettings(engine=engine)).settings.precision == expected


def test_what_is_asked_for_is_kept() -> None:
    assert resolved(SpotterSettings(engine="openvino", precision="f32")).precision == "f32"
    with pytest.raises(ValueError, match="precision is 'bf16'"):
        SpotterSettings(engine="onnxruntime", precision="bf16")
