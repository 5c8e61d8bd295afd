"""data-juicer's two operators for what `paper` asks of captions: actions, and entities with dependencies. Each parses
every text by itself.

It installs what it misses while it runs, into the environment that runs it; here that is an error that names the
package. `pip install py-data-juicer` brings most of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any
from unittest.mock import patch

from spacy.language import Language

MISSING = "data-juicer: not installed"


def is_installed() -> bool:
    """Whether it can be imported."""
    return find_spec("data_juicer") is not None


def _refuse(package: str, _arguments: object = None) -> None:
    raise ImportError(
        f"data-juicer asks for {package}, and would install it into this environment: pip install {package}"
    )


def operators(model: Language) -> Callable[[Sequence[str]], list[dict[str, Any]]]:
    """What both say of texts, one by one, as data-juicer's own loop has it.

    Args:
        model: parses in place of the one that they would download.

    Raises:
        ImportError: a package that data-juicer needs is missing.
    """
    loader = import_module("data_juicer.utils.lazy_loader").LazyLoader
    models = import_module("data_juicer.utils.model_utils").MODEL_FUNCTION_MAPPING
    filters = (
        import_module("data_juicer.ops.filter.text_action_filter").TextActionFilter,
        import_module("data_juicer.ops.filter.text_entity_dependency_filter").TextEntityDependencyFilter,
    )
    loader._install_package = _refuse
    models["spacy"] = lambda **_: model
    with patch.object(loader, "check_packages"):  # for Chinese
        both = [one() for one in filters]
    stats = import_module("data_juicer.utils.constant").Fields.stats

    def counted(texts: Sequence[str]) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = [{"text": text, stats: {}} for text in texts]
        return [both[1].compute_stats_single(both[0].compute_stats_single(row)) for row in rows]

    return counted
