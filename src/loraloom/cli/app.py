"""The command line: finds the verb, runs it, and turns a user's mistake into one or two lines.

In: the command line. Out: text on stdout, a user's mistake as one or two lines on stderr, and an exit status: 0 success,
1 a check or a run failed, 2 an error that the user can fix, 130 interrupted. The verbs are in `cli.verbs`; extensions add
groups of verbs (see `plugins.verbs`).
"""

import errno
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from loraloom import __version__, plugins
from loraloom.cli import verbs
from loraloom.config.flags import add_flags
from loraloom.utils.errors import LostRankError, UserError, did_you_mean
from loraloom.utils.ranks import LOST, SUPERVISED
from loraloom.utils.safe_paths import short_name
from loraloom.utils.untrusted import check_text

_REPAIRABLE = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EFBIG,
    errno.EIO,
    errno.ENOMEM,
    errno.EMFILE,
    errno.ENFILE,
}
"""Errors of disk or system that end with one line instead of a traceback even when no file name is known."""

# ------------------------------------------------------------------------------------------------------- the table


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
        return self.function.__name__.rstrip("_").replace("_", "-")  # `import_` is `import`

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
        one.command(self.name, cls=_Command)(function)
        return typer.main.get_command(one)


@dataclass(frozen=True, slots=True)
class Group:
    """A group of built-in verbs.

    Attributes:
        name: What the user types.
        summary: Its line in the list of verbs.
        module: Full name of the module that has its functions as `COMMANDS`.
    """

    name: str
    summary: str
    module: str

    def command(self) -> Any:
        """The group; imports its module."""
        return _FunctionGroup(self.name, self.summary, import_module(self.module).COMMANDS)


VERBS = (
    *(Verb(function, settings) for function, settings in verbs.VERBS),
    *(Group(name, summary, module) for name, summary, module in verbs.GROUPS),
)
CLUSTER_SUMMARY = "Train on many machines: deploy, launch, watch, stop, export."
"""The summary of the group `loraloom cluster`, whose verbs are in `cli/cluster_command.py`."""


class _Command(TyperCommand):
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


class _LazyGroup(TyperGroup, ABC):
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


class _FunctionGroup(_LazyGroup):
    """A group whose verbs are functions."""

    def __init__(self, name: str, summary: str, functions: Iterable[Callable[..., Any]]) -> None:
        super().__init__(name=name, help=summary, no_args_is_help=True, rich_markup_mode=None)
        self._verbs = {one.name: one for one in map(Verb, functions)}

    def table(self) -> dict[str, str]:
        return {word: verb.summary for word, verb in self._verbs.items()}

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return self._verbs[cmd_name].command() if cmd_name in self._verbs else None


class _ClusterGroup(_LazyGroup):
    """The verbs of `loraloom cluster`."""

    def __init__(self) -> None:
        super().__init__(name="cluster", help=CLUSTER_SUMMARY, no_args_is_help=True, rich_markup_mode=None)
        from loraloom.cli.cluster_command import COMMANDS

        self._verbs = {verb.name: verb for verb in (Verb(function, settings) for function, settings in COMMANDS)}

    def table(self) -> dict[str, str]:
        return {word: verb.summary for word, verb in self._verbs.items()}

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return self._verbs[cmd_name].command() if cmd_name in self._verbs else None


class _Verbs(_LazyGroup):
    """Built-in verbs, then those of extensions."""

    title = "Verbs"

    def table(self) -> dict[str, str]:
        brought = {verb.word: verb.summary for verb in plugins.verbs().values()}
        return {verb.name: verb.summary for verb in VERBS} | {"cluster": CLUSTER_SUMMARY} | brought

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name == "cluster":
            return _ClusterGroup()
        own = next((verb.command() for verb in VERBS if verb.name == cmd_name), None)
        brought = plugins.verbs().get(cmd_name)
        if own is not None or brought is None:
            return own
        # The group of verbs that an extension folder defines in `verb_<word>.py`.
        return _FunctionGroup(brought.word, brought.summary, plugins.load_verb(brought.word).COMMANDS)

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # a closed pipe raises here, where it is handled, not at exit
        except KeyboardInterrupt:
            typer.echo("interrupted", err=True)
            raise typer.Exit(130) from None
        return result


app = typer.Typer(
    cls=_Verbs,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"loraloom {__version__}")
        raise typer.Exit


@app.callback()
def loraloom(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Fine-tune text-to-image diffusion models by LoRA, and verify the images against their prompts."""


def main() -> None:
    """The entry point `loraloom`."""
    # pydantic's search for plugins reads the metadata of every installed package: 0.05 s of 0.3 s. We use none.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    # Waiting OpenMP threads spin. If other programs use the same cores, that makes generation many times slower. Limiting
    # the spin to about 0.1 ms avoids this at little cost on an idle machine; a much shorter spin halves the speed there.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "30000")
    try:
        for number, argument in enumerate(sys.argv[1:], 1):
            check_text(argument, f"argument {number}")
        app(prog_name="loraloom")
    except LostRankError as error:
        if SUPERVISED not in os.environ:
            sys.stderr.write(f"error: {error}\n")
        sys.stderr.flush()
        sys.stdout.flush()
        os._exit(LOST)  # the end of the process group would wait for the lost one
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    except OSError as error:
        if error.errno not in _REPAIRABLE and (error.errno is None or error.filename is None):
            raise
        place = short_name(str(error.filename or "while writing"))
        sys.stderr.write(f"error: {error.strerror}: {place}\n")
        sys.exit(2)
