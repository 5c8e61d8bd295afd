"""Words that indexes of earlier versions hold, read as those of today.

Before the first release an image was a picture.
"""

from __future__ import annotations

KINDS = {"missing_picture": "missing_image", "undecodable_picture": "undecodable_image"}
