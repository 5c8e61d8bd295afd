"""What the README and the pages tell people to type: it is there, it parses, it runs.

The word behind the three marks of a code block says what becomes of it here:

- `bash`, `sh` or nothing: commands. Ours go through the real parsers, those of others are known by
  name.
- `{.python .run}`, and `python` in the README: executed; it prints what the next `text` block or
  its own comments show.
- `{.python .compile}`, and `python` elsewhere: compiled, and its imports executed; what else it
  needs is not at hand.
- `{.yaml .preset}`, `.config`, `.dataset`, `.suite`: read by what reads such files. `yaml`: it is
  YAML.
- `text`, `bibtex`: shown.
"""

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from PIL import Image, ImageSequence

from docs import generate
from open_diht import cli
from open_diht.eval.tasks import load_suite, suite_names
from open_diht.filters.presets import load_preset, preset_names
from open_diht.pipelines.datasets import load_dataset
from open_diht.pipelines.runners.beam_options import check_beam_options
from open_diht.pipelines.verify.rows import ABSOLUTE, RELATIVE, _near
from open_diht.trainer.config_files import load_config
from tests.command_lines import of_make, understood
from tests.pipelines.conftest import filter_manifest

pytestmark = pytest.mark.usefixtures("commands_in_process")
REPOSITORY = Path(__file__).resolve().parents[1]
TEXTS = sorted(
    str(path.relative_to(REPOSITORY))
    for pattern in (
        "*.md", "docs/**/*.md", "deploy/**/README.md", "examples/**/README.md", "trainer/README.md",
        "benchmarks/*.md", "benchmarks/weights/README.md",
    )
    for path in REPOSITORY.glob(pattern)
)  # fmt: skip
OURS = r"open_diht\b"
EXAMPLE = ".venv/bin/python examples/"
OTHERS = (
    "dask ", "deploy/torchrun/", "docker", "export", "gcloud", "CI_PARTS=", "IMAGE=", "kubectl",
    "sbatch", ".venv/bin/python -m pip",
)  # fmt: skip
"""Beginnings of lines that are typed to other programs."""


@dataclass(frozen=True)
class Block:
    """A code block."""

    page: str
    kind: str
    text: str
    shown: str
    """What the `text` block right behind it holds."""


def blocks() -> Iterator[Block]:
    fence = re.compile(
        r"^```([^\n]*)\n(.*?)^```$(?:\n+```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL
    )
    for page in TEXTS:
        text = (REPOSITORY / page).read_text(encoding="utf-8")
        yield from (Block(page, found[0], found[1], found[2]) for found in fence.findall(text))


BLOCKS = list(blocks())
# The pages of the tasks are made alike, so one of them stands for all.
COMMANDS = [
    block
    for block in BLOCKS
    if block.kind in ("", "sh", "bash")
    and (not block.page.startswith("docs/tasks/") or "cifar10." in block.page)
]
RUN = [
    block
    for block in BLOCKS
    if block.kind == ("python" if block.page == "README.md" else "{.python .run}")
]
COMPILED = [
    block for block in BLOCKS if block.kind in ("python", "{.python .compile}") and block not in RUN
]
READ = [block for block in BLOCKS if "yaml" in block.kind]


def ids(chosen: Sequence[Block]) -> list[str]:
    return [f"{block.page}:{index}" for index, block in enumerate(chosen)]


def lines() -> list[str]:
    """The commands of all pages, each once, without comments."""
    joined = (line for block in COMMANDS for line in block.text.replace("\\\n", " ").splitlines())
    return sorted({re.split(r"\s+# ", line)[0].strip() for line in joined} - {""})


def typed(*starts: str) -> list[str]:
    return [line for line in lines() if line.startswith(starts)]


def check(module: str, arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The module's own parser takes the arguments; what it leaves are options of Beam."""
    with monkeypatch.context() as patched:
        patched.setattr(sys, "argv", [module, *arguments])
        options, rest = understood(
            lambda: runpy.run_module(module, run_name="__main__", alter_sys=True), monkeypatch
        )
    if module in ("open_diht.pipelines", "open_diht.pipelines.pilot"):
        check_beam_options(rest, options.runner)
    else:
        assert not rest


def test_blocks_say_what_they_are():
    known = {
        "",
        "sh",
        "bash",
        "text",
        "bibtex",
        "python",
        "{.python .run}",
        "{.python .compile}",
        *READERS,
    }
    assert [(block.page, block.kind) for block in BLOCKS if block.kind not in known] == []
    assert len(COMMANDS) > 20 and len(RUN) > 4 and COMPILED and READ, "the pages are read as meant"


def test_every_line_is_checked_or_of_another_program():
    ours = ("make ", "python -m ", "torchrun ", "open-diht ", EXAMPLE)
    assert [
        line for line in lines() if not line.startswith((*ours, *OTHERS)) and not of_container(line)
    ] == []


@pytest.mark.parametrize("command", typed("make "))
def test_make_lines_are_understood(command, monkeypatch):
    for words in of_make(*shlex.split(command)[1:]):
        if words != ["weights"]:  # it would look whether the weights are there
            options, rest = understood(partial(cli.main, words), monkeypatch)
            check_beam_options(rest, getattr(options, "runner", "direct"))
            if words[0] == "train" and not options.config.endswith(".yaml"):
                load_config(
                    options.config,
                    options.overrides,
                    {"data": {"sources": [{"path": "/data/cat"}]}},
                )


def of_container(command: str) -> list[str]:
    """What a line has another program run in Python: the module, then its arguments."""
    found = re.search(rf"\s-m ({OURS}.*)", command)
    return shlex.split(found[1]) if found else []


@pytest.mark.parametrize("command", [line for line in lines() if of_container(line)])
def test_python_lines_are_understood(command, monkeypatch):
    module, *arguments = of_container(command)
    check(module, arguments, monkeypatch)


@pytest.mark.parametrize("command", typed("open-diht "))
def test_open_diht_lines_are_understood(command, monkeypatch):
    _, rest = understood(lambda: cli.main(shlex.split(command)[1:]), monkeypatch)
    check_beam_options(rest, "direct")


@pytest.mark.parametrize("command", typed(EXAMPLE))
def test_examples_are_there_and_understand_their_words(command, monkeypatch):
    _, path, *arguments = shlex.split(command)
    with monkeypatch.context() as patched:
        patched.setattr(sys, "argv", [path, *arguments])
        _, rest = understood(
            lambda: runpy.run_path(str(REPOSITORY / path), run_name="__main__"), monkeypatch
        )
    assert not rest


@pytest.mark.parametrize("command", typed("sbatch ", "kubectl ", "docker build ", "deploy/"))
def test_files_that_are_given_to_other_programs_are_there(command):
    named = [word for word in shlex.split(command) if word.startswith("deploy/")]
    assert named and all((REPOSITORY / word).is_file() for word in named)


def test_extras_that_are_to_be_installed_exist():
    setup = (REPOSITORY / "setup.py").read_text(encoding="utf-8")
    for page in TEXTS:
        text = (REPOSITORY / page).read_text(encoding="utf-8")
        for extras in re.findall(r"pip install (?:-e )?'?[\w.-]*\[([\w,]+)\]", text):
            assert all(f'    "{extra}": ' in setup for extra in extras.split(",")), (page, extras)


def _config(path: str) -> Any:
    named = yaml.safe_load(Path(path).read_text(encoding="utf-8")).get("data", {})
    return load_config(path, base={} if named else {"data": {"sources": [{"path": "/data/cat"}]}})


READERS: dict[str, Callable[[str], Any]] = {
    "yaml": lambda path: yaml.safe_load(Path(path).read_text(encoding="utf-8")),
    "{.yaml .preset}": load_preset,
    "{.yaml .config}": _config,
    "{.yaml .dataset}": load_dataset,
    "{.yaml .suite}": load_suite,
}


@pytest.mark.parametrize("block", READ, ids=ids(READ))
def test_files_are_read_by_what_reads_such_files(block, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(block.text, encoding="utf-8")
    assert READERS[block.kind](str(path)) is not None


@pytest.mark.parametrize("block", COMPILED, ids=ids(COMPILED))
def test_examples_compile_and_import_what_is_there(block):
    compile(block.text, block.page, "exec")
    imports = "\n".join(
        line for line in block.text.splitlines() if line.startswith(("import ", "from "))
    )
    exec(imports, {})


def execute(text: str, folder: Path) -> None:
    """A program in a folder, what it prints into a file there. Runs in a process of its own."""
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    os.dup2(os.open("printed", os.O_WRONLY | os.O_CREAT), 1)
    exec(compile(text, "<example>", "exec"), {"__name__": "__main__"})


@pytest.fixture(scope="module")
def filtered_sample(tmp_path_factory, ocr_models) -> Path:
    """out/sample, as `make filter` leaves it."""
    output = tmp_path_factory.mktemp("sample") / "out" / "sample"
    source = REPOSITORY / "data" / "sample" / "manifest.tsv"
    assert filter_manifest(source, output, dataset=load_dataset("sample")).status == 0
    return output


@pytest.mark.slow
@pytest.mark.parametrize("block", RUN, ids=ids(RUN))
def test_examples_print_what_is_shown(block, tmp_path, forks, ocr_models, request):
    (tmp_path / "data").symlink_to(REPOSITORY / "data")
    if "out/sample" in block.text:  # the tutorial, which has filtered the sample by then
        (tmp_path / "out").symlink_to(request.getfixturevalue("filtered_sample").parent)
    shown = block.shown.splitlines() or re.findall(r"^# (.*)$", block.text, re.MULTILINE)
    forks.call(__file__, "execute", block.text, tmp_path, said=tmp_path / "said.txt")
    assert shown and (tmp_path / "printed").read_text(encoding="utf-8").splitlines() == shown


def anchors(path: Path) -> set[str]:
    """What headings of a page are called in links."""
    plain = re.sub(
        r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    headings = re.findall(r"^#+ (.*)$", plain, re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings
    }


@pytest.mark.parametrize("name", TEXTS)
def test_links_lead_to_files_and_headings(name):
    page = REPOSITORY / name
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        led = page.parent.joinpath(path) if path else page
        assert led.exists(), target
        assert not anchor or led.suffix != ".md" or anchor in anchors(led), target


def test_every_guarantee_names_tests_that_exist():
    named = 0
    page = (REPOSITORY / "docs/guarantees.md").read_text(encoding="utf-8")
    for item in re.split(r"\n(?=[-|\n])", page):
        path = ""
        for file, test in re.findall(r"`([\w/.]*)::(\w+)`", item):
            path = file or path
            assert re.search(
                rf"^def {test}\(", (REPOSITORY / path).read_text(encoding="utf-8"), re.M
            ), (path, test)
            named += 1
    assert named > 50


def test_guarantees_say_which_tests_ci_does_not_run():
    """The page names each whole test and each case that is marked `soak`, which CI leaves out."""
    page = (REPOSITORY / "docs/guarantees.md").read_text(encoding="utf-8")
    left_out = {}
    for row in page.splitlines():
        path = ""
        for file, test in re.findall(r"`([\w/.]*)::(\w+)`", row):
            path = file or path
            code = (REPOSITORY / path).read_text(encoding="utf-8")
            decorators = re.search(rf"((?:^[@ )].*\n)+)def {test}\(", code, re.M)
            if decorators and re.search(r"mark\.soak|SOAKED", decorators[1]):
                left_out[test] = path
    said = " ".join(page.partition("## Filtering")[0].split())
    named = {
        "test_killed_in_every_stage_and_started_again_equals_undisturbed": (
            "kills in de-duplication"
        ),
        "test_twenty_kills_at_random_moments_of_the_whole_run": (
            "twenty kills of a run at random moments"
        ),
        "test_killed_at_a_random_step_with_a_torn_checkpoint": "four kills of one training",
        "test_samples": "every caption of the samples in the parser's test",
        "test_ten_thousand_images_in_flat_memory": "ten thousand images in flat memory",
    }
    assert left_out.keys() == named.keys()
    assert all(words in said for words in named.values())


def test_the_page_on_verification_has_the_tolerance():
    page = " ".join((REPOSITORY / "docs/howto/verify.md").read_text(encoding="utf-8").split())
    assert f"may differ by {ABSOLUTE} or {100 * RELATIVE:g} %, whichever is more" in page
    # More than 0.1 %, less than the sum of both.
    assert _near(1000.0, 1000.9) and not _near(1000.0, 1001.005)


def test_a_bound_of_a_preset_is_not_quoted_as_a_reason():
    page = (REPOSITORY / "docs/reference/output.md").read_text(encoding="utf-8")
    scores = re.findall(r"^\| score \| `\w+` \| (.*too low.*) \|$", page, re.M)
    assert len(scores) == 3 and not any(re.search(r"\d", meaning) for meaning in scores)


def test_the_readme_is_short_and_pictures_are_small():
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 155
    # Without code, alternative texts and the targets of links.
    read = re.sub(r"```.*?```|!\[[^\]]*\]\([^)]*\)|\]\([^)]*\)", "", text, flags=re.DOTALL)
    assert len(re.findall(r"\S*\w\S*", read)) <= 900
    for name in ("view.png", "view.gif", "pairs.png"):
        assert (REPOSITORY / "docs/images" / name).stat().st_size < 300_000


@pytest.mark.slow
@pytest.mark.usefixtures("browser")
def test_the_pictures_show_what_their_pages_say(filtered_sample: Path, tmp_path: Path) -> None:
    """Words, not pixels: fonts differ from machine to machine."""
    from benchmarks.pictures import TOUR  # it needs playwright

    command = [sys.executable, "-m", "benchmarks.pictures", str(filtered_sample), str(tmp_path)]
    subprocess.run(command, cwd=REPOSITORY, check=True)
    for name in ("view.png", "view.gif", "pairs.png"):
        committed = REPOSITORY / "docs/images" / f"{name}.txt"
        assert (tmp_path / committed.name).read_text() == committed.read_text(), (
            f"run {' '.join(command[1:3])}"
        )
        image, shown = (Image.open(folder / name) for folder in (tmp_path, committed.parent))
        assert abs(image.width - shown.width) < 20 and abs(image.height - shown.height) < 60
    pairs = Image.open(tmp_path / "pairs.png").convert("RGB")
    for left in (0, pairs.width // 3, 2 * pairs.width // 3):
        photograph = pairs.crop((left, 0, left + pairs.width // 3, pairs.height // 4))
        assert len(photograph.getcolors() or ()) > 20, "the photograph is inside its card"
    frames = ImageSequence.Iterator(Image.open(tmp_path / "view.gif"))
    assert sum(1 for _ in frames) == len(TOUR)


def build_site(
    folder: Path, pages: dict[str, str], nav: list[str]
) -> subprocess.CompletedProcess[str]:
    """Build a site of these pages as `make docs` builds ours: by its command, with its theme, hooks
    and search."""
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: pip install '.[dev]'")
    (folder / "docs").mkdir()
    for name in ("site.css", "iframe-worker.js"):
        shutil.copy(REPOSITORY / "docs" / name, folder / "docs")
    for name, text in pages.items():
        (folder / "docs" / name).write_text(text, encoding="utf-8")
    ours = yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8"))
    hooks = [str(REPOSITORY / "docs/hooks.py")]
    plugins = [one for one in ours["plugins"] if isinstance(one, str)]
    ours |= {"docs_dir": "docs", "site_dir": "site", "nav": nav, "hooks": hooks, "plugins": plugins}
    (folder / "mkdocs.yml").write_text(yaml.safe_dump(ours), encoding="utf-8")
    [build] = re.findall(
        r"-m (mkdocs build.*) && echo", (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    )
    return subprocess.run(
        [sys.executable, "-m", *build.split()],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("nav", "text", "named"),
    [
        (["index.md"], "", "lone.md"),  # a page without a place, which is only a warning
        (["index.md", "lone.md", "lost.md"], "", "lost.md"),
        (["index.md", "lone.md"], '<a href="lost.html">lost</a>', "lost.html"),
        (["index.md", "lone.md"], '<a href="lone.html#lost">lost</a>', "lone.html#lost"),
        (
            ["index.md", "lone.md"],
            '<img src="https://example.com/x.png">',
            "https://example.com/x.png",
        ),
    ],
)
def test_a_site_with_a_fault_is_not_built(nav, text, named, tmp_path):
    done = build_site(tmp_path, {"index.md": f"# Start\n\n{text}\n", "lone.md": "# Lone\n"}, nav)
    assert done.returncode != 0 and named in done.stdout + done.stderr


@pytest.mark.slow
def test_a_site_is_searched_from_a_file_and_from_a_server_and_dark(tmp_path, browser):
    done = build_site(
        tmp_path,
        {"index.md": "# Start\n", "other.md": "# Animals\n\nA platypus, by `--animal-effort`.\n"},
        ["index.md", "other.md"],
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    page = browser.new_page(color_scheme="dark", viewport={"width": 1200, "height": 900})
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "site"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        served = f"http://127.0.0.1:{server.server_port}/index.html"
        for start in ((tmp_path / "site/index.html").as_uri(), served):
            # A dash before a word would mean "without it"; options are found as they are written.
            for words in ("platypus", "--animal-effort"):
                page.goto(start)
                assert page.get_attribute("body", "data-md-color-scheme") == "slate"
                page.click(".md-search__input")
                page.keyboard.type(words)
                page.click(".md-search-result__link")
                page.wait_for_url("**/other.html*")
        page.close()
        server.shutdown()
    assert not wrong


@pytest.mark.parametrize(
    ("link", "shown"),
    [
        ("[`text.py`](../common/html/text.py)", "`common/html/text.py`"),
        ("(as [here](../Makefile))", "(as here, `Makefile`)"),
        ("[Train](howto/train.md#several)", "[Train](howto/train.md#several)"),
        ("[Security](../SECURITY.md)", "[Security](project/SECURITY.md)"),
        ("[the start](../README.md)", "[the start](index.md)"),
    ],
)
def test_links_of_the_repository_become_links_of_the_site(link, shown):
    hooks = pytest.importorskip(
        "docs.hooks", reason="mkdocs is not installed: pip install '.[dev]'"
    )
    page = SimpleNamespace(file=SimpleNamespace(src_uri="limits.md"))
    known = {"howto/train.md", "project/SECURITY.md", "index.md"}
    files = SimpleNamespace(get_file_from_path=lambda uri: uri if uri in known else None)
    assert hooks.on_page_markdown(link, page, None, files) == shown
    for lost in ("[lost](lost.md)", "[a page that nav does not name](../examples/README.md)"):
        with pytest.raises(hooks.PluginError, match="leads"):
            hooks.on_page_markdown(lost, page, None, files)
    page.file.src_uri = "index.md"  # the README
    assert hooks.on_page_markdown("[a](docs/howto/train.md)", page, None, files) == (
        "[a](howto/train.md)"
    )


@pytest.mark.slow
def test_pages_have_what_the_code_says() -> None:
    stale = []
    for path, text in generate.pages().items():
        # Python's versions break the lines of a usage at different places.
        same = (
            text
            and path.is_file()
            and "".join(path.read_text(encoding="utf-8").split()) == "".join(text.split())
        )
        stale += [] if same else [path.relative_to(REPOSITORY)]
    assert not stale, f"run {generate.COMMAND}, and commit what it changes"


@pytest.mark.parametrize(
    "mark", ["<!-- nothing -->\n<!-- end -->", "<!-- tasks -->", "<!-- tasks\n<!-- end -->"]
)
def test_a_mark_that_nothing_makes_is_refused(mark: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    with pytest.raises(SystemExit, match=re.escape(str(page))):
        generate.filled(f"# Page\n\n<!-- presets -->\n<!-- end -->\n\n{mark}\n", page)


def test_the_table_of_presets_has_every_setting_and_every_other_value() -> None:
    table = {
        line.split("|")[1].strip(" `"): line.split("|")[2:4]
        for line in generate.presets()
        if "|" in line
    }
    paper, others = table["foresee"]
    assert paper.strip() == "`[balanced, strict]`" and "`strict`: `[]`" in others
    for name in preset_names():
        for section, values in load_preset(name).as_content().items():
            for setting in values if isinstance(values, dict) else ():
                assert f"{section}.{setting}" in table


def test_every_task_has_a_page_that_its_suite_links() -> None:
    pages = generate.task_pages()
    tables = "\n".join(generate.tasks())
    for name in suite_names():
        assert f"## {name}" in tables
        tasks = load_suite(name).tasks
        of_pages = generate.families(tasks)
        assert sorted(task.name for each in of_pages.values() for task in each) == sorted(
            task.name for task in tasks
        )
        for page, each in of_pages.items():
            assert f"({page}.md)" in tables
            for task in each:
                assert f"`{task.name}`" in pages[page] and task.title in pages[page]
                assert f"`{task.metric}`" in pages[page]
                assert " ".join(task.note.split()).replace("<", "&lt;") in pages[page]
            assert f"TASKS={each[0].name}" in pages[page]


def test_tasks_that_differ_only_in_language_and_direction_share_a_page() -> None:
    shared = {
        page: len(tasks)
        for page, tasks in generate.families(load_suite("multilingual").tasks).items()
    }
    assert shared == {"xtd": 22, "multi30k": 8}
    assert "| `xtd_jp_i2t` | XTD, Japanese | image_to_text |" in generate.task_pages()["xtd"]
    demo = load_suite("demo").tasks
    assert set(generate.families(demo)) == {task.name for task in demo}


@pytest.mark.slow
def test_the_api_is_in_the_repository_as_on_the_site() -> None:
    """A page shows signatures; the site gets what mkdocstrings makes docstrings of."""
    hooks = pytest.importorskip(
        "docs.hooks", reason="mkdocs is not installed: pip install '.[dev]'"
    )
    lines = "\n".join(generate.api("open_diht.eval.run {members: [run_tasks, Run]}"))
    assert "- `run_tasks(suite: Suite, session: Session, say: Say) -> Run`: " in lines
    text = (
        f"# eval\n\n<!-- api: open_diht.eval.run {{members: [Run]}} -->\n\n{lines}\n\n<!-- end -->"
    )
    text += "\n\n<!-- api: open_diht.run -->\n\n- `run`\n\n<!-- end -->\n"
    page = SimpleNamespace(file=SimpleNamespace(src_uri="reference/api/eval.md"))
    assert hooks.on_page_markdown(text, page, None, None) == (
        "# eval\n\n::: open_diht.eval.run\n    options: {members: [Run]}\n\n::: open_diht.run\n"
    )
    for path in sorted((REPOSITORY / "docs/reference/api").glob("*.md")):
        shown = path.read_text(encoding="utf-8")
        marks = re.findall(r"^<!-- api: (\S+)", shown, re.M)
        assert marks and not re.search(r"^ *- `_|^::: ", shown, re.M), path


API = sorted(
    {
        mark
        for page in TEXTS
        for mark in re.findall(
            r"^<!-- api: (.+?) -->$", (REPOSITORY / page).read_text(encoding="utf-8"), re.M
        )
    }
)


def lacking(shown: Any) -> list[str]:
    """What the docstring of a function or of a class has no entry for: parameters, its result."""
    function = shown.all_members.get("__init__") if shown.is_class else shown
    if function is None or not function.is_function:
        return []
    parameters = {one.name for one in function.parameters} - {"self", "cls"}
    if len(parameters) < 2:
        return []
    docstrings = [one.docstring for one in {shown.path: shown, function.path: function}.values()]
    sections = {
        section.kind.value: section.value
        for docstring in docstrings
        if docstring is not None
        for section in docstring.parse("google")
    }
    described = {one.name.lstrip("*") for one in sections.get("parameters", ())}
    missing = [f"{shown.path}: {name}" for name in sorted(parameters - described)]
    returns = "None" if shown.is_class else str(function.returns)
    if returns != "None":
        result = "Yields" if returns.startswith(("Iterator", "Generator")) else "Returns"
        missing += [] if result.lower() in sections else [f"{shown.path}: {result}"]
    return missing


def test_each_function_of_the_api_describes_its_parameters_and_its_result() -> None:
    pytest.importorskip("griffe", reason="griffe is not installed: pip install '.[dev]'")
    shown = {one.path: one for mark in API for one in generate.api_functions(mark)}
    assert len(shown) > 80
    assert [line for one in shown.values() for line in lacking(one)] == []


def test_a_page_says_whose_the_data_is_where_it_lies_and_what_goes_wrong() -> None:
    pages = generate.task_pages()
    page = pages["sugarcrepe"]
    for said in (
        "arXiv 2306.14610",
        "7,511 questions",
        "`sugarcrepe` (selection, val2017)",
        "## Traps",
        "blind",
    ):
        assert said in page, said
    # A form.
    assert "bench-data TASK=sugarcrepe" in page and "bench-data" not in pages["hateful_memes"]
    assert "854 cues" in pages["winogavil"] and "webdataset with its own" in pages["fmow"]
    assert "in the suites | `datacomp38`, `diht29`" in pages["cifar10"]
