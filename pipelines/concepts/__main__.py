"""`python -m pipelines.concepts`, the first half of `make concepts`."""

from common.run_command import run_command

if __name__ == "__main__":
    run_command("pipelines.concepts.cli")
