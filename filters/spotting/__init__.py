"""Text-spotting, the T of the CAT filters: is a part of the caption written in its image?

`images` decodes hostile bytes, `spotter` reads their text with PaddleOCR in a child process, `overlap` decides on
captions and strings.
"""
