"""The command line starts quickly: a command imports what it needs, and nothing of the others'."""

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest

import relay.cli
import relay.cli.root
from ops.cli import cli
from ops.cli.bench import BENCHES
from ops.cli.root import COMMANDS

pytestmark = pytest.mark.unit

# What takes most of the time of a start, by what it is for.
HEAVY = {"sqlalchemy", "confluent_kafka", "litestar", "httpx", "rich", "structlog", "alembic"}

_PROGRAM = """
import json, sys
from {package} import main
try:
    main()
finally:
    print(json.dumps(sorted(name for name in sys.modules if "." not in name)), file=sys.stderr)
"""


def imported_by(*arguments: str, package: str = "ops.cli") -> set[str]:
    """Run a command and return the top-level modules that it has imported."""
    ran = subprocess.run(
        [sys.executable, "-c", _PROGRAM.format(package=package), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={"JWT_KEY": "k" * 48, "PATH": ""},
    )
    return set(json.loads(ran.stderr.splitlines()[-1]))


@pytest.mark.parametrize(
    ("arguments", "heavy"),
    [
        (["--help"], set()),
        (["token", "--member", "7"], set()),
        # Nobody answers there, and to say so on a terminal takes rich.
        (["health", "http://127.0.0.1:1"], {"rich"}),
    ],
    ids=["help", "token", "health"],
)
def test_what_is_run_often_imports_little(arguments: list[str], heavy: set[str]) -> None:
    """A container runs `innbox health` every few seconds."""
    assert imported_by(*arguments) & HEAVY == heavy


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_says_of_a_command_what_the_command_says_of_itself(name: str) -> None:
    """The list does without the commands' modules, and must not drift from them."""
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    said = command.get_short_help_str(limit=1_000)
    assert said.startswith(COMMANDS[name].help.removesuffix("."))


@pytest.mark.parametrize("name", BENCHES)
def test_the_list_of_benchmarks_says_what_each_says_of_itself(name: str) -> None:
    benchmarks = cli.get_command(click.Context(cli), "bench")
    assert isinstance(benchmarks, click.Group)
    command = benchmarks.get_command(click.Context(benchmarks), name)
    assert command is not None
    assert command.name == name
    said = command.get_short_help_str(limit=1_000)
    assert said.startswith(BENCHES[name].removesuffix("."))


def test_the_list_has_every_command() -> None:
    for name in COMMANDS:
        cli.get_command(click.Context(cli), name)
    assert cli.commands.keys() == COMMANDS.keys()


@pytest.mark.parametrize("command", ["up", "demo", "local status", "bench relay"])
def test_without_the_extra_it_says_what_to_install(command: str, tmp_path: Path) -> None:
    program = f'import sys; sys.modules["psutil"] = None\n{_PROGRAM.format(package="ops.cli")}'
    ran = subprocess.run(
        [sys.executable, "-c", program, "--data", str(tmp_path), *command.split()],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": ""},
    )
    assert ran.returncode == 2
    assert "pip install 'innbox[local]'" in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize(
    ("arguments", "heavy"),
    [(["--help"], set()), (["health", "http://127.0.0.1:1"], {"rich"})],
    ids=["help", "health"],
)
def test_the_relays_own_command_starts_as_quickly(arguments: list[str], heavy: set[str]) -> None:
    assert imported_by(*arguments, package="relay.cli") & HEAVY == heavy


@pytest.mark.parametrize("name", relay.cli.root.COMMANDS)
def test_the_relays_list_says_what_its_commands_say_of_themselves(name: str) -> None:
    command = relay.cli.cli.get_command(click.Context(relay.cli.cli), name)
    assert command is not None
    assert command.name == name
    said = command.get_short_help_str(limit=1_000)
    assert said.startswith(relay.cli.root.COMMANDS[name].help.removesuffix("."))


def test_innbox_shows_the_operators_commands_of_the_relay() -> None:
    """The same ones, each under its name."""
    outbox = cli.get_command(click.Context(cli), "outbox")
    assert isinstance(outbox, click.Group)
    context = click.Context(outbox)
    assert outbox.list_commands(context) == list(relay.cli.root.OPERATORS)
    shown = {name: outbox.get_command(context, name) for name in relay.cli.root.OPERATORS}
    assert all(command and command.name == name for name, command in shown.items())
