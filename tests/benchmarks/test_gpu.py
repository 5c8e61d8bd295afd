"""The measurements on a GPU: that they run, at tiny sizes, and what they print."""

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install '.[train]'")

from benchmarks import gpu, gpu_parts  # noqa: E402


@pytest.mark.slow
def test_parts_run_at_tiny_sizes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "gpu.json"
    assert gpu.main(["--tiny", "--output", str(file)]) == 0
    found = json.loads(file.read_text())
    parts = {part["part"]: part["rows"] for part in found["parts"]}
    assert [*parts] == [*gpu_parts.PARTS] and all(parts.values())
    precisions = parts["precisions"]
    losses = parts["losses"]
    assert [row["precision"] for row in precisions] == ["fp32", "bf16", "fp16"]
    assert all(
        row["last loss"] < row["first loss"] and row["AdamW"] == "fused" for row in precisions
    )
    exact = {row["loss"]: row for row in losses}
    assert exact["HN-NCE tiles"]["error of loss"] < 1e-5
    if not torch.cuda.is_available():
        assert exact["HN-NCE triton"]["ms"] == "needs CUDA" and parts["nccl"] == [
            {"nccl": "needs CUDA"}
        ]
    said = capsys.readouterr().out
    assert found["device"] in said and "**losses**" in said and "| HN-NCE tiles | 64 |" in said


def test_a_part_that_failed_is_said() -> None:
    rows = [{"a": 1.23456}, {"b": None}]
    result = {"part": "steps", "seconds": 600.0, "rows": rows, "error": "not done within 600 s"}
    table = "| a | b |\n|---|---|\n| 1.23 |  |\n|  |  |"
    made = gpu.markdown([result], "a GPU").rstrip("\n")
    assert made.endswith(f"\n**steps** (600 s)\n\n{table}\n\nfailed: {result['error']}")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_tiny_has_to_be_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        gpu.main([])
    assert "torch sees no GPU; --tiny runs it at tiny sizes on the CPU" in capsys.readouterr().err
