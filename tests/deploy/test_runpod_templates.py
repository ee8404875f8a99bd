"""RunPod's templates: as documented, and the same as the Hub's file, the image and the docs."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from voxtral_worker import __version__
from voxtral_worker.settings import read_settings

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("serverless", "pod")
TEXTS = {"type": "array", "items": {"type": "string"}}
# The body of RunPod's `POST /templates`, as its reference describes it.
TEMPLATE = {
    "type": "object",
    "required": ["name", "imageName"],
    "additionalProperties": False,
    "properties": {
        "category": {"enum": ["NVIDIA", "AMD", "CPU"]},
        "containerDiskInGb": {"type": "integer"},
        "containerRegistryAuthId": {"type": "string"},
        "dockerEntrypoint": TEXTS,
        "dockerStartCmd": TEXTS,
        "env": {"type": "object", "additionalProperties": {"type": "string"}},
        "imageName": {"type": "string"},
        "isPublic": {"type": "boolean"},
        "isServerless": {"type": "boolean"},
        "name": {"type": "string"},
        "ports": {"type": "array", "items": {"pattern": r"^\d+/(http|tcp)$"}},
        "readme": {"type": "string"},
        "volumeInGb": {"type": "integer"},
        "volumeMountPath": {"type": "string"},
    },
}
# The flags of `runpodctl` that its reference has for these commands; all of these take a value.
FLAGS = {
    ("template", "create"): {
        *("--name", "--image", "--container-disk-in-gb", "--volume-in-gb", "--volume-mount-path"),
        *("--ports", "--port-labels", "--registry-auth-id", "--env", "--docker-start-cmd"),
        *("--docker-entrypoint", "--readme"),
    },
    ("serverless", "create"): {
        *("--name", "--template-id", "--hub-id", "--gpu-id", "--gpu-count", "--compute-type"),
        *("--instance-id", "--workers-min", "--workers-max", "--data-center-ids", "--scale-by"),
        *("--network-volume-id", "--min-cuda-version", "--scale-threshold", "--idle-timeout"),
        *("--execution-timeout", "--env", "--model-reference"),
    },
    ("pod", "create"): {
        *("--template-id", "--image", "--name", "--gpu-id", "--gpu-count", "--compute-type"),
        *("--container-disk-in-gb", "--volume-in-gb", "--volume-mount-path", "--ports", "--env"),
        *("--cloud-type", "--min-cuda-version", "--stop-after", "--terminate-after"),
    },
}
SWITCHES = {"--serverless"}


def read(name: str) -> Any:
    return json.loads((ROOT / ".runpod" / name).read_text("utf-8"))


def template(kind: str) -> dict[str, Any]:
    content: dict[str, Any] = read(f"template-{kind}.json")
    return content


def hub() -> dict[str, Any]:
    config: dict[str, Any] = read("hub.json")["config"]
    return config


def commands() -> list[tuple[tuple[str, ...], dict[str, str]]]:
    """Every call of runpodctl in the docs: its command, and its flags with their values."""
    text = (ROOT / "docs" / "deploy.md").read_text("utf-8")
    found: list[tuple[tuple[str, ...], dict[str, str]]] = []
    for block in re.findall(r"^ *```bash\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] != ["runpodctl"]:
                continue
            flags, rest = {}, iter(words[3:])
            for word in rest:
                assert word in FLAGS[(words[1], words[2])] | SWITCHES, line
                flags[word] = "" if word in SWITCHES else next(rest)
            found.append(((words[1], words[2]), flags))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_template_has_the_documented_form(kind: str) -> None:
    jsonschema.validate(template(kind), TEMPLATE)
    assert template(kind)["isServerless"] is (kind == "serverless")
    # RunPod takes a volume disk for Pods alone.
    assert ("volumeInGb" in template(kind)) is (kind == "pod")


@pytest.mark.parametrize("kind", KINDS)
def test_a_template_sets_what_the_hub_sets(kind: str) -> None:
    found = template(kind)
    assert found["containerDiskInGb"] == hub()["containerDiskInGb"]
    offered = {entry["key"]: entry["input"].get("default") for entry in hub()["env"]}
    given = dict(found["env"])
    # A Pod is open to the network: it gets its keys from RunPod's secrets.
    secret = given.pop("API_KEYS", None)
    assert (secret is None) is (kind == "serverless")
    assert secret is None or re.fullmatch(r"\{\{ RUNPOD_SECRET_\w+ \}\}", secret)
    assert given == {name: str(offered[name]) for name in given}
    settings = read_settings(given)
    assert f"{settings.port}/http" in found["ports"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_template_names_the_released_image_of_this_version(kind: str) -> None:
    assert template(kind)["imageName"].endswith(f":{__version__}-cuda")


def test_the_volume_of_a_pod_is_where_the_image_keeps_the_weights() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text("utf-8")
    [home] = re.findall(r"HF_HOME=(/\S+)/huggingface-cache", dockerfile)
    assert template("pod")["volumeMountPath"] == home


@pytest.mark.parametrize("kind", KINDS)
def test_the_command_of_the_docs_makes_the_same_template(kind: str) -> None:
    made = [flags for name, flags in commands() if name == ("template", "create")]
    [flags] = [each for each in made if ("--serverless" in each) == (kind == "serverless")]
    found = template(kind)
    assert flags.pop("--name") == found["name"]
    assert flags.pop("--image") == found["imageName"]
    assert flags.pop("--container-disk-in-gb") == str(found["containerDiskInGb"])
    assert flags.pop("--ports").split(",") == found["ports"]
    assert json.loads(flags.pop("--env")) == found["env"]
    flags.pop("--serverless", None)
    volume = {"--volume-in-gb": "volumeInGb", "--volume-mount-path": "volumeMountPath"}
    assert flags == {flag: str(found[key]) for flag, key in volume.items() if key in found}


@pytest.mark.parametrize("command", [("serverless", "create"), ("pod", "create")])
def test_the_docs_choose_a_card_and_a_driver_that_the_hub_allows(command: tuple[str, str]) -> None:
    [flags] = [flags for name, flags in commands() if name == command]
    assert [flags["--min-cuda-version"]] == hub()["allowedCudaVersions"]
    assert flags["--gpu-id"] == read("tests.json")["config"]["gpuTypeId"]
    if command[0] == "serverless":
        model = template("serverless")["env"]["MODEL_ID"]
        assert flags["--model-reference"].endswith(f"/{model}:main")


def test_the_files_that_the_docs_send_are_the_templates() -> None:
    text = (ROOT / "docs" / "deploy.md").read_text("utf-8")
    assert set(re.findall(r"@\.runpod/([\w-]+\.json)", text)) == {
        f"template-{kind}.json" for kind in KINDS
    }
