"""The verbs of the command line. Each reads settings, calls a room and prints; heavy imports are inside the functions.

In: the command line. Out: text on stdout, a user's mistake as one or two lines on stderr, and an exit status: 0 success,
1 a check or a run failed, 2 an error that the user can fix, 130 interrupted.

A new verb is a function here and a line in `VERBS`. Extensions add groups of verbs (see `plugins.verbs`). A verb whose
flags come from settings takes them as its first parameter, `given`, and names its settings class in `VERBS`. The class
is imported only when that verb runs.
"""

import errno
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from loraloom import __version__, plugins
from loraloom.config.flags import ConfigFile, Given, Overrides, add_flags
from loraloom.utils.errors import UserError, did_you_mean
from loraloom.utils.locks import refuse_if_held
from loraloom.utils.output_paths import COMMAND, check_folder, images_folder, prepare_line
from loraloom.utils.untrusted import check_text


def prepare(
    given: Given,
    source: Annotated[Path, typer.Argument(help="Folder with images and captions.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the dataset to write.")],
    model: Annotated[
        str | None, typer.Option("--model", help="Count caption tokens with this model's tokenizer.")
    ] = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Make a dataset of a folder of images and captions."""
    from loraloom.config.prepare import PrepareConfig
    from loraloom.config.reading import read_settings
    from loraloom.prepare import run as room
    from loraloom.utils.progress import bars

    settings = read_settings(PrepareConfig, config, overrides or (), given)
    text = None
    if model:
        from loraloom.models.loading import open_model
        from loraloom.protocols.model import ModelSource

        text = open_model(ModelSource(location=model)).text
    with bars() as bar:
        count = (lambda caption: len(text.tokenizer.tokenize(caption))) if text else None
        room.prepare(source, out, settings, count_tokens=count, console=typer.echo, progress=bar("images"))
    if not model:
        typer.echo("caption tokens were not counted: add --model, or run `loraloom tokens`")
    typer.echo(f"next: {COMMAND} train --dataset {out}")


def train(
    given: Given,
    config: ConfigFile = None,
    overrides: Overrides = None,
    cpu: Annotated[bool, typer.Option("--cpu", help="Train on the CPU even if there is a GPU.")] = False,
) -> None:
    """Train a LoRA on a dataset; the same command resumes a stopped run."""
    from loraloom.cli.train_command import train_on_terminal
    from loraloom.config.reading import read_settings
    from loraloom.config.run import RunConfig

    settings = read_settings(RunConfig, config, overrides or (), given)
    if os.environ.get("RANK", "0") == "0":  # the other ranks check after the first one has the lock
        refuse_if_held(Path(settings.train.output))  # before torch is imported: that may take half a minute
    train_on_terminal(settings, cpu=cpu)


def generate(
    given: Given,
    prompts: Annotated[
        list[str] | None, typer.Argument(help="Prompts, each in quotes; images are generated for each in turn.")
    ] = None,
    adapter: Annotated[
        list[Path] | None, typer.Option(help="Run folder, checkpoint folder or adapter file; may be repeated.")
    ] = None,
    adapter_weight: Annotated[
        list[float] | None,
        typer.Option(help="Scale of each --adapter, in the same order; may be repeated. [default: 1]"),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Base model. [default: the one that the adapter was trained on]")
    ] = None,
    prompt_method: Annotated[
        str | None, typer.Option(help="How long prompts are encoded. [default: as the adapter was trained]")
    ] = None,
    domain: Annotated[
        str | None,
        typer.Option(help="Domain of the prompts; some domains also verify the images. [default: the adapter's]"),
    ] = None,
    prompts_file: Annotated[Path | None, typer.Option(help="Text file with one prompt per line.")] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="Generate the images of a prompts.jsonl, or of one of our PNG files, again.")
    ] = None,
    interactive: Annotated[
        bool, typer.Option("--interactive", help="Type prompts and change settings in between.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder of the images. [default: RUN/generated, or images]")] = None,
) -> None:
    """Generate images with a model and adapters."""
    refuse_if_held(images_folder(out, () if recipe else adapter or ()))  # before torch is imported
    from loraloom.cli import generate_command as command
    from loraloom.config.generate import GenerateConfig
    from loraloom.config.reading import read_settings
    from loraloom.utils.progress import bars

    command.generate(
        read_settings(GenerateConfig, None, (), given),
        command.GenerateOptions(
            prompts=tuple(prompts or ()),
            adapters=tuple(adapter or ()),
            weights=tuple(adapter_weight or ()),
            model=model,
            prompt_method=prompt_method,
            domain=domain,
            prompts_file=prompts_file,
            recipe=recipe,
            interactive=interactive,
            out=out,
        ),
        given,
        typer.echo,
        bars,
    )


def tokens(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder, or a text file with one caption.")],
    model: Annotated[
        str, typer.Option(help="Model whose tokenizer is used.")
    ] = "stable-diffusion-v1-5/stable-diffusion-v1-5",
    domain: Annotated[str, typer.Option(help="Domain of the captions; auto takes the dataset's.")] = "auto",
    show: Annotated[
        str | None, typer.Option(metavar="ID", help="Show the encoder windows of the caption with this id.")
    ] = None,
) -> None:
    """Count caption tokens and show what each prompt method would lose."""
    from loraloom.data.tokens import tokens_text

    typer.echo(tokens_text(dataset, model, domain, show))


def quickstart(
    out: Annotated[Path, typer.Option(help="Folder of all results.")] = Path("quickstart"),
    plans: Annotated[int, typer.Option(min=60, help="Number of images to train on.")] = 300,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Training steps. [default: as many as take 3 minutes on this machine, 100 to 720]"),
    ] = None,
    best_of: Annotated[
        int | None,
        typer.Option(min=1, help="Candidates per prompt. [default: as many as take a minute on this machine, 2 to 8]"),
    ] = None,
) -> None:
    """Train the built-in base on a new style in about five minutes and verify every image; no download, no GPU."""
    from loraloom.cli.quickstart import Size, run_quickstart

    run_quickstart(out, Size(plans=plans, steps=steps, best_of=best_of), typer.echo)


def samples(
    kind: Annotated[
        str, typer.Argument(help="plans, scenes, styles, or the name of a domain that has a dataset generator.")
    ],
    out: Annotated[
        Path, typer.Option("--out", help="Folder of the images; the same command continues after an interruption.")
    ],
    count: Annotated[int, typer.Option("--count", min=1, help="Number of images.")] = 200,
    style: Annotated[
        str | None,
        typer.Option(help="Style of the images; ? lists the styles. [default: depends on KIND]"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the images.")] = 0,
) -> None:
    """Synthesize a training dataset with correct captions: plans, simple scenes, or scenes in a style."""
    from loraloom.utils.progress import bars

    generators = {name: plugins.load("domains", name).dataset_generator for name in plugins.names("domains")}
    chosen: dict[str, tuple[str, str]] = {}
    for name, dataset_generator in generators.items():
        if dataset_generator is not None:
            chosen |= {
                name: (name, dataset_generator.styles[0]),
                **{kind: (name, style) for kind, style in dataset_generator.kinds.items()},
            }
    if kind not in chosen:
        raise UserError("unknown kind of samples", got=kind, fix=did_you_mean(kind, chosen))
    name, default_style = chosen[kind]
    dataset_generator = generators[name]
    if style is not None and style not in dataset_generator.styles:
        raise UserError(f"unknown style of {kind}", got=style, expected="one of " + ", ".join(dataset_generator.styles))
    check_folder(out)
    with bars() as bar:
        dataset_generator.write_dataset(out, count, seed=seed, style=style or default_style, progress=bar("images"))
    typer.echo(f"next: {prepare_line(out, name)}")


def config(
    verb: Annotated[str, typer.Argument(help="Verb: train, prepare or generate.")] = "train",
    resolved: Annotated[
        Path | None,
        typer.Option(
            "--resolved",
            metavar="FILE",
            help="Print all settings of this run folder or settings file, defaults included.",
        ),
    ] = None,
) -> None:
    """Print every setting of a verb with help, limits and default, as a YAML template."""
    from loraloom.config.comparing import read_run, template
    from loraloom.config.reading import to_yaml

    typer.echo(to_yaml(read_run(resolved)) if resolved else template(verb), nl=False)


def extensions(
    name: Annotated[str | None, typer.Argument(help="Show only this extension, with its settings.")] = None,
) -> None:
    """List families, domains, formats and captioners, built in and from other packages."""
    from loraloom.cli.extension_pages import extension_page, list_extensions

    typer.echo(extension_page(name) if name else list_extensions())


def diff(
    run_a: Annotated[Path, typer.Argument(help="Run folder or settings file.")],
    run_b: Annotated[Path, typer.Argument(help="Run folder or settings file to compare with.")],
) -> None:
    """Show the settings that differ between two runs."""
    from loraloom.config.comparing import compare, difference_table, read_run

    typer.echo(difference_table(compare(read_run(run_a), read_run(run_b)), (str(run_a), str(run_b))))


def doctor(
    model: Annotated[str | None, typer.Option(help="Also check this model: hub id, folder or checkpoint.")] = None,
    dataset: Annotated[Path | None, typer.Option(help="Also check this dataset folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Check whether this machine can train, and how to fix what is missing."""
    from loraloom.cli.doctor import check_all, print_checks

    checks = check_all(model, dataset)
    print_checks(checks, as_json=as_json)
    if any(check.verdict == "fail" for check in checks):
        raise typer.Exit(1)


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
        one.command(self.name, cls=_Command)(function)
        return typer.main.get_command(one)


VERBS = (
    Verb(quickstart),
    Verb(prepare, "loraloom.config.prepare:PrepareConfig"),
    Verb(train, "loraloom.config.run:RunConfig"),
    Verb(generate, "loraloom.config.generate:GenerateConfig"),
    Verb(tokens),
    Verb(samples),
    Verb(config),
    Verb(extensions),
    Verb(diff),
    Verb(doctor),
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


class _ExtensionGroup(_LazyGroup):
    """The group of verbs that an extension folder defines in `verb_<word>.py`."""

    def __init__(self, verb: plugins.VerbFile) -> None:
        super().__init__(name=verb.word, help=verb.summary, no_args_is_help=True, rich_markup_mode=None)
        self._verbs = {one.name: one for one in map(Verb, plugins.load_verb(verb.word).COMMANDS)}

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
        brought = plugins.verbs()
        return own or (_ExtensionGroup(brought[cmd_name]) if cmd_name in brought else None)

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
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    except OSError as error:
        if error.errno not in _REPAIRABLE and (error.errno is None or error.filename is None):
            raise
        sys.stderr.write(f"error: {error.strerror}: {error.filename or 'while writing'}\n")
        sys.exit(2)
