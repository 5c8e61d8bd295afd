"""What the OCR process loads: networks with pre- and post-processing. Import it only there (`worker.py`)."""
