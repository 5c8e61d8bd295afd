"""CAT inside other engines: one module for each library. Ray Data and pandas need none
(docs/howto/integrations.md)."""
