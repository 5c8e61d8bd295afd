"""Measure our parts next to their peers, on this machine and at this commit.

    make figures [ONLY=captions,ocr] [KIND=time|quality] [QUICK=1]

Each part runs in a process of its own; its peers run in environments that are made from locks with
hashes (benchmarks/figures/peers) in out/peers. Finished parts are kept in out/figures/COMMIT, so
that the same command resumes. At the end the figures are published: a JSON file in
benchmarks/figures replaces the last one of its kind, and `--write` makes RESULTS.md's tables from
the JSON. Parts that were not measured stay as they were published, with their own commits. Nothing
is published from changed files, or where others took more than a tenth of a core during a part that
measures time; the next run measures such a part again. QUICK measures all parts at a tiny size, to
see that they work, and keeps nothing.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_info

from benchmarks.figures import page, peers
from benchmarks.measuring import parser_of, processor
from open_diht.common.naming import listing, nearest

ROOT = peers.REPOSITORY
PARTS = sorted(path.stem for path in (Path(__file__).parent / "parts").glob("[a-z]*.py"))
KINDS = ("time", "quality")
QUIET = 0.1
"""Cores that other programs may take. Sides take turns, so what others take slows all of them, but
with more of it, ratios scatter by more than the sides differ."""
SUBREAPER = 36
"""Linux's PR_SET_CHILD_SUBREAPER: orphans of a part become our children, so that their time is
counted as ours."""


def module_of(part: str) -> Any:
    return import_module(f"benchmarks.figures.parts.{part}")


def kind_of(part: str) -> str:
    return str(getattr(module_of(part), "KIND", "time"))


def machine() -> dict[str, Any]:
    """Describe this machine; import NumPy for the kernels of its numeric library."""
    import_module("numpy")
    pools = {
        f"{pool['internal_api']} {pool['version'] or ''} {pool.get('architecture') or ''}".strip()
        for pool in threadpool_info()
    }
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "BLAS": ", ".join(sorted(pools)),
    }


def busy_s() -> float:
    """Return the CPU seconds that all programs of this machine have taken (Linux), and those that a
    hypervisor took from it."""
    fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
    user, nice, system, *_, stolen = map(int, fields[:8])
    return (user + nice + system + stolen) / os.sysconf("SC_CLK_TCK")


def own_s() -> float:
    """Return the CPU seconds of this process and of those below it that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def run_part(part: str, quick: bool, file: Path) -> None:
    """Measure a part, and write its figures to a file."""
    with tempfile.TemporaryDirectory(prefix="diht-figures-") as work:
        figures = module_of(part).measure(quick, Path(work))
    file.write_text(json.dumps([asdict(figure) for figure in figures]), encoding="utf-8")


def measure(part: str, quick: bool, file: Path) -> dict[str, Any]:
    """Measure a part in a new process. Return its figures and the circumstances. Exit if it
    fails."""
    busy = busy_s()
    own = own_s()
    began = time.perf_counter()
    words = ["--part", part, str(file), *(["--quick"] if quick else [])]
    status = subprocess.run([sys.executable, "-m", "benchmarks.figures", *words], cwd=ROOT)
    reap()
    seconds = time.perf_counter() - began
    if status.returncode:
        sys.exit(
            f"error: part {part} failed with status {status.returncode}, see above; after the cause"
            " is mended, the same command resumes"
        )
    others = max(0.0, busy_s() - busy - (own_s() - own)) / seconds
    return {
        "kind": kind_of(part),
        "commit": commit(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        **machine(),
        "seconds": round(seconds, 1),
        "others": round(others, 3),
        "figures": json.loads(file.read_text(encoding="utf-8")),
    }


def reap() -> None:
    """Wait for orphans of a part that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def git(*words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    ).stdout.strip()


def commit() -> str:
    return git("rev-parse", "--short=8", "HEAD")


def chosen(only: str | None, kind: str | None) -> list[str]:
    """Return the parts that ONLY names, or all of a kind."""
    for name in only.split(",") if only else ():
        if name not in PARTS:
            sys.exit(
                f"error: ONLY={only}: there is no part {name!r}{nearest(name, PARTS)}; there are"
                f" {listing(PARTS)}"
            )
    names = only.split(",") if only else PARTS
    return [name for name in names if kind is None or kind_of(name) == kind]


def publishable(found: dict[str, dict[str, Any]]) -> str:
    """Return why the parts cannot be published, or nothing."""
    if git("status", "--porcelain"):
        return "files are not as in the commit; commit them and run the same command"
    loud = [
        f"{name} ({one['others']:.2f} cores)"
        for name, one in found.items()
        if one["kind"] == "time" and one["others"] > QUIET
    ]
    return (
        f"others took more than {QUIET} cores during {listing(loud)}; end them and run the same"
        " command, which measures these parts again"
        if loud
        else ""
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of("benchmarks.figures", __doc__)
    parser.add_argument("--only", help="names of parts, with commas")
    parser.add_argument("--kind", choices=KINDS, help="figures of one kind")
    parser.add_argument("--quick", action="store_true", help="everything at a tiny size")
    parser.add_argument("--write", action="store_true", help="only write RESULTS.md from the JSON")
    parser.add_argument("--part", nargs=2, metavar=("NAME", "FILE"), help="used by this command")
    options = parser.parse_args(arguments)
    if options.part:
        run_part(options.part[0], options.quick, Path(options.part[1]))
        return 0
    if options.write:
        page.write()
        return 0
    ctypes.CDLL(None, use_errno=True).prctl(SUBREAPER, 1)
    names = chosen(options.only, options.kind or (None if options.only else "time"))
    clean = not git("status", "--porcelain")
    folder = ROOT / "out/figures" / (commit() if clean else f"{commit()}-changed")
    if options.quick:
        folder = ROOT / "out/figures/quick"
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    found: dict[str, dict[str, Any]] = {}
    for number, name in enumerate(names, 1):
        module = module_of(name)
        kept = folder / f"{name}.json"
        if clean and kept.exists():
            before = json.loads(kept.read_text(encoding="utf-8"))
            if before["others"] <= QUIET or before["kind"] != "time":
                found[name] = before
                print(f"part {number} of {len(names)}, {name}: measured before", flush=True)
                continue
        about = "seconds" if options.quick else f"about {module.MINUTES:g} minutes"
        print(f"part {number} of {len(names)}, {name}: {about} ...", flush=True)
        if module.PEERS and not (options.quick and name != "captions"):
            peers.make(module.PEERS)
        found[name] = measure(name, options.quick, folder / f"{name}.figures")
        (folder / f"{name}.figures").unlink()
        partial = kept.with_suffix(".tmp")
        partial.write_text(json.dumps(found[name], indent=1) + "\n", encoding="utf-8")
        partial.replace(kept)
        print(f"  {found[name]['seconds']:.0f} s; others took {found[name]['others']:.2f} cores")
    print(f"{len(names)} parts in {(time.perf_counter() - began) / 60:.1f} minutes")
    if options.quick:
        return 0
    why = publishable(found)
    if why:
        print(f"nothing is published: {why}. The figures are in {folder.relative_to(ROOT)}")
        return 1
    for file in page.publish(found):
        print(f"published: {file.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
