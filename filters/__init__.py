"""What a caption or a picture says: pure functions and small classes, free of Beam and torch."""
