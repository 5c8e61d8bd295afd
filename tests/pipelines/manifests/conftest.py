"""What the tests of manifests share: rows of published manifests, and writing small files."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests import tars

PUBLISHED = Path(__file__).parent / "published"


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, bytes], str]:
    def write_file(name: str, content: bytes) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return str(path)

    return write_file


tar_of = pytest.fixture(lambda: tars.tar_of)
