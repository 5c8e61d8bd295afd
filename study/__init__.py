"""Miniature tests of the paper's four claims: small drivers over the product's own parts."""
