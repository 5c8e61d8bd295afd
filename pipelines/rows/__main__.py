"""`python -m open_diht.pipelines.rows`, the same as `open-diht rows`."""

from open_diht.common.run_command import run_command

if __name__ == "__main__":
    run_command(
        "open_diht.pipelines.rows.command",
        parser="open_diht.pipelines.rows.options",
        resumes=False,
    )
