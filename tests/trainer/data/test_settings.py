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
        (lambda: DataSettings(sources=(SOURCE, Source(path="y", weight=1))), "give all of them one, or none"),
        (lambda: DataSettings(sources=(SOURCE,), shuffle=-1), "shuffle is -1"),
        (lambda: DataSettings(sources=(SOURCE,), workers=-1), "workers is -1"),
        (lambda: DataSettings(sources=(SOURCE,), samples_per_epoch=0), "samples_per_epoch is 0"),
        (lambda: DataSettings(sources=(SOURCE,), max_bad_share=1.5), "it must be at least 0 and at most 1"),
        (lambda: DataSettings(sources=(SOURCE,), stall_s=0), "stall_s is 0"),
        (
            lambda: DataSettings(loader="m:L", sources=(SOURCE,)),
            "sources applies to shards only: leave it or data.loader out",
        ),
        (lambda: DataSettings(loader="m:L", selection="s.npy"), "data.selection applies to shards only"),
        (lambda: DataSettings(loader="m:L", subset="s.npy"), "data.subset applies to shards only"),
        (lambda: DataSettings(loader="m:L", skip=("0.tar",)), "data.skip applies to shards only"),
        (lambda: DataSettings(loader="m:L", captions="random"), "data.captions applies to shards only"),
    ],
)
def test_wrong_settings(make: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()
