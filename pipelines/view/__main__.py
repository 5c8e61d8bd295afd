"""`python -m open_diht.pipelines.view`, the same as `open-diht view`."""

from open_diht.common.run_command import run_command

if __name__ == "__main__":
    run_command(
        "open_diht.pipelines.view.cli", parser="open_diht.pipelines.view.options", resumes=False
    )
