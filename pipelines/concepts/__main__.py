"""`python -m pipelines.concepts`, the first half of `make concepts`."""

from pipelines.process.command import run_command

if __name__ == "__main__":
    run_command("pipelines.concepts.cli")
