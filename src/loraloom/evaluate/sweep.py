"""`evaluate --sweep`, whole: the checkpoints of a run and averages of them, each at several scales, to a leaderboard.

In: settings and a run. Out: a folder with

    sweep.json      every setting with its figures, score, interval and verdict; the rules; the advised one
    report.html     the same for people: plots, leaderboard, images side by side
    grid.png        the images of one prompt: adapters down, scales across
    averages/NAME/  adapter files of averages of checkpoints
    images/         every image with its recipe; a sweep that was interrupted uses them again
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from loraloom.config.evaluate import SWEEP_SEEDS, EvaluateConfig
from loraloom.evaluate.extractors import Extractor
from loraloom.evaluate.generating import ADAPTER_ON, requests_of
from loraloom.evaluate.inputs import References, read_references
from loraloom.evaluate.of_run import RunImages, plan_run
from loraloom.evaluate.ranking import Ranking, Scored, group_means, rank
from loraloom.evaluate.run import (
    EvaluateOptions,
    metric_setups,
    needed_extractors,
    no_extractor,
    say_reference_sizes,
    unused_lines,
)
from loraloom.evaluate.scoring import available, check_names, choose, figures_of, role_free
from loraloom.evaluate.sharing import locked_for_all
from loraloom.evaluate.sweep_images import (
    Asked,
    Cell,
    cells_of,
    find_missing,
    generate_cells,
    seconds_per_image,
    work_line,
)
from loraloom.evaluate.sweep_plan import Candidate, find_checkpoints, make_averages, read_lengths, read_scales
from loraloom.generate.session import Session
from loraloom.prompts.notes import Losses
from loraloom.protocols.evaluation import EvaluationMetric, Figure, MetricSetup, Role, Sample
from loraloom.protocols.generation import ImageRequest
from loraloom.utils.counted import counted
from loraloom.utils.errors import UserError, did_you_mean
from loraloom.utils.locks import refuse_if_held
from loraloom.utils.output_paths import check_folder
from loraloom.utils.progress import Progress

USUAL = ("clip_i", "clip_score", "dino", "diversity", "drift", "memorisation", "sentences_met", "style")
"""Metrics of a sweep where none are named: those that need no images beside the ones that are ranked."""
RANKED_BY = ("sentences_met", "style", "clip_i", "dino")
"""What `--rank-by auto` takes: the first one that is computed."""
FIT = ("sentences_met", "clip_score")
"""Whether prompts are followed: the first one that is computed and is not what is ranked by."""
Bar = Callable[[str], Progress]
Say = Callable[[str], None]
BySet = Mapping[Role, Sequence[Sample]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """What came out of a sweep.

    Attributes:
        config: Settings, with nothing left open.
        options: What was named.
        run: The run and its prompts.
        cells: Every setting, by adapter and scale.
        scored: Their figures, in the same order.
        base, held_out: Figures of the base and of real held-out images.
        base_images: Samples of the base by role.
        images: Samples of each setting by its name and role.
        extractors: By kind.
        ranking: The leaderboard.
        notes: What was not used as it was given.
    """

    config: EvaluateConfig
    options: EvaluateOptions
    run: RunImages
    cells: Sequence[Cell]
    scored: Sequence[Scored]
    base: Scored
    held_out: Mapping[str, Figure]
    base_images: BySet
    images: Mapping[str, BySet]
    extractors: Mapping[str, Extractor]
    ranking: Ranking
    notes: Sequence[str]


def sweep(config: EvaluateConfig, options: EvaluateOptions, say: Say, bar: Bar) -> Sweep:
    """Generate and score what is missing of a sweep, and rank it. Writes images and averages; no report.

    Args:
        config: Settings.
        options: What was named; `lora` is the run.
        say: Takes lines for the user.
        bar: Makes a progress callback for a titled piece of work.

    Raises:
        UserError: No checkpoint, no training set, a scale that is none, or anything else that is missing; raised before
            anything is generated where that can be known.
    """
    assert options.lora is not None
    weight_given = config.adapter_weight != 1
    config = config.model_copy(update={"num_seeds": config.num_seeds or SWEEP_SEEDS, "adapter_weight": 1.0})
    check_names(config.metrics)
    check_folder(options.out)
    refuse_if_held(options.out)
    losses = Losses(say, config.strict)
    losses.add(*unused_lines(config))
    if weight_given:
        losses.add("note: --adapter-weight is not used in a sweep: --scales names the scales")
    scales = read_scales(config.sweep.scales)
    checkpoints = find_checkpoints(options.lora, config.sweep, losses)
    lengths = read_lengths(config.sweep.ema, len(checkpoints))
    run, metrics, extractors = _planned(config, options, checkpoints, losses, bar)
    ranked_by, fit = _ranked_by(config, metrics)
    losses.check()
    session = run.open(losses)
    asked = _asked(config, run, session, metrics, losses, bar)
    say_reference_sizes(run.references, metrics, losses)
    losses.check()
    with locked_for_all(options.out, say):
        averages = make_averages(checkpoints, lengths, options.out / "averages", losses)
        cells = cells_of([*checkpoints, *averages], scales)
        _say_work(session, cells, asked, run, options.out, say, averages)
        missing = find_missing(session, cells, asked, options.out)
        base_images, images = generate_cells(
            session, cells, asked, options.out, missing, bar("sweep: denoiser steps"), losses
        )
        losses.check()
        setups = metric_setups(config, metrics, extractors, session.encoder.domain, run.trigger)
        by_role = _references(run, metrics)
        scored, base, held_out = _scored(
            cells, metrics, setups, base_images, images, by_role, config.batch_size, bar("settings scored"), losses
        )
        losses.check()
        _check_ranked(ranked_by, base, scored)
        ranking = rank(
            scored,
            base,
            held_out,
            ranked_by=ranked_by,
            fit=fit,
            drift_weight=config.sweep.drift_weight,
            prompt_weight=config.sweep.prompt_weight,
            seed=config.seed,
        )
    return Sweep(
        config=config,
        options=options,
        run=run,
        cells=cells,
        scored=scored,
        base=base,
        held_out=held_out,
        base_images=base_images,
        images=images,
        extractors=extractors,
        ranking=ranking,
        notes=[*losses.lines, *ranking.notes],
    )


def _planned(
    config: EvaluateConfig, options: EvaluateOptions, checkpoints: Sequence[Candidate], losses: Losses, bar: Bar
) -> tuple[RunImages, list[EvaluationMetric], dict[str, Extractor]]:
    """The prompts and references, what can be computed of them, and with which extractors."""
    references = References()
    if options.reference is not None:
        references = read_references(options.reference, losses, bar("reference images"))
    run = plan_run(
        config,
        checkpoints[-1].file.path,
        options.base,
        options.domain,
        references,
        losses,
        options.prompts_file,
        add_triggers=options.add_triggers,
    )
    metrics = choose(config.metrics, run.available(), no_extractor(config), losses.say, USUAL)
    return run, metrics, needed_extractors(config, metrics, run.base)


def _ranked_by(config: EvaluateConfig, metrics: Sequence[EvaluationMetric]) -> tuple[str, str]:
    """The metric that settings are ranked by, and the one that says whether prompts are followed; empty for none."""
    names = [metric.name for metric in metrics]
    wanted = config.sweep.rank_by
    if wanted == "auto":
        wanted = next((name for name in RANKED_BY if name in names), "")
        if not wanted:
            expected = f"one of {', '.join(RANKED_BY)}"
            raise UserError("nothing to rank by among the metrics", got=", ".join(names), expected=expected)
    elif wanted not in names:
        fix = f"{did_you_mean(wanted, names)}; --metrics computes others"
        raise UserError("--rank-by names a metric that is not computed", got=wanted, fix=fix)
    return wanted, next((name for name in FIT if name in names and name != wanted), "")


def _check_ranked(name: str, base: Scored, cells: Sequence[Scored]) -> None:
    """Refuse a metric that has no figure of its name with a value for each image, higher is better."""
    found = [one.figures.get(name) for one in (base, *cells)]
    if all(figure and figure.better > 0 and figure.values for figure in found):
        return
    why = next((figure.says_nothing for figure in found if figure and figure.says_nothing), "")
    raise UserError(
        f"settings cannot be ranked by {name}" + (f": {why}" if why else ""),
        expected=f"a metric with a value for each image, such as {', '.join(RANKED_BY)}",
        fix="name another with --rank-by; the images are kept",
    )


def _asked(
    config: EvaluateConfig,
    run: RunImages,
    session: Session,
    metrics: Sequence[EvaluationMetric],
    losses: Losses,
    bar: Bar,
) -> Asked:
    """The requests of every role that some metric reads; prompts that are not read in full are a line."""
    roles: set[Role] = {role for metric in metrics for role in metric.roles}
    roles |= {"generated", "base"}
    requests: dict[Role, list[ImageRequest]] = {}
    wanted: list[Role] = [role for role in ADAPTER_ON if role in roles]
    for role in wanted:
        if role in ("no_trigger", "no_trigger_base") and not run.has_trigger:
            continue
        found = requests_of(session, role, run.prompts, run.trigger, bar("prompts"))
        requests[role] = found[: config.sweep.num_unrelated] if role in ("drift", "drift_base") else found
    losses.add(*session.losses(requests["generated"]))
    losses.check()
    return Asked(requests=requests, captions=run.captions if "probe" in roles else (), seed=config.seed)


def _say_work(
    session: Session,
    cells: Sequence[Cell],
    asked: Asked,
    run: RunImages,
    out: Path,
    say: Say,
    averages: Sequence[Candidate],
) -> None:
    """What a sweep will do, and how long it will take here."""
    num_adapters = len({cell.candidate.name for cell in cells})
    num_scales = len({cell.scale for cell in cells})
    seeds = run.config.seeds_per_prompt
    num_prompts = len(asked.requests["generated"]) // seeds
    adapters = counted(num_adapters - len(averages), "checkpoint")
    if averages:
        adapters = f"({adapters} + {counted(len(averages), 'average')})"
    images = len(cells) * len(asked.requests["generated"])
    line = f"{adapters} x {counted(num_scales, 'scale')} x {counted(num_prompts, 'prompt')} x {counted(seeds, 'seed')}"
    line += f" = {counted(images, 'image')}"
    others = sum(len(asked.requests[role]) for role in asked.roles(on=True)) - len(asked.requests["generated"])
    if others:
        line += f", and {len(cells) * others:,} more for drift and the like"
    say(f"{line}; {sum(len(asked.requests[role]) for role in asked.roles(on=False)):,} of the base")
    missing = find_missing(session, cells, asked, out)
    if missing.count:
        say(work_line(missing, seconds_per_image(session, asked.requests["generated"])))
    else:
        say(f"nothing to generate: {counted(missing.total, 'image')} there already")


def _references(run: RunImages, metrics: Sequence[EvaluationMetric]) -> dict[Role, list[Sample]]:
    """References and held-out images, as far as some metric reads references."""
    by_role: dict[Role, list[Sample]] = {}
    if any("reference" in metric.roles for metric in metrics):
        for sample in run.references.samples:
            by_role.setdefault(sample.role, []).append(sample)
    return by_role


def _scored(
    cells: Sequence[Cell],
    metrics: Sequence[EvaluationMetric],
    setups: Mapping[str, MetricSetup],
    base_images: BySet,
    images: Mapping[str, BySet],
    references: BySet,
    batch_size: int,
    progress: Progress,
    losses: Losses,
) -> tuple[list[Scored], Scored, dict[str, Figure]]:
    """Figures of every setting, of the base, and of real held-out images."""

    def figures(by_role: BySet, only: Sequence[EvaluationMetric]) -> dict[str, Figure]:
        found = [figure for metric in only for figure in figures_of(metric, setups[metric.name], by_role, batch_size)]
        losses.add(*(f"note: {figure.note}" for figure in found if figure.note))
        return {figure.name: figure for figure in found}

    anchored = [metric for metric in metrics if role_free(metric)]
    total = len(cells) + 2
    held_out: dict[str, Figure] = {}
    if references.get("held_out") and references.get("reference"):
        real = [_as_generated(sample) for sample in references["held_out"]]
        there = available([*real, *references["reference"]], verifies=any(setup.verifier for setup in setups.values()))
        held_out = figures(
            {"generated": real, "reference": references["reference"]},
            [metric for metric in anchored if not metric.missing(there)],
        )
    progress(1, total)
    own = [_as_generated(sample) for sample in base_images["base"]]
    base = _of_figures(
        None, figures({"generated": own, "reference": references.get("reference", [])}, anchored), own, base_images
    )
    progress(2, total)
    scored: list[Scored] = []
    for number, cell in enumerate(cells, 3):
        by_role: dict[Role, Sequence[Sample]] = {**references, **base_images, **images[cell.name]}
        mine = images[cell.name]
        scored.append(_of_figures(cell, figures(by_role, metrics), mine["generated"], mine))
        progress(number, total)
    return scored, base, held_out


def _of_figures(cell: Cell | None, figures: Mapping[str, Figure], generated: Sequence[Sample], images: BySet) -> Scored:
    """Figures with the mean of each prompt; with one prompt, of each seed."""
    several = len({sample.prompt for sample in generated}) > 1
    groups = {sample.id: sample.prompt if several else sample.pair for sample in generated}
    unrelated = {sample.pair: sample.prompt for sample in images.get("drift", ())}
    return Scored(
        name=cell.name if cell else "base",
        label=cell.label if cell else "base",
        step=cell.candidate.step if cell else 0,
        scale=cell.scale if cell else 0.0,
        candidate=cell.candidate.name if cell else "",
        is_average=bool(cell and cell.candidate.is_average),
        figures=figures,
        by_group={
            name: group_means(figure, unrelated if name.startswith("drift") else groups)
            for name, figure in figures.items()
            if figure.values
        },
    )


def _as_generated(sample: Sample) -> Sample:
    return replace(sample, role="generated")
