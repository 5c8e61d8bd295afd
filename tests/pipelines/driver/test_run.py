"""What a run says while it waits."""

import threading

from open_diht.pipelines.driver import run


def test_what_takes_long_is_said(monkeypatch):
    monkeypatch.setattr(run, "_SLOW_S", 0.01)
    said, told = list[str](), threading.Event()

    def say(line: str) -> None:
        said.append(line)
        told.set()

    with run._said_if_slow("still listing", say):
        assert told.wait(10)
    monkeypatch.setattr(run, "_SLOW_S", 60.0)
    with run._said_if_slow("still listing", say):
        pass
    assert said == ["still listing"]
