"""The REST calls as `GET /openapi.json` describes them, tried with made-up and broken input.

schemathesis covers each bound of the description, adds seeded random calls, and follows links:
a session that was made is asked for and deleted.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema
from schemathesis.engine.recorder import ScenarioRecorder

SEED = 23


@dataclass
class RestTally:
    """What came of the calls; `failures` name a call, what it was answered and what was wrong."""

    calls: int = 0
    statuses: dict[int, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)


def fuzz_rest(url: str, examples: int) -> RestTally:
    """Try every operation with so many random calls, and with those that cover its bounds.

    Every answer has a status, type and body of the description; what is allowed is accepted and
    what is not is refused; no answer is a 500 or names a file of the worker.
    """
    config = SchemathesisConfig.from_dict(
        {
            "seed": SEED,
            "generation": {"max-examples": examples, "allow-x00": True},
            # A full or draining worker answers 503, and says so in the description.
            "checks": {"not_a_server_error": {"expected-statuses": ["2xx", "4xx", "503"]}},
            # Which parameters and tools go together, and what a file must hold, no schema can say.
            "operations": [
                {
                    "include-path-regex": "^/(v1/|session/create$)",
                    "checks": {"positive_data_acceptance": {"enabled": False}},
                }
            ],
            "cache": {"enabled": False},
        }
    )
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json", config=config)
    schema.hook("map_body")(_with_whole_numbers)
    tally = RestTally()
    for event in from_schema(schema).execute():
        match event:
            case events.ScenarioFinished():
                _count(tally, event.recorder)
            case events.NonFatalError() | events.FatalError():
                tally.failures.append(repr(event))
    return tally


def _with_whole_numbers(_: Any, body: Any) -> Any:
    """JSON Schema takes 2.0 for an integer; the worker wants it written as one."""
    if isinstance(body, dict):
        return {key: _with_whole_numbers(_, value) for key, value in body.items()}
    is_whole = isinstance(body, float) and body.is_integer()
    return int(body) if is_whole else body


def _count(tally: RestTally, recorder: ScenarioRecorder) -> None:
    for case_id, call in recorder.interactions.items():
        tally.calls += 1
        if call.response is None:
            tally.failures.append(f"{recorder.label}: no answer")
            continue
        status, body = call.response.status_code, call.response.content or b""
        tally.statuses[status] = tally.statuses.get(status, 0) + 1
        problems = list(_problems(recorder, case_id))
        if b"Traceback" in body or b".py" in body:
            problems.append("tells of the inside")
        tally.failures += [f"{recorder.label}: {status} {body[:200]!r}: {p}" for p in problems]


def _problems(recorder: ScenarioRecorder, case_id: str) -> Iterator[str]:
    for check in recorder.checks.get(case_id, []):
        if check.failure_info is not None:
            yield f"{check.name}: {check.failure_info.failure}"
