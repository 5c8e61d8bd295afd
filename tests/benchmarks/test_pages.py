"""Figures that pages take from the committed ones, and products of these."""

from __future__ import annotations

import re
from pathlib import Path
from statistics import median

from benchmarks.figures.page import published
from open_diht.pipelines.manifests.plan import IMAGE_ROWS, UNIT_ROWS

REPOSITORY = Path(__file__).resolve().parents[2]
ROWS = {"LAION-400M": 0.4e9, "LAION-2B": 2.32e9}
CORES = (2, 16, 256)


def prose(path: str) -> str:
    """The words of a page, wherever its lines break."""
    return " ".join((REPOSITORY / path).read_text(encoding="utf-8").split())


def tables(path: str, heading: str = "") -> dict[str, list[str]]:
    """Return the cells behind the first one of each row of all tables of a section or page, by the
    first one."""
    text = (REPOSITORY / path).read_text(encoding="utf-8")
    text = text.partition(heading)[2].partition("\n## ")[0] if heading else text
    rows = [
        [cell.strip(" *") for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line[:1] == "|"
    ]
    return {row[0]: row[1:] for row in rows}


def figure(part: str, name: str, unit: str = "") -> dict[str, list[float]]:
    """Return the values of a published figure by side."""
    [found] = [
        one
        for one in published()[part]["figures"]
        if one["name"] == name and unit in ("", one["unit"])
    ]
    return {side["name"]: side["values"] for side in found["sides"]}


def ratio(part: str, name: str, side: str, base: str) -> float:
    """Return the median ratio of two sides in the same repeat."""
    values = figure(part, name)
    return median(one / other for one, other in zip(values[side], values[base], strict=True))


def number(cell: str) -> float:
    return float(cell.replace(",", ""))


def test_the_rates_are_the_committed_figures() -> None:
    page = tables("docs/cost.md")
    results = tables("benchmarks/RESULTS.md", "## On paper: LAION-2B")
    text = (REPOSITORY / "benchmarks/RESULTS.md").read_text(encoding="utf-8")
    rate, without, with_text = re.findall(
        r"--caption-rate (\d+) --image-ms ([\d.]+) ([\d.]+)", text
    )[0]
    assert number(page["captions per core-second"][0]) == number(rate)
    assert (
        page["OCR, image without text (ms)"][0] == without
        and page["OCR, image with text (ms)"][0] == with_text
    )
    assert (
        f"{page['rows whose image is read (%)'][0]} % pass `paper`, `balanced` or `strict`"
        in " ".join(text.split())
    )
    [downloads] = [median(figure("download", "download-cpu")["ours"])]
    assert number(page["downloads per core-second"][0]) == round(downloads)
    for part in ("captions", "OCR", "decisions and export"):
        assert page[part][2:] == results[part], part
    kept = 438 / 1_985  # of the paper's pairs
    assert "438 million of the 1,985 million pairs" in (REPOSITORY / "docs/cost.md").read_text(
        encoding="utf-8"
    )
    assert f"rows x {100 * kept:.0f} %" in page["`shards` (TiB)"][2]
    assert page["`shards` (TiB)"][:2] == [
        f"{rows * kept * 25e3 / 2**40:.1f}" for rows in ROWS.values()
    ]
    assert page["`shards` (TiB)"][1] == "11.6" and "11.6 TiB, if an image takes 25 kB" in " ".join(
        text.split()
    )
    stored = sum(
        number(results[name][2]) for name in ("`work/captions`, annotations", "`work/spotting`")
    )
    assert number(page["annotations (GiB)"][1]) == stored


def test_the_products_are_those_of_the_rates() -> None:
    page = tables("docs/cost.md")
    few, many = ROWS.values()
    read = number(page["rows whose image is read (%)"][0]) / 100
    for part in ("captions", "OCR", "decisions and export"):
        assert [number(cell) for cell in page[part][:2]] == [
            round(number(cell) * few / many) for cell in page[part][2:]
        ]
    downloads = [
        rows * read / number(page["downloads per core-second"][0]) / 3600 for rows in ROWS.values()
    ]
    assert page["download"] == [f"{hours:,.0f}" for hours in downloads for _ in ("low", "high")]
    parts = ("captions", "download", "OCR", "decisions and export")
    hours = [sum(number(page[part][column]) for part in parts) for column in range(4)]
    text = (REPOSITORY / "docs/cost.md").read_text(encoding="utf-8")
    assert f"| **all** | {' | '.join(f'{each:,.0f}' for each in hours)} |" in text
    readme = prose("README.md")
    least, most = (200e6 * each / many for each in hours[2:])
    price = 0.04
    assert (
        f"200 million rows take {least:,.0f} to {most:,.0f} core-hours with the download,"
        f" not its waits (${least * price:.0f} to ${most * price:.0f} at ${price} each)" in readme
    )
    assert f"{price:.2f} for a core-hour" in " ".join(text.split())
    assert round(10 * read) == 3
    for said in (
        "reject seven of LAION's pairs in ten, so three images of ten",
        "saves seven of ten",
    ):
        assert said in readme
    for cores in CORES:
        digits = 1 if cores > 16 else 0
        assert page[str(cores)] == [f"{each / cores:,.{digits}f}" for each in hours]
    images = [rows * read for rows in ROWS.values()]
    assert page["images over the network (TB)"][:2] == [
        f"{each * 25e3 / 1e12:.1f}" for each in images
    ]
    assert f"| all | {' | '.join(f'{rows / 3.6e6:,.0f}' for rows in ROWS.values())} |" in text
    passing = page["those that a run of `paper` reads"]
    assert passing == [f"{each / 3.6e6:,.0f}" for each in images]
    for amount, price, cost in re.findall(
        r"^\| [^|]*(?:-hours|TB)\) \| ([\d.,]+) \| ([\d.]+) \| ([\d,]+) \|", text, re.M
    ):
        assert number(cost) == round(number(amount) * number(price)), amount
    assert f"{1 / read:.1f} times as many images" in text


def test_the_table_of_presets_has_the_committed_figures() -> None:
    page = (REPOSITORY / "docs/howto/presets.md").read_text(encoding="utf-8")
    presets = re.findall(r"^\| `(\w+)` \|" + r" ([\d.]+) \|" * 5, page, re.MULTILINE)
    assert [preset for preset, *_ in presets] == ["paper", "balanced", "strict", "precise"]
    of_precision, of_recall = (
        figure("agreement", "action, lenient", unit) for unit in ("precision", "recall")
    )
    passing = figure("agreement", "% passing", "both")
    for preset, *people, precision, recall, keeps in presets:
        side = f"`{preset}`"
        assert people == [
            of_people("FACTUAL, test", column)[side] for column in ("precision", "recall")
        ]
        assert precision == f"{median(of_precision[side]):.2f}"
        assert recall == f"{median(of_recall[side]):.2f}"
        assert keeps == f"{median(passing[side]):.1f}"
    assert page.count("tried on models") == 1


def of_people(name: str, column: str) -> dict[str, str]:
    """Return a column of the tables of a set of labels by people, by rule."""
    section = (
        (REPOSITORY / "benchmarks/RESULTS.md")
        .read_text(encoding="utf-8")
        .partition(f"\n{name} (")[2]
    )
    for table in section.split("\n\n")[1:]:
        head, _, *rows = (
            [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()
        )
        if column in head:
            return {row[0]: row[head.index(column)] for row in rows}
    raise AssertionError(f"{name} has no {column}")


def test_what_people_say_is_quoted_as_measured() -> None:
    readme = prose("README.md")
    f1 = of_people("FACTUAL, test", "F1")
    precision = figure("agreement", "action, lenient", "precision")
    by_model = " and ".join(
        f"{median(precision[f'`{name}`']):.2f}" for name in ("paper", "precise")
    )
    assert (
        f"F1 is {f1['`paper`']} with `paper` and {f1['`precise`']} with `precise`. On LAION's"
        f" captions, labelled by a language model, precision is {by_model}" in readme
    )
    page = prose("docs/howto/presets.md")
    visible = {
        rule: f"{100 * float(cell):.1f} %" for rule, cell in of_people("Clue", "visible").items()
    }
    assert f"{visible['`paper`']} of the captions that `paper` keeps say what is visible" in page
    assert (
        f"{visible['all pairs']} of all captions and {visible['`precise`']} of those that `precise`"
        " keeps" in page
    )


def test_the_readme_has_the_committed_ratios() -> None:
    readme = prose("README.md")
    cat = 'ours, Cat("paper")'
    captions = ("captions", "captions-laion", cat)
    text = ("ocr", "ocr-as-is", "ours, medium")
    parsed = ratio(*captions, "spaCy, nlp.pipe")
    assert f'`Cat("paper")` decides {parsed:.1f} times as many' in readme
    times = ratio(*captions, "data-juicer, two operators")
    assert f"and {times:.1f} times as many as data-juicer's" in readme
    defaults, sizes = (
        ratio(*text, f"PaddleOCR, {how}") for how in ("defaults, small", "our sizes")
    )
    small = ratio("ocr", "ocr-reduced", "ours, medium", "faster-paddle, our sizes")
    assert small < 1 < sizes
    assert (
        f"We read {sizes:.1f} times as many images as PaddleOCR with our sizes, {defaults:.1f}"
        f" times with its defaults, a larger model; reduced to 256 px, {small:.2f} times as many as"
        " [faster-paddle](benchmarks/RESULTS.md#ocr)." in readme
    )
    cost = ratio("score", "score", cat, "open_clip, ViT-B/32")
    assert f"takes {cost:.2f} of the time of a CLIP score of every pair" in readme


def test_what_a_killed_run_loses_is_a_unit() -> None:
    """The largest units that a plan makes by itself, and their time at the rates of the costs."""
    page = tables("docs/cost.md")
    captions = UNIT_ROWS[1] / number(page["captions per core-second"][0])
    images = IMAGE_ROWS[1] * number(page["OCR, image with text (ms)"][0]) / 1e3
    resume = prose("docs/howto/resume.md")
    assert (
        f"a unit has about {UNIT_ROWS[0]:,} to {UNIT_ROWS[1]:,} captions, or {IMAGE_ROWS[0]} to"
        f" {IMAGE_ROWS[1]:,} images" in resume
    )
    assert (
        f"take a core {captions:.0f} seconds for captions, and {images / 60:.1f} minutes" in resume
    )
    assert (
        f"by default up to [{UNIT_ROWS[1]:,} captions or {IMAGE_ROWS[1]:,} images per core]"
        in prose("README.md")
    )


def test_what_is_said_of_stricter_presets_is_as_measured() -> None:
    page = prose("docs/howto/presets.md")
    presets = [f"`{name}`" for name in ("paper", "balanced", "strict", "precise")]
    actions, complexity = (
        [of_people("FACTUAL, test", name)[each] for each in presets]
        for name in ("F1", "F1 of complexity")
    )
    assert sorted(actions) == actions and sorted(complexity, reverse=True) == complexity
    for said in (actions, complexity):
        assert f"{', '.join(said[:3])} and {said[3]}" in page
    doing = {name: 100 * float(cell) for name, cell in of_people("HL", "doing").items()}
    assert f"`precise` finds only {doing['`precise`']:.1f} % of people's answers" in page
    assert f"`paper` {doing['`paper`']:.1f} %" in page
    times = ratio("captions", "captions-laion", 'ours, Cat("strict")', 'ours, Cat("precise")')
    assert f"`precise` takes {times:.2f} times as long per caption" in page


def test_pages_give_the_costs_of_the_committed_figures() -> None:
    page = tables("docs/cost.md")
    text = prose("docs/architecture.md")
    caption = 1e6 / number(page["captions per core-second"][0])
    ocr = [1e3 * number(page[f"OCR, image {kind} text (ms)"][0]) for kind in ("without", "with")]
    assert (
        f"OCR, which costs {ocr[0] / caption:.0f} to {ocr[1] / caption:.0f} times as much as stage"
        " `captions`" in text
    )


def test_the_page_on_beam_has_the_committed_figures() -> None:
    page = tables("docs/why-beam.md")
    sides = {
        "our files": "ours, files",
        "DuckDB": "DuckDB",
        "datatrove, two steps": "datatrove, two steps",
        "Beam's embedded runner": "Beam, embedded runner",
    }
    for shown, side in sides.items():
        seconds, memory = (
            median(figure("duplicates", f"duplicates-10m{kind}")[side]) for kind in ("", "-memory")
        )
        assert page[shown] == [f"{seconds:.1f}", f"{memory:,.0f}"]


def test_every_section_of_other_figures_says_how_they_were_made() -> None:
    text = (REPOSITORY / "benchmarks/RESULTS.md").read_text(encoding="utf-8")
    sections = text.partition("\n# Figures of other programs\n")[2].split("\n## ")[1:]
    assert len(sections) > 5
    for section in sections:
        assert re.search(r"\b20\d\d-\d\d-\d\d\b", section), section[:40]
        assert re.search(
            r"`python -m benchmarks\.\w+|benchmarks/\w+\.py|coverage --rounds", section
        )
    assert max(line.count("|") for line in text.splitlines() if line.startswith("|")) <= 8
    words = [word for word in text.split() if re.search(r"\w", word)]
    assert len(words) <= 4_000, "what nobody asks for goes into git's history"


def test_what_each_effort_finds_is_quoted_as_measured() -> None:
    results = (REPOSITORY / "benchmarks/RESULTS.md").read_text(encoding="utf-8")
    page = prose("docs/howto/presets.md")
    count = r"(\d+) \+ (\d+) of (\d+) \| "
    rows = re.findall(
        rf"^\| (low|medium|high) \| {count}{count}{count}.*?\| ([\d.]+) \(", results, re.MULTILINE
    )
    assert [row[0] for row in rows] == ["low", "medium", "high"]
    low, medium, high = (int(row[7]) + int(row[8]) for row in rows)
    assert (
        f"Of {rows[0][9]} captions" in page
        and f"`low` finds {low}, `medium` {medium} and `high` {high}," in page
    )
    legible = [int(row[1]) + int(row[2]) for row in rows]
    assert (
        f"Of the {rows[0][3]} of these words" in page
        and "they find {}, {} and {}.".format(*legible) in page
    )
    assert f"take {rows[1][10]} and {rows[2][10]} times as long" in page


def test_pages_quote_the_times_of_the_committed_figures() -> None:
    cost = prose("docs/cost.md")
    low, reduced = (
        ratio("ocr", f"ocr-{images}", "ours, medium", "ours, low")
        for images in ("as-is", "reduced")
    )
    assert f"OCR takes {low:.2f} of this time (on images reduced to 256 px {reduced:.2f})" in cost
    page = tables("docs/cost.md")
    rate, downloads = (
        number(page[f"{what} per core-second"][0]) for what in ("captions", "downloads")
    )
    without, with_text = (
        number(page[f"OCR, image {kind} text (ms)"][0]) + 1e3 / downloads
        for kind in ("without", "with")
    )
    half = (without + with_text) / 2  # the high end of the table: half of the images have text
    assert (
        f"A caption costs {1e3 / rate:.1f} ms, an image that is read {without:.0f} to {half:.0f} ms"
        " with its download" in cost
    )
    ten_million = tables("benchmarks/RESULTS.md", "\n## Ten million pairs\n")
    decisions, index = (ten_million[step][1] for step in ("decisions", "index of the tars"))
    assert f"decisions took {decisions} ms a pair" in cost
    assert f"the index of the tars {index} ms" in cost

    mine = median(figure("copies", "copies-ms")["ours"])
    theirs = ratio("copies", "copies-ms", "imagehash, phash", "ours")
    assert (
        f"costs {mine:.1f} ms of one core; `imagehash` takes {theirs:.2f} times as long"
        in prose("docs/howto/duplicates.md")
    )
    assert median(figure("copies", "copies-mirrored")["imagehash, phash"]) == 0
    check = ratio("runs", "runs", "verify", "Beam, 2 workers")
    assert f"took {check:.2f} of the time of its run on two workers" in prose(
        "docs/howto/verify.md"
    )

    stored = tables("benchmarks/RESULTS.md", "\n## Stored teachers\n")
    step, loader = (
        sorted(row[1] for name, row in stored.items() if name.startswith(what))
        for what in ("step", "loader")
    )
    teachers = prose("docs/howto/teachers.md")
    assert f"a step takes {step[0]} to {step[1]} times as long" in teachers
    assert f"the loader {loader[0]} to {loader[1]} times" in teachers
    asking = stored["asking the teacher, against a step"][1]
    assert f"takes {asking} of the time of a step" in teachers
