"""The program that Dataflow's Flex template launcher starts: the command line of `make filter`.

The launcher adds options of its own: --runner=DataflowRunner, --project, --region, --temp_location,
--template_location and others. With template_location a run stages the next stage that has work, and the launcher
starts it.
"""

from open_diht.pipelines.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
