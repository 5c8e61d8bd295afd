"""Does it help? The paper's four claims in miniature: small drivers over the product's own parts."""
