"""spaCy's tokenizer, token encoder and parser in NumPy, with spaCy's weights and results; see
README.md."""
