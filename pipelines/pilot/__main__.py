"""`python -m pipelines.pilot`, which is what `make pilot` runs."""

from pipelines.process.command import run_command

if __name__ == "__main__":
    run_command("pipelines.pilot.command")
