"""The images that a run is scored by: the same requests with the adapter on and off, with and without its trigger word.

In: a session with one adapter, prompts, and which roles are wanted. Out: samples of images in a folder, each with its
recipe. Images that an earlier evaluation left there with the same recipe are used again.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from loraloom.evaluate.inputs import images_of
from loraloom.generate.recipes import LIST_NAME, read_rows
from loraloom.generate.saving import generate_into, part_of
from loraloom.generate.session import Session
from loraloom.prompts.triggers import without_trigger
from loraloom.protocols.evaluation import ROLE_NAMES, Role, Sample
from loraloom.protocols.generation import ImageRequest
from loraloom.utils.locks import lock_folder
from loraloom.utils.progress import Progress
from loraloom.utils.ranks import supervised_rank
from loraloom.utils.safe_paths import path_problem
from loraloom.utils.untrusted import is_file, is_there

Say = Callable[[str], None]

UNRELATED = (
    "a wooden table with a bowl of apples",
    "a lighthouse on a cliff at sunset",
    "a portrait of an old man with a beard",
    "a city street in the rain at night",
    "a field of yellow flowers under a blue sky",
    "a red sports car on a mountain road",
    "a cat that sleeps on a sofa",
    "an astronaut on the moon, digital art",
    "a bookshelf full of old books",
    "a snowy forest with a small cabin",
)
"""Fixed prompts for the metric drift, as PEFT's benchmark has its own ten."""
ADAPTER_ON: Mapping[Role, bool] = {
    "generated": True,
    "base": False,
    "no_trigger": True,
    "no_trigger_base": False,
    "drift": True,
    "drift_base": False,
}
"""Roles whose images are generated, in this order."""


def set_scale(session: Session, scale: float) -> None:
    """Give all adapters of a session one scale; 0 is the base."""
    session.adapters.set_scales(dict.fromkeys(session.adapters.names, scale))


def requests_of(
    session: Session, role: Role, prompts: Sequence[str], trigger: str, progress: Progress | None = None
) -> list[ImageRequest]:
    """The requests of a role. Those of `generated` and its companions have their places in common, which makes pairs."""
    if role in ("drift", "drift_base"):
        return session.requests(UNRELATED, progress)[:: session.config.num_images]
    if role in ("no_trigger", "no_trigger_base"):
        prompts = [without_trigger(prompt, trigger) for prompt in prompts]
    return session.requests(prompts, progress)


def generate_role(
    session: Session, role: Role, requests: Sequence[ImageRequest], folder: Path, progress: Progress, say: Say
) -> list[Sample]:
    """Generate what is missing of a role in its folder, with the adapter as the session has it now.

    A rank generates its part of it into a folder of its own, and returns nothing.
    """
    rank = supervised_rank()
    with lock_folder(folder / f".rank_{rank[0]}" if rank else folder, say) as lock:
        known = known_images(folder)
        keys = [recipe_key(session.recipe(request).as_row()) for request in requests]
        files = {key: known[key] for key in keys if key in known}
        missing = [request for request, key in zip(requests, keys, strict=True) if key not in files]
        if len(missing) < len(requests):
            say(f"{ROLE_NAMES[role]}: {len(requests) - len(missing):,} of {len(requests):,} images are there already")
        if rank:
            missing = [request for _, request in part_of(missing, session.config.batch_size, *rank)]
        for path, image in generate_into(session, missing, lock, progress):
            files[recipe_key(session.recipe(image.request).as_row())] = path
    if rank:
        return []
    rows = [(files[key], request.prompt, request.seed) for key, request in zip(keys, requests, strict=True)]
    return images_of(folder, role, rows, [f"{index:05d}" for index in range(len(requests))])


def known_images(folder: Path) -> dict[str, Path]:
    """Images of an earlier evaluation by the key of their recipe."""
    if not is_there(folder / LIST_NAME):
        return {}
    known: dict[str, Path] = {}
    for row in read_rows(folder):
        name = str(row.pop("file", ""))
        if name and not path_problem(name) and is_file(folder / name):
            known[recipe_key(row)] = folder / name
    return known


def recipe_key(row: Mapping[str, Any]) -> str:
    """What determines an image, as a key; where an adapter lies and what it is called do not count, its bytes do."""
    kept = {key: value for key, value in row.items() if key != "file"}
    adapters = row.get("adapters")
    if isinstance(adapters, Sequence) and all(isinstance(adapter, Mapping) for adapter in adapters):
        kept["adapters"] = [{key: adapter.get(key) for key in ("sha256", "weight")} for adapter in adapters]
    return json.dumps(kept, sort_keys=True)
