"""Miniature tests of the paper's claims and their rivals: small drivers over the product's own
parts."""
