"""What the tests of manifests share: the samples of real manifests, and writing small files."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests import tars

SAMPLES = Path(__file__).parents[4] / "shared" / "samples"


@pytest.fixture
def real_samples() -> Path:
    """The folder of real manifests, which lies beside the checkout."""
    if not SAMPLES.is_dir():
        pytest.skip(f"no samples of real manifests in {SAMPLES}")
    return SAMPLES


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, bytes], str]:
    def write_file(name: str, content: bytes) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return str(path)

    return write_file


tar_of = pytest.fixture(lambda: tars.tar_of)
