"""The compose file starts what it says, with settings that the worker has."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from voxtral_worker.settings import VARIABLES, Settings

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
    # The token is read by the hub's own client.
    known = {*VARIABLES, "HF_TOKEN"}
    assert services()["worker"]["environment"].keys() - known == set()


def test_only_the_worker_is_open_to_the_network() -> None:
    open_ports = {
        name
        for name, service in services().items()
        for port in service.get("ports", [])
        if not port.startswith("127.0.0.1:")
    }
    assert open_ports == {"worker"}


@pytest.mark.parametrize("name", ["worker", "redis", "prometheus", "grafana"])
def test_no_container_can_change_its_image_or_gain_rights(name: str) -> None:
    service = services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service and "privileged" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["user"] not in ("root", "0", 0)


@pytest.mark.parametrize("name", ["worker", "redis", "prometheus", "grafana"])
def test_no_container_can_take_the_machines_memory_or_processes(name: str) -> None:
    service = services()[name]
    assert re.fullmatch(r"(\$\{\w+:-)?\d+[mg]\}?", service["mem_limit"])
    assert 0 < service["pids_limit"] <= 2048
    # What is kept in memory has a size, and nothing in it is a program.
    assert any(mount.startswith("/tmp:") for mount in service["tmpfs"])
    assert all("size=" in mount and "exec" not in mount for mount in service["tmpfs"])


def test_only_the_worker_reaches_redis() -> None:
    redis = services()["redis"]
    assert "ports" not in redis
    assert redis["networks"] == ["state"]
    assert compose()["networks"]["state"]["internal"] is True
    assert {name for name, each in services().items() if "state" in each.get("networks", [])} == {
        "worker",
        "redis",
    }


def test_the_workers_user_is_the_images_own_and_owns_what_it_writes_to() -> None:
    worker, dockerfile = services()["worker"], (ROOT / "Dockerfile").read_text()
    made = re.search(r"useradd .*?(\w+) \\\n", dockerfile)
    owned = re.search(r"chown -R (\w+):\w+ ([^\n]+)", dockerfile)
    assert made is not None and owned is not None
    assert made[1] == owned[1] == worker["user"]
    assert {mount.split(":")[1] for mount in worker["volumes"]} == set(owned[2].split())


def test_a_worker_that_is_stopped_has_time_to_drain() -> None:
    grace_s = int(services()["worker"]["stop_grace_period"].removesuffix("s"))
    assert grace_s > Settings().drain_timeout_seconds


def test_the_example_of_an_env_file_names_each_variable_of_the_compose_files() -> None:
    used = {
        name: default
        for file in FILES
        for name, default in re.findall(r"\$\{(\w+)(?::-([^}]*))?\}", (ROOT / file).read_text())
    }
    lines = (ROOT / ".env.example").read_text().splitlines()
    shown = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert used
    # As it stands, it changes nothing.
    assert shown == used


def test_a_file_with_keys_is_not_committed() -> None:
    assert ".env" in (ROOT / ".gitignore").read_text().split()
