"""`python -m open_diht.pipelines.teachers`, the first half of `make concepts`."""

from open_diht.common.run_command import run_command

if __name__ == "__main__":
    run_command("open_diht.pipelines.teachers.cli", parser="open_diht.pipelines.teachers.options")
