"""The docs and the sources avoid wording that readers stumble over."""

import pytest

from builder.prose import RULES, Rule, comments_of, findings, main

EXAMPLES = (
    "a JWT that is none",
    "'localhost:8103' is no\naddress of a worker",
    "an unknown session is told after it",
    "who is in is kept, whoever it is",
    "`MAX_SESSIONS` holds besides",
    "a conversation goes on",
    "audio bytes astray",
    "unset: found out",
    "send it anew",
    "what comes meanwhile",
    "good for ever",
    "shows what is in force",
    "a lost line",
    "The head is not overtaken",
    "What is asked for and not offered is an error",
    "It may be a text.",
    "texts are let go",
)


def test_no_page_and_no_comment_has_such_wording(capsys: pytest.CaptureFixture[str]) -> None:
    assert (main(), capsys.readouterr().out.count("\n")) == (0, 1)


@pytest.mark.parametrize(("rule", "example"), list(zip(RULES, EXAMPLES, strict=True)))
def test_a_rule_finds_its_example(rule: Rule, example: str) -> None:
    found = list(findings("page.md", f"A line.\n\n{example}\n"))
    assert [finding.instead for finding in found] == [rule.instead]
    assert found[0].line >= 3


@pytest.mark.parametrize(
    "text",
    [
        "There are none yet. There is no voice.",
        "It is no longer needed, and was no more than this.",
        "```\nNobody is told\n```",
        "`goes on`",
        "A list of talkers beyond the limit; ongoing work.",
    ],
)
def test_plain_words_and_code_are_left_alone(text: str) -> None:
    assert list(findings("page.md", text)) == []


def test_a_finding_names_page_line_and_what_to_write() -> None:
    [finding] = findings("docs/a.md", "one\n\n`code`\nSend it anew.\n")
    assert str(finding) == "docs/a.md:4: 'anew': write again"


SOURCE = '''"""Nobody is here.

Send it
anew.
"""

told = "goes on"  # as one likes

class A:
    b: int = 1
    """What is in force."""
'''


def test_of_code_only_comments_and_docstrings_are_read_at_their_lines() -> None:
    found = sorted((each.line, each.words) for each in findings("a.py", comments_of(SOURCE)))
    assert found == [(1, "Nobody"), (4, "anew"), (7, "as one likes"), (11, "in force")]


def test_pythons_none_is_not_the_word() -> None:
    assert (
        list(findings("a.py", "`x`: what to take; the value is None where there is no such")) == []
    )
