"""`loraloom grid`: compare LoRA settings, prompts, seeds and more side by side.

In: the values of each axis and the LoRAs. Out: a folder with every image and its recipe, a sheet and an HTML page.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from loraloom.cli.interactive import Bars
from loraloom.cli.lora_options import named_loras, with_triggers
from loraloom.config.generate import MAX_GUIDANCE, MAX_SEED, MAX_STEPS, GenerateConfig
from loraloom.generate.grid import Grid, Page, make_grid, write_grid_page, write_sheet
from loraloom.generate.saving import generate_into
from loraloom.generate.session import Session, open_session
from loraloom.lora.blend import Term, parse_blend
from loraloom.prompts.notes import Losses
from loraloom.protocols.generation import ImageRequest
from loraloom.protocols.model import ModelSource
from loraloom.utils.counted import counted
from loraloom.utils.errors import UserError, did_you_mean
from loraloom.utils.locks import lock_folder, refuse_if_held
from loraloom.utils.output_paths import check_folder
from loraloom.utils.untrusted import check_range, check_text

BASE = "base"


@dataclass(frozen=True, slots=True, kw_only=True)
class GridRequest:
    """What was asked for beside the settings of generation; see the verb's help."""

    prompts: Sequence[str]
    loras: Sequence[str] = ()
    mixes: Sequence[str] = ()
    seeds: str = ""
    steps: str = ""
    guidance: str = ""
    samplers: str = ""
    across: str | None = None
    down: str | None = None
    model: str | None = None
    add_triggers: bool = False
    out: Path = Path("grid")


def generate_grid(config: GenerateConfig, asked: GridRequest, say: Callable[[str], None], bars: Bars) -> None:
    """Generate the images of a grid and write it.

    Raises:
        UserError: An axis without values, a mix that names no LoRA, or anything missing.
    """
    check_folder(asked.out)
    refuse_if_held(asked.out)
    for prompt in asked.prompts:
        check_text(prompt, "the prompt")
    if not asked.loras and not asked.model:
        raise UserError("no model", fix="add --lora RUN, which names its base model, or --model")
    named = named_loras([], asked.loras)
    mixes = [_mix(text, [term for _, term in named.loaded]) for text in asked.mixes]
    values: dict[str, Sequence[Any]] = {
        "prompt": list(asked.prompts),
        "lora": mixes or _all_mixes([term for _, term in named.loaded]),
        "seed": _whole_numbers(asked.seeds, "--seeds", 0, MAX_SEED) or [config.seed],
        "steps": _whole_numbers(asked.steps, "--grid-steps", 1, MAX_STEPS),
        "guidance": _numbers(asked.guidance, "--guidances", 1, MAX_GUIDANCE),
        "sampler": [name.strip() for name in asked.samplers.split(",") if name.strip()],
    }
    grid = make_grid(values, asked.across, asked.down)
    losses = Losses(say, config.strict)
    session = open_session(
        config,
        source=ModelSource(location=asked.model) if asked.model else None,
        adapters=named.loaded,
        changing=True,
        say=say,
    )
    template = session.requests([asked.prompts[0]])[0]
    pages = grid.pages(replace(template, expanded_prompt=""))
    finish = _finisher(session, add_triggers=asked.add_triggers)
    pages = [
        replace(page, requests=tuple(tuple(finish(request) for request in row) for row in page.requests))
        for page in pages
    ]
    cells = [request for page in pages for row in page.requests for request in row]
    losses.add(*session.losses(cells))
    losses.check()
    for sampler in {request.sampler for request in cells}:  # an unknown one is named before an image is generated
        session.model.sampler(sampler, 1, template.height, template.width)
    say(
        f"{counted(len(cells), 'image')}: {grid.across} across, {grid.down} down"
        + (f", {len(pages)} pages" * (len(pages) > 1))
    )
    with lock_folder(asked.out, say) as lock, bars() as bar:
        images, recipes, seconds = _images(session, cells, lock, bar("denoiser steps"))
        shown = _by_page(pages, images)
        sheets = [
            write_sheet(asked.out / ("grid.png" if len(pages) == 1 else f"grid_{number:02d}.png"), page, rows)
            for number, (page, rows) in enumerate(shown, 1)
        ]
        write_grid_page(asked.out / "grid.html", _title(grid), shown, recipes)
    say(
        f"{counted(len(cells), 'image')} in {seconds:.1f} s; generate them again with --recipe {asked.out / 'prompts.jsonl'}"
    )
    say(f"{', '.join(str(sheet) for sheet in sheets)} and {asked.out / 'grid.html'}")


def _finisher(session: Session, *, add_triggers: bool) -> Callable[[ImageRequest], ImageRequest]:
    """Complete a request of the grid: triggers, the expanded prompt, the model's sampler."""

    def finish(request: ImageRequest) -> ImageRequest:
        if add_triggers:
            request = replace(request, prompt=with_triggers(request.prompt, session.triggers_of(request.loras)))
        return session.completed(replace(request, expanded_prompt=session.expanded(request.prompt, request.seed)))

    return finish


def _images(
    session: Session, cells: Sequence[ImageRequest], lock: Any, progress: Any
) -> tuple[list[Image.Image], dict[int, Mapping[str, Any]], float]:
    """All images in the order of the cells. They are generated by LoRA setting, so that scales change seldom;
    or by all other settings, where different LoRA settings share a batch."""
    mixed = session.mixes(cells)
    order = sorted(range(len(cells)), key=lambda number: _settings(cells[number], mixed=mixed))
    images: dict[int, Image.Image] = {}
    recipes: dict[int, Mapping[str, Any]] = {}
    seconds = 0.0
    for place, (_, image) in zip(order, generate_into(session, [cells[n] for n in order], lock, progress), strict=True):
        images[place] = image.image
        recipes[place] = session.recipe(image.request).as_row()
        seconds += image.seconds
    return [images[number] for number in range(len(cells))], recipes, seconds


def _settings(request: ImageRequest, *, mixed: bool) -> tuple[str, int, float, str]:
    return "" if mixed else request.loras or "", request.num_steps, request.guidance_scale, request.sampler


def _by_page(pages: Sequence[Page], images: Sequence[Image.Image]) -> list[tuple[Page, list[list[Image.Image | None]]]]:
    """Each page with its images, (rows, columns)."""
    left = iter(images)
    return [(page, [[next(left) for _ in row] for row in page.requests]) for page in pages]


def _title(grid: Grid) -> str:
    return f"{grid.across} x {grid.down}"


def _mix(text: str, terms: Sequence[Term]) -> str:
    """The blend of a `--mix`, with names checked against the loaded LoRAs."""
    if text.strip().lower() == BASE:
        return ""
    blend = parse_blend(text)
    names = [term.name for term in terms]
    for term in blend.terms:
        if term.name not in names:
            fix = did_you_mean(term.name, [*names, BASE]) if names else "load it with --lora"
            raise UserError("a --mix names a LoRA that is not loaded", got=term.name, fix=fix)
    return str(blend)


def _all_mixes(terms: Sequence[Term]) -> list[str]:
    """Without `--mix`: the base, each LoRA alone, and all of them together."""
    alone = [str(term) for term in terms]
    together = [" + ".join(alone)] if len(alone) > 1 else []
    return ["", *alone, *together]


def _whole_numbers(text: str, flag: str, least: int, most: int) -> list[int]:
    """Numbers of a list such as `0,1,5-8`."""
    found: list[int] = []
    for part in (part.strip() for part in text.split(",") if part.strip()):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or len(part) > 40:
            raise UserError(f"{flag} needs whole numbers", got=part, expected="such as 0,1,5-8")
        start, end = int(first), int(last or first)
        check_range(start, flag, least, most, whole=True)
        check_range(end, flag, least, most, whole=True)
        if not start <= end < start + 10_000:
            raise UserError(f"{flag}: not a range", got=part, expected="first-last, at most 10,000 numbers")
        found += range(start, end + 1)
    return found


def _numbers(text: str, flag: str, least: float, most: float) -> list[float]:
    found: list[float] = []
    for part in (part.strip() for part in text.split(",") if part.strip()):
        try:
            value = float(part)
        except ValueError:
            raise UserError(f"{flag} needs numbers", got=part, expected="such as 4,7.5") from None
        check_range(value, flag, least, most, whole=False)
        found.append(value)
    return found
