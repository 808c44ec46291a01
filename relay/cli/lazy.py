"""A group whose commands are imported when they run, so that none waits for what only others need."""

from collections.abc import Mapping
from copy import copy
from importlib import import_module
from typing import NamedTuple

import click

# In the help of a command: what a person types before it, which depends on the program that has it.
PROGRAM = "PROGRAM"


class Listed(NamedTuple):
    """What is known of a command before it is imported: its module, its name there, its summary."""

    module: str
    attribute: str
    help: str


class LazyGroup(click.Group):
    """A group that knows its commands' names and summaries, and imports the one that is asked for."""

    listed: Mapping[str, Listed] = {}

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(self.listed)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.listed:
            return None
        module, attribute, _ = self.listed[cmd_name]
        # Another program has the same command, and its help names that program.
        command: click.Command = copy(getattr(import_module(module), attribute))
        command.help = (command.help or "").replace(PROGRAM, ctx.command_path)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, listed.help) for name, listed in self.listed.items()])
