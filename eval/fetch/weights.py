"""Pre-trained weights that open_clip knows by a tag, put where the evaluation looks for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from open_diht.eval.errors import FetchFailed, WrongUse


def fetch_weights(word: str, root: Path, say: Callable[[str], None]) -> None:
    """Weights `NAME:TAG` into `root`/weights/NAME/TAG. Raises `WrongUse` for a pair open_clip does not know and
    `FetchFailed`."""
    from open_clip.pretrained import download_pretrained, get_pretrained_cfg, list_pretrained_tags_by_model

    name, _, tag = word.partition(":")
    settings = get_pretrained_cfg(name, tag)
    if not settings:
        tags = ", ".join(list_pretrained_tags_by_model(name)) or "none: the name is unknown too"
        raise WrongUse(f"open_clip knows no weights {tag!r} of {name!r}; there are {tags}")
    folder = root / "weights" / name / tag
    try:
        path = download_pretrained(settings, cache_dir=str(folder))
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise FetchFailed(f"weights {word} could not be fetched ({reason})") from None
    say(f"weights {word}: {path}")
