"""Filter a data set of the Hugging Face hub with `datasets` and publish the rows that pass.

It prints how many rows each reason rejected. A new data set is private unless you pass `--public`;
the token is that of `hf auth login` or HF_TOKEN. Nothing is published if the source or the hub
cannot be reached. For data sets of many gigabytes, `make filter INPUT=hf://... OUTPUT=hf://...`
resumes and keeps the rejected rows too (docs/howto/hub.md).

    .venv/bin/python examples/recipes/filter_and_publish.py owner/pairs me/pairs-cat --caption text --image jpg
"""  # noqa: E501

from __future__ import annotations

import argparse
import sys

import datasets
from httpx2 import HTTPError  # the client of huggingface_hub

from open_diht import Cat
from open_diht.integrations.huggingface import keep


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("source", help="data set on the hub, or a folder")
    parser.add_argument(
        "target", help="data set on the hub that is created, or whose split is replaced"
    )
    parser.add_argument("--split", default="train")
    parser.add_argument("--caption", default="caption", help="column of the captions")
    parser.add_argument("--image", help="column of the images; without it captions decide alone")
    parser.add_argument(
        "--preset", default="paper", help="a preset, such as strict, or a YAML file"
    )
    parser.add_argument(
        "--public",
        action="store_true",
        help="make a new data set public; mind the source's license",
    )
    options = parser.parse_args()
    try:
        rows = datasets.load_dataset(options.source, split=options.split)
        kept, reasons = keep(
            rows, Cat(options.preset), caption=options.caption, image=options.image
        )
        for reason, count in reasons.most_common():
            print(f"{reason}: {count:,}")
        print(f"kept: {len(kept):,} of {len(rows):,}")
        kept.push_to_hub(options.target, split=options.split, private=not options.public)
    except (KeyError, TypeError, OSError, ValueError, HTTPError) as error:
        line = " ".join(str(error.args[0] if error.args else error).split())
        sys.exit(
            f"error: {options.source} is not published to {options.target}: {type(error).__name__}:"
            f" {line}"
        )
    print(f"published: {options.target}")


if __name__ == "__main__":
    main()
