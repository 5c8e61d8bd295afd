"""Roles of manifest columns, and the column names (aliases) by which they are found."""

from collections.abc import Mapping
from dataclasses import dataclass, fields


@dataclass(frozen=True, kw_only=True)
class Roles:
    """The column of each role. None means "find it by alias" in a `Dataset`, and "absent" in a
    `FileInfo`."""

    url: str | None = None
    """The image's URL."""
    caption: str | None = None
    """The caption; the first of `captions`, if a row has several."""
    captions: tuple[str, ...] = ()
    """Columns of the captions of a row that has several, in order. A column holds texts (also as
    bytes), or lists of texts."""
    uid: str | None = None
    """The manifest's own row identifier."""
    image: str | None = None
    """The image's bytes: a binary column, or a struct {bytes, path} as Hugging Face writes it."""
    image_path: str | None = None
    """Path or URL of the image file. Relative paths start at `Dataset.images_root`, or at the
    manifest's folder."""
    key: str | None = None
    """Name of the row within its shard (img2dataset, webdataset). Not a row identifier: it repeats
    across shards."""
    sha256: str | None = None
    """SHA-256 of the image file."""
    md5: str | None = None
    """MD5 of the image file."""
    width: str | None = None
    """Width in pixels; present or absent together with `height`. Some sets swap the two: see
    `Dataset.swap_size`."""
    height: str | None = None
    """Height in pixels."""
    similarity: str | None = None
    """CLIP similarity of image and text, -1 to 1."""
    unsafe: str | None = None
    """Probability (float) or class (text) of unsafe content."""
    watermark: str | None = None
    """Probability of a watermark, 0 to 1."""
    aesthetic: str | None = None
    """Aesthetic score, about 1 to 10."""
    language: str | None = None
    """Language of the caption."""
    status: str | None = None
    """Outcome of the download (img2dataset: success, failed_to_download, failed_to_resize)."""

    def given(self) -> dict[str, str]:
        """Return the roles that have one column, in field order."""
        return {
            field.name: value
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), str)
        }


ROLE_NAMES: tuple[str, ...] = tuple(field.name for field in fields(Roles))
WITH_OPTION = ("caption", "url", "uid", "image", "image_path")
"""Roles that have an option --<role>-column."""

# Aliases that differ only in case are one rank; the exact spellings here win over other cases of
# the same word. Earlier ranks win over later ones. Two equally good columns of one rank are refused
# (see manifests/schema.py).
ALIASES: Mapping[str, tuple[str, ...]] = {
    "url": ("URL", "url", "image_url", "image_urls"),
    "caption": ("TEXT", "text", "caption", "captions", "txt", "title"),
    "uid": ("uid",),
    "image": ("image", "image_bytes", "jpg"),
    "image_path": ("image_path", "file_name", "filename", "filepath"),
    "key": ("key", "__key__"),
    "sha256": ("sha256", "sha256hash"),
    "md5": ("md5",),
    "similarity": (
        "similarity",
        "clip_l14_similarity_score",
        "clip_b32_similarity_score",
        "clip_similarity_vitl14",
        "clip_similarity_vitb32",
    ),
    "unsafe": ("punsafe", "nsfw_score_opennsfw2", "nsfw_score_gantman", "NSFW"),
    "watermark": ("pwatermark", "watermark_score"),
    "aesthetic": ("aesthetic", "aesthetic_score", "AESTHETIC_SCORE", "aesthetic_score_laion_v2"),
    "language": ("LANGUAGE", "language"),
    "status": ("status",),
}

# Width and height come from the same family. img2dataset writes both families; size rules refer to
# the original.
SIZE_FAMILIES: tuple[tuple[str, str], ...] = (
    ("original_width", "original_height"),
    ("width", "height"),
)
