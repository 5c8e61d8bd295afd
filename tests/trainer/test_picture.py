"""The page of a training: what is drawn of a log, of another run's, and of broken ones."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from open_diht.common.command_line import WrongUse
from open_diht.trainer.config import LogSettings
from open_diht.trainer.logs import RunLog
from open_diht.trainer.picture import curves, page
from tests.common.html_tags import HOSTILE, Tags


def log(*rows: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def step(number: int, loss: Any, **more: Any) -> dict[str, Any]:
    return {"kind": "step", "step": number, "samples": 10 * number, "loss": loss, **more}


def event(number: int, what: str, **more: Any) -> dict[str, Any]:
    return {"kind": "event", "step": number, "samples": 10 * number, "event": what, **more}


def dots(drawn: str, name: str) -> int:
    return len(re.findall(f"<title>{name}, ", drawn))


def test_steps_that_are_taken_again_count_once() -> None:
    steps = [step(number, 1 / number) for number in (1, 2, 3, 4)]
    found = curves(log(*steps, event(2, "resumed"), step(3, 0.5)) + b'{"kind": "st', "run")
    assert [(row["step"], row["loss"]) for row in found.steps.values()] == [
        (1, 1.0),
        (2, 0.5),
        (3, 0.5),
    ]
    drawn = page(found)
    assert dots(drawn, "run") == 3 and "step 2, 20 samples: " in drawn and "resumed" in drawn
    assert drawn.count('stroke-dasharray="4 3"') == 1 and found.unread == 0


def test_two_runs_are_in_one_chart(tmp_path: Path) -> None:
    for name, other in (("one", ""), ("two", str(tmp_path / "one"))):
        (tmp_path / name).mkdir()
        run = RunLog(tmp_path / name, LogSettings(tensorboard=False, other_run=other), {}, 0)
        for number in (1, 2):
            run.write("step", number, 10 * number, {"loss": 3.0 - number})
        drawn = (tmp_path / name / "train.html").read_text()
        assert 'http-equiv="refresh"' in drawn  # a browser follows
        run.draw(ended=True)
        run.close()
    drawn = (tmp_path / "two" / "train.html").read_text()
    assert 'http-equiv="refresh"' not in drawn and drawn.count("<svg") == 1
    assert dots(drawn, "one") == dots(drawn, "two") == 2


@pytest.mark.parametrize("content", [None, b"not a log\n"])
def test_a_run_beside_that_is_none(content: bytes | None, tmp_path: Path) -> None:
    other = tmp_path / "other"
    if content is None:
        with pytest.raises(
            WrongUse, match=r"log\.other_run: .*other has no log\.jsonl .*other_run=''"
        ):
            RunLog(tmp_path, LogSettings(tensorboard=False, other_run=str(other)), {}, 0)
        return
    drawn = page(curves(log(step(1, 2.0)), "run"), curves(content, "other"))
    assert "1 lines of the log of" in drawn and "has no values" in drawn and dots(drawn, "run") == 1


def test_a_log_with_anything_in_it_is_drawn() -> None:
    text = log(
        step(1, "nan", learning_rate=1e-6, data_wait=0.5, eta_s="inf"),
        {**step(2, float("inf")), "samples": float("nan")},
        {"kind": "check", "step": 1, "samples": 10, "retrieval/image_to_text_r1": 0.5},
        event(1, HOSTILE, why=HOSTILE),
    )
    drawn = page(curves(text + b"null\n[]\n\xff\n{}\n", HOSTILE), curves(b"", HOSTILE))
    tags = Tags(drawn)
    assert not {"script", "img"} & {tag for tag, _ in tags.tags}
    assert "no finite loss" in drawn and "5 lines of the log" in drawn
    assert 'aria-label="Learning rate: ' in drawn and 'aria-label="Loss: ' not in drawn
    assert "No progress line yet" in page(curves(b"", "run"))


def test_a_long_line_keeps_its_extremes() -> None:
    rows = [step(number, 9.0 if number == 5000 else 1.0) for number in range(1, 10_001)]
    drawn = page(curves(log(*rows), "run"))
    assert dots(drawn, "run") == 200 and "[1, 9]" in drawn and len(drawn) < 100_000
