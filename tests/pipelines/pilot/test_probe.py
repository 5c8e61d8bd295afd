"""The probe: requests to a server on this machine, and the forecast that takes the answers into
account."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from open_diht.pipelines.pilot.command import main
from open_diht.pipelines.pilot.probe import ALIVE, Answer, probe_of
from tests.common.html_tags import Tags
from tests.pipelines.fetch.conftest import jpeg, silent_port, web

__all__ = ["silent_port", "web"]
pytestmark = pytest.mark.usefixtures("here")


def _pilot(
    folder: Path, urls: Sequence[str | None], count: int, *allow: str, **columns: Any
) -> tuple[int, Any]:
    captions = [f"A brown dog runs on the beach {n}" for n in range(len(urls))]
    table = {"url": pa.array(urls, pa.string()), "caption": captions, **columns}
    pq.write_table(pa.table(table), folder / "a.parquet", row_group_size=20)
    words = ["--dataset", "custom", "--input", str(folder / "a.parquet"), "--unit-rows", "20"]
    words += ["--output", str(folder / "out"), "--stages", "captions", "--workers", "1"]
    words += ["--download-allow", ",".join(allow), "--probe", str(count)]
    words += ["--download-timeout", "2", "--download-retries", "0"]
    status = main(words)
    path = folder / "out" / "pilot" / "pilot.json"
    return status, json.loads(path.read_text()) if path.exists() else None


def test_living_and_dead_addresses_are_counted_and_forecast(web, tmp_path, capsys):
    body = jpeg((400, 300)) + bytes(50_000)
    web.page("/whole.jpg", body)
    part = ("Content-Range", f"bytes 0-1023/{len(body)}")
    web.page("/part.jpg", body[:1024], part, status=206)
    web.page("/page.jpg", b"<html>no longer here</html>")
    names = ["whole.jpg", "part.jpg", "page.jpg", "gone.jpg"]
    urls = [f"{web.url('/')}{names[n % 4]}" for n in range(60)]
    urls[4] = "ftp://example.org/a.jpg"
    status, content = _pilot(tmp_path, urls, 60, web.place, year=[2014 + n % 4 for n in range(60)])
    assert status == 0
    found = content["probe"]
    values = {name: rate["value"] for name, rate in found["rates"].items()}
    assert values == pytest.approx(
        {"alive": 29 / 60, "not_an_image": 15 / 60, "http_status": 15 / 60, "bad_url": 1 / 60}
    )
    assert found["bytes"]["value"] == len(body)
    assert found["hosts"] == {"127.0.0.1": {"asked": 59, "alive": 29}}
    assert found["years"]["2014"] == {"asked": 15, "alive": 14}
    assert found["years"]["2016"] == {"asked": 15, "alive": 0}
    # The same address is asked once, for its first kilobyte.
    assert sorted(web.asked) == sorted(f"/{name}" for name in names)
    assert {headers["Range"] for headers in web.seen} == {"bytes=0-1023"}
    rows = content["forecast"]["rows"]
    assert rows["kept, alive"]["value"] == pytest.approx(rows["kept"]["value"] * 29 / 60)
    assert content["forecast"]["images"]["alive"]["value"] == pytest.approx(29)
    assert content["forecast"]["core_hours"]["download"]["value"] > 0
    assert "48.3%" in capsys.readouterr().out
    page = Tags((tmp_path / "out" / "pilot" / "pilot.html").read_text()).text
    assert "48.3 % of 60 random addresses" in page and "still have an image" in page
    run = content["run"]["forecast"]["run"]
    assert run["kept"] == rows["kept, alive"]
    assert run["core_hours"] == content["forecast"]["core_hours"]["all"]
    assert not list(tmp_path.rglob("*.jpg")) and not list(tmp_path.rglob("*.tar"))


def test_answers_of_all_addresses_are_exact_for_them_alone() -> None:
    answers = [Answer("a", "h", "", ALIVE if n % 2 else "http_status", 1_000) for n in range(60)]
    exact, larger = (probe_of(answers, 1.0, rows).rates[ALIVE] for rows in (60, 6_000))
    assert exact.low == exact.value == exact.high == larger.value == 0.5
    assert larger.low is not None and larger.high is not None and larger.low < 0.5 < larger.high


def test_a_host_that_never_answers_is_given_up_and_costs_no_other(
    web, silent_port, tmp_path, capsys
):
    web.page("/a.jpg", jpeg())
    urls = [web.url(f"/a.jpg?{n}") for n in range(20)]
    web.pages["*"] = web.pages["/a.jpg"]
    urls += [f"http://127.0.0.2:{silent_port}/{n}.jpg" for n in range(20)]
    status, content = _pilot(tmp_path, urls, 40, web.place, f"127.0.0.0/8:{silent_port}")
    assert status == 0 and len(web.asked) == 20
    rates = {name: rate["value"] for name, rate in content["probe"]["rates"].items()}
    assert rates.pop("alive") == 0.5 and sum(rates.values()) == 0.5

    status, content = _pilot(tmp_path, urls[20:], 20, f"127.0.0.0/8:{silent_port}")
    assert status == 2, "it is another input"
    (tmp_path / "new").mkdir()
    status, content = _pilot(tmp_path / "new", urls[20:], 20, f"127.0.0.0/8:{silent_port}")
    assert status == 1 and content["probe"] is None
    assert content["forecast"]["rows"]["kept"]["value"] > 0
    assert "--download-threads" in capsys.readouterr().err


def test_a_manifest_without_addresses_is_refused_before_anything_is_written(tmp_path, capsys):
    pq.write_table(pa.table({"caption": ["A dog runs"] * 9}), tmp_path / "a.parquet")
    words = ["--input", str(tmp_path / "a.parquet"), "--output", str(tmp_path / "out")]
    assert main([*words, "--stages", "captions", "--workers", "1", "--probe", "5"]) == 2
    assert "--url-column" in capsys.readouterr().err and not (tmp_path / "out").exists()
    (tmp_path / "blank").mkdir()
    status, content = _pilot(tmp_path / "blank", [None] * 20, 5)
    assert status == 0 and content["probe"] is None and "probe" in content["notes"][-1]
