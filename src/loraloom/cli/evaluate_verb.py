"""The verb `loraloom evaluate`: its arguments; heavy imports are inside the function.

In: the command line. Out: what `cli.evaluate_command` does with it.
"""

from pathlib import Path
from typing import Annotated

import typer

from loraloom.config.flags import ConfigFile, Given, Overrides

Processes = Annotated[
    str | None,
    typer.Option(
        "--num-processes",
        help="Processes that generate the images of a run, one per GPU; auto: as many as GPUs. The scores are those of one "
        "process.",
    ),
]


def evaluate(
    given: Given,
    images: Annotated[
        Path | None, typer.Argument(help="Folder of generated images with prompts.jsonl, or a run.")
    ] = None,
    lora: Annotated[
        Path | None,
        typer.Option(
            "--lora", "--adapter", help="Run, checkpoint folder or adapter file; it generates its own images."
        ),
    ] = None,
    sweep: Annotated[
        Path | None,
        typer.Option(
            help="Run whose checkpoints, and averages of them, are compared at several scales: which one to keep."
        ),
    ] = None,
    prompts_file: Annotated[
        Path | None,
        typer.Option(
            help="Prompts that a run generates: a text file with one per line, or the name of a built-in set. "
            "[default: held-out captions of its dataset]"
        ),
    ] = None,
    add_triggers: Annotated[
        bool,
        typer.Option("--add-triggers", help="Put the trigger word first where a prompt of --prompts-file lacks it."),
    ] = False,
    reference: Annotated[
        Path | None,
        typer.Option(help="Dataset, or folder of real images, to compare with. [default: the dataset of the run]"),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option("--base", "--model", help="Base model. [default: the one that the adapter was trained on]"),
    ] = None,
    domain: Annotated[
        str | None,
        typer.Option(help="Domain of the prompts; some domains also verify the images. [default: the adapter's]"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the scores. [default: RUN/evaluation or RUN/sweep, or evaluation or sweep]"),
    ] = None,
    num_processes: Processes = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print scores.json, or sweep.json, instead of a table.")
    ] = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Score images, or an adapter by images that it generates: likeness, fit to prompts, drift, memorisation."""
    from loraloom.cli.evaluate_command import Named, run_on_terminal
    from loraloom.config.evaluate import EvaluateConfig
    from loraloom.config.reading import read_settings

    settings = read_settings(EvaluateConfig, config, overrides or (), given)
    named = Named(
        images=images, lora=lora, sweep=sweep, reference=reference, base=base, domain=domain, out=out,
        prompts_file=prompts_file, add_triggers=add_triggers,
    )  # fmt: skip
    run_on_terminal(settings, named, num_processes, as_json=as_json)
