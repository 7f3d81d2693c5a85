"""Make the datasets and the LoRAs of the styles: render samples, prepare, train.

In: settings and a folder. Out, in the folder: `raw/NAME` (rendered samples only), `datasets/NAME`, `runs/NAME`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from loraloom import plugins
from loraloom.config.run import RunConfig
from loraloom.data.bucket_sampler import Plan
from loraloom.data.manifest import MANIFEST_FILE, read_manifest
from loraloom.prepare.styles import Style, prepare_styles
from loraloom.train.run import train
from loraloom.utils.atomic_files import sha256_file, write_text
from loraloom.utils.errors import UserError, did_you_mean
from loraloom.utils.progress import Progress
from loraloom.utils.untrusted import parse_json, read_lines
from recipes.styles.parts import Parts, key_of
from recipes.styles.settings import SAMPLES, StylesConfig

Say = Callable[[str], None]
Bar = Callable[[str], Progress]
ADAPTER = "adapter.safetensors"


def sample_style(style: Style) -> str | None:
    """The painting style of a folder `samples:STYLE`; None for a real folder.

    Raises:
        UserError: No such painting style.
    """
    if not style.folder.startswith(SAMPLES):
        return None
    name, known = style.folder.removeprefix(SAMPLES), plugins.load("domains", "scenes").dataset_generator.styles
    if name not in known:
        raise UserError(f"the style {style.name} names no style of samples", got=name, fix=did_you_mean(name, known))
    return name


def check_folders(styles: Sequence[Style]) -> None:
    """Raise `UserError` for a folder that is missing, before anything is made."""
    for style in styles:
        if sample_style(style) is None and not Path(style.folder).is_dir():
            fix = f"name its folder with --style {style.name}=FOLDER:{style.trigger}, or {SAMPLES}STYLE for rendered scenes"
            raise UserError(f"the folder of the style {style.name} is not there", got=style.folder, fix=fix)


def make_samples(style: Style, folder: Path, config: StylesConfig, progress: Progress) -> None:
    """Render scenes in a style; their captions do not name the style, so that the trigger alone carries it."""
    painted = sample_style(style)
    assert painted is not None
    generator = plugins.load("domains", "scenes").dataset_generator
    generator.write_dataset(folder, config.samples.count, seed=config.samples.seed, style=painted, progress=progress)
    table = folder / "metadata.jsonl"
    rows: list[str] = []
    for number, line in read_lines(table, table.name):
        row = parse_json(line, f"{table.name}, line {number}")
        row["text"] = row["text"].removesuffix(f", {painted} style")
        rows.append(json.dumps(row) + "\n")
    write_text(table, "".join(rows))


def make_datasets(
    styles: Sequence[Style], folder: Path, config: StylesConfig, parts: Parts, say: Say, bar: Bar
) -> dict[str, Path]:
    """Prepare every style; returns the datasets that are there, by name of the style."""
    datasets: dict[str, Path] = {}
    for style in styles:
        name, source = style.name, style
        if sample_style(style) is not None:
            raw = folder / "raw" / name
            key = key_of("samples", style.folder, config.samples.model_dump())

            def render(style: Style = style, raw: Path = raw) -> None:
                make_samples(style, raw, config, bar(f"{style.name}: images"))

            if parts.do(f"samples {name}", key, render, [raw / "metadata.jsonl"]) is None:
                parts.skip(f"dataset {name}", "its images could not be rendered")
                continue
            source = replace(style, folder=str(raw))
        dataset = folder / "datasets" / name
        key = key_of("dataset", str(style), config.prepare.model_dump(exclude={"style"}), _listing(Path(source.folder)))

        def work(source: Style = source) -> Mapping[str, Any]:
            (one,) = prepare_styles([source], folder / "datasets", config.prepare, console=say, bar=bar)
            if one.error:
                raise one.error
            assert one.report is not None
            manifest = one.report.manifest
            return {
                "train": len(manifest.split("train")),
                "held_out": len(manifest.split("validation")),
                "without_caption": one.report.num_without_caption,
                "not_used": len(one.report.problems),
            }

        if parts.do(f"dataset {name}", key, work, [dataset / MANIFEST_FILE]) is not None:
            datasets[name] = dataset
    return datasets


def _listing(folder: Path) -> list[tuple[str, int, int]]:
    """Path, size and time of every file: a folder that changed is prepared again."""
    found: list[tuple[str, int, int]] = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            state = path.stat()
            found.append((path.relative_to(folder).as_posix(), state.st_size, state.st_mtime_ns))
    return found


def run_config(config: StylesConfig, dataset: Path, output: Path, num_devices: int = 1) -> RunConfig:
    """Settings of one training, with `epochs` as a number of steps.

    Raises:
        UserError: The settings do not fit the number of images, such as a warm-up that is longer than the training.
    """
    values = config.run.model_dump()
    values["data"]["dataset"], values["train"]["output"] = str(dataset), str(output)
    if config.epochs:
        sizes = tuple((example.width, example.height) for example in read_manifest(dataset).split("train"))
        plan = Plan(sizes, config.run.data.batch_size, num_devices, config.run.train.gradient_accumulation, 0)
        values["train"]["max_steps"] = config.epochs * plan.steps_per_epoch
        if values["optim"]["warmup_steps"] > values["train"]["max_steps"]:
            raise UserError(
                "the warm-up is longer than the training",
                got=f"run.optim.warmup_steps {values['optim']['warmup_steps']}",
                expected=f"at most {values['train']['max_steps']} steps, which {config.epochs} epochs are",
            )
    return RunConfig.model_validate(values)


def make_loras(
    datasets: Mapping[str, Path],
    folder: Path,
    config: StylesConfig,
    parts: Parts,
    say: Say,
    bar: Bar,
    *,
    cpu: bool = False,
) -> dict[str, Path]:
    """Train a LoRA on every dataset; returns the runs that are finished, by name of the style.

    Raises:
        KeyboardInterrupt: The training was asked to stop; it has been saved, and the same command resumes it.
    """
    runs: dict[str, Path] = {}
    for name, dataset in datasets.items():
        run = folder / "runs" / name
        key = key_of("lora", config.epochs, config.run.model_dump(), sha256_file(dataset / MANIFEST_FILE))

        def work(name: str = name, dataset: Path = dataset, run: Path = run) -> Mapping[str, Any]:
            settings = run_config(config, dataset, run)
            steps = settings.train.max_steps

            def report(done: int, numbers: Mapping[str, float]) -> None:
                speed = numbers["images_per_second"]
                say(f"{name}: step {done}/{steps}  loss {numbers['loss']:.4f}  {speed:.1f} images/s")

            result = train(
                settings,
                say=lambda line: say(f"{name}: {line}"),
                report=report,
                progress=lambda title: bar(f"{name}: {title}"),
                cpu=cpu,
            )
            if result.finished.stopped:
                raise KeyboardInterrupt
            return {
                "steps": steps,
                "seconds": result.finished.seconds,
                "exports_good": all(c.good for c in result.checks),
            }

        if parts.do(f"lora {name}", key, work, [run / ADAPTER]) is not None:
            runs[name] = run
    return runs
