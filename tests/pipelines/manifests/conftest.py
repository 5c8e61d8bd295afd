"""What the tests of manifests share: the samples of real manifests, and writing small files."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

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


@pytest.fixture
def tar_of() -> Callable[..., bytes]:
    def make(*members: tuple[str, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
            for name, content in members:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        return buffer.getvalue()

    return make
