"""The style recipe, whole: datasets, LoRAs, grids, figures, scores, one report.

In: settings and a folder. Out, in the folder:

    raw/NAME, datasets/NAME, runs/NAME    samples, datasets, LoRAs
    compare/                              images of all rows, single.png, blend.png, grid.html, figures.json
    evaluation/NAME/                      what `loraloom evaluate` says of each style
    report.html, recipe.yaml, parts.json  the report, the resolved settings, what is done
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from loraloom.config.reading import to_yaml
from loraloom.evaluate.extractors import DEFAULT_CLIP, Extractor, own_clip, resolve_extractor
from loraloom.evaluate.run import EvaluateOptions, evaluate
from loraloom.prepare.styles import Style, parse_styles
from loraloom.prompts.notes import Losses
from loraloom.protocols.evaluation import MetricSetup
from loraloom.utils.atomic_files import sha256_file, write_text
from loraloom.utils.errors import UserError
from loraloom.utils.locks import lock_folder
from loraloom.utils.output_paths import check_folder
from loraloom.utils.progress import Progress
from loraloom.utils.untrusted import MAX_RECORD_BYTES, is_file, read_json_object
from recipes.styles.compare import choose_prompts, generate_rows
from recipes.styles.figures import findings, likeness, prompt_kept, read_sets
from recipes.styles.making import ADAPTER, check_folders, make_datasets, make_loras
from recipes.styles.parts import Parts, key_of
from recipes.styles.report import write_report
from recipes.styles.settings import StylesConfig

FIGURES_FILE = "compare/figures.json"
RECIPE_FILE = "recipe.yaml"
Say = Callable[[str], None]
Bar = Callable[[str], Progress]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came out.

    Attributes:
        report: The page.
        figures: What `compare/figures.json` holds; None where no LoRA was trained.
        failed: Name and reason of each part that failed.
    """

    report: Path
    figures: Mapping[str, Any] | None
    failed: Mapping[str, str]


def run_recipe(folder: Path, config: StylesConfig, say: Say, bar: Bar, *, cpu: bool = False) -> Result:
    """Do what is not done yet. A part that fails is named, and what does not depend on it is done.

    Args:
        folder: New, or of an earlier call, which is continued.
        config: Settings.
        say: Takes lines for the user.
        bar: Makes a progress callback for a titled piece of work.
        cpu: Train on the CPU even where there is a GPU.

    Raises:
        UserError: Styles or folders are wrong, the folder holds something else, or another process works there; raised
            before anything is written.
        KeyboardInterrupt: The training was asked to stop; the same command resumes it.
    """
    styles = parse_styles(config.prepare.style)
    check_folders(styles)
    check_folder(folder)
    if (
        folder.is_dir()
        and not is_file(folder / RECIPE_FILE)
        and any(not one.name.startswith(".") for one in folder.iterdir())
    ):
        raise UserError(
            "this folder is not empty and not one of this recipe", got=str(folder), fix="name another with --out"
        )
    with lock_folder(folder, say):
        write_text(folder / RECIPE_FILE, to_yaml(config))
        parts = Parts(folder, say)
        datasets = make_datasets(styles, folder, config, parts, say, bar)
        for style in styles:
            if style.name not in datasets:
                parts.skip(f"lora {style.name}", "its dataset could not be made")
        runs = make_loras(datasets, folder, config, parts, say, bar, cpu=cpu)
        figures = _compare(styles, datasets, runs, folder, config, parts, say, bar)
        _evaluate(styles, datasets, runs, folder, config, parts, say, bar)
        report = write_report(folder, styles, figures, parts, config)
    return Result(report=report, figures=figures, failed=dict(parts.failed))


def _compare(
    styles: Sequence[Style],
    datasets: Mapping[str, Path],
    runs: Mapping[str, Path],
    folder: Path,
    config: StylesConfig,
    parts: Parts,
    say: Say,
    bar: Bar,
) -> Mapping[str, Any] | None:
    """Images and figures of all styles that were trained."""
    if not runs:
        parts.skip("comparison", "no style was trained")
        return None
    place = folder / FIGURES_FILE
    sums = {name: sha256_file(run / ADAPTER) for name, run in runs.items()}
    sets = {name: sha256_file(datasets[name] / "manifest.jsonl") for name in runs}
    key = key_of("comparison", sums, sets, config.compare.model_dump(), config.evaluate.extractor)

    def work() -> None:
        triggers = {style.name: style.trigger for style in styles}
        trained = {name: datasets[name] for name in runs}
        prompts = choose_prompts(trained, triggers, config.compare)
        if not prompts:
            raise UserError(
                "there is no prompt to generate: no caption says more than its trigger", fix="add compare.prompts"
            )
        compared = generate_rows(runs, prompts, triggers, folder / "compare", config.compare, say, bar)
        losses = Losses(say, config.compare.strict)
        references = read_sets(trained, losses)
        losses.check()
        extractor = _extractor(config)
        shared: dict[str, Any] = {}
        setup = MetricSetup(tower=extractor.folder, device=_device(), seed=config.compare.seed, shared=shared)
        size = config.evaluate.batch_size
        matrices = [likeness(name, compared, references, setup, size, bar) for name in config.compare.metrics]
        prompted = prompt_kept(compared, references, setup, size, bar)
        _write_figures(
            place,
            {
                "styles": {style.name: style.trigger for style in styles if style.name in runs},
                "prompts": prompts,
                "images_per_row": len(prompts) * config.compare.num_seeds,
                "references": {name: len(found[0]) for name, found in references.items()},
                "extractor": {"location": extractor.location, "sha256": extractor.sha256},
                "likeness": [asdict(matrix) for matrix in matrices],
                "prompt": {row: asdict(one) for row, one in prompted.items()},
                "findings": [asdict(one) for one in findings(compared, matrices, prompted)],
            },
        )

    outputs = [place, folder / "compare" / "single.png", folder / "compare" / "grid.html"]
    if parts.do("comparison", key, work, outputs) is None:
        return None
    return read_json_object(place, FIGURES_FILE, max_bytes=MAX_RECORD_BYTES)


def _write_figures(path: Path, figures: Mapping[str, Any]) -> None:
    """JSON whose rows keep their order: base, styles, blends, real images."""
    write_text(path, json.dumps(figures, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _extractor(config: StylesConfig) -> Extractor:
    """The CLIP that reads styles and prompts: the one that was named, the base's own, or the usual one."""
    location = config.evaluate.extractor
    if location == "auto":
        location = own_clip(config.run.model.source) or DEFAULT_CLIP
    return resolve_extractor(location, "--set evaluate.extractor")


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _evaluate(
    styles: Sequence[Style],
    datasets: Mapping[str, Path],
    runs: Mapping[str, Path],
    folder: Path,
    config: StylesConfig,
    parts: Parts,
    say: Say,
    bar: Bar,
) -> None:
    """`loraloom evaluate` of each style."""
    for style in styles if config.scored else ():
        name = style.name
        if name not in runs:
            parts.skip(f"scores {name}", "it was not trained")
            continue
        out = folder / "evaluation" / name
        sums = [sha256_file(runs[name] / ADAPTER), sha256_file(datasets[name] / "manifest.jsonl")]
        key = key_of("scores", sums, config.evaluate.model_dump())
        options = EvaluateOptions(
            images=None, lora=runs[name], reference=datasets[name], base=None, domain=None, out=out
        )

        def work(options: EvaluateOptions = options, name: str = name) -> None:
            evaluate(
                config.evaluate, options, lambda line: say(f"{name}: {line}"), lambda title: bar(f"{name}: {title}")
            )

        parts.do(f"scores {name}", key, work, [out / "scores.json", out / "report.html"])


def summary(result: Result) -> str:
    """The findings, one a line."""
    rows = result.figures["findings"] if result.figures else []
    return "\n".join(f"{'shown    ' if row['shown'] else 'NOT SHOWN'} {row['metric']}: {row['text']}" for row in rows)
