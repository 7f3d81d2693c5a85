"""Command line options made from settings, so that `--help` and the settings cannot disagree.

In: a verb's function whose first parameter takes the given flags, and a settings class. Out: the same function with one
option for each setting that has a flag. Flags that the user gave arrive as a dict of dotted keys; others are absent.
Values are passed on as typed: `read_settings` is the one place that checks them.

    def train(given: Given, config: ConfigFile = None, overrides: Overrides = None) -> None:
        settings = read_settings(RunConfig, config, overrides or (), given)

    command = add_flags(train, RunConfig)

Importing this module costs typer, not pydantic: the top of `--help` must answer at once.
"""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loraloom.utils.errors import UserError

if TYPE_CHECKING:
    from loraloom.config.base import Settings
    from loraloom.config.describing import Leaf

Given = dict[str, Any]
"""Dotted key to value, of the flags that were given."""

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", "-c", metavar="FILE", help="Settings file, YAML or TOML; flags override it."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Any setting by its dotted key, such as lora.rank=8; overrides flags; may be repeated.",
    ),
]


def add_flags(function: Callable[..., Any], kind: "type[Settings]") -> Callable[..., Any]:
    """`function` with its first parameter replaced by an option for every setting of `kind` that has a flag."""
    from loraloom.config.describing import leaves
    from loraloom.config.extending import complete

    flagged = {leaf.key.replace(".", "__"): leaf for leaf in leaves(complete(kind)) if leaf.flag}
    first, *rest = inspect.signature(function, eval_str=True).parameters.values()
    for parameter in rest:
        flag = "--set" if parameter.annotation == Overrides else f"--{parameter.name.replace('_', '-')}"
        if twice := [leaf.key for leaf in flagged.values() if leaf.flag == flag]:
            raise UserError(
                f"an extension declares the flag {flag}, which the verb already has", got=twice[0], fix="uninstall it"
            )

    by_key = {leaf.key: leaf for leaf in flagged.values()}
    former = {f"former__{name}": by_key[now] for name, now in kind.renamed.items()}

    @functools.wraps(function)
    def verb(**arguments: Any) -> Any:
        for name, leaf in former.items():
            if arguments[name] is not None:
                raise UserError(f"{_former_flag(name)} was renamed", fix=f"use {leaf.flag}")
        own = {parameter.name: arguments[parameter.name] for parameter in rest}
        given = {
            leaf.key: _value(leaf, arguments[name]) for name, leaf in flagged.items() if arguments[name] is not None
        }
        return function(given, **own)

    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_option(leaf))
        for name, leaf in flagged.items()
    ]
    options += [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_option(leaf, _former_flag(name))
        )
        for name, leaf in former.items()
    ]
    own = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in rest]
    assert first.name == "given", f"the first parameter of {function.__name__} takes the flags"
    # typer reads the signature; the annotations would bring back the parameter that the options replace.
    verb.__dict__["__signature__"] = inspect.Signature([*own, *options])
    verb.__annotations__ = {parameter.name: parameter.annotation for parameter in [*own, *options]}
    return verb


def _former_flag(name: str) -> str:
    return "--" + name.removeprefix("former__").replace("_", "-")


def _option(leaf: "Leaf", former: str | None = None) -> Any:
    """The option of a setting; with `former`, a hidden option of this name."""
    flag = former or leaf.flag
    assert flag is not None
    if bool in leaf.kinds:
        kind, name, metavar = bool | None, f"{flag}/--no-{flag.removeprefix('--')}", None
    else:
        kind, name, metavar = (list[str] if leaf.repeats else str) | None, flag, _metavar(leaf)
    panel = None if former else leaf.title
    return Annotated[
        kind,
        typer.Option(
            name,
            help=_help(leaf),
            metavar=metavar,
            show_default=False,
            rich_help_panel=panel,
            hidden=former is not None,
        ),
    ]


def _metavar(leaf: "Leaf") -> str:
    if leaf.choices:
        return "|".join(leaf.choices)
    if int in leaf.kinds:
        return "N"
    return "X" if float in leaf.kinds else "TEXT"


def _help(leaf: "Leaf") -> str:
    from loraloom.config.describing import show

    notes: list[str] = []
    if not (leaf.is_text or leaf.choices or bool in leaf.kinds):
        notes.append("may be repeated" if leaf.repeats else leaf.expected.removesuffix(" or null"))
    if leaf.required:
        notes.append("required")
    elif bool in leaf.kinds:
        notes.append("default: " + ("on" if leaf.default else "off"))
    elif leaf.default not in (None, "", ()):
        notes.append(f"default: {leaf.default if isinstance(leaf.default, str) else show(leaf.default)}")
    return f"{leaf.help}  [{'; '.join(notes)}]" if notes else leaf.help


def _value(leaf: "Leaf", given: Any) -> Any:
    """`null` on the command line sets an optional setting to None."""
    return None if leaf.optional and given == "null" else given
