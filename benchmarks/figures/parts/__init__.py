"""Parts of the figures. A part is a module with `MINUTES`, `PEERS` and `measure`."""
