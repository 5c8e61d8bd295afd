"""How many changed copies of evaluation images `--decontaminate` finds, and how many other images
it rejects.

    python -m benchmarks.contamination --images flickr8k-test.tar --others
    flickr8k-train.tar,openstax.tar

Each image of --images is planted once for each change: resized, saved as JPEG at quality 50,
cropped at a random place by 10 and 20 % of each side, mirrored, framed, with a caption written over
it or in a band below it, and gray. Recall is the fraction of the copies for which the nearest image
is the original; intervals are Wilson's. Every image of --others that is found is listed with the
nearest evaluation image, to be looked at. --embedded N also compares embeddings, of the first N
images. Times are of one core, of this process.
"""

from __future__ import annotations

import sys
import tarfile
import time
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from benchmarks.figures.parts.copies import CHANGES, changed
from benchmarks.measuring import parser_of, print_table
from open_diht.common.statistics import wilson
from open_diht.filters import copies
from open_diht.filters.decontamination import MOST_BITS
from open_diht.pipelines.stages.encoders import Encoder, find_encoder

THRESHOLDS = (14, 18, 20, 22, 24, 26, 28, 30)
EPS = (0.05, 0.1, 0.15, 0.2, 0.25)


def images(paths: str, most: int | None = None) -> Iterator[tuple[str, bytes]]:
    for path in paths.split(","):
        with tarfile.open(path) as tar:
            found = 0
            for member in tar:
                if member.name.endswith((".jpg", ".png", ".webp")) and found != most:
                    found += 1
                    yield f"{path.rpartition('/')[2]}/{member.name}", tar.extractfile(member).read()  # type: ignore[union-attr]


def main() -> int:
    parser = parser_of("benchmarks.contamination", __doc__)
    parser.add_argument(
        "--images", required=True, help="tars of evaluation images, comma-separated"
    )
    parser.add_argument("--others", required=True, help="tars of other images")
    parser.add_argument("--most", type=int, help="most images of each tar")
    parser.add_argument(
        "--embedded",
        type=int,
        default=0,
        help="evaluation images, and as many others x 10, to embed",
    )
    options = parser.parse_args()
    known = list(images(options.images, options.most))
    lumas = [copies.look(data).luma for _, data in known]
    began = time.process_time()
    hashes = [copies.variants(luma) for luma in lumas]
    taken = time.process_time() - began
    owners = np.repeat(np.arange(len(known)), [len(one) for one in hashes])
    index = copies.HashIndex(np.concatenate(hashes), owners)
    print(
        f"{len(known):,} evaluation images, {len(owners):,} hashes, {1e3 * taken / len(known):.2f}"
        " ms each",
        flush=True,
    )
    dice = np.random.default_rng(0)
    rows = list[tuple[str, ...]]()
    for change in CHANGES:
        looks = [copies.views(copies.look(changed(data, change, dice)).luma) for _, data in known]
        found, bits = index.nearest(np.stack(looks), MOST_BITS)
        right = found == np.arange(len(known))
        for most in THRESHOLDS:
            hits = int((right & (bits <= most)).sum())
            low, high = wilson(hits, len(known))
            rows.append(
                (change, str(most), f"{hits / len(known):.3f}", f"{low:.3f}", f"{high:.3f}")
            )
        print(*rows[-len(THRESHOLDS) :], sep="\n", flush=True)
    names = list[str]()
    views = list[NDArray[np.void]]()
    began = time.process_time()
    for name, data in images(options.others, options.most):
        names.append(name)
        views.append(copies.views(copies.look(data).luma))
    read, began = (time.process_time() - began) / len(names), time.process_time()
    found, bits = index.nearest(np.stack(views), MOST_BITS)
    asked = (time.process_time() - began) / len(names)
    print(
        f"{len(names):,} others: {1e3 * read:.2f} ms to read and hash, {1e3 * asked:.3f} ms to"
        " compare, each"
    )
    for place in sorted(np.flatnonzero(bits >= 0), key=lambda place: bits[place]):
        if bits[place] <= max(THRESHOLDS):
            print(f"  {bits[place]} bits: {names[place]} = {known[found[place]][0]}")
    print_table(("change", "bits", "recall", "low", "high"), rows)
    counts = [int(((bits >= 0) & (bits <= most)).sum()) for most in THRESHOLDS]
    print_table(
        ("bits", "others found"),
        [(str(a), str(b)) for a, b in zip(THRESHOLDS, counts, strict=True)],
    )
    many = np.random.default_rng(1).integers(0, 1 << 63, (1_000_000, copies.WORDS), np.uint64)
    large = copies.HashIndex(many, np.arange(len(many)))
    began = time.process_time()
    large.nearest(np.stack(views[:1000]), MOST_BITS)
    print(f"compared with a million random hashes: {time.process_time() - began:.3f} ms each")
    if options.embedded:
        _embedded(
            known[: options.embedded],
            list(images(options.others, options.embedded * 10)),
            hashes=index,
        )
    return 0


def _embedded(
    known: list[tuple[str, bytes]], others: list[tuple[str, bytes]], hashes: copies.HashIndex
) -> None:
    model = Encoder(find_encoder("efficientnet-lite0"))
    dice = np.random.default_rng(0)

    def vectors(files: list[bytes]) -> NDArray[np.float32]:
        return np.stack(model.encode(files)).astype(np.float32)  # type: ignore[arg-type]

    own = vectors([data for _, data in known])
    rows = list[tuple[str, ...]]()
    for change in CHANGES:
        files = [changed(data, change, dice) for _, data in known]
        looks = np.stack([copies.views(copies.look(data).luma) for data in files])
        by_hash = (hashes.nearest(looks, 22)[0] == np.arange(len(known))).astype(bool)
        cosines = vectors(files) @ own.T
        right = cosines.argmax(axis=1) == np.arange(len(known))
        near = [right & (cosines.max(axis=1) >= 1 - eps) for eps in EPS]
        rows.append((change, *(f"{one.mean():.3f}/{(one | by_hash).mean():.3f}" for one in near)))
    best = (vectors([data for _, data in others]) @ own.T).max(axis=1)
    rows.append((f"{len(others):,} others", *(str(int((best >= 1 - eps).sum())) for eps in EPS)))
    print_table(("embedding alone/with hashes", *map(str, EPS)), rows)


if __name__ == "__main__":
    sys.exit(main())
