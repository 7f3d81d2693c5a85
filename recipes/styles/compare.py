"""Images of the base, of each style and of blends of two: the same prompts and seeds in every row.

In: finished runs and their datasets. Out: `compare/images/ROW/` with each image's recipe, `compare/*.png` and `grid.html`.
Images of an interrupted call with the same recipe are used again.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from loraloom.cli.lora_options import with_triggers
from loraloom.config.generate import GenerateConfig
from loraloom.data.manifest import read_manifest
from loraloom.evaluate.generating import generate_role
from loraloom.generate.grid import Page, write_grid_page, write_sheet
from loraloom.generate.session import Session, open_session
from loraloom.lora.blend import Term, make_blend
from loraloom.prompts.notes import Losses
from loraloom.prompts.triggers import without_trigger
from loraloom.protocols.evaluation import Sample
from loraloom.protocols.generation import ImageRequest
from loraloom.utils.progress import Progress
from recipes.styles.settings import CompareConfig

BASE = "base"
Say = Callable[[str], None]
Bar = Callable[[str], Progress]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One setting of the LoRAs.

    Attributes:
        name: `base`, a style, or a blend such as `anime:0.6 + watercolor:0.4`.
        styles: Names of the styles that act.
        loras: The blend as text; empty for the base.
    """

    name: str
    styles: tuple[str, ...]
    loras: str

    @property
    def folder(self) -> str:
        """A name that can be a folder on every system."""
        return re.sub(r"[^\w.\-]+", "_", self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """The images of all rows; those of two rows with the same place have the same prompt and seed.

    Attributes:
        rows: Base, styles, blends.
        samples: Images by name of the row; their prompts have no trigger words.
        prompts: As they were given, without trigger words.
        triggers: Trigger word of each style.
    """

    rows: tuple[Row, ...]
    samples: Mapping[str, Sequence[Sample]]
    prompts: tuple[str, ...]
    triggers: Mapping[str, str]


def rows_of(styles: Sequence[str], config: CompareConfig) -> list[Row]:
    """Base, each style alone, and each style blended with the next; of two styles one blend."""
    rows = [Row(name=BASE, styles=(), loras="")]
    rows += [Row(name=name, styles=(name,), loras=_text((name, config.scale))) for name in styles]
    first, second = config.blend
    pairs = [(name, styles[(place + 1) % len(styles)]) for place, name in enumerate(styles)]
    for one, other in pairs if len(styles) > 2 else pairs[: len(styles) - 1]:
        text = _text((one, first), (other, second))
        rows.append(Row(name=text, styles=(one, other), loras=text))
    return rows


def _text(*scales: tuple[str, float]) -> str:
    return str(make_blend(tuple(Term(name=name, scale=scale) for name, scale in scales)))


def choose_prompts(datasets: Mapping[str, Path], triggers: Mapping[str, str], config: CompareConfig) -> tuple[str, ...]:
    """The prompts that were given, or held-out captions of the styles in turn; training captions where none is held out."""
    if config.prompts:
        return config.prompts
    pools: list[list[str]] = []
    for name, folder in datasets.items():
        manifest = read_manifest(folder)
        examples = manifest.split("validation") or manifest.split("train")
        pools.append([without_trigger(example.caption, triggers[name]) for example in examples])
    found: dict[str, None] = {}
    for place in range(max(map(len, pools), default=0)):
        found |= {pool[place]: None for pool in pools if place < len(pool) and pool[place]}
    return tuple(found)[: config.num_prompts]


def generate_rows(
    runs: Mapping[str, Path],
    prompts: Sequence[str],
    triggers: Mapping[str, str],
    folder: Path,
    config: CompareConfig,
    say: Say,
    bar: Bar,
) -> Compared:
    """Generate what is missing of every row, and write the grids.

    Raises:
        UserError: A LoRA cannot be loaded, or with `strict` a prompt is not read in full.
    """
    losses = Losses(say, config.strict)
    session = _open(runs, config, losses)
    samples: dict[str, Sequence[Sample]] = {}
    asked: dict[str, list[ImageRequest]] = {}
    rows = rows_of(list(runs), config)
    for row in rows:
        asked[row.name] = [_with_loras(session, one, row, triggers) for one in session.requests(list(prompts))]
        losses.add(*session.losses(asked[row.name]))
    losses.check()
    for row in rows:
        made = generate_role(
            session,
            "generated",
            asked[row.name],
            folder / "images" / row.folder,
            bar(f"{row.name}: denoiser steps"),
            lambda line, row=row: say(f"{row.name}: {line.removeprefix('scored: ')}"),
        )
        plain = [prompt for prompt in prompts for _ in range(config.num_seeds)]
        samples[row.name] = [
            replace(sample, id=f"{row.folder}/{sample.id}", prompt=prompt)
            for sample, prompt in zip(made, plain, strict=True)
        ]
    compared = Compared(rows=tuple(rows), samples=samples, prompts=tuple(prompts), triggers=triggers)
    _write_grids(folder, compared, session, asked, config)
    return compared


def _open(runs: Mapping[str, Path], config: CompareConfig, losses: Losses) -> Session:
    settings = GenerateConfig(
        num_images=config.num_seeds,
        seed=config.seed,
        steps=config.steps,
        guidance_scale=config.guidance_scale,
        batch_size=config.batch_size,
        mixed_precision=config.mixed_precision,
        strict=config.strict,
    )
    idle = [(place, Term(name=name, scale=0.0)) for name, place in runs.items()]
    return open_session(settings, idle=idle, changing=True, say=losses.say)


def _with_loras(session: Session, request: ImageRequest, row: Row, triggers: Mapping[str, str]) -> ImageRequest:
    prompt = with_triggers(request.prompt, [triggers[name] for name in row.styles])
    return replace(request, prompt=prompt, loras=row.loras, expanded_prompt=session.expanded(prompt, request.seed))


def _write_grids(
    folder: Path, compared: Compared, session: Session, asked: Mapping[str, list[ImageRequest]], config: CompareConfig
) -> None:
    """`single.png` and `blend.png` with the first seed of each prompt, and `grid.html` with all seeds and recipes."""
    for name, rows in grids_of(compared).items():
        page, images = _page(compared, rows, asked, config, 0, "")
        write_sheet(folder / f"{name}.png", page, images)
    pages = [
        _page(compared, compared.rows, asked, config, seed, f"seed {config.seed + seed}")
        for seed in range(config.num_seeds)
    ]
    recipes = [
        session.recipe(request).as_row() for page, _ in pages for requests in page.requests for request in requests
    ]
    write_grid_page(folder / "grid.html", "base, styles, blends", pages, dict(enumerate(recipes)))


def grids_of(compared: Compared) -> dict[str, list[Row]]:
    """The rows that each grid shows as its columns: base and styles alone; base and blends."""
    grids = {"single": [row for row in compared.rows if len(row.styles) < 2]}
    if any(len(row.styles) > 1 for row in compared.rows):
        grids["blend"] = [row for row in compared.rows if len(row.styles) != 1]
    return grids


def _page(
    compared: Compared,
    rows: Sequence[Row],
    asked: Mapping[str, list[ImageRequest]],
    config: CompareConfig,
    seed: int,
    title: str,
) -> tuple[Page, Sequence[Sequence[Image.Image | None]]]:
    """Prompts down, rows of the comparison across, of one seed."""
    places = range(seed, len(compared.prompts) * config.num_seeds, config.num_seeds)
    requests = tuple(tuple(asked[row.name][place] for row in rows) for place in places)
    images = [[_opened(compared.samples[row.name][place]) for row in rows] for place in places]
    page = Page(title=title, columns=tuple(row.name for row in rows), rows=compared.prompts, requests=requests)
    return page, images


def _opened(sample: Sample) -> Image.Image:
    assert sample.open is not None
    return sample.open()
