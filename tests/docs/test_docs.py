"""What the documents promise is there: tests, links, settings, commands, metrics."""

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import pytest
from prometheus_client import REGISTRY
from pydantic_core import PydanticUndefined

from api.app import create_app
from api.openapi.document import document
from api.problems.types import TYPES
from ops.cli import cli
from runtime.settings import Settings
from tests.support.api_client import some_settings

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted(DOCS.rglob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
]


WALK = re.compile(r"^\| .* \| `([\w/]+\.py)` \|$", re.MULTILINE)


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def test_every_guarantee_names_a_test_that_exists() -> None:
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", (DOCS / "guarantees.md").read_text())
    modules = {path.name: path for path in (ROOT / "tests").rglob("test_*.py")}
    assert named
    for file, test in named:
        assert f"def {test}(" in modules[file].read_text(), f"{file}::{test}"


def test_every_guarantee_has_a_test() -> None:
    for line in (DOCS / "guarantees.md").read_text().splitlines():
        if line.startswith("| ") and not line.startswith("| guarantee |"):
            assert "`test_" in line, line


def test_the_front_door_is_short_and_shows_code() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 120
    assert any("outbox.append(" in line for line in lines[:30])


def test_the_walk_of_a_reservation_names_files_that_exist_and_each_once() -> None:
    files = WALK.findall((DOCS / "design.md").read_text())
    assert len(files) > 10
    assert len(set(files)) == len(files)
    assert [file for file in files if not (ROOT / file).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_no_page_has_a_gap_to_be_filled(page: Path) -> None:
    assert "@@" not in page.read_text()
    assert "TODO" not in page.read_text()


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_no_link_leads_nowhere(page: Path) -> None:
    for path, _, anchor in re.findall(r"\]\(([^)#\s]*)(#([^)\s]*))?\)", page.read_text()):
        target = page.parent / path if path else page
        if not path.startswith("http"):
            assert target.exists(), path
            assert not anchor or anchor in anchors(target), f"{path}#{anchor}"


@pytest.mark.parametrize("page", sorted(REFERENCE.glob("*.md")), ids=named)
def test_every_page_of_a_folder_is_in_its_index(page: Path) -> None:
    assert page.name == "README.md" or f"({page.name})" in (page.parent / "README.md").read_text()


@pytest.mark.parametrize("page", sorted((DOCS / "howto").glob("*.md")), ids=named)
def test_every_task_is_in_the_index_of_tasks(page: Path) -> None:
    assert page.name == "README.md" or f"({page.name})" in (DOCS / "howto/README.md").read_text()


def test_the_settings_page_has_every_setting_with_its_default_and_no_other() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", settings_of_processes(), re.MULTILINE))
    assert rows == {name.upper(): default(name) for name in Settings.model_fields}


def settings_of_processes() -> str:
    return (REFERENCE / "settings.md").read_text().partition("## Commands only")[0]


def default(name: str) -> str:
    """Return a setting's default as the page has it."""
    if name.endswith("_database_url"):
        return "`DATABASE_URL`"  # where it comes from, as the model's own default is empty
    field = Settings.model_fields[name]
    if field.default is PydanticUndefined and field.default_factory is None:
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    if hasattr(value, "get_secret_value"):
        value = value.get_secret_value()
    if isinstance(value, tuple):
        value = ",".join(value)
    if isinstance(value, bool):
        value = str(value).lower()
    if isinstance(value, float):
        value = f"{value:g}"
    return f"`{value}`" if value != "" else "empty"


def test_the_page_of_commands_has_every_command_with_its_options_and_no_other() -> None:
    page = (REFERENCE / "cli.md").read_text()
    sections = re.split(r"^## ", page, flags=re.MULTILINE)
    shared = {one: set(re.findall(r"`(--[\w-]+)`", one.partition("\n| ")[0])) for one in sections}
    rows = {
        name: set(re.findall(r"`(--[\w-]+)`", options)) | shared[section]
        for section in sections
        for name, options in re.findall(
            r"^\| `(innbox [^`]+)` \| .* \|(.*)\|$", section, re.MULTILINE
        )
    }
    assert rows == dict(commands(cli, "innbox"))


def commands(command: click.Command, name: str) -> Iterator[tuple[str, set[str]]]:
    """Yield each command that is no group, with its long options."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for word in command.list_commands(context):
            child = command.get_command(context, word)
            assert child is not None
            yield from commands(child, f"{name} {word}")
    else:
        options = [one for one in command.params if isinstance(one, click.Option)]
        written = [word for one in options for word in (*one.opts, *one.secondary_opts)]
        yield name, {word for word in written if word.startswith("--")}


def test_the_page_of_metrics_has_every_metric_and_no_other() -> None:
    for process in ("api.app", "consumers.process", "relay.process"):
        import_module(process)  # registers its metrics
    page = (REFERENCE / "metrics.md").read_text()
    listed = set(re.findall(r"^\| `(\w+)` \| (?:gauge|counter|histogram) \|", page, re.MULTILINE))
    registered = {metric.name for metric in REGISTRY.collect()}
    assert listed == {
        name for name in registered if name.startswith(("innbox_", "outbox_", "relay_"))
    }


def test_the_page_of_the_api_has_every_route_with_its_scope_and_no_other() -> None:
    app = create_app(some_settings("postgresql+psycopg://nobody@nowhere/nothing"))
    routes = {
        f"{method.upper()} {path}": scope_of(operation)
        for path, item in document(app, page_size_max=1)["paths"].items()
        for method, operation in item.items()
    }
    page = (REFERENCE / "api.md").read_text()
    assert dict(re.findall(r"^\| `([A-Z]+ /.*?)` \| `?(.*?)`? \|", page, re.MULTILINE)) == routes


def scope_of(operation: dict[str, Any]) -> str:
    match operation.get("security"):
        case [{"bearer": [scope]}]:
            return str(scope)
        case [_]:
            return "any"
        case _:
            return "no token"


def test_the_page_of_the_api_has_every_problem_with_its_status_and_no_other() -> None:
    page = (REFERENCE / "api.md").read_text()
    listed = set(re.findall(r"^\| (\d+) \| `(\w+)` \|", page, re.MULTILINE))
    assert listed == {(str(one.status), one.code) for one in TYPES.values()}


@pytest.mark.parametrize("page", sorted((DOCS / "decisions").glob("*.md")))
def test_a_decision_says_when_to_revisit_it(page: Path) -> None:
    assert page.read_text().rstrip().rpartition("\n\n")[2].startswith("**Revisit when**")


def anchors(page: Path) -> set[str]:
    """What the headings of a page are called in links to them, as GitHub has it."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}
