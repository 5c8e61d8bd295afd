"""`python -m pipelines.view`, which is what `make view` runs."""

from common.run_command import run_command

if __name__ == "__main__":
    run_command("pipelines.view.cli")
