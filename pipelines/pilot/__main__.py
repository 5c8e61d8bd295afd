"""`python -m pipelines.pilot`, which is what `make pilot` runs."""

from common.run_command import run_command

if __name__ == "__main__":
    run_command("pipelines.pilot.command")
