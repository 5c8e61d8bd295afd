"""`python -m open_diht.pipelines.select`, the same as `open-diht select`."""

from open_diht.common.run_command import run_command

if __name__ == "__main__":
    run_command("open_diht.pipelines.select.command", parser="open_diht.pipelines.select.options")
