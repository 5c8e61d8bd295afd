"""Text-spotting, the T of the CAT filters: is a part of the caption written in its image?

`decode` decodes untrusted bytes, `spotter` reads their text with PaddleOCR's models in a child
process, and `overlap` compares captions with the text.
"""
