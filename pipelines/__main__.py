"""`python -m pipelines`, what `make filter` calls."""

from common.run_command import run_command

if __name__ == "__main__":
    run_command("pipelines.cli")
