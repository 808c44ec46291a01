"""A log event that was renamed carries its former text for one release."""

import ast
import json
import subprocess
import sys
from functools import cache

import pytest

from innbox_process.former_events import FORMER_EVENTS
from tests.support.words import ROOT

pytestmark = pytest.mark.unit

LOGS = """
import structlog
from types import SimpleNamespace
from innbox_process.logs import configure_logs
configure_logs(SimpleNamespace(log_format="json", log_level="INFO"), "relay")
log = structlog.get_logger("relay")
log.warning("partition maintenance skipped", reason="locked")
log.warning("something else")
"""


def test_a_line_has_the_former_text_beside_the_new_one() -> None:
    logged = subprocess.run(
        [sys.executable, "-c", LOGS], stderr=subprocess.PIPE, check=True, text=True, cwd=ROOT
    ).stderr
    renamed, other = map(json.loads, logged.splitlines())

    assert renamed["event"] == "partition maintenance skipped"
    assert (renamed["former_event"], renamed["reason"]) == ("no housekeeping", "locked")
    assert "former_event" not in other


@pytest.mark.parametrize("event", FORMER_EVENTS)
def test_the_new_texts_are_what_is_logged(event: str) -> None:
    """A text that changes once more must change in the table, too."""
    assert event in texts()


@cache
def texts() -> set[str]:
    """Return every string in the code of the processes, but for the table."""
    rooms = ("api", "consumers", "innbox_process", "relay")
    modules = [path for room in rooms for path in (ROOT / room).rglob("*.py")]
    return {
        node.value
        for path in modules
        if path.name != "former_events.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
