"""`evaluate`, whole: images, or a run that generates its own, to scores and a report.

In: settings and what the user named. Out: a folder with

    scores.json     every figure with its count, seeds, extractor, interval and anchors
    report.html     the same for people, with images side by side
    images/ROLE/    of a run: its images with their recipes; an evaluation that was interrupted uses them again
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from loraloom import __version__, plugins
from loraloom.config.describing import leaves
from loraloom.config.domains import open_domain
from loraloom.config.evaluate import EvaluateConfig, SweepConfig
from loraloom.config.extending import options_of
from loraloom.evaluate.extractors import DEFAULT_CLIP, Extractor, own_clip, resolve_extractor
from loraloom.evaluate.generating import without_trigger
from loraloom.evaluate.inputs import Images, References, read_images, read_references, say_sizes
from loraloom.evaluate.of_run import RunImages, plan_run
from loraloom.evaluate.report import Page, write_report
from loraloom.evaluate.scoring import Score, as_json, available, check_names, choose, per_image, score, seeds_of
from loraloom.evaluate.sharing import locked_for_all
from loraloom.prompts.notes import Losses
from loraloom.protocols.domain import Domain
from loraloom.protocols.evaluation import ROLE_NAMES, EvaluationMetric, MetricSetup, Sample
from loraloom.utils.atomic_files import write_json
from loraloom.utils.errors import UserError
from loraloom.utils.locks import lock_folder, refuse_if_held
from loraloom.utils.output_paths import check_folder
from loraloom.utils.progress import Progress
from loraloom.utils.untrusted import is_there

SCORES_FILE, REPORT_FILE = "scores.json", "report.html"
DEFAULT_VISION = "facebook/dinov2-base"

Say = Callable[[str], None]
Bar = Callable[[str], Progress]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateOptions:
    """What was named beside the settings.

    Attributes:
        images: Folder of generated images; None where a run generates its own.
        lora: Run, checkpoint folder or adapter file.
        reference: Dataset or folder of images; None takes the run's dataset.
        base: Model; None takes the adapter's, or that of the images' recipes.
        domain: Domain of the prompts; None takes the adapter's, or that of the recipes.
        out: Folder of the scores.
        prompts_file: Prompts that a run generates; None takes captions of its dataset.
        add_triggers: Whether the run's trigger word is added to prompts of a file that lack it.
    """

    images: Path | None
    lora: Path | None
    reference: Path | None
    base: str | None
    domain: str | None
    out: Path
    prompts_file: Path | None = None
    add_triggers: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What came out: the scores, the facts about them, and where they are."""

    scores: tuple[Score, ...]
    record: Mapping[str, Any]
    scores_file: Path
    report_file: Path


def evaluate(config: EvaluateConfig, options: EvaluateOptions, say: Say, bar: Bar) -> Evaluation:
    """Score images.

    Args:
        config: Settings.
        options: What was named.
        say: Takes lines for the user.
        bar: Makes a progress callback for a titled piece of work.

    Raises:
        UserError: Nothing to score, a metric that cannot be computed, or anything missing; raised before anything is
            written where that can be known.
    """
    check_names(config.metrics)
    check_folder(options.out)
    refuse_if_held(options.out)
    losses = Losses(say, config.strict)
    losses.add(*unused_lines(config), *_sweep_lines(config))
    references = References()
    if options.reference is not None:
        references = read_references(options.reference, losses, bar("reference images"))
    if options.lora is not None:
        run = plan_run(
            config,
            options.lora,
            options.base,
            options.domain,
            references,
            losses,
            options.prompts_file,
            add_triggers=options.add_triggers,
        )
        return _evaluate_run(config, options, run, losses, say, bar)
    assert options.images is not None
    images = read_images(options.images, losses, bar("images"))
    domain = open_domain(options.domain or images.domain or "freetext", references.info)
    samples = [*images.samples, *references.samples]
    without = no_extractor(config)
    metrics = choose(config.metrics, available(samples, verifies=domain.verifier is not None), without, say)
    extractors = needed_extractors(config, metrics, options.base or images.model or None)
    say_sizes(images.sizes, "the images", losses)
    say_reference_sizes(references, metrics, losses)
    losses.check()
    with ExitStack() as held:
        held.enter_context(lock_folder(options.out, say))
        facts, trigger = _facts_of_images(options, images), str(references.info.get("trigger") or "")
        return _finish(config, options, metrics, extractors, samples, domain, trigger, facts, losses, bar)


def _evaluate_run(
    config: EvaluateConfig, options: EvaluateOptions, run: RunImages, losses: Losses, say: Say, bar: Bar
) -> Evaluation:
    """Generate what the metrics need, then score it."""
    there = run.available()
    metrics = choose(config.metrics, there, no_extractor(config), say)
    extractors = needed_extractors(config, metrics, run.base)
    with ExitStack() as held:
        session = run.open(losses)
        losses.check()
        held.enter_context(locked_for_all(options.out, say))
        samples = run.samples(session, options.out, metrics, losses, bar, say)
        say_reference_sizes(run.references, metrics, losses)
        losses.check()
        return _finish(
            config, options, metrics, extractors, samples, session.encoder.domain, run.trigger, run.facts(), losses, bar
        )


def _finish(
    config: EvaluateConfig,
    options: EvaluateOptions,
    metrics: Sequence[EvaluationMetric],
    extractors: Mapping[str, Extractor],
    samples: Sequence[Sample],
    domain: Domain,
    trigger: str,
    facts: Mapping[str, str],
    losses: Losses,
    bar: Bar,
) -> Evaluation:
    setups = metric_setups(config, metrics, extractors, domain, trigger)
    scores = score(metrics, samples, setups, extractors, batch_size=config.batch_size, bar=bar)
    losses.add(*(f"note: {one.figure.note}" for one in scores if one.figure.note))
    losses.check()
    if not scores:
        raise UserError("no figure came out of these images", fix="name other --metrics, or more images")
    record = _record(config, metrics, extractors, samples, scores, facts, losses)
    table = [(name.replace("_", " "), value) for name, value in record["scored"].items()]
    files = options.out / SCORES_FILE, options.out / REPORT_FILE
    if is_there(files[0]):
        losses.say(f"{files[0]} of an earlier evaluation is replaced")
    title = f"Scores of {options.lora or options.images}"
    write_report(files[1], Page(title=title, facts=table, notes=list(losses.lines), scores=scores, samples=samples))
    write_json(files[0], record)
    return Evaluation(scores=tuple(scores), record=record, scores_file=files[0], report_file=files[1])


def metric_setups(
    config: EvaluateConfig,
    metrics: Sequence[EvaluationMetric],
    extractors: Mapping[str, Extractor],
    domain: Domain,
    trigger: str,
) -> dict[str, MetricSetup]:
    """What each metric is given, by its name; opened extractors and their features are shared."""
    common = MetricSetup(
        device="cuda" if torch.cuda.is_available() else "cpu",
        seed=config.seed,
        sections=domain.sections,
        verifier=domain.verifier,
        asked=lambda prompt: without_trigger(prompt, trigger),
        shared={},
    )
    return {
        metric.name: replace(
            common,
            tower=extractors[metric.tower].folder if metric.tower else None,
            options=options_of(config, [metric]),
        )
        for metric in metrics
    }


def _record(
    config: EvaluateConfig,
    metrics: Sequence[EvaluationMetric],
    extractors: Mapping[str, Extractor],
    samples: Sequence[Sample],
    scores: Sequence[Score],
    facts: Mapping[str, str],
    losses: Losses,
) -> dict[str, Any]:
    generated = [sample for sample in samples if sample.role == "generated"]
    seeds = seeds_of(samples)
    counts = {role: sum(sample.role == role for sample in samples) for role in dict.fromkeys(s.role for s in samples)}
    scored = {
        **facts,
        "images": ", ".join(f"{count:,} {ROLE_NAMES[role]}" for role, count in counts.items()),
        "prompts": f"{len({sample.prompt for sample in generated if sample.prompt}):,}",
        "seeds": f"{seeds[0]} .. {seeds[-1]} ({len(seeds)})" if seeds else "not known",
        "extractors": ", ".join(f"{one.location} (sha256 {one.sha256[:12]})" for one in extractors.values()) or "none",
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return {
        "loraloom": __version__,
        "scored": scored,
        "extractors": {kind: {"location": one.location, "sha256": one.sha256} for kind, one in extractors.items()},
        "counts": counts,
        "metrics": [metric.name for metric in metrics],
        "settings": config.model_dump(mode="json"),
        "scores": as_json(scores),
        "per_image": per_image(scores),
        "notes": list(losses.lines),
    }


def unused_lines(config: EvaluateConfig) -> list[str]:
    """A line for each setting of a metric that was given and whose metric is not computed."""
    names = plugins.names("metrics")
    declared = {name: getattr(plugins.load("metrics", name), "settings", None) for name in names}
    used = {key for name in config.metrics or names for key in getattr(declared[name], "model_fields", ())}
    lines: dict[str, str] = {}
    for name, settings in declared.items():
        for leaf in leaves(settings) if settings is not None else ():
            if leaf.key not in used and getattr(config, leaf.key) != leaf.default:
                lines[leaf.key] = f"note: {leaf.flag or leaf.key} is not used: add {name} to --metrics"
    return list(lines.values())


def _sweep_lines(config: EvaluateConfig) -> list[str]:
    """A line for each setting of a sweep that was given where there is no sweep."""
    given = [leaf for leaf in leaves(SweepConfig) if getattr(config.sweep, leaf.key) != leaf.default]
    return [f"note: {leaf.flag or leaf.key} is not used without --sweep RUN" for leaf in given]


def no_extractor(config: EvaluateConfig) -> Mapping[str, str]:
    """Kinds of extractors that nobody named, with what to do; a metric that is named gets the usual one."""
    if config.vision_extractor or config.metrics:
        return {}
    return {"vision": f"it needs an extractor for images alone: --vision-extractor {DEFAULT_VISION}, or a folder"}


def needed_extractors(
    config: EvaluateConfig, metrics: Sequence[EvaluationMetric], base: str | None
) -> dict[str, Extractor]:
    """The files of each kind of extractor that the metrics need."""
    kinds = {metric.tower for metric in metrics} - {""}
    found: dict[str, Extractor] = {}
    if "clip" in kinds:
        location = config.extractor if config.extractor != "auto" else own_clip(base) or DEFAULT_CLIP
        found["clip"] = resolve_extractor(location, "--extractor")
    if "vision" in kinds:
        found["vision"] = resolve_extractor(config.vision_extractor or DEFAULT_VISION, "--vision-extractor")
    return found


def say_reference_sizes(references: References, metrics: Sequence[EvaluationMetric], losses: Losses) -> None:
    """One line where some metric reads references of several sizes."""
    if any("reference" in metric.roles for metric in metrics):
        say_sizes(references.sizes, "the references", losses)


def _facts_of_images(options: EvaluateOptions, images: Images) -> dict[str, str]:
    facts = {"folder": str(options.images)}
    if images.model:
        facts["model"] = images.model
    if options.reference:
        facts["references"] = str(options.reference)
    return facts
