"""Perceptual hashes by imagededup, without its networks, and by imagehash."""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image


def hashing(method: str) -> Callable[[list[str]], list[str]]:
    """Return a function of files that returns their hashes as hexadecimal digits. The method is the
    name of a side."""
    library, _, name = method.partition(", ")
    if library == "imagehash":
        import imagehash

        return lambda files: [str(imagehash.phash(Image.open(file))) for file in files]
    from imagededup.methods import DHash, PHash, WHash

    encoder = {"phash": PHash, "dhash": DHash, "whash": WHash}[name](verbose=False)
    return lambda files: [encoder.encode_image(image_file=file) for file in files]
