"""The pages hold what the rows say, and the committed ones what the committed rows say."""

import csv
import json
import re
from collections import Counter
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import open_clip
import pyarrow.parquet as pq
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from open_diht.common.html.charts import svg_file
from study.claims.negatives import best_scales
from study.cli import main
from study.figures import PHOTOGRAPHS
from study.page import PAGES, render
from study.panels import R10, readme_figure
from study.rows import CLAIMS, CPU, Rows
from study.tables import TABLES, Line, lines
from study.words import pool_in_words, signed
from tests.study.conftest import MakeRows

REPOSITORY = Path(__file__).resolve().parents[2]
RESULTS = REPOSITORY / "study" / "results"
DOCS = REPOSITORY / "docs"


def page(name: str) -> str:
    """The words of a page, as it is committed, with single spaces."""
    return " ".join((DOCS / name).read_text(encoding="utf-8").split())


def comparisons() -> list[dict[str, str]]:
    """The rows of the committed files of all claims, which are those of the committed rows."""
    files = [(DOCS / "claims" / f"{claim}.csv").read_text(encoding="utf-8") for claim in CLAIMS]
    return [row for file in files for row in csv.DictReader(file.splitlines())]


@cache
def committed(name: str) -> list[Line]:
    """The lines of a table of the committed rows."""
    return lines(Rows(RESULTS), TABLES[name], CPU)


def test_the_committed_pages_and_plots_are_those_of_the_committed_rows() -> None:
    made = render(Rows(RESULTS))
    assert {*PAGES} | {f"claims/{claim}.{end}" for claim in CLAIMS for end in ("md", "csv")} < {
        *made
    }
    for name, content in made.items():
        assert (DOCS / name).read_text(encoding="utf-8") == content, (
            f"docs/{name} is not what the rows give: python -m study --output study/results --page"
            " docs"
        )
    drawn = {f"images/{path.name}" for path in (DOCS / "images").glob("study-*.svg")}
    assert drawn == {name for name in made if name.endswith(".svg")}
    written = {f"claims/{path.name}" for path in (DOCS / "claims").iterdir()}
    assert written == {name for name in made if name.startswith("claims/")}


def test_the_plot_of_the_readme_has_every_comparison_of_whole_pools_once() -> None:
    """Filled dots are significant; what a line shows is read off its place on the axes."""
    compared = {name: committed(name) for name in TABLES}
    found = ElementTree.fromstring(svg_file(readme_figure(compared)))
    name = "{http://www.w3.org/2000/svg}"
    dots = [dot for group in found.findall(f"{name}g") for dot in group.findall(f"{name}circle")]
    taught = [line for line in committed("teachers") if line.b == "embeddings-infonce"]
    shown = [
        *committed("weights-default"),
        *(line for line in committed("cat") if (line.b, line.a) == ("kept", "all")),
        *(line for line in taught if not line.pool.endswith("-kept")),
        *committed("teachers-more"),
    ]
    assert len(dots) == len(shown) == 24 + 12 + 8 + 8
    hollow = [dot for dot in dots if dot.get("class") == "hollow"]
    assert len(hollow) == [line.verdict for line in shown].count("open")
    width, height = float(found.attrib["width"]), float(found.attrib["height"])
    assert width <= 430, "a phone shows it without making its letters small"
    for dot in dots:
        assert 0 < float(dot.attrib["cx"]) < width and 0 < float(dot.attrib["cy"]) < height
    first = [(float(dot.attrib["cy"]), line) for dot, line in zip(dots, shown[:12], strict=False)]
    assert [line for _, line in sorted(first, key=lambda one: one[0])] == sorted(
        shown[:12], key=lambda line: -line.found[R10].difference
    )
    assert "(logarithmic)" in "".join(found.itertext())


def test_the_first_lines_say_what_the_committed_rows_show() -> None:
    cat = [line for line in committed("cat") if line.items == PHOTOGRAPHS and line.b == "kept"]
    against = {
        a: [(line.repeats or 0, line.found[0].difference) for line in cat if line.a == a]
        for a in ("random", "all")
    }
    assert all(change < 0 for _, change in against["random"])
    assert all(change < 0 for repeats, change in against["all"] if repeats < 5)
    assert all(change > 0 for repeats, change in against["all"] if repeats > 6)
    negatives = [line for line in committed("negatives") if line.items == PHOTOGRAPHS]
    changes = {
        pool: [one.found[0].difference for one in negatives if one.pool == pool]
        for pool in ("tuned", "usual")
    }
    assert max(changes["tuned"]) < 0 and max(changes["usual"]) > 100
    filters, others = (
        page(name).partition(end)[0]
        for name, end in (
            ("which-filter-when.md", "What was compared"),
            ("study.md", "This page is made"),
        )
    )
    assert page_of_committed_scales() in others
    for start, first in (
        (against["random"], filters),
        ([(0.0, one) for one in changes["tuned"]], others),
        ([(0.0, one) for one in changes["usual"]], others),
    ):
        ends = [change for _, change in start]
        assert f"{signed(min(ends))}" in first and f"{signed(max(ends))}" in first


def page_of_committed_scales() -> str:
    """The best scales of beta 0.25, 0.5 and 1 in the rows that chose them, in words."""
    chosen = best_scales(Rows(RESULTS).read("negatives"))
    [scales] = {tuple(of[beta] for beta in (0.25, 0.5, 1)) for of in chosen.values()}
    one, two, three = (f"{scale:g}" for scale in scales)
    return f"beta 0.25, 0.5 and 1, started at the scales {one}, {two} and {three}, the best of six"


def test_every_pool_has_one_name_with_its_size_and_no_two_share_one() -> None:
    named: dict[str, set[tuple[str, str]]] = {}
    for row in comparisons():
        if row["pool_pairs"]:
            said = pool_in_words(row["pool"], int(row["pool_pairs"]))
            named.setdefault(said, set()).add((row["pool"].partition("-")[0], row["pool_pairs"]))
    assert all(len(pools) == 1 for pools in named.values())
    filters = page("which-filter-when.md")
    for said in ("clean 17,043", "noisy 33,043", "clean 11,099", "noisy 21,546"):
        assert said in named and f"| {said} |" in filters
    select = (DOCS / "howto" / "select.md").read_text(encoding="utf-8")
    assert {*re.findall(r"(?:clean|noisy) [\d,]+\d", select)} <= {*named}
    for name in ("which-filter-when.md", "study.md", "howto/select.md"):
        tables = re.findall(r"^\|.*\|$", (DOCS / name).read_text(encoding="utf-8"), re.MULTILINE)
        assert not re.search(r"natural|injected", "".join(tables))


def test_no_table_marks_a_loss_without_saying_so() -> None:
    marked = 0
    for name in ("which-filter-when.md", "study.md"):
        text = (DOCS / name).read_text(encoding="utf-8")
        for cell in re.findall(r"(?<=\| )\*+\+[^|]+(?= \|)", text):
            assert cell.endswith("* worse")
            marked += 1
    assert marked > 10


def test_the_readme_counts_what_the_rows_say() -> None:
    readme = " ".join((REPOSITORY / "README.md").read_text(encoding="utf-8").split())
    section = readme.partition("## Which pairs should a model read?")[2].partition(" ## ")[0]
    verdicts = Counter(line.verdict for line in committed("weights-default"))
    assert not verdicts["worse"]
    rows = Rows(RESULTS).read("weights")
    times = [row.notes["samples_per_pair"] for row in rows if row.arm.arm == "default"]
    assert (
        f"better than all pairs in {verdicts['better']} of {verdicts.total()} comparisons, at"
        f" {min(times):.1f} to {max(times):.0f} samples per pair, and significantly worse in none"
        in section
    )
    plain = {
        budget: [line.verdict for line in committed("score-against-cat") if line.budget == budget]
        for budget in (17_408, 51_200)
    }
    few, late = (f"{each.count('better')} of {len(each)}" for each in plain.values())
    assert (
        f"better than CAT** in {few} comparisons after 17,408 samples, in {late} after 51,200, and"
        " worse in none" in section
    )
    assert "worse" not in [verdict for each in plain.values() for verdict in each]
    trainings = [
        row
        for row in [*Rows(RESULTS).read("rivals"), *Rows(RESULTS).read("cat"), *rows]
        if row.arm.arm == "all"
    ]
    least, most = (
        end(round(row.arm.budget / row.notes["repeats"]) for row in trainings) for end in (min, max)
    )
    budgets = {row.arm.budget for row in trainings}
    assert (
        f"{min(budgets):,} to {max(budgets):,} samples, pools of {least:,} to {most:,} pairs"
        in section
    )


def test_the_readme_describes_its_plot() -> None:
    """In the alternative text, which is all that some readers have."""
    readme = " ".join((REPOSITORY / "README.md").read_text(encoding="utf-8").split())
    [described] = re.findall(r"!\[([^\]]*)\]\(docs/images/study-readme\.svg\)", readme)
    score = committed("weights-default")
    cat = [line for line in committed("cat") if (line.b, line.a) == ("kept", "all")]
    teacher = [
        line
        for line in committed("teachers")
        if line.b == "embeddings-infonce" and not line.pool.endswith("-kept")
    ]
    of_score, of_cat, of_teacher, control = (
        {(line.pool, line.budget, line.items): line.found[R10].difference for line in found}
        for found in (score, cat, teacher, committed("teachers-more"))
    )
    assert f"gains up to {max(of_score.values()):.0f} points in short trainings" in described
    assert {line.verdict for line in score if line.budget == 153_600} == {"open"}
    gains = sorted(of_cat, key=lambda of: of_cat[of])
    assert f"gains up to {of_cat[gains[-1]]:.0f} points in the shortest" in described
    assert f"loses up to {-of_cat[gains[0]]:.0f} in longer ones" in described
    assert (gains[-1][1], gains[0][1]) == (17_408, 102_400)
    ends = (end(of_teacher.values()) for end in (min, max))
    assert f"embeddings gain {' to '.join(f'{one:.0f}' for one in ends)} points" in described
    less = [control[of] < gain for of, gain in of_teacher.items()]
    assert less.count(True) >= 7 and len(less) == 8


def test_the_readme_and_the_page_of_filters_advise_the_same() -> None:
    """What to do first, and that CAT's gain on photographs ends with a few repeats."""
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    first = dict(re.findall(r"^\| (images to|images,|clean)[^|]* \| ([^|]*) \|", readme, re.M))
    advice = page("which-filter-when.md").partition("## What to do")[2]
    assert "download, or without a GPU, CAT first" in advice and "CAT" in first["images to"]
    assert "GPU, or time to score them, weigh by a score" in advice and "score" in first["images,"]
    assert "training is long, keep all pairs" in advice and first["clean"] == "all pairs"


def test_the_sentences_about_filters_are_significant() -> None:
    def results(name: str, budget: int = 17_408) -> dict[tuple[str, str, str, str], str]:
        made = committed(name)
        return {
            (one.b, one.a, one.pool, one.items): one.verdict for one in made if one.budget == budget
        }

    plain = results("score-against-cat")
    combined = results("combined")
    rivals = results("rivals")
    assert {pool for _, _, pool, _ in plain} == {"injected", "natural", "lettered-40"}
    assert sorted(plain.values()) == ["better"] * 3 + ["open"] * 3
    web = "web-held/t2i"
    masking = results("masking")
    assert combined["cat-score", "score", "natural", PHOTOGRAPHS] == "better"
    assert combined["cat-score", "score", "injected", web] == "worse"
    assert (
        combined["cat-score", "score", "natural", web]
        == combined["cat-score", "score", "injected", PHOTOGRAPHS]
        == "open"
    )
    assert all(plain["score", "cat", pool, web] == "better" for pool in ("natural", "injected"))
    clean = {
        b: result
        for (b, a, pool, items), result in rivals.items()
        if (a, pool, items) == ("random", "natural", web)
    }
    assert [b for b, result in clean.items() if result == "better"] == ["all", "mix"]
    assert clean["cat"] == clean["score"] == clean["cat-score"] == "open"
    for percent, result in ((0, "open"), (20, "better"), (40, "better"), (60, "better")):
        assert masking["masked-whole", "t-whole", f"lettered-{percent}", PHOTOGRAPHS] == result
    mixed = {(pool, items): result for (_, _, pool, items), result in results("mix").items()}
    assert [where for where, result in mixed.items() if result == "better"] == [
        ("natural", PHOTOGRAPHS),
        ("natural", web),
    ]
    assert not {
        a for (_, a, _, _), result in results("mix-rivals").items() if result == "better"
    } & {"negcliploss-30"}
    fits = [row.notes["fit"] for row in Rows(RESULTS).read("mix") if row.arm.arm == "self-30"]
    overlaps = [one["spotted"] for one in fits if "spotted" in one]
    assert len(overlaps) == 20 and all(weight > 2 * error for weight, error in overlaps)
    for items in (PHOTOGRAPHS, web):
        assert results("cat", 51_200)["kept", "all", "natural", items] == "worse"


def test_the_sentences_about_teachers_are_those_of_all_comparisons() -> None:
    taught = committed("teachers")
    assert {line.verdict for line in taught} == {"better"}
    own_pairs = {
        budget: [line.verdict for line in committed("teachers-more") if line.budget == budget]
        for budget in (17_408, 51_200)
    }
    (few, late), (of_few, of_late) = (
        [each.count("better") for each in own_pairs.values()],
        [len(each) for each in own_pairs.values()],
    )
    alone = f"helped in {len(taught)} of {len(taught)} comparisons with no teacher"
    too = rf"{few} of {of_few} after 17,408 samples and (in )?{late} of {of_late} after 51,200"
    for name in ("README.md", "docs/howto/teachers.md", "docs/study.md"):
        page = " ".join((REPOSITORY / name).read_text(encoding="utf-8").split())
        assert alone in page and re.search(too, page)
    by_concepts = committed("teachers-concepts")
    on_top = committed("teachers-both")
    assert not [line for line in by_concepts + on_top if line.verdict == "worse"]
    assert max(line.found[0].difference for line in taught) < min(
        line.found[0].difference for line in by_concepts
    )
    over_embeddings = [line.verdict for line in on_top if line.a.startswith("embeddings")]
    assert over_embeddings.count("better") <= len(over_embeddings) / 10
    changes = [line.found[0].difference for line in committed("teachers-negatives")]
    teachers = (DOCS / "howto" / "teachers.md").read_text(encoding="utf-8")
    assert f"{signed(min(changes))} to {signed(max(changes))} %" in teachers
    # "As much as the pairs that the teacher had learned from", "gets worse with training"
    more = {
        (line.pool, line.budget, line.items): line.verdict for line in committed("teachers-more")
    }
    assert "worse" not in more.values() and all(
        verdict == "open" for (_, budget, _), verdict in more.items() if budget > 20_000
    )
    for items in {line.items for line in taught}:
        here = [line for line in taught if line.items == items and line.b == "embeddings-infonce"]
        short, long = (line.found[0] for line in here if line.pool == "natural-kept")
        assert long.a > short.a and long.b < short.b
        repeated = {line.found[0].difference: line.repeats or 0 for line in here}
        assert [repeats >= 9 for _, repeats in sorted(repeated.items())] == [True] * 2 + [False] * 6


def test_the_details_count_what_holds_by_seeds() -> None:
    trainings = [row for row in comparisons() if row["measure"] != "top-1"]
    significant = [row for row in trainings if row["verdict"] != "open"]
    of_seeds = [row for row in significant if float(row["p_corrected_of_seeds"]) < 0.05]
    assert 0 < len(of_seeds) < len(significant)
    assert (
        f"Of {len(trainings):,} comparisons of trainings, {len(significant)} are significant with"
        f" seeds and test items, and {len(of_seeds)} of these also with seeds alone."
        in page("study-details.md")
    )


def test_the_next_run_costs_what_its_rates_give() -> None:
    """The rates are those of the page of costs, which has tests of its own, and the FLOPs those of
    open_clip's models."""
    cost = page("cost.md")

    def of_cost(row: str) -> float:
        return float(re.findall(rf"{row} \| ([\d.,]+)", cost)[0].replace(",", ""))

    hours, samples = re.findall(r"reports ([\d,]+) hours of an A100 .*?, ([\d.]+) billion", cost)[0]
    ratio = flops_of("ViT-B-16") / flops_of("ViT-B-32")
    seen = 3 * 3 * (0.6 + 3)
    read = 1e6 * of_cost(r"rows whose image is read \(%\)") / 100
    without, with_text = (
        of_cost(r"OCR, image without text \(ms\)"),
        of_cost(r"OCR, image with text \(ms\)"),
    )
    checkpoint = re.search(r"ViT-B/32 takes ([\d.]+) GiB", page("howto/train.md"))
    assert checkpoint
    box = page("study-details.md").partition("## Run this next")[2]
    for row in (
        f"| {1e6 * of_cost(r'bytes of an image .kB.') / 1e6:.0f} |",
        f"| {1e6 / of_cost('captions per core-second') / 3600:.1f} |",
        f"| {read / 1000 * (without + with_text) / 2 / 3600:.1f} | {read:,.0f} x"
        f" {(without + with_text) / 2:.2f} ms",
        f"| {18 * float(checkpoint[1]):.0f} | 18 x {checkpoint[1]} GiB |",
        f"| {float(hours.replace(',', '')) * seen / 1000 / float(samples) * ratio:.0f} | {hours} x"
        f" {seen:.1f} million / {samples} billion x {ratio:.2f} |",
    ):
        assert row in box, row


def flops_of(name: str) -> float:
    """The FLOPs of a step for a pair, forward and backward, without computing it."""
    with torch.device("meta"):
        model = open_clip.CLIP(**open_clip.get_model_config(name))
        images, texts = torch.zeros(1, 3, 224, 224), torch.zeros(1, 77, dtype=torch.long)
        with FlopCounterMode(display=False) as counter:
            (model.encode_image(images).sum() + model.encode_text(texts).sum()).backward()
    return counter.get_total_flops()


GAIN = 0.3
WON = r"(\w+ \w+) in (\d+) of (\d+) (?:comparisons|pools) and (\w+ \w+) in (\d+)"
RESULTS_IN_WORDS = [
    ("which-filter-when.md", rf"A score as weights\*\* .*? compared with all pairs, {WON}\."),
    ("which-filter-when.md", rf"at one size after [\d,]+(?: and [\d,]+)* samples, {WON}, by R@10"),
    ("which-filter-when.md", rf"at one size, the masked score, .*? correction, {WON} against T\."),
    ("which-filter-when.md", rf"compared with one of all pairs, {WON} \("),
    ("which-filter-when.md", rf"Against negCLIPLoss, which needs no fit, the mix {WON}\."),
    ("which-beta.md", rf"From the usual start, HN-NCE {WON}, most"),
    ("study.md", rf"Both started at the usual scale of 14\.3, it {WON}, with changes"),
    ("study.md", rf"stored predictions of them, compared with no teacher, {WON}, over"),
    ("study.md", rf"HN-NCE against InfoNCE, no teacher: [^;]*; HN-NCE {WON}\."),
]
OTHERS = [
    (
        "which-filter-when.md",
        r"all pairs of clean\.\*\* About photographs it teaches (\w+) at 2\.0 repeats\.",
        "more",
        "less",
    ),
    (
        "which-filter-when.md",
        r"random one of its size\.\*\* On photographs the rank changes by ([+\u2212])",
        "\u2212",
        "+",
    ),
    ("which-filter-when.md", r"by the score, change the rank by ([+\u2212])", "\u2212", "+"),
    ("study.md", r"at its own best scale by ([+\u2212])", "\u2212", "+"),
    ("study.md", r"as targets of a ConvNet change the rank by ([+\u2212])", "\u2212", "+"),
    (
        "study.md",
        r"They change the rank against no teacher by ([+\u2212])",
        "\u2212",
        "+",
    ),
    ("study.md", r"stored embeddings\*\* helped in ([04]) of 4 comparisons", "4", "0"),
    ("study.md", r"\*\*(\w+)\*\*, in [04] of 4\.", "reached", "missed"),
    (
        "study.md",
        r"nowhere significantly worse than either alone is \*\*(\w+)\*\*",
        "reached",
        "missed",
    ),
]


@pytest.fixture(params=[1, -1], ids=["gains", "losses"])
def mirrored(
    request: pytest.FixtureRequest,
    make_rows: MakeRows,
    make_hits: MakeRows,
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[int, dict[str, str]]:
    """1 or -1, and pages of rows in which every first arm is better, or worse, than those that it
    is compared with. An arm that is better at finding photographs reads less here: the ranks of
    renderings are the larger.
    """
    sign: int = request.param
    gain = sign * GAIN
    both_sets = {"flickr8k-test": 1.0, "web-held": 1.0}
    make_rows({"all": 0.0, "random": 0.0, "kept": gain})
    teachers = {"none": 0.0, "embeddings": gain, "concepts": gain, "both": 2 * gain}
    for loss, more in (("infonce", 0.0), ("hn", gain)):
        arms = {f"{arm}-{loss}": each + more for arm, each in teachers.items()}
        make_rows(arms, claim="teachers", pool="injected-all", sets=both_sets)
    for pool in ("usual", "tuned"):
        make_rows({"beta-0": 0.0, "beta-1": gain}, claim="negatives", pool=pool)
    make_rows({"strength-0": 0.0, "default": gain}, claim="weights")
    make_rows({"none": 0.0, "concepts": gain}, claim="concepts", pool="flickr8k")
    make_rows({"score-30": 0.0, "negcliploss-30": 0.0, "self-30": gain}, claim="mix")
    make_hits({"random-init": 0.5, "probe": 0.5 + 0.2 * sign})
    rivals = {"random": 0.0, "all": 0.0, "ca": 0.0, "cat": 0.0, "score": gain, "ca-score": 2 * gain}
    make_rows({**rivals, "cat-score": 2 * gain}, claim="rivals", pool="natural", sets=both_sets)
    text = {**rivals, "t": gain, "masked": 2 * gain, "t-whole": gain, "masked-whole": 2 * gain}
    rows = make_rows(text, claim="rivals", pool="lettered-40", sets={**both_sets, "rendered": -1.0})
    monkeypatch.setattr("study.page.rivals.planned", lambda *_: rows.read("rivals"))
    return sign, render(rows)


def test_every_sentence_that_counts_results_has_the_direction_of_its_measure(
    mirrored: tuple[int, dict[str, str]],
) -> None:
    sign, made = mirrored
    # The pages of the claims count for each table, also arms that are alike.
    counts = [
        (heads, *row)
        for name, text in made.items()
        if re.fullmatch(r"claims/.*\.md", name)
        for heads, body in re.findall(
            r"^\| first arm.* \| comparisons \| (.*?) \| lowest.*\n.*\n((?:\|.*\n)+)",
            text,
            re.MULTILINE,
        )
        for row in re.findall(r"\| (\d+) \| (\d+) \| (\d+) \|", body)
    ]
    assert {heads for heads, *_ in counts} == {"is better | is worse", "reads less | reads more"}
    assert all(int(lost if sign > 0 else gained) == 0 for _, _, gained, lost in counts)
    won = [count for _, count, gained, lost in counts if count == (gained if sign > 0 else lost)]
    assert len(won) > 20
    made = {name: " ".join(text.split()) for name, text in made.items()}
    for page, sentence in RESULTS_IN_WORDS:
        found = re.findall(sentence, made[page])
        assert found, (page, sentence)
        for better, gained, lines_, worse, lost in found:
            reading = better == "reads less"
            assert (better, worse) == (
                ("reads less", "reads more") if reading else ("is better", "is worse")
            )
            assert (gained, lost) == ((lines_, "0") if sign > 0 else ("0", lines_)), (
                page,
                sentence,
            )
    for page, sentence, gained, lost in OTHERS:
        assert re.findall(sentence, made[page]) == [gained if sign > 0 else lost], (
            page,
            sentence,
        )


def test_no_template_counts_results_but_in_the_words_of_their_measure() -> None:
    """A sentence with a direction of its own can contradict the measure. Those that look at a
    result otherwise are OTHERS, which are rendered from rows of known direction."""
    looks = {
        name: re.findall(r".*verdict\b.*", (REPOSITORY / "study" / f"{name}.j2").read_text())
        for name in PAGES
    }
    assert {name: len(found) for name, found in looks.items()} == {
        "study.md": 3,  # both teachers together; embeddings against nothing and the other pairs
        "study-details.md": 1,  # the name of a column
        "which-filter-when.md": 4,  # more at, not shown to differ at, less at
        "which-beta.md": 0,
    }
    templates = [(REPOSITORY / "study" / f"{name}.j2").read_text() for name in PAGES]
    assert sum(text.count("|results") for text in templates) == len(RESULTS_IN_WORDS)


def test_the_committed_rows_have_their_items_and_no_others() -> None:
    rows = Rows(RESULTS)
    for claim in CLAIMS:
        packed = pq.read_table(RESULTS / f"{claim}.parquet", columns=["key"])["key"].to_pylist()
        assert {row.arm.key for row in rows.read(claim)} == set(packed)
    assert not (RESULTS / "items").exists()


def test_a_claim_with_rows_has_its_table_its_plot_and_what_is_reversed(make_rows: MakeRows) -> None:
    make_rows({"all": 0.0, "random": -0.3, "kept": 0.3}, budget=1000, repeats=1.0)
    rows = make_rows({"all": 0.0, "random": -0.3, "kept": -0.2}, budget=4000, repeats=4.0)
    made = render(rows)
    page = " ".join(made["which-filter-when.md"].split())
    claim = made["claims/cat.md"]
    assert page.count("| kept by CAT against all |") == 2
    assert "| kept by CAT against all | photographs | 2 | 1 | 1 |" in claim
    assert "images/study-cat.svg" in page and made["images/study-cat.svg"].count("<circle") == 4
    assert made["study.md"].count("No rows yet.") == 3
    assert [name for name in CLAIMS if "No rows yet" not in made[f"claims/{name}.md"]] == ["cat"]
    assert (
        "all pairs of clean.** About photographs it teaches more at 1.0, less at 4.0 repeats."
        in page
    )


def test_the_files_have_each_comparison_by_each_measure(make_rows: MakeRows) -> None:
    made = render(make_rows({"all": 0.0, "random": -0.3, "kept": 0.3}))
    rows = list(csv.DictReader(made["claims/cat.csv"].splitlines()))
    assert [(row["first"], row["second"], row["measure"]) for row in rows] == [
        ("kept", "all", "rank"),
        ("kept", "all", "R@10"),
        ("kept", "random", "rank"),
        ("kept", "random", "R@10"),
    ]
    one = lines(make_rows({}), TABLES["cat"], CPU)[0].found[0]
    ends = [float(rows[0][name]) for name in ("low", "change", "high", "second_mean")]
    assert ends == pytest.approx([one.low, one.difference, one.high, one.a], abs=0.005)
    assert rows[0]["verdict"] == "better" and float(rows[0]["p_corrected"]) < 0.05
    assert made["claims/mix.csv"].count("\n") == 1


def test_a_table_of_the_story_has_at_most_seven_columns_and_a_number_in_a_cell(
    make_rows: MakeRows,
) -> None:
    make_rows({"all": 0.0, "random": -0.3, "kept": 0.3, "kept-ca": 0.2})
    rows = make_rows({"none": 0.0, "concepts": 0.3}, claim="concepts", pool="flickr8k")
    for page in (
        render(rows)["study.md"],
        (DOCS / "study.md").read_text(),
        (DOCS / "which-filter-when.md").read_text(),
    ):
        heads = re.findall(r"^(\|.*)\n\| ?---", page, re.MULTILINE)
        assert heads and all(head.count("|") <= 8 for head in heads)
        cells = re.findall(r"(?<=\| )[^|\n]+(?= \|)", page)
        assert not any(
            re.search(r"\d[^\d,.]+\d", cell) for cell in cells if re.match(r"[*+\u2212\d]", cell)
        )


def rival_rows(make_rows: MakeRows, masked: float) -> Rows:
    """Four pools with text: masking is by `masked` better than T in the last two, and worse in the
    others."""
    arms = {
        "all": 0.2,
        "random": 0.0,
        "random-2": 0.0,
        "score": 0.1,
        "ca": 0.1,
        "ca-score": 0.3,
        "t": 0.0,
    }
    for percent in (0, 20, 40, 60):
        gain = masked if percent >= 40 else -masked
        rows = make_rows({**arms, "masked": gain, "t-whole": 0.0, "masked-whole": gain},
                         claim="rivals", pool=f"lettered-{percent}")  # fmt: skip
    return rows


def test_which_filter_says_gains_reversals_and_nulls_alike(make_rows: MakeRows) -> None:
    made = render(rival_rows(make_rows, masked=0.4))
    page = made["which-filter-when.md"]
    [cells] = re.findall(r"^\| masked score, as many as T against T \|(.*)\|$", page, re.MULTILINE)
    assert re.findall(r"\*\*([+\u2212])", cells) == ["+", "+", "\u2212", "\u2212"]
    assert cells.count("worse") == 2
    [nulls] = re.findall(r"^\| all that T keeps against all \|(.*)\|$", page, re.MULTILINE)
    assert nulls.count("worse") == 4, "what is worse is shown like what is better"
    assert made["images/study-rivals.svg"].count("<circle") == 8


@pytest.mark.parametrize(("gain", "said"), [(0.2, "reached"), (0.05, "missed")])
def test_the_goal_of_the_mix_is_the_one_of_its_plan(
    make_rows: MakeRows, gain: float, said: str
) -> None:
    make_rows({"random": 0.0, "score": 0.1}, claim="rivals", pool="lettered-40")
    for pool in ("natural", "injected"):
        rows = make_rows({"score-30": 0.0, "self-30": gain}, claim="mix", pool=pool)
    page = " ".join(render(rows)["which-filter-when.md"].split())
    assert f"**It is {said}.**" in page and ("no such fit" in page) == (said == "missed")


def test_a_track_has_its_own_table_and_plot(make_rows: MakeRows) -> None:
    make_rows({"all": 0.0, "kept": 0.3})
    before = render(make_rows({}))
    made = render(make_rows({"all": 0.0, "kept": -0.3}, track="gpu"))
    assert (
        made["images/study-cat.svg"]
        == before["images/study-cat.svg"]
        != made["images/study-cat-gpu.svg"]
    )
    cpu, _, gpu = made["claims/cat.md"].partition("ViT-S/16 at 112 pixels, on a GPU")
    assert "| photographs | 1 | 1 | 0 |" in cpu and "images/study-cat-gpu.svg" not in cpu
    assert "| photographs | 1 | 0 | 1 |" in gpu and "images/study-cat-gpu.svg" in gpu
    unrun = "No GPU has run it yet"
    assert unrun in before["study-details.md"] and unrun not in made["study-details.md"]
    assert made["which-filter-when.md"] == before["which-filter-when.md"]


def test_a_shorter_study_without_the_grid_of_scales_has_its_pages_all_the_same(
    make_rows: MakeRows,
) -> None:
    made = render(make_rows({"beta-0": 0.0, "beta-1": 0.3}, claim="negatives", pool="tuned"))
    assert "images/study-negatives.svg" not in made
    assert "| beta 1 against InfoNCE |" in made["study.md"]


def test_the_pages_are_written_by_the_command(make_rows: MakeRows, tmp_path: Path) -> None:
    rows = make_rows({"all": 0.0, "kept": 0.3})
    assert main(["--output", str(rows.folder), "--page", str(tmp_path / "docs")]) == 0
    assert (tmp_path / "docs" / "study.md").read_text() == render(rows)["study.md"]
    assert (tmp_path / "docs" / "images" / "study-cat.svg").is_file()


def test_pages_of_no_results_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--output", str(tmp_path), "--page", str(tmp_path / "docs")]) == 2
    assert "`make study` makes them" in capsys.readouterr().err


def test_rows_of_a_changed_tree_are_named(make_rows: MakeRows) -> None:
    rows = make_rows({"all": 0.0, "kept": 0.3})
    lines = (rows.folder / "cat.jsonl").read_text().splitlines()
    records = [json.loads(line) | {"commit": "abc"} for line in lines]
    records[0]["commit"] = "abc-dirty"
    (rows.folder / "cat.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    page = render(Rows(rows.folder))["claims/cat.md"]
    assert "commits `abc` `abc-dirty`; 1 of the rows" in " ".join(page.split())


def test_the_page_of_soft_weights_counts_what_wins_and_loses() -> None:
    page = " ".join((DOCS / "howto/select.md").read_text(encoding="utf-8").split())

    def verdicts(table: str, arm: str) -> Counter[str]:
        return Counter(line.verdict for line in committed(table) if line.b == arm)

    default = verdicts("weights-default", "default")
    assert not default["worse"]
    said = f"better in {default['better']} of {default.total()} comparisons and worse in none."
    assert said in page
    kept = [line for line in committed("weights") if (line.b, line.verdict) == ("cat", "worse")]
    assert [(line.pool, line.items, line.budget) for line in kept] == [
        ("natural", "web-held/t2i", 51_200)
    ]
    against = verdicts("weights-verdicts", "cat")
    most = max(-line.found[0].difference for line in committed("weights-verdicts"))
    assert against["worse"] == 1
    assert (
        f"better in {against['better']} of {against.total()} comparisons, by up to {most:.0f} %,"
        in page
    )
    above = [
        one
        for line in committed("weights-default")
        for one in line.found[:1]
        if one.low > 0 and one.verdict == "open"
    ]
    assert len(above) == 2
    for one in above:
        assert f"{one.difference:.1f} % ({one.low:.1f} to {one.high:.1f}) on" in page
