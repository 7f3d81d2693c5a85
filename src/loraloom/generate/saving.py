"""Generate images and save them with their recipes.

In: a session, requests, a folder. Out: PNG files and `prompts.jsonl`; each file is written as soon as its image is ready.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from loraloom.generate.images import same_settings
from loraloom.generate.recipes import append_rows, read_rows, request_of, save_image
from loraloom.generate.session import Session
from loraloom.protocols.generation import GeneratedImage, ImageRequest
from loraloom.utils.errors import UserError
from loraloom.utils.locks import FolderLock
from loraloom.utils.progress import Progress
from loraloom.utils.untrusted import shown


def generate_into(
    session: Session, requests: Sequence[ImageRequest], lock: FolderLock, progress: Progress | None = None
) -> Iterator[tuple[Path, GeneratedImage]]:
    """Generate images and save them in a locked folder; yields (file, image) in order.

    File names are numbers that follow the highest one in the folder.
    """
    folder = lock.folder
    first = next_number(folder)
    for image in session.generate(requests, progress):
        lock.renew()
        yield keep_image(session, folder, f"{first + image.index:05d}", image), image


def keep_image(session: Session, folder: Path, name: str, image: GeneratedImage) -> Path:
    """Save one image with its recipe, in the PNG and as a line of `prompts.jsonl`."""
    recipe = session.recipe(image.request)
    path = save_image(folder, name, image, recipe)
    append_rows(folder, [{"file": path.name, **recipe.as_row()}])
    return path


def part_of(
    requests: Sequence[ImageRequest], batch_size: int, rank: int, num_ranks: int, *, mixed: bool = False
) -> list[tuple[int, ImageRequest]]:
    """The requests of one rank with their numbers: whole batches, those that one process would form, in turn.

    So every image has the same neighbours in its batch, and is the same, whatever the number of ranks.
    """
    numbered = list(enumerate(requests))
    batches = [
        list(run)[start : start + batch_size]
        for run in same_settings(numbered, mixed=mixed)
        for start in range(0, len(run), batch_size)
    ]
    return [item for batch in batches[rank::num_ranks] for item in batch]


def next_number(folder: Path) -> int:
    """One more than the highest numbered PNG in a folder."""
    numbers = [int(path.stem) for path in folder.glob("*.png") if path.stem.isdecimal()]
    return max(numbers, default=-1) + 1


def recipe_requests(place: Path, say: Callable[[str], None]) -> tuple[list[ImageRequest], dict[str, Any]]:
    """The requests of a recipe and their shared settings: model, adapters, prompt method, weighting, precision.

    Raises:
        UserError: No recipe, or an invalid line.
    """
    rows = read_rows(place)
    if not rows:
        raise UserError("the recipe is empty", got=str(place))
    shared = _shared(rows[0])
    kept = [row for row in rows if _shared(row) == shared]
    if len(kept) < len(rows):
        say(
            f"note: {len(rows) - len(kept)} of {len(rows)} lines are left out: their model, adapters or settings "
            "differ from the first line"
        )
    return [
        request_of(row, f"the recipe of {shown(row['file'])}" if "file" in row else "a recipe line") for row in kept
    ], shared


def _shared(row: Mapping[str, Any]) -> dict[str, Any]:
    keys = (
        "model",
        "adapters",
        "prompt_method",
        "domain",
        "weighting",
        "precision",
        "repair_rounds",
        "repair_guidance",
    )
    # Lines of versions without repair guidance have no such field: 0 means none.
    return {key: row.get(key) for key in keys} | {"repair_guidance": row.get("repair_guidance") or 0.0}
