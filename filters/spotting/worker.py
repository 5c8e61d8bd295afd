"""The OCR process: reads a picture from stdin, writes what it says to stdout, until stdin ends.

Started by `child.py` as `python -m filters.spotting.worker SETTINGS PARENT`: the JSON of `SpotterSettings`, and a
process id. Messages are frames (frames.py): in come the bytes of a picture, out goes JSON. It never outlives its
parent: it ends when stdin ends, when its parent changes, and, should a picture hang it in native code, by the kernel's
alarm clock.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Final

from filters.spotting.frames import PipeClosed, read_frame, write_frame
from filters.spotting.pictures import BadPicture, BadPictureReason, PictureLimits, decode_picture
from filters.spotting.settings import Spotted, SpotterSettings

PARENT_CHECK_S: Final = 1.0
ALARM_GRACE_S: Final = 5


def settings_to_json(settings: SpotterSettings) -> str:
    """The settings as one command line argument."""
    return json.dumps(asdict(settings))


def settings_from_json(text: str) -> SpotterSettings:
    """Inverse of `settings_to_json`."""
    fields: dict[str, Any] = json.loads(text)
    return SpotterSettings(**{**fields, "limits": PictureLimits(**fields["limits"])})


def answer(data: bytes, limits: PictureLimits, read: Callable[[Any], list[Spotted]]) -> dict[str, Any]:
    """The message for one picture: its lines, or why it has none."""
    try:
        picture = decode_picture(data, limits)
    except BadPicture as bad:
        return {"bad": bad.reason, "message": bad.message}
    try:
        lines = read(picture)
    except MemoryError:
        raise  # the process is in trouble, not the picture: die and be replaced
    except Exception as error:  # whatever a third-party engine raises on one picture must cost that picture only
        return {"bad": BadPictureReason.OCR_FAILED, "message": f"{type(error).__name__}: {error}"}
    return {
        "spotted": [[line.text, line.score, line.box] for line in lines],
        "width": picture.width,
        "height": picture.height,
    }


def main() -> int:
    """0 when the parent has closed the pipe."""
    settings = settings_from_json(sys.argv[1])
    # Libraries print to stdout; the frames get a descriptor of their own and everything else goes to stderr.
    requests, answers = os.dup(0), os.dup(1)
    os.dup2(2, 1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    _follow_parent(int(sys.argv[2]))
    from filters.spotting.engine import Engine  # only now: it takes seconds, in which the parent may already have gone

    engine = Engine(settings)
    try:
        write_frame(answers, json.dumps({"ready": os.getpid(), "rss_mib": _rss_mib()}).encode())
        while True:
            data = read_frame(requests)
            signal.alarm(math.ceil(settings.timeout_s) + ALARM_GRACE_S)
            reply = answer(data, settings.limits, engine.read)
            signal.alarm(0)
            write_frame(answers, json.dumps({**reply, "rss_mib": _rss_mib()}).encode())
    except PipeClosed:
        return 0


def _follow_parent(parent: int) -> None:
    """Ends this process soon after its parent, also where a fork of the parent keeps the pipe open.

    Not by PR_SET_PDEATHSIG: that fires when the *thread* that started us ends, and Beam's worker threads come and go.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_CHECK_S)
        os._exit(0)

    threading.Thread(target=watch, name="follow-parent", daemon=True).start()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal group; the parent decides


def _rss_mib() -> float:
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except FileNotFoundError:  # not Linux: the peak is the best we can know
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


if __name__ == "__main__":
    sys.exit(main())
