"""Real PaddleOCR behind the pipe: it reads, and nothing that happens to its process costs more than
one image."""

import importlib.util
import io
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
import pytest
from PIL import Image

from open_diht.filters.spotting import child, frames, worker
from open_diht.filters.spotting import spotter as spotter_module
from open_diht.filters.spotting.decode import DecodeLimits, UnreadableImage
from open_diht.filters.spotting.decode import UnreadableImageReason as Reason
from open_diht.filters.spotting.spotter import SpotterError, SpotterSettings, Spotting, TextSpotter
from open_diht.filters.spotting.weights import WeightsMissing, models_root
from tests.common.hostile_images import encode

ROOT = Path(__file__).parents[3]


def texts(result: Spotting | UnreadableImage) -> list[str]:
    assert isinstance(result, Spotting), result
    return [line.text for line in result.spotted]


def one(spotter: TextSpotter, image: bytes) -> Any:
    (result,) = spotter.spot([image])
    return result


def test_reads_rendered_text_and_where_it_stands(spotter, render):
    result = one(spotter, render("CARLSBERG BREWERY"))
    (line,) = result.spotted
    assert line.text.replace(" ", "") == "CARLSBERGBREWERY"
    assert line.score > 0.9 and (result.width, result.height) == (640, 360)
    xs, ys = zip(*line.box, strict=True)
    assert 20 <= min(xs) <= 60 and 380 <= max(xs) <= 560
    assert min(ys) >= 120 and max(ys) <= 220


def test_boxes_are_in_pixels_of_the_original(spotter, render):
    small = Image.open(io.BytesIO(render("CARLSBERG BREWERY")))
    result = one(spotter, encode(small.resize((640 * 6, 360 * 6)), "JPEG"))
    assert (result.width, result.height) == (3840, 2160) and max(
        x for x, _ in result.spotted[0].box
    ) > 2000


def test_photographs_have_no_words(spotter):
    data = pytest.importorskip(
        "skimage.data", reason="scikit-image is not installed: no photographs to read"
    )
    folder = Path(data.__file__).parent
    photos = [
        folder / name
        for name in ("chelsea.png", "rocket.jpg", "camera.png")
        if (folder / name).is_file()
    ]
    for photo, result in zip(
        photos, spotter.spot(path.read_bytes() for path in photos), strict=True
    ):
        assert isinstance(result, Spotting), photo
        assert [
            line for line in result.spotted if line.score >= 0.8 and len(line.text) >= 5
        ] == [], photo


@pytest.mark.parametrize("how", ["setting", "variable", "cache"])
def test_a_relative_folder_of_models_is_that_of_the_caller(how, ocr_models, tmp_path, monkeypatch):
    (tmp_path / "models/diht").mkdir(parents=True)
    (tmp_path / "models/diht/ocr").symlink_to(models_root())
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DIHT_OCR_MODELS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "models" if how == "cache" else "nowhere")
    if how == "variable":
        monkeypatch.setenv("DIHT_OCR_MODELS", "models/diht/ocr")
    with TextSpotter(
        SpotterSettings(models="models/diht/ocr" if how == "setting" else None)
    ) as spotter:
        assert spotter.pid


def test_bad_images_are_results_and_the_rest_goes_on(spotter, render):
    good = render("WARTBURG")
    results = list(spotter.spot([b"", good, b"<html>", good[: len(good) // 2], good]))
    reasons = [result.reason if isinstance(result, UnreadableImage) else None for result in results]
    assert [reasons[0], *reasons[2:4]] == [Reason.EMPTY, Reason.NOT_AN_IMAGE, Reason.TRUNCATED]
    assert texts(results[1]) == texts(results[4]) == ["WARTBURG"]


@pytest.mark.parametrize("size", [(1, 1), (2, 900), (3000, 3), (33, 31)])
def test_odd_shapes_are_read(spotter, size):
    result = one(spotter, encode(Image.new("RGB", size, "white"), "PNG"))
    assert (result.width, result.height) == size and result.spotted == ()


def test_spotting_is_lazy_and_in_order(stubbed):
    """A batch at a time."""
    asked: list[int] = []

    def images() -> Iterator[bytes]:
        for width in range(1, 6):
            asked.append(width)
            yield image_of_width(width)

    with TextSpotter(replace(stubbed, batch=2)) as spotter:
        results = spotter.spot(images())
        assert asked == []
        first = next(results)
        assert asked == [1, 2]
        widths = [result.width for result in (first, *results) if isinstance(result, Spotting)]
    assert widths == [1, 2, 3, 4, 5]


def test_large_files_make_small_batches(stubbed, monkeypatch):
    monkeypatch.setattr("open_diht.filters.spotting.spotter.BATCH_BYTES", 100)
    asked: list[bytes] = []
    with TextSpotter(stubbed) as spotter:
        image = image_of_width(1)  # some 70 bytes
        results = spotter.spot(asked.append(image) or image for _ in range(9))  # type: ignore[func-returns-value]
        next(results)
        assert len(asked) == 2
        assert len(list(results)) == 8


@pytest.mark.slow
def test_results_depend_on_nothing_but_the_image(ocr_models, spotter, render):
    images = [
        render(text, size=size)
        for text, size in (("WARTBURG 353", 40), ("tiny print here", 14), ("BIG", 120), ("", 20))
    ]
    forward = list(spotter.spot(images))
    assert list(spotter.spot(images[::-1]))[::-1] == forward
    with TextSpotter(SpotterSettings(recycle_after=1)) as fresh:
        assert list(fresh.spot(images[:2])) == forward[:2]


@pytest.mark.slow
def test_a_killed_process_is_replaced_and_costs_at_most_one_image(ocr_models, render):
    image = render("WARTBURG")
    with TextSpotter(SpotterSettings(batch=1)) as spotter:
        results = []
        for number, result in enumerate(spotter.spot([image] * 4)):
            results.append(result)
            if number == 1:
                assert spotter.pid is not None
                os.kill(spotter.pid, signal.SIGKILL)
    assert sum(isinstance(result, UnreadableImage) for result in results) <= 1
    assert texts(results[-1]) == ["WARTBURG"]


def stub_worker(folder: Path, body: str) -> None:
    """Puts a module in the place of the OCR engine, for the child process only."""
    (folder / "sitecustomize.py").write_text(
        "import sys, types\n"
        "stub = types.ModuleType('open_diht.filters.spotting.ocr.engine')\n"
        f"exec({body!r}, stub.__dict__)\n"
        "sys.modules['open_diht.filters.spotting.ocr.engine'] = stub\n"
    )


CRASHES_ON_WIDE = """
import os, signal, time
class Engine:
    def __init__(self, settings): pass
    def find(self, image):
        if image.width == 17: raise RuntimeError('nothing found')
        return image.width
    def read(self, widths):
        if 13 in widths: os.kill(os.getpid(), signal.SIGSEGV)
        if 14 in widths:
            print("\\x1b[33mslow\\x1b[0m\\timage\\r\\x07", flush=True)
            time.sleep(600)
        if 15 in widths: raise RuntimeError('no idea')
        if 18 in widths: time.sleep(1)
        return [[] for _ in widths]
"""


def image_of_width(width: int) -> bytes:
    return encode(Image.new("RGB", (width, 10)), "PNG")


@pytest.fixture
def stubbed(tmp_path, monkeypatch) -> SpotterSettings:
    """Settings whose child process has a stub for an engine; needs neither PaddleOCR nor
    weights."""
    stub_worker(tmp_path, CRASHES_ON_WIDE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(TextSpotter, "check_installed", lambda self: None)
    return SpotterSettings(timeout_s=2.0)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 2, 32])
def test_a_crash_a_hang_and_an_error_cost_their_image_only(stubbed, batch):
    """Also in a batch: it is read again image by image."""
    with TextSpotter(replace(stubbed, batch=batch, timeout_s=1.0)) as spotter:
        results = list(
            spotter.spot([image_of_width(width) for width in (10, 13, 11, 14, 12, 15, 16, 17)])
        )
    outcomes = [
        result.reason if isinstance(result, UnreadableImage) else result.width for result in results
    ]
    assert outcomes == [
        10, Reason.OCR_CRASHED, 11, Reason.OCR_TIMEOUT, 12, Reason.OCR_FAILED, 16,
        Reason.OCR_FAILED,
    ]  # fmt: skip
    assert "signal 11" in str(results[1]) and "no idea" in str(results[5])
    assert str(results[3]).endswith("slow\timage"), (
        "colours and bells of a terminal are no part of a message"
    )


class Interrupt(BaseException):
    """What a test raises where Ctrl-C could."""


def widths(spotter: TextSpotter, *asked: int) -> list[int]:
    results = list(spotter.spot(map(image_of_width, asked)))
    return [result.width if isinstance(result, Spotting) else -1 for result in results]


def interrupted_at(step: int, call: Callable[[], object], error: BaseException) -> bool:
    """Make a call, raise an error at one of the lines that it runs in the parent's half of the
    exchange, and return whether it came so far."""
    lines = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal lines
        if frame.f_code.co_filename not in (
            child.__file__,
            frames.__file__,
            spotter_module.__file__,
        ):
            return None
        if event == "line":
            lines += 1
            if lines == step:
                raise error
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except type(error):
        pass
    finally:
        sys.settrace(before)
    return lines >= step


@pytest.mark.parametrize(
    "stride", [29, pytest.param(5, marks=pytest.mark.slow), pytest.param(1, marks=pytest.mark.soak)]
)
def test_no_call_gets_the_answer_of_an_interrupted_one(stride, stubbed):
    others = {*psutil.Process().children()}
    with TextSpotter(stubbed) as spotter:
        for step in itertools.count(1, stride):
            error = KeyboardInterrupt() if step % 2 else RuntimeError()
            if not interrupted_at(step, partial(widths, spotter, 20, 21), error):
                break
            assert widths(spotter, 30) == [30] and widths(spotter, 40, 41, 42) == [40, 41, 42], step
        assert step > 50 and len({*psutil.Process().children()} - others) == 1, (
            "the others have ended"
        )


@pytest.mark.slow
def test_signals_at_random_moments_change_no_later_call(stubbed):
    def interrupt(*_: object) -> None:
        raise Interrupt

    draw = random.Random(36)
    met = 0
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with TextSpotter(stubbed) as spotter:
            for number in range(60):
                if starting := number % 10 == 0:
                    spotter.close()
                try:
                    signal.setitimer(
                        signal.ITIMER_REAL, 10 ** draw.uniform(-5, -0.5 if starting else -2.5)
                    )
                    widths(spotter, 20, 21, 22)
                    signal.setitimer(signal.ITIMER_REAL, 0)
                except Interrupt:
                    met += 1
                assert widths(spotter, 30) == [30] and widths(spotter, 40, 41) == [40, 41], number
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert met > 15


def test_an_answer_to_another_request_is_refused(stubbed):
    with TextSpotter(stubbed) as spotter:
        pid = spotter.pid
        running = spotter._child
        assert running is not None
        for message in (worker.REQUEST.pack(77, 1), image_of_width(20)):
            frames.write_frame(running._requests, message, time.monotonic() + 30)
        assert (
            widths(spotter, 30, 31) == [30, 31]
            and widths(spotter, 40) == [40]
            and spotter.pid != pid
        )


def test_a_signal_handler_may_read_images_during_a_call(stubbed):
    read: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda *_: read.extend(widths(spotter, 20)))
    try:
        with TextSpotter(stubbed) as spotter:
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            assert widths(spotter, 18, 30) == [18, 30]  # takes a second
            assert read == [20] and widths(spotter, 40) == [40]
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_forked_process_has_an_ocr_process_of_its_own(stubbed):
    """Also where a thread is inside a call."""
    with TextSpotter(stubbed) as spotter, ThreadPoolExecutor(1) as pool:
        inside = pool.submit(widths, spotter, 18)  # takes a second
        while spotter._child is None or spotter._child.ready:
            time.sleep(0.01)
        if not (forked := os.fork()):
            signal.alarm(60)
            try:
                right = widths(spotter, 30, 31) == [30, 31]
                spotter.close()
            finally:
                os._exit(0 if right else 1)
        assert os.waitpid(forked, 0)[1] == 0
        assert inside.result() == [18] and widths(spotter, 40) == [40]


def test_crash_after_crash_is_no_matter_of_images(stubbed):
    with TextSpotter(replace(stubbed, batch=1, crashes_in_a_row=3)) as spotter:
        results = spotter.spot([image_of_width(13)] * 9)
        assert all(isinstance(next(results), UnreadableImage) for _ in range(2))
        with pytest.raises(SpotterError, match="3 images in a row"):
            next(results)


def test_the_process_is_replaced_after_so_many_images_and_above_so_much_memory(stubbed):
    with TextSpotter(replace(stubbed, batch=1, recycle_after=2)) as spotter:
        pids = []
        for _ in spotter.spot([image_of_width(10)] * 5):
            pids.append(spotter.pid)
    assert pids[1] is None and pids[3] is None  # ended; the next image starts another
    assert pids[0] not in (None, pids[2]) and not any(psutil.pid_exists(pid) for pid in pids if pid)
    with TextSpotter(replace(stubbed, recycle_rss_mib=1)) as spotter:
        assert widths(spotter, 10) == [10] and spotter.pid is None


def test_a_process_that_cannot_start_says_why(stubbed, tmp_path):
    stub_worker(
        tmp_path,
        "class Engine:\n    def __init__(self, settings): raise ImportError('no libGL.so.1')\n",
    )
    with pytest.raises(SpotterError, match=r"no libGL\.so\.1"), TextSpotter(stubbed):
        pass


def test_missing_weights_are_named(tmp_path):
    with (
        pytest.raises(WeightsMissing, match="open-diht weights"),
        TextSpotter(SpotterSettings(models=str(tmp_path))),
    ):
        pass


def test_a_missing_package_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda module: None if module == "paddlex" else object()
    )
    with pytest.raises(SpotterError, match=r"paddlex: .*install .*paddleocr"):
        TextSpotter(SpotterSettings(engine="paddle")).check_installed()


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "in the middle of an image"])
def test_no_orphan_stays_when_the_parent_is_killed(stubbed, tmp_path, busy):
    image = tmp_path / "image.png"
    image.write_bytes(image_of_width(14 if busy else 10))
    program = f"""
import sys, threading, time
from pathlib import Path
from open_diht.filters.spotting.spotter import SpotterSettings, TextSpotter
TextSpotter.check_installed = lambda self: None
spotter = TextSpotter(SpotterSettings(timeout_s=500.0)).__enter__()
print(spotter.pid, flush=True)
list(spotter.spot([Path({str(image)!r}).read_bytes()]))
time.sleep(600)
"""
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment
    ) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        time.sleep(0.3)  # let it begin the image
        parent.kill()
    _, alive = psutil.wait_procs([child], timeout=30)
    assert alive == []


STOPS = """
import os, signal, sys
if "open_diht.filters.spotting.worker" in sys.orig_argv and "stopped" not in os.listdir({folder!r}):
    open(os.path.join({folder!r}, "stopped"), "x").close()
    os.kill(os.getpid(), signal.SIGSTOP)
class Engine:
    def __init__(self, settings): pass
    def find(self, image): return image.width
    def read(self, widths): return [[] for _ in widths]
"""
"""The first process that loads this engine stops."""


@pytest.fixture
def stops_once(stubbed, tmp_path) -> SpotterSettings:
    """Settings whose first child process is stopped while it starts."""
    stub_worker(tmp_path, STOPS.format(folder=str(tmp_path)))
    return stubbed


def test_a_process_that_is_stopped_while_it_starts_is_killed_and_replaced(stops_once, monkeypatch):
    monkeypatch.setattr("open_diht.filters.spotting.child._LOOK_S", 0.3)
    others = psutil.Process().children()
    with pytest.raises(SpotterError, match="was stopped after"), TextSpotter(stops_once):
        pass
    assert not {*psutil.Process().children()} - {*others}
    with TextSpotter(stops_once) as spotter:
        assert [
            result.width
            for result in spotter.spot([image_of_width(10)])
            if isinstance(result, Spotting)
        ] == [10]


def test_a_slow_start_is_reported_and_has_an_end(stubbed, tmp_path, monkeypatch, caplog):
    caplog.set_level("WARNING")  # benchmarks, which other tests import, show errors alone
    stub_worker(tmp_path, "import time\ntime.sleep(600)\n")
    others = psutil.Process().children()
    monkeypatch.setattr("open_diht.filters.spotting.child._LOOK_S", 0.2)
    with (
        pytest.raises(SpotterError, match="was still starting after"),
        TextSpotter(replace(stubbed, start_timeout_s=0.5)),
    ):
        pass
    assert "has been starting for" in caplog.text
    assert not {*psutil.Process().children()} - {*others}


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_process_that_is_stopped_while_it_starts_outlives_its_parent(stops_once, tmp_path, end):
    program = """
from open_diht.filters.spotting.spotter import SpotterSettings, TextSpotter
TextSpotter.check_installed = lambda self: None
TextSpotter(SpotterSettings()).__enter__()
"""
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-c", program]
    with subprocess.Popen(
        command, env=environment, stderr=subprocess.DEVNULL, start_new_session=True
    ) as parent:
        children: list[psutil.Process] = []
        while not children or children[0].status() != psutil.STATUS_STOPPED:
            assert parent.poll() is None
            time.sleep(0.05)
            children = psutil.Process(parent.pid).children()
        parent.send_signal(end)
    _, alive = psutil.wait_procs(children, timeout=30)
    for process in alive:
        process.kill()
    assert alive == []


DAEMON = """
import multiprocessing, sys
from open_diht.filters.spotting.spotter import SpotterSettings, TextSpotter
TextSpotter.check_installed = lambda self: None

def work(results):
    with TextSpotter(SpotterSettings()) as spotter:
        images = [b"", open(sys.argv[1], "rb").read()]
        results.put([type(result).__name__ for result in spotter.spot(images)])

if __name__ == "__main__":
    results = multiprocessing.Queue()
    worker = multiprocessing.Process(target=work, args=(results,), daemon=True)
    worker.start()
    print(results.get(timeout=60))
    worker.join()
"""


def test_works_inside_a_daemonic_process(stubbed, tmp_path):
    (tmp_path / "daemon.py").write_text(DAEMON)
    (tmp_path / "image.png").write_bytes(image_of_width(10))
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    command = [sys.executable, str(tmp_path / "daemon.py"), str(tmp_path / "image.png")]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.strip() == "['UnreadableImage', 'Spotting']", done.stderr


def test_more_effort_than_low_reads_smaller_text(ocr_models, spotter, render):
    image = render("GARDEN PARTY TONIGHT", size=5)
    with (
        TextSpotter(SpotterSettings(effort="low")) as low,
        TextSpotter(SpotterSettings(effort="high")) as high,
    ):
        assert not one(low, image).spotted
        for more in (spotter, high):
            assert (
                "".join(line.text for line in one(more, image).spotted).replace(" ", "")
                == "GARDENPARTYTONIGHT"
            )


def test_provenance_names_versions_and_weights(ocr_models):
    facts = TextSpotter().provenance()
    assert {
        "engine",
        "processing",
        "onnxruntime",
        "model",
        "model_sha256",
        "second_reader_sha256",
    } <= facts.keys()
    assert len(facts["model_sha256"]) == 64
    assert TextSpotter(SpotterSettings(enlarge_faint=1)).provenance() == facts | {
        "enlarge_faint": "1"
    }
    small = {"closer": "PP-OCRv6 small", "closer_sha256": facts["second_reader_sha256"]}
    assert TextSpotter(SpotterSettings(closer="small")).provenance() == facts | small
    closer = TextSpotter(SpotterSettings(closer="small", reread=None)).provenance()
    assert small.items() <= closer.items() and "second_reader" not in closer


def test_provenance_of_the_reference_names_what_computes(ocr_models, monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", lambda package: f"1 of {package}")
    facts = TextSpotter(SpotterSettings(engine="paddle")).provenance()
    assert facts["paddleocr"] == "1 of paddleocr" and facts["onnxruntime"] == "1 of onnxruntime"


def test_what_is_known_of_an_unreadable_image_does_not_keep_its_pixels(render):
    cut = render("CARLSBERG", format="JPEG")[:-2_000]
    found = worker._find(cut, DecodeLimits(), None, lambda *_: None)  # type: ignore[arg-type, return-value]
    assert isinstance(found, UnreadableImage) and found.reason == Reason.TRUNCATED
    assert found.message and found.__traceback__ is None


@pytest.mark.soak
def test_memory_stays_flat_over_thousands_of_images(ocr_models, render):
    """Of the child under its limit, and of this process."""
    images = [
        render(f"soak {number}", size=20 + number % 60, format="JPEG") for number in range(50)
    ]
    settings = SpotterSettings(recycle_after=10_000, limits=DecodeLimits())
    with TextSpotter(settings) as spotter:
        list(spotter.spot(images * 4))  # warm up: arenas and caches
        assert spotter.pid is not None
        child = psutil.Process(spotter.pid)
        parent = psutil.Process()
        before = child.memory_info().rss, parent.memory_info().rss
        for _ in spotter.spot(image for _ in range(60) for image in images):
            pass
        after = child.memory_info().rss, parent.memory_info().rss
    assert after[0] < before[0] + 100 * 2**20 and after[1] < before[1] + 20 * 2**20
