"""The compose file starts what it says, with settings that the worker has."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from voxtral_worker.settings import Settings, variable_of

ROOT = Path(__file__).resolve().parents[2]
FILES = ["docker-compose.yml", "deploy/docker-compose.gpu.yml"]
PINNED = re.compile(r"^[\w./-]+:v?\d+\.\d+\.\d+[\w.-]*$")


def compose(name: str = FILES[0]) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / name).read_text())
    return content


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = compose()["services"]
    return found


def mounts() -> list[str]:
    return [mount for service in services().values() for mount in service.get("volumes", [])]


@pytest.mark.parametrize("name", FILES)
def test_a_compose_file_is_one_by_the_compose_specification(name: str) -> None:
    words = ["--builtin-schema", "vendor.compose-spec", name]
    checked = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_a_worker_is_started_with_what_stands_beside_it() -> None:
    assert set(services()) == {"worker", "redis", "prometheus", "grafana"}


def test_the_file_for_a_gpu_changes_only_services_that_exist() -> None:
    assert set(compose(FILES[1])["services"]) <= set(services())


def test_every_image_is_pinned() -> None:
    images = [service["image"] for service in services().values() if "build" not in service]
    assert len(images) == 3
    assert [image for image in images if not PINNED.match(image)] == []


def test_every_service_has_a_health_check() -> None:
    assert "HEALTHCHECK" in (ROOT / "Dockerfile").read_text()
    unchecked = {name for name, service in services().items() if "healthcheck" not in service}
    assert unchecked == {"worker"}


def test_only_services_that_exist_are_waited_for() -> None:
    awaited = {name for service in services().values() for name in service.get("depends_on", [])}
    assert awaited == {"redis", "prometheus"}


def test_only_what_exists_is_mounted() -> None:
    sources = {mount.split(":")[0] for mount in mounts()}
    files = {source for source in sources if source.startswith("./")}
    assert files
    assert {file for file in files if not (ROOT / file).is_file()} == set()
    assert sources - files == set(compose()["volumes"])


def test_the_worker_is_given_settings_that_it_has() -> None:
    known = {variable_of(field) for field in dataclasses.fields(Settings)}
    assert services()["worker"]["environment"].keys() - known == set()


def test_only_the_worker_is_open_to_the_network() -> None:
    open_ports = {
        name
        for name, service in services().items()
        for port in service.get("ports", [])
        if not port.startswith("127.0.0.1:")
    }
    assert open_ports == {"worker"}


def test_a_worker_that_is_stopped_has_time_to_drain() -> None:
    grace_s = int(services()["worker"]["stop_grace_period"].removesuffix("s"))
    assert grace_s > Settings().drain_timeout_seconds
