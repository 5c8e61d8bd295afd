"""Runs of the filter that a study starts."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[2])


def test_sigterm_ends_the_filter_too(tmp_path: Path) -> None:
    """The filter stands for any that takes long: a program that writes its number and sleeps."""
    mark = tmp_path / "started"
    sleeper = f"import os, time; open({str(mark)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    (tmp_path / "interrupted.py").write_text(
        "import subprocess\nfrom study.verdicts import run_filter\nbegin ="
        " subprocess.Popen\nsubprocess.Popen = lambda command, **named: begin([command[0], '-c',"
        f" {sleeper!r}], **named)\nrun_filter()\n"
    )
    study = subprocess.Popen(
        [sys.executable, tmp_path / "interrupted.py"], env={**os.environ, "PYTHONPATH": ROOT}
    )
    while not (mark.exists() and mark.read_text()):
        assert study.poll() is None
        time.sleep(0.01)
    study.send_signal(signal.SIGTERM)
    assert study.wait(60) == 128 + signal.SIGTERM
    assert not Path("/proc", mark.read_text()).exists(), "it was waited for"
