"""Runs a function of a test file on several ranks: imports torch once, then forks. Not a test.

launch.py FILE FUNCTION FOLDER WORLD PORT
"""

import importlib.util
import os
import sys
import traceback
from pathlib import Path


def main() -> int:
    file, function, folder, world, port = sys.argv[1:]
    spec = importlib.util.spec_from_file_location("ranks_of_a_test", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    children = []
    for rank in range(int(world)):
        child = os.fork()
        if not child:
            os.environ.update(
                RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=world, MASTER_ADDR="127.0.0.1", MASTER_PORT=port
            )
            try:
                getattr(module, function)(Path(folder))
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        children.append(child)
    return int(any(os.waitpid(child, 0)[1] for child in children))


if __name__ == "__main__":
    raise SystemExit(main())
