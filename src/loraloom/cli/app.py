"""The verbs. Each is thin: it reads settings, calls a room, prints; everything heavy is imported inside it.

In: the command line. Out: text on stdout, mistakes as one or two lines on stderr, and an exit status: 0 well, 1 a check
or a run failed, 2 the user can repair it, 130 interrupted.

A new verb is a function here and a line in `VERBS`; a group of them comes with an extension (see `plugins.verbs`). One
whose flags come from settings takes them as its first parameter, `given`, and names its settings class in its line; the
class is imported when that verb is asked for.
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
    source: Annotated[Path, typer.Argument(help="folder with images and captions")],
    out: Annotated[Path, typer.Option("--out", help="folder of the dataset")],
    model: Annotated[
        str | None, typer.Option("--model", help="count caption tokens with this model's tokenizer")
    ] = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Read a folder of images and captions and make a dataset of it."""
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
        typer.echo("captions were not counted: add --model to do that here, or use `loraloom tokens`")
    typer.echo(f"next: {COMMAND} train --dataset {out}")


def train(
    given: Given,
    config: ConfigFile = None,
    overrides: Overrides = None,
    cpu: Annotated[bool, typer.Option("--cpu", help="train on the CPU even where there is a GPU")] = False,
) -> None:
    """Teach a model a dataset; the same command goes on where a stopped run ended."""
    from loraloom.cli.train_command import train_on_terminal
    from loraloom.config.reading import read_settings
    from loraloom.config.run import RunConfig

    settings = read_settings(RunConfig, config, overrides or (), given)
    if os.environ.get("RANK", "0") == "0":  # the others of this run ask when the first one holds it
        refuse_if_held(Path(settings.train.output))  # before torch is imported: that may take half a minute
    train_on_terminal(settings, cpu=cpu)


def generate(
    given: Given,
    prompts: Annotated[
        list[str] | None, typer.Argument(help="what to draw; several are drawn one after another")
    ] = None,
    adapter: Annotated[
        list[Path] | None, typer.Option(help="run, checkpoint folder or adapter file; repeatable")
    ] = None,
    adapter_weight: Annotated[
        list[float] | None, typer.Option(help="how much each --adapter counts [default: 1]")
    ] = None,
    model: Annotated[str | None, typer.Option(help="base model [default: the one the adapter was trained on]")] = None,
    prompt_method: Annotated[
        str | None, typer.Option(help="how long prompts are read [default: the adapter's]")
    ] = None,
    domain: Annotated[
        str | None,
        typer.Option(help="what the prompts are about; some domains check the images too [default: the adapter's]"),
    ] = None,
    prompts_file: Annotated[Path | None, typer.Option(help="text file with a prompt a line")] = None,
    recipe: Annotated[Path | None, typer.Option(help="draw a prompts.jsonl, or a PNG made by us, once more")] = None,
    interactive: Annotated[
        bool, typer.Option("--interactive", help="type prompts and change settings as you go")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="folder of the images [default: RUN/generated or images]")] = None,
) -> None:
    """Draw images with a model and adapters."""
    refuse_if_held(images_folder(out, () if recipe else adapter or ()))  # before torch is imported
    from loraloom.cli import generate_command as command
    from loraloom.config.generate import GenerateConfig
    from loraloom.config.reading import read_settings
    from loraloom.utils.progress import bars

    command.generate(
        read_settings(GenerateConfig, None, (), given),
        command.Wishes(
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


def evaluate(
    given: Given,
    images: Annotated[
        Path | None, typer.Argument(help="folder of generated images with prompts.jsonl, or a run")
    ] = None,
    lora: Annotated[
        Path | None,
        typer.Option(
            "--lora", "--adapter", help="run, checkpoint folder or adapter file that generates its own images"
        ),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(help="dataset, or folder of real images, to compare with [default: the run's dataset]"),
    ] = None,
    base: Annotated[
        str | None, typer.Option("--base", "--model", help="base model [default: the one the adapter was trained on]")
    ] = None,
    domain: Annotated[
        str | None, typer.Option(help="what the prompts are about [default: the adapter's, or that of the recipes]")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="folder of the scores [default: RUN/evaluation or evaluation]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print scores.json instead of a table")] = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Score images, or an adapter by images it generates: likeness, fit to prompts, drift, memorisation."""
    from loraloom.config.evaluate import EvaluateConfig
    from loraloom.config.reading import read_settings

    settings = read_settings(EvaluateConfig, config, overrides or (), given)
    from loraloom.cli.evaluate_command import evaluate_on_terminal
    from loraloom.utils.progress import bars

    evaluate_on_terminal(
        settings,
        images,
        lora,
        reference,
        base,
        domain,
        out,
        as_json=as_json,
        say=typer.echo,
        note=lambda line: typer.echo(line, err=True),
        bars=bars,
    )


def tokens(
    dataset: Annotated[Path, typer.Argument(help="prepared dataset, or a text file with one caption")],
    model: Annotated[str, typer.Option(help="whose tokenizer counts")] = "stable-diffusion-v1-5/stable-diffusion-v1-5",
    domain: Annotated[str, typer.Option(help="what the texts are about; auto asks the dataset")] = "auto",
    show: Annotated[str | None, typer.Option(metavar="ID", help="print how this caption is cut")] = None,
) -> None:
    """Count caption tokens and tell what each prompt method would lose."""
    from loraloom.data.tokens import tokens_text

    typer.echo(tokens_text(dataset, model, domain, show))


def quickstart(
    out: Annotated[Path, typer.Option(help="folder that everything goes into")] = Path("quickstart"),
    plans: Annotated[int, typer.Option(min=60, help="images to learn from")] = 300,
    steps: Annotated[
        int | None, typer.Option(min=1, help="training steps [default: what fits into 3 minutes here, 100 to 720]")
    ] = None,
    best_of: Annotated[
        int | None, typer.Option(min=1, help="images for each text [default: what fits into a minute here, 2 to 8]")
    ] = None,
) -> None:
    """Teach the built-in base a new style in about five minutes and check every image; no download, no GPU."""
    from loraloom.cli.quickstart import Size, run_quickstart

    run_quickstart(out, Size(plans=plans, steps=steps, best_of=best_of), typer.echo)


def samples(
    kind: Annotated[str, typer.Argument(help="plans, scenes, styles, or the name of a domain that synthesizes images")],
    out: Annotated[Path, typer.Option("--out", help="folder of the images; go on with it after an interruption")],
    count: Annotated[int, typer.Option("--count", min=1, help="images")] = 200,
    style: Annotated[
        str | None,
        typer.Option(help="style; ? lists the known ones [default: the kind's own]"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="decides every image")] = 0,
) -> None:
    """Synthesize a data set to learn from, with true texts: plans, simple scenes, or scenes in a style."""
    from loraloom.utils.progress import bars

    drawn = {name: plugins.load("domains", name).dataset_generator for name in plugins.names("domains")}
    chosen: dict[str, tuple[str, str]] = {}
    for name, dataset_generator in drawn.items():
        if dataset_generator is not None:
            chosen |= {
                name: (name, dataset_generator.styles[0]),
                **{kind: (name, style) for kind, style in dataset_generator.kinds.items()},
            }
    if kind not in chosen:
        raise UserError("unknown kind of samples", got=kind, fix=did_you_mean(kind, chosen))
    name, usual = chosen[kind]
    dataset_generator = drawn[name]
    if style is not None and style not in dataset_generator.styles:
        raise UserError(f"unknown style of {kind}", got=style, expected="one of " + ", ".join(dataset_generator.styles))
    check_folder(out)
    with bars() as bar:
        dataset_generator.write_dataset(out, count, seed=seed, style=style or usual, progress=bar("images"))
    typer.echo(f"next: {prepare_line(out, name)}")


def config(
    verb: Annotated[str, typer.Argument(help="train, prepare, generate or evaluate")] = "train",
    resolved: Annotated[
        Path | None, typer.Option("--resolved", metavar="FILE", help="print this run's settings, defaults filled in")
    ] = None,
) -> None:
    """Print every setting of a verb with its help, limits and default, as YAML to start from."""
    from loraloom.config.comparing import read_run, template
    from loraloom.config.reading import to_yaml

    typer.echo(to_yaml(read_run(resolved)) if resolved else template(verb), nl=False)


def extensions(
    name: Annotated[str | None, typer.Argument(help="show this one with its settings")] = None,
) -> None:
    """List families, domains, formats, captioners and metrics, ours and those of other packages."""
    from loraloom.cli.extension_pages import extension_page, list_extensions

    typer.echo(extension_page(name) if name else list_extensions())


def diff(
    run_a: Annotated[Path, typer.Argument(help="run folder or settings file")],
    run_b: Annotated[Path, typer.Argument(help="another one")],
) -> None:
    """Show which settings differ between two runs."""
    from loraloom.config.comparing import compare, difference_table, read_run

    typer.echo(difference_table(compare(read_run(run_a), read_run(run_b)), (str(run_a), str(run_b))))


def doctor(
    model: Annotated[str | None, typer.Option(help="also check this hub id, folder or checkpoint")] = None,
    dataset: Annotated[Path | None, typer.Option(help="also check this prepared dataset")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of a table")] = False,
) -> None:
    """Check whether this machine can train, and say what to do where it cannot."""
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
"""What disk or system forbid also where no file is named: a word, no traceback. Whatever names a file is always told so."""

# ------------------------------------------------------------------------------------------------------- the table


@dataclass(frozen=True, slots=True)
class Verb:
    """A word of the command line.

    Attributes:
        function: What it does; its name is the word, its docstring the help.
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
    Verb(evaluate, "loraloom.config.evaluate:EvaluateConfig"),
    Verb(tokens),
    Verb(samples),
    Verb(config),
    Verb(extensions),
    Verb(diff),
    Verb(doctor),
)


class _Command(TyperCommand):
    """Shows options below the title of their group. Plain text: rich would double the time of `--help`."""

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


class _Words(TyperGroup, ABC):
    """A group that makes a command when it is asked for, so that the list of its words costs no import."""

    title = "Commands"

    @abstractmethod
    def table(self) -> dict[str, str]:
        """Word to summary, in the order of the help."""

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


class _Brought(_Words):
    """The verb group that an extension folder brings as `verb_<word>.py`."""

    def __init__(self, verb: plugins.VerbFile) -> None:
        super().__init__(name=verb.word, help=verb.summary, no_args_is_help=True, rich_markup_mode=None)
        self._verbs = {one.name: one for one in map(Verb, plugins.load_verb(verb.word).COMMANDS)}

    def table(self) -> dict[str, str]:
        return {word: verb.summary for word, verb in self._verbs.items()}

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return self._verbs[cmd_name].command() if cmd_name in self._verbs else None


class _Verbs(_Words):
    """Our own verbs, then those that extensions bring."""

    title = "Verbs"

    def table(self) -> dict[str, str]:
        brought = {verb.word: verb.summary for verb in plugins.verbs().values()}
        return {verb.name: verb.summary for verb in VERBS} | brought

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        own = next((verb.command() for verb in VERBS if verb.name == cmd_name), None)
        brought = plugins.verbs()
        return own or (_Brought(brought[cmd_name]) if cmd_name in brought else None)

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # a reader that has gone is noticed here, where it is handled, not at exit
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
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    """Teach a text-to-image diffusion model something new by LoRA, and prove that it learned it."""


def main() -> None:
    """The entry point `loraloom`."""
    # Looking for plugins of pydantic reads the metadata of every installed package: 0.05 s of 0.3, for none we use.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    # Threads of OpenMP that wait for each other spin. Beside other work on the same cores that makes generation many times
    # slower. A spin of some 0.1 ms helps there and costs an idle machine little; a much shorter one halves its speed.
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
