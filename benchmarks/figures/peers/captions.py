"""Peers of the caption stage: spaCy as its users write it, and data-juicer's two operators that
come closest to CAT's rules, `text_action_filter` and `text_entity_dependency_filter`.

The operators have their defaults and are called on one row after the other, which is what
data-juicer's own loop over a data set does (`_batched_op` is false), and that loop would cost more.
Their spaCy model is given: the one that they would download, `en_core_web_md`, is slower.
"""

from __future__ import annotations

from collections.abc import Callable

import spacy

Answer = Callable[[list[str]], object]
UNUSED = ["ner", "lemmatizer"]
"""Parts of the model that no rule on actions or objects needs."""


def rows(model: str) -> Answer:
    nlp = spacy.load(model, exclude=UNUSED)
    return lambda texts: len([nlp(text) for text in texts])


def pipe(model: str) -> Answer:
    nlp = spacy.load(model, exclude=UNUSED)
    return lambda texts: len(list(nlp.pipe(texts, batch_size=256)))


def operators(model: str) -> Answer:
    """Return a function of texts that says which rows both operators keep."""
    from data_juicer.ops.filter.text_action_filter import TextActionFilter
    from data_juicer.ops.filter.text_entity_dependency_filter import TextEntityDependencyFilter
    from data_juicer.utils.constant import Fields
    from data_juicer.utils.lazy_loader import LazyLoader
    from data_juicer.utils.model_utils import MODEL_FUNCTION_MAPPING

    nlp = spacy.load(model)
    MODEL_FUNCTION_MAPPING["spacy"] = lambda **_: nlp
    # It looks for a package of Chinese, whose name cannot be imported, and installs it each time.
    LazyLoader.check_packages = lambda *_: None
    both = TextActionFilter(), TextEntityDependencyFilter()

    def keeps(text: str) -> bool:
        row = {"text": text, Fields.stats: {}}
        # The second operator gets only what the first keeps, as in a run of data-juicer.
        return all(one.process_single(one.compute_stats_single(row)) for one in both)

    return lambda texts: [bool(keeps(text)) for text in texts]
