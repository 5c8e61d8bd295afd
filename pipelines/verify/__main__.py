"""`python -m open_diht.pipelines.verify`, the same as `open-diht verify`."""

from open_diht.common.run_command import run_command

if __name__ == "__main__":
    run_command(
        "open_diht.pipelines.verify.command",
        parser="open_diht.pipelines.verify.options",
        resumes=False,
    )
