"""`make verify`: check an output against its records, its preset and its input, without writing
into it."""
