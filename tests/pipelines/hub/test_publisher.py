"""Results to a repository: what is there is not sent again, and whatever breaks, the same again
ends the same."""

import json
import re
import shutil
from pathlib import Path

import pytest

from open_diht.common.command_line import WrongUse
from open_diht.common.hub import HubAddress, parse_address
from open_diht.common.lease import LeaseLost, held
from open_diht.pipelines.hub.publisher import CannotPublish, Publisher
from open_diht.pipelines.store import hub_contents as contents
from open_diht.pipelines.store.layout import CARD_MARK as MARK
from tests.hub_server import Files, Hub, Repository

PLAN = "f00d"
PUBLISHER = Publisher(HubAddress("dataset", "me/cat"))


def results(folder: Path, preset: str = "paper", parts: int = 3) -> Files:
    content = {
        f"{kind}/part-{n}.parquet": f"{kind} {n} {preset}"
        for kind in ("kept", "rejected")
        for n in range(parts)
    }
    content |= {
        "shards/a.tar": "tar",
        "shards/.index/a.tar.npz": "index",
        "shards/sizes.json": "{}",
    }
    content |= {
        "README.md": f"{MARK} {preset}",
        "report.html": preset,
        "funnel.json": preset,
        "subset.npy": preset,
    }
    content |= {"run.json": json.dumps({"plan": {"fingerprint": PLAN}, "preset": preset})}
    hidden = {"work/plan.json": "{}", "kept/.tmp-part": "half", "notes.txt": "mine"}
    for name, text in {**content, **hidden}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return {name: text.encode() for name, text in content.items()}


def ours(repository: Repository, branch: str = "main") -> Files:
    return {
        name: content
        for name, content in repository.files(branch).items()
        if name != ".gitattributes"
    }


def publish(folder: Path, publisher: Publisher = PUBLISHER) -> list[str]:
    said: list[str] = []
    publisher.publish(folder, PLAN, said.append)
    return said


@pytest.fixture
def repository(hub: Hub) -> Repository:
    PUBLISHER.check(PLAN, 3)
    return hub.repositories["datasets/me/cat"]


def test_all_of_it_in_one_commit_and_no_more_than_that(
    hub: Hub, repository: Repository, tmp_path: Path
) -> None:
    expected = results(tmp_path)
    assert "14 of 14 files sent" in publish(tmp_path)[0] and ours(repository) == expected
    assert len(repository.commits) == 2
    assert "already holds these results" in publish(tmp_path)[0] and len(repository.commits) == 2


def test_nothing_is_sent_from_a_folder_that_another_run_has_made_again(
    repository: Repository, tmp_path: Path
) -> None:
    results(folder := tmp_path / "out")
    with held(folder):
        shutil.rmtree(folder)
        results(folder, "strict")
        with pytest.raises(LeaseLost, match="was removed and made again"):
            publish(folder)
    assert not ours(repository)


def test_only_what_differs_is_sent_and_what_is_gone_is_removed(hub, repository, tmp_path):
    results(tmp_path)
    publish(tmp_path)
    repository.commit(
        "main", {**repository.files(), "mine.txt": b"mine", "kept/notes.md": b"mine too"}
    )
    hub.sent.clear()
    (tmp_path / "kept" / "part-0.parquet").write_text("other rows")
    (tmp_path / "rejected" / "part-2.parquet").unlink()
    publish(tmp_path)
    there = ours(repository)
    assert len(hub.sent) == 1 and there["kept/part-0.parquet"] == b"other rows"
    assert (
        "rejected/part-2.parquet" not in there
        and there["mine.txt"] == b"mine"
        and "kept/notes.md" in there
    )


def test_killed_at_any_request_and_run_again_it_ends_as_if_undisturbed(
    hub, repository, tmp_path, monkeypatch
):
    """In several commits, upon results of another preset. What is published at a moment between
    says that it is not all: it has no funnel.json."""
    monkeypatch.setattr(contents, "_FILES", 3)
    expected = results(tmp_path / "new", "strict", parts=2)
    results(tmp_path / "old")
    publish(tmp_path / "old")
    start = repository.branches["main"]
    hub.requests.clear()
    publish(tmp_path / "new")
    asked = [*hub.requests]
    commits = [*repository.commits.values()]
    between = commits[-2]
    assert (
        "funnel.json" not in between
        and "run.json" not in between
        and contents.PUBLISHING in between
    )
    moments = [("before", last) for last in range(len(asked))]
    moments += [("after", last) for last, request in enumerate(asked) if "/commit/" in request]
    for when, last in moments:
        repository.branches["main"] = start
        hub.stored = {
            oid: content for oid, content in hub.stored.items() if b"strict" not in content
        }
        count = iter(range(10_000))
        setattr(hub, when, lambda _, count=count, last=last: next(count) < last)
        with pytest.raises(CannotPublish, match="Run the same command to try again"):
            publish(tmp_path / "new")
        setattr(hub, when, lambda _: True)
        publish(tmp_path / "new")
        assert ours(repository) == expected, (when, last)
    hub.sent.clear()
    publish(tmp_path / "new")
    assert not hub.sent


def test_two_that_publish_do_not_mix(hub: Hub, repository: Repository, tmp_path: Path) -> None:
    results(tmp_path)

    def another(asked: str) -> bool:
        if "/commit/" in asked and len(repository.commits) == 1:
            repository.commit("main", {"kept/part-0.parquet": b"of another"})
        return True

    hub.before = another
    with pytest.raises(CannotPublish, match="another process wrote there since"):
        publish(tmp_path)
    assert ours(repository) == {"kept/part-0.parquet": b"of another"}


def test_a_card_of_ones_own_stays(hub: Hub, repository: Repository, tmp_path: Path) -> None:
    repository.commit("main", {**repository.files(), "README.md": b"# Mine"})
    results(tmp_path)
    assert "README.md is not of this program and is kept" in publish(tmp_path)[0]
    assert ours(repository)["README.md"] == b"# Mine" and "funnel.json" in ours(repository)


def test_a_branch_is_made_and_does_not_begin_with_what_another_holds(
    hub: Hub, tmp_path: Path
) -> None:
    expected = results(tmp_path)
    publisher = Publisher(HubAddress("dataset", "me/cat", "strict"), private=True)
    hub.add("datasets/me/cat", asked={"private": True})
    repository = hub.repositories["datasets/me/cat"]
    repository.commit(
        "main",
        {"run.json": b'{"plan": {"fingerprint": "cafe"}}', "kept/part-9.parquet": b"other rows"},
    )
    for _ in range(2):
        publisher.check(PLAN, 3)
        publish(tmp_path, publisher)
        assert ours(repository, "strict") == expected and "kept/part-9.parquet" in ours(repository)


def test_a_repository_may_be_made_private(hub: Hub) -> None:
    Publisher(HubAddress("dataset", "me/cat"), private=True).check(PLAN, 3)
    assert hub.repositories["datasets/me/cat"].private


def test_from_an_object_store(hub, repository, tmp_path, monkeypatch):
    from upath import UPath

    expected = results(tmp_path)
    root = UPath("memory://results")
    for path in tmp_path.rglob("*"):
        if path.is_file():
            (root / path.relative_to(tmp_path).as_posix()).write_bytes(path.read_bytes())
    monkeypatch.setattr(contents, "_BYTES", 30)
    said: list[str] = []
    PUBLISHER.publish(root, PLAN, said.append)
    assert ours(repository) == expected and len(repository.commits) > 3
    PUBLISHER.publish(root, PLAN, said.append)
    assert "already" in said[-1]


REFUSED = {
    "no token": ("me/cat", "", 3, "HF_TOKEN is not set"),
    "a token that may only read": ("me/cat", "hf_read", 3, "may not do that"),
    "a wrong token": ("me/cat", "hf_wrong", 3, "may not do that, or is not valid"),
    "data of somebody else": (
        "me/data",
        "hf_good",
        3,
        "holds other data than this run's (its input: unknown,",
    ),
    "data of somebody else under names of theirs": (
        "me/theirs",
        "hf_good",
        3,
        "(its input: unknown,",
    ),
    "another input": (
        "me/other",
        "hf_good",
        3,
        "(its input: cafe, this one's: f00d); choose another OUTPUT, or an",
    ),
    "a broken record": ("me/broken", "hf_good", 3, "an unreadable run.json"),
    "too many units": ("me/cat", "hf_good", 10_001, "the input makes 10,001 files, one per unit"),
    "no name": ("me/-cat-", "hf_good", 3, "is not a repository name"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_published_is_refused_before_the_work(hub, kind, monkeypatch):
    name, token, units, says = REFUSED[kind]
    hub.add("datasets/me/data", {"kept/a.parquet": b"rows"})
    hub.add("datasets/me/theirs", {"README.md": b"mine", "data/train.csv": b"rows"})
    hub.add("datasets/me/other", {"run.json": b'{"plan": {"fingerprint": "cafe"}}'})
    hub.add("datasets/me/broken", {"run.json": b"[1"})
    monkeypatch.setenv("HF_TOKEN", token)
    target = parse_address(f"hf://datasets/{name}")
    assert target is not None
    with pytest.raises(WrongUse, match=re.escape(says)) as error:
        Publisher(target).check(PLAN, units)
    assert "\n" not in str(error.value)


def test_a_folder_that_is_too_full_is_refused(hub, repository, tmp_path, monkeypatch):
    results(tmp_path, parts=7)
    monkeypatch.setattr("open_diht.pipelines.hub.publisher.FOLDER_FILES", 6)
    with pytest.raises(CannotPublish, match="holds 7 files, and a hub accepts 6"):
        publish(tmp_path)
