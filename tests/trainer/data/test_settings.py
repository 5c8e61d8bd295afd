"""Settings that mean nothing are refused where they are written."""

from typing import Any

import pytest

from open_diht.trainer.data.settings import DataSettings, Source, Split

SOURCE = Source(path="x")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Source(path=""), "needs a path"),
        (lambda: Source(path="x", weight=0), "must be above 0"),
        (lambda: Split(holdout=1), "holdout is 1.0; it must be at least 0 and below 1"),
        (lambda: Split(by="luck"), "choose image, key"),  # type: ignore[arg-type]
        (lambda: Split(part="test", holdout=0.1), "choose train, holdout, all"),  # type: ignore[arg-type]
        (lambda: Split(part="holdout"), "set holdout"),
        (lambda: DataSettings(sources=()), "name at least one folder"),
        (
            lambda: DataSettings(sources=(SOURCE, Source(path="y", weight=1))),
            "give all of them one, or none",
        ),
        (lambda: DataSettings(sources=(SOURCE,), shuffle=-1), "shuffle is -1"),
        (lambda: DataSettings(sources=(SOURCE,), workers=-1), "workers is -1"),
        (lambda: DataSettings(sources=(SOURCE,), samples_per_epoch=0), "samples_per_epoch is 0"),
        (
            lambda: DataSettings(sources=(SOURCE,), max_bad_share=1.5),
            "it must be at least 0 and at most 1",
        ),
        (lambda: DataSettings(sources=(SOURCE,), stall_s=0), "stall_s is 0"),
        (
            lambda: DataSettings(sources=(SOURCE,), captions="frist"),  # type: ignore[arg-type]
            r"mean 'first'\?\); choose first, random",
        ),
        (
            lambda: DataSettings(sources=(SOURCE,), captions={"a": 0.5, "b": 0.4}),
            "data.captions sum to 0.9; they must",
        ),
        (
            lambda: DataSettings(sources=(SOURCE,), captions={"a": 1.5, "b": -0.5}),
            "data.captions.a is 1.5; it must be",
        ),
        (lambda: DataSettings(sources=(SOURCE,), captions={}), "data.captions sum to 0"),
    ],
)
def test_wrong_settings(make: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()


OF_SHARDS = {
    "sources": (SOURCE,),
    "selection": "s",
    "subset": "s",
    "skip": ("0.tar",),
    "captions": "random",
}
OF_SHARDS["negatives"] = "wrong"


@pytest.mark.parametrize("name", OF_SHARDS)
def test_settings_of_shards_do_not_go_with_another_loader(name: str) -> None:
    given: dict[str, Any] = {name: OF_SHARDS[name]}
    with pytest.raises(
        ValueError, match=rf"{name} applies to shards only: leave it or data.loader out"
    ):
        DataSettings(loader="m:L", **given)
