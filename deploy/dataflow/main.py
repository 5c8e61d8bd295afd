"""Run the command line of `make filter` from Dataflow's Flex template launcher.

The launcher adds options: --runner=DataflowRunner, --project, --region, --temp_location,
--template_location and others. With template_location a run stages a job for the next stage that
has work, and the launcher starts it.
"""

from open_diht.pipelines.driver.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
