"""CAT in Ray Data: actors decide batches of rows, and the rows that pass are written as Parquet.

It prints how many rows each reason rejected. The output holds the kept rows with the columns of CAT
(`cat_complexity`, `cat_actions`, ...). On a cluster, start it on the head node and give paths that
all nodes see.

    .venv/bin/python examples/recipes/cat_in_ray_data.py 'pairs/*.parquet' out/kept --caption text --image jpg
"""  # noqa: E501

from __future__ import annotations

import argparse
from collections import Counter
from glob import glob

import ray
from ray.data.expressions import col

from open_diht import Cat
from open_diht.cat import CatBatch, batch_rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("input", help="Parquet: a folder, a file, a URL or a quoted glob")
    parser.add_argument("output", help="folder or URL for the rows that pass")
    parser.add_argument("--caption", default="caption", help="column of the captions")
    parser.add_argument(
        "--image", help="column of the image files' bytes; without it captions decide alone"
    )
    parser.add_argument(
        "--preset", default="paper", help="a preset, such as strict, or a YAML file"
    )
    parser.add_argument(
        "--actors", type=int, default=1, help="most actors; each takes a core and 0.7 GiB"
    )
    options = parser.parse_args()

    ray.init(ignore_reinit_error=True, include_dashboard=False)
    rows = ray.data.read_parquet(sorted(glob(options.input)) or options.input)
    decided = rows.map_batches(
        CatBatch,
        fn_constructor_kwargs={
            "cat": Cat(options.preset),
            "caption": options.caption,
            "image": options.image,
        },
        batch_format="pyarrow",
        batch_size=batch_rows(options.image),
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=options.actors),
    ).materialize()
    reasons = Counter(row["cat_reason"] for row in decided.select_columns("cat_reason").iter_rows())
    for reason, count in reasons.most_common():
        print(f"{reason or 'kept'}: {count:,}")
    decided.filter(expr=col("cat_keep")).write_parquet(options.output)


if __name__ == "__main__":
    main()
