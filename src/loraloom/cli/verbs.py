"""Commands and groups of commands that are built when they run, so that a list of verbs imports nothing.

In: functions, or modules with a list of them. Out: typer's commands, with options listed by group and unknown words refused
with the nearest known one.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from loraloom import plugins
from loraloom.config.flags import add_flags
from loraloom.utils.errors import UserError, did_you_mean


@dataclass(frozen=True, slots=True)
class Verb:
    """One verb of the command line.

    Attributes:
        function: Its implementation; the function's name is the verb, its docstring the help.
        settings: `module:Class` of the settings whose flags it takes as its first parameter.
    """

    function: Callable[..., Any]
    settings: str | None = None

    @property
    def name(self) -> str:
        return self.function.__name__.replace("_", "-")

    @property
    def summary(self) -> str:
        return (self.function.__doc__ or "").strip().splitlines()[0]

    def command(self) -> Any:
        """The typer command; imports the settings class."""
        function = self.function
        if self.settings:
            module, _, kind = self.settings.partition(":")
            function = add_flags(function, getattr(import_module(module), kind))
        one = typer.Typer(rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)
        one.command(self.name, cls=Command)(function)
        return typer.main.get_command(one)


class Command(TyperCommand):
    """A command whose help lists options by group. Plain text: rich would double the time of `--help`."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        panels: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                default = "Arguments" if parameter.param_type_name == "argument" else "Options"
                panels.setdefault(getattr(parameter, "rich_help_panel", None) or default, []).append(record)
        for title, records in panels.items():
            with formatter.section(title.rstrip(".")):
                formatter.write_dl(records)


class LazyGroup(TyperGroup, ABC):
    """A group that builds a command only when it runs, so that listing the verbs imports nothing."""

    title = "Commands"

    @abstractmethod
    def table(self) -> dict[str, str]:
        """Verb to summary, in the order of the help."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.table())

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section(self.title):
            formatter.write_dl(list(self.table().items()))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] not in self.table() and not args[0].startswith("-"):
            place = ctx.command_path.partition(" ")[2]
            what = f"unknown command of {place}" if place else "unknown verb"
            raise UserError(what, got=args[0], fix=did_you_mean(args[0], self.table()))
        return super().resolve_command(ctx, args)


class FunctionGroup(LazyGroup):
    """A group of verbs, each a function.

    Args:
        word: What the user types.
        summary: For its help.
        functions: The verbs.
    """

    def __init__(self, word: str, summary: str, functions: Iterable[Callable[..., Any]]) -> None:
        super().__init__(name=word, help=summary, no_args_is_help=True, rich_markup_mode=None)
        self._verbs = {one.name: one for one in map(Verb, functions)}

    def table(self) -> dict[str, str]:
        return {word: verb.summary for word, verb in self._verbs.items()}

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return self._verbs[cmd_name].command() if cmd_name in self._verbs else None


@dataclass(frozen=True, slots=True)
class Group:
    """A group of built-in verbs.

    Attributes:
        name: What the user types.
        summary: For the list of verbs.
        module: Full name of the module that has its functions as `COMMANDS`.
    """

    name: str
    summary: str
    module: str

    def command(self) -> FunctionGroup:
        """The group; imports its module."""
        return FunctionGroup(self.name, self.summary, import_module(self.module).COMMANDS)


def extension_group(verb: plugins.VerbFile) -> FunctionGroup:
    """The group of verbs that an extension folder defines in `verb_<word>.py`."""
    return FunctionGroup(verb.word, verb.summary, plugins.load_verb(verb.word).COMMANDS)
