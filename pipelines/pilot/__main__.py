"""`python -m open_diht.pipelines.pilot`, the same as `open-diht pilot`."""

from open_diht.common.run_command import run_command

if __name__ == "__main__":
    run_command("open_diht.pipelines.pilot.command", parser="open_diht.pipelines.pilot.options")
