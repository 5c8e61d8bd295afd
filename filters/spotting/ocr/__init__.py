"""Networks of the OCR process with pre- and post-processing. Import it only there (`worker.py`)."""
