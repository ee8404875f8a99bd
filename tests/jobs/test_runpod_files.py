"""The files that RunPod's Hub and the image build read."""

import json
import runpy
import shlex
from pathlib import Path
from typing import Any

import jsonschema

from voxtral_worker.jobs.mode import Mode, which_mode
from voxtral_worker.jobs.schema import read_input
from voxtral_worker.settings import VARIABLES, Settings, read_settings

ROOT = Path(__file__).resolve().parents[2]
# Read by the hub client and by RunPod, not by the worker.
FOREIGN = {"HF_TOKEN"}
CUDA = {"type": "array", "minItems": 1, "items": {"type": "string", "pattern": r"^\d+\.\d+$"}}
TEXT = {"type": "string", "minLength": 1}

HUB_SCHEMA = {
    "type": "object",
    "required": ["title", "description", "type", "category", "config"],
    "additionalProperties": False,
    "properties": {
        "title": TEXT,
        "description": TEXT,
        "type": {"const": "serverless"},
        "category": {"enum": ["audio", "embedding", "language", "video", "image"]},
        "iconUrl": TEXT,
        "config": {
            "type": "object",
            "required": ["runsOn", "containerDiskInGb", "gpuCount", "gpuIds", "env"],
            "additionalProperties": False,
            "properties": {
                "runsOn": {"enum": ["GPU", "CPU"]},
                "containerDiskInGb": {"type": "integer", "minimum": 20},
                "gpuCount": {"const": 1},
                "gpuIds": {
                    "type": "string",
                    "pattern": r"^[A-Z]+_\d+(_PRO)?(,[A-Z]+_\d+(_PRO)?)*$",
                },
                "allowedCudaVersions": CUDA,
                "endpointType": {"enum": ["QB", "LB"]},
                "presets": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["name", "defaults"],
                        "properties": {"name": TEXT, "defaults": {"type": "object"}},
                    },
                },
                "env": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["key"],
                        "oneOf": [{"required": ["value"]}, {"required": ["input"]}],
                        "properties": {
                            "key": {"type": "string", "pattern": "^[A-Z][A-Z0-9_]*$"},
                            "value": {"type": "string"},
                            "input": {
                                "type": "object",
                                "required": ["name", "type", "description"],
                                "additionalProperties": False,
                                "properties": {
                                    "name": TEXT,
                                    "type": {
                                        "enum": ["string", "number", "boolean", "huggingface"]
                                    },
                                    "description": TEXT,
                                    "default": {},
                                    "advanced": {"type": "boolean"},
                                    "options": {
                                        "type": "array",
                                        "items": {"type": "object", "required": ["label", "value"]},
                                    },
                                },
                            },
                        },
                    },
                },
            },
        },
    },
}

TESTS_SCHEMA = {
    "type": "object",
    "required": ["tests", "config"],
    "additionalProperties": False,
    "properties": {
        "tests": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["name", "input", "timeout"],
                "additionalProperties": False,
                "properties": {
                    "name": TEXT,
                    "input": {"type": "object"},
                    "timeout": {"type": "integer", "minimum": 1000},
                },
            },
        },
        "config": {
            "type": "object",
            "required": ["gpuTypeId", "gpuCount", "env", "allowedCudaVersions"],
            "properties": {
                "gpuTypeId": TEXT,
                "gpuCount": {"const": 1},
                "allowedCudaVersions": CUDA,
            },
        },
    },
}


def read(name: str) -> Any:
    return json.loads((ROOT / name).read_text("utf-8"))


def test_the_hub_file_has_the_documented_form() -> None:
    jsonschema.validate(read(".runpod/hub.json"), HUB_SCHEMA)


def test_the_hubs_tests_have_the_documented_form() -> None:
    jsonschema.validate(read(".runpod/tests.json"), TESTS_SCHEMA)


def test_every_variable_the_hub_offers_is_a_setting_with_its_default() -> None:
    hub = read(".runpod/hub.json")["config"]
    inputs = {entry["key"]: entry["input"] for entry in hub["env"]}
    assert inputs.keys() - FOREIGN <= VARIABLES.keys()
    given = {key: str(entry["default"]) for key, entry in inputs.items() if "default" in entry}
    settings = read_settings(given)
    chosen = {"MODEL_ID", "LOG_FORMAT"}
    for name, field in VARIABLES.items():
        if name in given and name not in chosen:
            assert getattr(settings, name.lower()) == field.default, name
    for preset in hub["presets"]:
        assert preset["defaults"].keys() <= VARIABLES.keys()


def test_the_options_the_hub_offers_can_be_used() -> None:
    for entry in read(".runpod/hub.json")["config"]["env"]:
        for option in entry["input"].get("options", []):
            read_settings({entry["key"]: option["value"]})


def test_the_jobs_of_the_hubs_tests_are_good_input() -> None:
    for test in read(".runpod/tests.json")["tests"]:
        read_input(test["input"])


def test_the_variables_of_the_hubs_tests_are_settings() -> None:
    env = read(".runpod/tests.json")["config"]["env"]
    read_settings({entry["key"]: entry["value"] for entry in env})
    assert {entry["key"] for entry in env} <= VARIABLES.keys()


def test_the_test_input_is_good_input_and_is_what_runs_by_itself() -> None:
    read_input(read("test_input.json")["input"])
    assert which_mode(Settings(), []) is Mode.LOCAL_TEST


def test_both_hub_files_want_the_same_cuda_as_the_image() -> None:
    hub = read(".runpod/hub.json")["config"]["allowedCudaVersions"]
    assert hub == read(".runpod/tests.json")["config"]["allowedCudaVersions"]
    assert "FROM ${BASE_IMAGE} AS base-cuda" in dockerfile()
    image = next(line for line in dockerfile() if line.startswith("ARG BASE_IMAGE="))
    assert image.partition(":")[2].startswith(hub[0] + ".")


def dockerfile() -> list[str]:
    return (ROOT / "Dockerfile").read_text("utf-8").replace("\\\n", " ").splitlines()


def test_the_image_starts_python_as_its_first_process() -> None:
    (command,) = [line for line in dockerfile() if line.startswith("CMD")]
    assert json.loads(command.removeprefix("CMD")) == ["python", "-u", "handler.py"]


def test_dependencies_are_a_layer_before_the_code() -> None:
    lines = dockerfile()
    installs = next(i for i, line in enumerate(lines) if "pip install" in line)
    assert installs < lines.index("COPY src src")


def test_everything_the_image_copies_is_there_and_is_sent_to_the_builder() -> None:
    sent = [
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines()
        if line.startswith("!")
    ]
    for line in dockerfile():
        if line.startswith("COPY"):
            for source in shlex.split(line)[1:-1]:
                assert (ROOT / source).exists(), source
                folders = [str(parent) for parent in Path(source).parents]
                assert {source, *folders} & set(sent), source


def test_importing_the_way_in_starts_nothing() -> None:
    assert "main" not in runpy.run_path(str(ROOT / "handler.py"), run_name="__mp_main__")


def test_the_image_can_compile_what_triton_compiles_at_run_time() -> None:
    text = " ".join(dockerfile())
    apt = next(line for line in dockerfile() if "apt-get install" in line)
    for package in ("gcc", "libc6-dev", "python3-dev"):
        assert package in shlex.split(apt), package
    assert "Python.h" in text


def test_only_cuda_versions_that_the_platform_knows_are_allowed() -> None:
    for name in ("hub.json", "tests.json"):
        config = json.loads((ROOT / ".runpod" / name).read_text("utf-8"))["config"]
        assert config["allowedCudaVersions"] == ["13.0"]


def test_the_cards_that_serve_live_sessions_best_may_be_chosen() -> None:
    config = json.loads((ROOT / ".runpod" / "hub.json").read_text("utf-8"))["config"]
    assert {"AMPERE_80", "ADA_80_PRO"} <= set(config["gpuIds"].split(","))


def test_every_key_of_the_hub_is_in_the_readme() -> None:
    config = json.loads((ROOT / ".runpod" / "hub.json").read_text("utf-8"))["config"]
    readme = (ROOT / "README.md").read_text("utf-8")
    for item in config["env"]:
        assert f"| `{item['key']}` |" in readme, item["key"]
