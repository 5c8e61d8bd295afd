"""An output in an object store is looked at as one on a disk: in the memory of this process, as
stores go."""

from collections.abc import Iterator

import fsspec
import pytest

from open_diht.pipelines.output import Output
from open_diht.pipelines.store.storage import store_path
from open_diht.pipelines.view.evidence import evidence_of
from open_diht.pipelines.view.query import Query, ranked, search
from open_diht.pipelines.view.thresholds import decide, draw


@pytest.fixture(scope="module")
def remote(finished) -> Iterator[Output]:
    fs = fsspec.filesystem("memory")
    for path in finished.output.rglob("*"):
        if path.is_file() and not path.name.endswith("lock"):
            fs.pipe_file(f"/looked-at/{path.relative_to(finished.output)}", path.read_bytes())
    yield Output(store_path("memory://looked-at"))
    fs.rm("/looked-at", recursive=True)


def test_all_that_is_shown_is_the_same(remote: Output, output: Output) -> None:
    units = [(found.decided, found.undecided) for found in (remote.listing(), output.listing())]
    assert units[0] == units[1] and remote.state() == output.state()
    found, expected = (search(one, Query(end="rejected", caption="a")) for one in (remote, output))
    assert found.hits == expected.hits and found.looked_at == expected.looked_at
    asked = Query(end="rejected", order="action_score")
    best, expected = (ranked(one, asked, rows=5) for one in (remote, output))
    assert best.hits == expected.hits and best.fit == expected.fit
    place = found.hits[0].place
    assert evidence_of(remote, place) == evidence_of(output, place)
    strict = Output(remote.layout.root, "strict").preset
    ours, theirs = (decide(one, draw(one), strict) for one in (remote, output))
    assert (ours.kept_rows, ours.rejected) == (theirs.kept_rows, theirs.rejected)
