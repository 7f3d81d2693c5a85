"""The verbs of the command line. Each reads settings, calls a room and prints; heavy imports are inside the functions.

A new verb is a function here and a line in `VERBS`; a group of verbs is a module and a line in `GROUPS`. A verb whose flags
come from settings takes them as its first parameter, `given`, and names its settings class in `VERBS`. The class is imported
only when that verb runs.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from loraloom import plugins
from loraloom.cli.caption_verb import caption
from loraloom.cli.evaluate_verb import evaluate
from loraloom.cli.inspect_verb import inspect
from loraloom.config.flags import ConfigFile, Given, Overrides
from loraloom.utils.errors import UserError, did_you_mean
from loraloom.utils.locks import refuse_if_held
from loraloom.utils.output_paths import check_folder, images_folder, prepare_line

_MODEL_CONFIG = (
    "For a single checkpoint: folder or hub id with configs and tokenizer, or a folder with CLIP's tokenizer; flow families "
    "also take text encoders and VAE from it."
)

_ClipSkip = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=64,
        help="Layer of the text encoders that is read; 2 is the one before the last. [default: as the adapter was trained]",
    ),
]
_Loras = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[NAME=]PLACE[:SCALE]",
        help="A LoRA with its scale, as --adapter; also with scales by block, a region and a part of the steps: "
        "runs/anime:0.8,up_blocks.1=0[0,0,0.5,1]@0-0.5; may be repeated.",
    ),
]
_NumProcesses = Annotated[
    str | None,
    typer.Option("--num-processes", metavar="N|auto", help="Processes of this machine, one a GPU; auto: all GPUs."),
]
_PromptDomain = Annotated[
    str | None,
    typer.Option(help="Domain of the prompts; some domains also verify the images. [default: the adapter's]"),
]
_AdapterWeights = Annotated[
    list[float] | None,
    typer.Option(help="Scale of each --adapter, in the same order; may be repeated. [default: 1]"),
]
_AddTriggers = Annotated[
    bool, typer.Option("--add-triggers", help="Put the trigger words of the LoRAs first where a prompt lacks them.")
]


def prepare(
    given: Given,
    source: Annotated[
        Path | None, typer.Argument(help="Folder with images and captions; with --style the folder to write.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the dataset to write; with --style of all datasets.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Count caption tokens with this model's tokenizer.")
    ] = None,
    part: Annotated[
        str | None,
        typer.Option(
            "--part",
            metavar="K/N",
            help="Prepare only part K of N, to share the work out to machines or jobs; `loraloom dataset join` puts the parts "
            "together.",
        ),
    ] = None,
    num_processes: Annotated[
        str | None,
        typer.Option("--num-processes", metavar="N|auto", help="As --num-workers; auto: one per core, the default."),
    ] = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Make a dataset of a folder of images and captions, or of several folders, one for each --style."""
    from loraloom.cli.prepare_command import prepare_folder, prepare_part, prepare_several
    from loraloom.cli.processes import count_workers
    from loraloom.config.prepare import PrepareConfig
    from loraloom.config.reading import read_settings

    settings = read_settings(PrepareConfig, config, overrides or (), count_workers(num_processes, given))
    if part is not None:
        prepare_part(settings, source, out, part, model, typer.echo)
    elif settings.style:
        prepare_several(settings, source, out, model, typer.echo)
    else:
        prepare_folder(settings, source, out, model, typer.echo)


def train(
    given: Given,
    config: ConfigFile = None,
    overrides: Overrides = None,
    cpu: Annotated[bool, typer.Option("--cpu", help="Train on the CPU even if there is a GPU.")] = False,
    num_processes: _NumProcesses = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Measure a few steps, write no run, and predict how more processes scale.")
    ] = False,
    num_nodes: Annotated[
        int, typer.Option("--num-nodes", min=1, max=1024, help="With --dry-run: machines to predict for.")
    ] = 1,
    network_gbit: Annotated[
        float, typer.Option("--network-gbit", min=0.001, help="With --dry-run: speed between machines, Gbit/s.")
    ] = 1.0,
) -> None:
    """Train a LoRA on a dataset; the same command resumes a stopped run."""
    from loraloom.cli.processes import count_processes
    from loraloom.cli.train_command import train_on_ranks, train_on_terminal
    from loraloom.config.reading import read_settings
    from loraloom.config.run import RunConfig

    settings = read_settings(RunConfig, config, overrides or (), given)
    if os.environ.get("RANK", "0") == "0":  # the other ranks check after the first one has the lock
        refuse_if_held(Path(settings.train.output))  # before torch is imported: that may take half a minute
    count = count_processes(num_processes, cpu=cpu)
    if dry_run:
        from loraloom.cli import dry_run as rehearsal

        rehearsal.dry_run(settings, count, num_nodes, network_gbit, typer.echo, cpu=cpu)
        return
    if num_nodes != 1 or network_gbit != 1.0:
        raise UserError("--num-nodes and --network-gbit belong to --dry-run", fix="add --dry-run, or leave them out")
    if count > 1:
        raise typer.Exit(train_on_ranks(settings, count))
    train_on_terminal(settings, cpu=cpu)


def generate(
    given: Given,
    prompts: Annotated[
        list[str] | None, typer.Argument(help="Prompts, each in quotes; images are generated for each in turn.")
    ] = None,
    adapter: Annotated[
        list[Path] | None, typer.Option(help="Run folder, checkpoint folder or adapter file; may be repeated.")
    ] = None,
    adapter_weight: _AdapterWeights = None,
    model: Annotated[
        str | None, typer.Option(help="Base model. [default: the one that the adapter was trained on]")
    ] = None,
    lora: _Loras = None,
    lora_dir: Annotated[Path | None, typer.Option(help="Folder in which <lora:NAME:0.8> of a prompt is found.")] = None,
    blend: Annotated[
        str, typer.Option(help="How several LoRAs act together: sum, switch, composite or klora.")
    ] = "sum",
    switch_every: Annotated[int, typer.Option(min=1, help="Steps between two changes of --blend switch.")] = 1,
    add_triggers: _AddTriggers = False,
    model_config: Annotated[str | None, typer.Option(help=_MODEL_CONFIG)] = None,
    prediction_type: Annotated[
        str, typer.Option(help="What the base model predicts if its files do not say it: epsilon or v_prediction.")
    ] = "auto",
    clip_skip: _ClipSkip = None,
    prompt_method: Annotated[
        str | None, typer.Option(help="How long prompts are encoded. [default: as the adapter was trained]")
    ] = None,
    domain: _PromptDomain = None,
    prompts_file: Annotated[
        Path | None, typer.Option(help="Text file with one prompt per line, or the name of a built-in set of prompts.")
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="Generate the images of a prompts.jsonl, or of one of our PNG files, again.")
    ] = None,
    interactive: Annotated[
        bool, typer.Option("--interactive", help="Type prompts and change settings in between.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder of the images. [default: RUN/generated, or images]")] = None,
    num_processes: _NumProcesses = None,
) -> None:
    """Generate images with a model and adapters."""
    if out or not lora:  # a LoRA's place is known after its text is read
        refuse_if_held(images_folder(out, () if recipe else adapter or ()))  # before torch is imported
    if num_processes is not None:
        from loraloom.cli.generate_ranks import generate_on_processes

        clash = "--interactive" if interactive else "--lora without --out" if lora and not out else ""
        generate_on_processes(num_processes, images_folder(out, () if recipe else adapter or ()), clash)
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
            loras=tuple(lora or ()),
            lora_dir=lora_dir,
            blend=blend,
            switch_every=switch_every,
            add_triggers=add_triggers,
            model=model,
            model_config=model_config,
            prediction_type=prediction_type,
            clip_skip=clip_skip,
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


def grid(
    given: Given,
    prompts: Annotated[list[str], typer.Argument(help="One or more prompts: an axis of the grid.")],
    lora: Annotated[
        list[str] | None, typer.Option(metavar="[NAME=]PLACE[:SCALE]", help="A LoRA with its scale; may be repeated.")
    ] = None,
    mix: Annotated[
        list[str] | None,
        typer.Option(
            metavar="BLEND",
            help="A setting of the loaded LoRAs, such as 'anime:0.6 + watercolor:0.4', 'switch: anime + watercolor' or "
            "base; may be repeated. [default: base, each alone, all together]",
        ),
    ] = None,
    seeds: Annotated[str, typer.Option(metavar="LIST", help="Seeds, such as 0,1,5-8. [default: --seed]")] = "",
    grid_steps: Annotated[str, typer.Option(metavar="LIST", help="Numbers of steps. [default: --steps]")] = "",
    guidances: Annotated[str, typer.Option(metavar="LIST", help="Guidance scales. [default: --guidance]")] = "",
    samplers: Annotated[str, typer.Option(metavar="LIST", help="Samplers. [default: --sampler]")] = "",
    across: Annotated[
        str | None, typer.Option(metavar="AXIS", help="Columns: prompt, lora, seed, steps, guidance or sampler.")
    ] = None,
    down: Annotated[str | None, typer.Option(metavar="AXIS", help="Rows; any further axis makes pages.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Base model. [default: the one that the first LoRA was trained on]")
    ] = None,
    add_triggers: _AddTriggers = False,
    out: Annotated[Path, typer.Option(help="Folder of the grid.")] = Path("grid"),
) -> None:
    """Compare LoRA settings, prompts, seeds, steps and guidance side by side."""
    refuse_if_held(out)  # before torch is imported
    from loraloom.cli import grid_command as command
    from loraloom.config.generate import GenerateConfig
    from loraloom.config.reading import read_settings
    from loraloom.utils.progress import bars

    command.generate_grid(
        read_settings(GenerateConfig, None, (), given),
        command.GridRequest(
            prompts=prompts,
            loras=tuple(lora or ()),
            mixes=tuple(mix or ()),
            seeds=seeds,
            steps=grid_steps,
            guidance=guidances,
            samplers=samplers,
            across=across,
            down=down,
            model=model,
            add_triggers=add_triggers,
            out=out,
        ),
        typer.echo,
        bars,
    )


def tokens(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder, or a text file with one caption.")],
    model: Annotated[
        str, typer.Option(help="Model whose tokenizer is used.")
    ] = "stable-diffusion-v1-5/stable-diffusion-v1-5",
    model_config: Annotated[str | None, typer.Option(help=_MODEL_CONFIG)] = None,
    domain: Annotated[str, typer.Option(help="Domain of the captions; auto takes the dataset's.")] = "auto",
    show: Annotated[
        str | None, typer.Option(metavar="ID", help="Show the encoder windows of the caption with this id.")
    ] = None,
    model_option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Option of the model's family; repeat for several.")
    ] = None,
) -> None:
    """Count caption tokens and show what each prompt method would lose."""
    from loraloom.data.tokens import tokens_text

    typer.echo(tokens_text(dataset, model, domain, show, model_config, model_option or ()))


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
    verb: Annotated[
        str, typer.Argument(help="Verb: train, inspect, caption, prepare, generate or evaluate.")
    ] = "train",
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
    """List families, domains, formats, captioners and metrics, built in and from other packages."""
    from loraloom.cli.extension_pages import extension_page, list_extensions

    typer.echo(extension_page(name) if name else list_extensions())


def families(
    name: Annotated[str | None, typer.Argument(help="Show this family in full.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List model families: what each takes, the memory that training needs, text length, sizes, exports."""
    from loraloom.cli import families_command as command

    rows = command.families(name, lambda line: typer.echo(line, err=True))
    if as_json:
        typer.echo(command.as_json(rows))
    else:
        command.print_families(rows, detailed=name is not None)


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


VERBS: tuple[tuple[Callable[..., Any], str | None], ...] = (
    (quickstart, None),
    (inspect, "loraloom.config.inspect:InspectConfig"),
    (caption, "loraloom.config.caption:CaptionConfig"),
    (prepare, "loraloom.config.prepare:PrepareConfig"),
    (train, "loraloom.config.run:RunConfig"),
    (generate, "loraloom.config.generate:GenerateConfig"),
    (grid, "loraloom.config.generate:GenerateConfig"),
    (evaluate, "loraloom.config.evaluate:EvaluateConfig"),
    (tokens, None),
    (samples, None),
    (config, None),
    (extensions, None),
    (families, None),
    (diff, None),
    (doctor, None),
)
"""Each verb, and `module:Class` of the settings whose flags it takes."""

GROUPS: tuple[tuple[str, str, str], ...] = (
    (
        "cache",
        "Precompute, show, verify and clean the cache of latents and prompt embeddings.",
        "loraloom.cli.cache_group",
    ),
    ("dataset", "Fetch datasets of the hub; join parts; export prepared ones.", "loraloom.cli.dataset_group"),
    ("lora", "Inspect, check, convert, merge, resize and extract LoRA files.", "loraloom.cli.lora_group"),
)
"""Word, summary, and the module that has the verbs of the group as `COMMANDS`."""
