"""Entry point of `python -m open_diht.pipelines`, the same as `open-diht filter`."""

from open_diht.common.run_command import run_command

if __name__ == "__main__":
    run_command("open_diht.pipelines.driver.cli", parser="open_diht.pipelines.options")
