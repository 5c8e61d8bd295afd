"""`python -m pipelines`, what `make filter` calls."""

from pipelines.process.command import run_command

if __name__ == "__main__":
    run_command("pipelines.cli")
