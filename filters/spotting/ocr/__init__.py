"""What the OCR process loads: networks, and what stands before and after them. Import it there only (`worker.py`)."""
