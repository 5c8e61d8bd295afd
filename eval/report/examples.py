"""Examples as cards of the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

from PIL import Image

from open_diht.common.html import attribute, show
from open_diht.eval.examples import Answered, ComparedPair, Confusion, Example, FoundImages, FoundTexts
from open_diht.eval.report.text import percent

SIDE = 168
"""Longest side of a thumbnail in pixels."""
_LEAST = 84  # smaller ones are shown enlarged to about this


def draw_examples(examples: Sequence[Example]) -> str:
    """A card per example."""
    return f'<div class="cards">{"".join(_draw(example) for example in examples)}</div>'


def _draw(example: Example) -> str:
    match example:
        case Confusion():
            body = (
                f'<figcaption><p><b class="wrong">{show(example.predicted, 80)}</b></p>'
                f"<p>is {show(example.label, 80)}</p>"
                f'<p class="quiet">{percent(example.share, 0)} % of {show(example.label, 60)} are taken for it</p>'
                f'<p class="key">{show(example.key, 80)}</p></figcaption>'
            )
            return f'<figure class="ex">{thumbnail(example.image, example.key)}{body}</figure>'
        case Answered():
            css = "right" if example.score >= 0.5 else "wrong"
            body = (
                f"<figcaption><p>{show(example.question, 160)}</p>"
                f'<p><b class="{css}">{show(example.predicted, 60)}</b></p>'
                f'<p class="quiet">people: {show(example.right, 80)}</p></figcaption>'
            )
            return f'<figure class="ex">{thumbnail(example.image, example.key)}{body}</figure>'
        case FoundTexts():
            items = "".join(
                f'<li class="{"right" if right else "wrong"}">{show(text, 120)} '
                f'<span class="quiet">{cosine:.3f}</span></li>'
                for text, cosine, right in example.texts
            )
            caption = (
                f'<figcaption><ol>{items}</ol><p class="quiet">{_rank(example.rank, "its caption")}</p></figcaption>'
            )
            return f'<figure class="ex wide">{thumbnail(example.image, example.key)}{caption}</figure>'
        case ComparedPair():
            sides = "".join(_draw_side(example, place) for place in (0, 1))
            return f'<figure class="ex row"><p class="key">{show(example.key, 80)}</p>{sides}</figure>'
        case FoundImages():
            images = "".join(
                f'<span class="hit {"right" if right else "wrong"}">{thumbnail(image, "image")}'
                f'<span class="quiet">{cosine:.3f}</span></span>'
                for image, cosine, right in example.images
            )
            head = f'<figcaption><p class="asked">{show(example.text, 160)}</p>'
            own = "its image" if example.right == 1 else f"the last of its {example.right} images"
            rank = f'<p class="quiet">{_rank(example.rank, own)}</p></figcaption>'
            return f'<figure class="ex row">{head}{rank}<div class="hits">{images}</div></figure>'


def _draw_side(example: ComparedPair, place: int) -> str:
    """One image of a pair with both captions."""
    own, other = example.cosines[place][place], example.cosines[place][1 - place]
    items = "".join(
        f'<li class="{"right" if text == place else "wrong"}">{show(caption, 120)} '
        f'<span class="quiet">{example.cosines[place][text]:.3f}</span></li>'
        for text, caption in enumerate(example.captions)
    )
    said = "its caption is nearer" if own > other else "the other caption is as near or nearer"
    caption = f'<figcaption><ol>{items}</ol><p class="quiet">{said}</p></figcaption>'
    return f"<div>{thumbnail(example.images[place], example.key)}{caption}</div>"


def _rank(rank: int, what: str) -> str:
    return f"{what} came first" if rank == 1 else f"{what} came at rank {rank:,}"


def thumbnail(image: Image.Image, name: str) -> str:
    """The image as a small JPEG inside the page."""
    small = image.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    times = max(1, _LEAST // max(small.size))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return (
        f'<img src="data:image/jpeg;base64,{encoded}" width="{small.width * times}" height="{small.height * times}" '
        f'alt="{attribute(name, 80)}">'
    )
