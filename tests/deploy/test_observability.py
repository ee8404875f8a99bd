"""The dashboard and the alerts ask for what the worker really measures."""

import json
import re
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

from voxtral_worker import metrics

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
NAME = re.compile(r"\b(?:voxtral|websocket|audio)_\w+")


def dashboard() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    return content


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def expressions() -> list[str]:
    targets = [target for panel in dashboard()["panels"] for target in panel["targets"]]
    return [target["expr"] for target in targets] + [rule["expr"] for rule in rules()]


def measured() -> set[str]:
    """The names of all series, with those of labelled instruments that have none yet."""
    ends = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
    instruments = [kind for kind in vars(metrics).values() if isinstance(kind, MetricWrapperBase)]
    families = [family for instrument in instruments for family in instrument.collect()]
    return {family.name + end for family in families for end in ends.get(family.type, ("",))}


@pytest.mark.parametrize("expression", expressions())
def test_an_expression_parses_and_names_real_metrics(expression: str) -> None:
    promql_parser.parse(expression)
    asked = set(NAME.findall(expression))
    assert asked - measured() == set()
    assert asked or expression.startswith("up{")


def test_every_alert_says_what_is_wrong_and_how_bad_it_is() -> None:
    for rule in rules():
        assert rule["annotations"]["summary"]
        assert rule["labels"]["severity"] in {"critical", "warning"}


def test_a_name_that_nobody_measures_would_be_found() -> None:
    assert "voxtral_turns_total" in measured()
    assert "voxtral_turn_stage_seconds_bucket" in measured()
    assert "voxtral_no_such_total" not in measured()


def test_prometheus_asks_the_worker_of_the_compose_file() -> None:
    jobs = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"]
    assert jobs[0]["job_name"] == "voxtral-worker"
    assert jobs[0]["static_configs"] == [{"targets": ["worker:8000"]}]
