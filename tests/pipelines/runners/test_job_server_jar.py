"""The job-server jar: of the SDK's version and the cluster's line, or one clear line within seconds."""

from __future__ import annotations

import socket
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from apache_beam.utils.subprocess_server import JavaJarServer
from apache_beam.version import __version__ as beam_version

from open_diht.pipelines.runners import RunnerError, job_server_jar
from open_diht.pipelines.runners.job_server_jar import VARIABLE, find_jar, published_name


def jar(path: Path, **files: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


@pytest.fixture(autouse=True)
def no_registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is asked of the world: the places Beam downloads from are dead ports of this machine."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(JavaJarServer, "MAVEN_CENTRAL_REPOSITORY", "http://127.0.0.1:1/central")
    monkeypatch.setattr(JavaJarServer, "GOOGLE_MAVEN_MIRROR", "http://127.0.0.1:1/mirror")
    monkeypatch.setattr(JavaJarServer, "JAR_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def silent_server() -> Iterator[str]:
    """Takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_the_jar_of_this_sdk_is_taken_from_option_variable_or_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = jar(tmp_path / published_name("1.20"))
    assert find_jar(str(own), "1.20") == own
    monkeypatch.setenv(VARIABLE, str(own))
    assert find_jar(None, "1.20") == own
    monkeypatch.delenv(VARIABLE)
    (tmp_path / "cache").mkdir()
    cached = jar(tmp_path / "cache" / published_name("1.19"))
    assert find_jar(None, "1.19") == cached


@pytest.mark.parametrize(
    ("name", "files", "message"),
    [
        ("beam-runners-flink-1.20-job-server-2.70.0.jar", {}, f"is of Beam 2.70.0, this SDK is {beam_version}"),
        (f"beam-runners-flink-2.0-job-server-{beam_version}.jar", {}, "is for Flink 2.0, the cluster is 1.20"),
        ("server.jar", {"org/apache/beam/sdk/sdk.properties": "name=x\nversion=2.69.0\n"}, "is of Beam 2.69.0"),
        ("server.jar", {"META-INF/MANIFEST.MF": "Main-Class: x\nImplementation-Version: 2.1.0\n"}, "is of Beam 2.1.0"),
        (
            "server.jar",
            {
                "org/apache/beam/sdk/sdk.properties": f"version = {beam_version}\n",
                "META-INF/maven/org.apache.beam/beam-runners-flink-2.1-job-server/pom.xml": "",
            },
            "is for Flink 2.1",
        ),
        ("server.jar", {"a": "b"}, "does not say which Beam it is of"),
    ],
)
def test_a_jar_of_another_version_is_refused_with_the_name_of_the_right_one(
    tmp_path: Path, name: str, files: dict[str, str], message: str
) -> None:
    with pytest.raises(RunnerError) as refused:
        find_jar(str(jar(tmp_path / name, **files)), "1.20")
    assert message in str(refused.value)
    assert published_name("1.20") in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_renamed_jar_of_the_right_version_is_taken(tmp_path: Path) -> None:
    renamed = jar(tmp_path / "server.jar", **{"org/apache/beam/sdk/sdk.properties": f"version={beam_version}\n"})
    assert find_jar(str(renamed), "1.20") == renamed


def test_a_file_that_is_no_jar_and_a_file_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / published_name("1.20")).write_text("<html>403</html>", encoding="utf-8")
    with pytest.raises(RunnerError, match="is not a jar"):
        find_jar(str(tmp_path / published_name("1.20")), "1.20")
    with pytest.raises(RunnerError, match=rf"is not there; set {VARIABLE}"):
        find_jar(str(tmp_path / "nothing.jar"), "1.20")


def test_without_a_jar_and_without_a_way_to_fetch_one_the_line_says_what_to_set() -> None:
    with pytest.raises(RunnerError) as refused:
        find_jar(None, "1.20")
    assert published_name("1.20") in str(refused.value) and f"set {VARIABLE}=" in str(refused.value)
    assert "refused" in str(refused.value) and "\n" not in str(refused.value)


def test_a_proxy_that_takes_connections_and_never_answers_does_not_hold_us(
    silent_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(JavaJarServer, "MAVEN_CENTRAL_REPOSITORY", silent_server)
    monkeypatch.setattr(JavaJarServer, "GOOGLE_MAVEN_MIRROR", silent_server)
    monkeypatch.setattr(job_server_jar, "REACH_SECONDS", 0.2)
    with pytest.raises(RunnerError, match="cannot be downloaded"):
        find_jar(None, "1.20")
