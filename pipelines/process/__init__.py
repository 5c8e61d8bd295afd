"""The processes of a command: signals, and workers that end with their driver."""
