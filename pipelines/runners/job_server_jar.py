"""The job-server jar that stands between FlinkRunner and a cluster: found, and checked before anything starts.

Beam promises nothing between versions, so the jar must be of the SDK's own version, and of the cluster's Flink line.
"""

from __future__ import annotations

import os
import re
import threading
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

from apache_beam.runners.portability.job_server import JavaJarJobServer
from apache_beam.utils.subprocess_server import JavaJarServer
from apache_beam.version import __version__ as beam_version

from open_diht.pipelines.runners.errors import RunnerError

VARIABLE = "FLINK_JOB_SERVER_JAR"
REACH_SECONDS = 5.0
_NAME = re.compile(r"beam-runners-flink-(?P<flink>\d+\.\d+)-job-server-(?P<beam>\d[\w.]*)\.jar")


def find_jar(asked: str | None, flink_version: str, cache: str | None = None) -> Path | None:
    """The jar to start: `asked`, else what the variable FLINK_JOB_SERVER_JAR names, else the one in Beam's cache. None:
    Beam will download it, and the place it comes from answers.

    Args:
        asked: path given as an option.
        flink_version: the cluster's line, "1.20" for example.
        cache: Beam's cache folder where it is not the usual one.

    Raises:
        RunnerError: there is no jar and none can be fetched, or it is of another version.
    """
    asked = asked or os.environ.get(VARIABLE)
    if asked:
        path = Path(asked).expanduser()
        if not path.is_file():
            wanted = published_name(flink_version)
            raise RunnerError(f"the job-server jar {asked} is not there; set {VARIABLE} to {wanted}")
        check_version(path, flink_version)
        return path.resolve()
    cached = Path(cache or JavaJarServer.JAR_CACHE) / published_name(flink_version)
    if cached.is_file():
        return cached
    _check_reachable(flink_version, cached)
    return None


def published_name(flink_version: str) -> str:
    """File name of the jar that belongs to this SDK and a Flink line."""
    return f"beam-runners-flink-{flink_version}-job-server-{beam_version}.jar"


def check_version(jar: Path, flink_version: str) -> None:
    """Raises RunnerError where the jar is not of this SDK's version or not for this Flink line, or cannot say."""
    if not zipfile.is_zipfile(jar):
        raise RunnerError(f"{jar} is not a jar")
    found = _NAME.fullmatch(jar.name)
    beam, flink = (found["beam"], found["flink"]) if found else _versions_inside(jar)
    wanted = published_name(flink_version)
    if beam is None:
        raise RunnerError(f"{jar} does not say which Beam it is of; this SDK needs {wanted}, under that name")
    if beam != beam_version:
        raise RunnerError(f"{jar} is of Beam {beam}, this SDK is {beam_version}; they must be equal: get {wanted}")
    if flink is not None and flink != flink_version:
        raise RunnerError(f"{jar} is for Flink {flink}, the cluster is {flink_version}; get {wanted}")


def _versions_inside(jar: Path) -> tuple[str | None, str | None]:
    """Beam's version and the Flink line as the jar's properties and manifest tell them."""
    with zipfile.ZipFile(jar) as archive:
        names = archive.namelist()
        inside = (re.search(r"beam-runners-flink-(\d+\.\d+)-job-server/", name) for name in names)
        line = next((match[1] for match in inside if match), None)
        for name, pattern in (
            ("org/apache/beam/sdk/sdk.properties", r"^version\s*=\s*(\S+)"),
            ("META-INF/MANIFEST.MF", r"^Implementation-Version:\s*(\S+)"),
        ):
            if name in names:
                text = archive.read(name).decode("utf-8", "replace")
                if found := re.search(pattern, text, re.MULTILINE):
                    return found[1], line
    return None, line


def _check_reachable(flink_version: str, cached: Path) -> None:
    """Ask the places that Beam would download from, in seconds: Beam itself may wait for ever behind a silent proxy."""
    target = f":runners:flink:{flink_version}:job-server:shadowJar"
    url = JavaJarJobServer.path_to_beam_jar(target)
    urls = [url, url.replace(JavaJarServer.MAVEN_CENTRAL_REPOSITORY, JavaJarServer.GOOGLE_MAVEN_MIRROR)]
    why = "no answer"
    for address in dict.fromkeys(urls):
        answer = _answer(address)
        if answer is None:
            return
        why = answer
    raise RunnerError(
        f"RUNNER=flink needs the job-server jar {cached.name}, which is not in {cached.parent} and cannot be "
        f"downloaded ({why}); fetch it on a machine with access and set {VARIABLE}=/path/to/{cached.name}"
    )


def _answer(url: str) -> str | None:
    """None where the address has the file, else why not. In a thread, for name servers may be silent too."""
    result: list[str | None] = ["no answer within seconds"]

    def ask() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=REACH_SECONDS):
                result[0] = None
        except urllib.error.HTTPError as error:
            result[0] = f"HTTP status {error.code}"
        except (OSError, ValueError) as error:
            result[0] = str(getattr(error, "reason", error))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(REACH_SECONDS + 1.0)
    return result[0]
