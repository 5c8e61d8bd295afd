"""Choose the best of several captions per image (alt text, recaptions) by CAT, and keep the images
where it passes.

The best caption is the most complex of those that pass the caption filters, else of all; the first
wins a tie. With `--image`, text in the image that repeats it then rejects the row. Input and output
are Parquet; the column of the captions holds lists. The output adds the columns of CAT and
`caption`, which replaces a column of that name. It prints the counts of the reasons.

    .venv/bin/python examples/recipes/best_caption.py recaptioned.parquet out/best.parquet --captions all_captions
"""  # noqa: E501

from __future__ import annotations

import argparse
from typing import Any

import datasets

from open_diht import Cat
from open_diht.integrations.huggingface import keep


def choose(batch: dict[str, list[Any]], column: str, cat: Cat) -> dict[str, list[str | None]]:
    """Return the best caption of each row; None for a row without any.

    Args:
        batch: rows of a data set.
        column: column with the lists of captions.
        cat: decides.
    """
    rows = [captions or [None] for captions in batch[column]]
    table = cat([caption for captions in rows for caption in captions]).table
    scores = [
        (reason is None, complexity or 0)
        for reason, complexity in zip(
            table["reason"].to_pylist(), table["complexity"].to_pylist(), strict=True
        )
    ]
    best: list[str | None] = []
    for captions in rows:
        mine, scores = scores[: len(captions)], scores[len(captions) :]
        best.append(captions[mine.index(max(mine))])
    return {"caption": best}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("input", help="Parquet file, or a quoted glob")
    parser.add_argument("output", help="Parquet file of the images that are kept")
    parser.add_argument(
        "--captions", default="captions", help="column with a list of captions per image"
    )
    parser.add_argument("--image", help="column of the images; without it captions decide alone")
    parser.add_argument(
        "--preset", default="paper", help="a preset, such as strict, or a YAML file"
    )
    options = parser.parse_args()
    cat = Cat(options.preset)
    rows = datasets.load_dataset("parquet", data_files=options.input, split="train")
    rows = rows.map(choose, batched=True, fn_kwargs={"column": options.captions, "cat": cat})
    kept, reasons = keep(rows, cat, caption="caption", image=options.image)
    kept.to_parquet(options.output)
    print(
        ", ".join(
            f"{name}: {count:,}" for name, count in [("kept", len(kept)), *reasons.most_common()]
        )
    )


if __name__ == "__main__":
    main()
