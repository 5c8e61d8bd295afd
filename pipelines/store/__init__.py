"""What lies in an output folder, on a disk or in an object store: where, written how, and what vouches for it."""
