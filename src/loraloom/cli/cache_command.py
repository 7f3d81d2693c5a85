"""What `loraloom cache` does: find the cache and the settings, precompute, examine the files, print, remove.

In: a dataset and perhaps a model, a run or a settings file. Out: lines or JSON; removed files.
"""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loraloom.cli.processes import count_processes, without
from loraloom.config.domains import open_domain
from loraloom.config.reading import read_settings
from loraloom.config.run import RunConfig
from loraloom.data.cache_files import (
    KINDS,
    STATES,
    CacheFile,
    CacheReport,
    State,
    Wanted,
    examine_cache,
    removable,
    remove,
)
from loraloom.data.manifest import Manifest, domain_of, read_manifest
from loraloom.utils.counted import counted
from loraloom.utils.errors import UserError
from loraloom.utils.parts import Part
from loraloom.utils.progress import bars
from loraloom.utils.ranks import run_ranks
from loraloom.utils.reporting import muted, reporting

if TYPE_CHECKING:
    from loraloom.train.precompute_parts import Precomputed

_MOST_REASONS = 10
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Place:
    """What the user named.

    Attributes:
        dataset: The dataset folder.
        cache_dir: The cache; None is that of the settings.
        model: Base model; None is that of run or settings file, if there is one.
        run: A run folder with its settings.
        config: A settings file.
        overrides: Further settings, KEY=VALUE.
    """

    dataset: Path
    cache_dir: Path | None
    model: str | None
    run: Path | None
    config: Path | None
    overrides: tuple[str, ...]


def look(place: Place, *, deep: bool) -> CacheReport:
    """Examine the cache.

    Raises:
        UserError: No dataset, no such model, or settings that cannot be read.
    """
    manifest = read_manifest(place.dataset)
    settings = _settings(place)
    domain = open_domain(domain_of(place.dataset, settings.data.domain), manifest.info.get("settings", {}))
    folder = place.cache_dir or Path(settings.data.cache_dir or place.dataset / "cache")
    if folder.exists() and not folder.is_dir():
        raise UserError("the cache is not a folder", got=str(folder), fix="check --cache-dir")
    exact = bool(place.model or place.run or place.config)
    wanted = _wanted(settings, manifest, domain) if exact else None
    with bars() as bar:
        return examine_cache(folder, manifest, domain.mirrored, wanted, deep=deep, progress=bar("cache files"))


def show(report: CacheReport, say: Callable[[str], None], *, as_json: bool) -> None:
    """Print a report."""
    if as_json:
        say(json.dumps(_as_json(report), indent=2, ensure_ascii=False))
        return
    for line in lines_of(report):
        say(line)


def lines_of(report: CacheReport) -> list[str]:
    """The report for the terminal."""
    total = sum(file.num_bytes for file in report.files)
    if not report.files:
        lines = [f"{report.folder}: nothing is cached"]
    else:
        lines = [f"{report.folder}: {counted(len(report.files), 'file')}, {size_words(total)}"]
    for kind in KINDS:
        counts = {state: report.of(kind, state) for state in STATES}
        parts = [
            f"{len(files):,} {state} ({size_words(sum(file.num_bytes for file in files))})"
            for state, files in counts.items()
            if files or state == "fresh"
        ]
        missing = report.missing[kind]
        lines.append(f"  {kind:8s} {', '.join(parts)}, {len(missing):,} missing{_such_as(missing)}")
    for state in ("stale", "unknown", "corrupt"):
        lines += _reasons(report, state)
    if len(report.models) > 2 or (report.models and not report.exact):
        listed = ", ".join(f"{name}: {counted(number, 'file')}" for name, number in sorted(report.models.items()))
        lines.append(f"  made by {listed}" + ("" if report.exact else "; --model or --run tells which are used"))
    if report.strangers:
        lines.append(
            f"  not of the cache, never touched: {counted(len(report.strangers), 'file')}, {report.strangers[0]} first"
        )
    return lines


def clean(place: Place, say: Callable[[str], None], *, dry_run: bool, prompts: bool, unknown: bool) -> None:
    """Remove what is stale or corrupt; with `dry_run` only say so."""
    report = look(place, deep=False)
    states: list[State] = ["stale", "corrupt", *(["unknown"] if unknown else [])]  # pyright: ignore[reportAssignmentType]
    files = removable(report, states, prompts=prompts)
    for state in states:
        for line in _reasons(report, state):
            say(line)
    kept = len(report.files) - len(files)
    size = size_words(sum(file.num_bytes for file in files))
    if dry_run:
        say(f"would remove {counted(len(files), 'file')} and free {size}; {kept:,} would be kept")
        return
    freed = remove(report, files)
    say(f"removed {counted(len(files), 'file')} and freed {size_words(freed)}; {kept:,} kept")


def precompute(
    place: Place, part: str | None, num_processes: str | None, say: Callable[[str], None], *, cpu: bool
) -> int:
    """Encode what the caches lack, or a part of it; returns the exit status.

    Raises:
        UserError: As `precompute_parts.precompute_part`, or a part or number of processes that is none.
    """
    chosen = Part.read(part) if part else None
    settings = _settings(place)
    if place.cache_dir:
        settings = settings.model_copy(
            update={"data": settings.data.model_copy(update={"cache_dir": str(place.cache_dir)})}
        )
    if (count := count_processes(num_processes, cpu=cpu)) > 1:
        command = [sys.executable, "-m", "loraloom", *without(sys.argv[1:], "--num-processes")]
        ended = run_ranks(command, count, None)
        return 0 if ended.first is None else 130 if ended.asked else max(1, ended.codes[ended.first])
    from loraloom.train.precompute_parts import precompute_part
    from loraloom.train.signals import StoppedError

    try:
        with bars() as bar, reporting(say=say, bar=bar) if os.environ.get("RANK", "0") == "0" else muted():
            done = precompute_part(settings, chosen, cpu=cpu)
    except StoppedError:
        say("stopped; the same command encodes the rest")
        return 130
    if done.is_main:
        for line in _precomputed_lines(done, chosen):
            say(line)
    return 0


def _precomputed_lines(done: "Precomputed", part: Part | None) -> list[str]:
    what = f"part {part}" if part else "cache"
    first = f"{what}: {counted(done.images, 'image')} and {counted(done.captions, 'caption')} encoded"
    lacking = [
        f"{missing:,} of {counted(needed, name)}"
        for missing, needed, name in (
            (done.images_missing, done.images_needed, "image"),
            (done.captions_missing, done.captions_needed, "caption"),
        )
        if missing
    ]
    if not lacking:
        all_of_it = f"{counted(done.images_needed, 'image')} and {counted(done.captions_needed, 'caption')}"
        return [first, f"nothing is missing: {all_of_it}"]
    others = "; the other parts, or training, encode them" if part else ""
    return [first, f"still missing: {' and '.join(lacking)}{others}"]


def size_words(num_bytes: int) -> str:
    """`812 bytes`, `1.4 MB`, `2.3 GB`."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if num_bytes >= unit:
            return f"{num_bytes / unit:.1f} {name}"
    return f"{num_bytes} bytes"


def _settings(place: Place) -> RunConfig:
    """The settings that say what a training asks for.

    Raises:
        UserError: Both a run and a settings file, or one that cannot be read.
    """
    if place.run and place.config:
        raise UserError("--run and --config both name settings", fix="choose one")
    file = place.config
    if place.run:
        file = place.run / "run.yaml" if place.run.is_dir() else place.run
        if not file.is_file():
            raise UserError("the run has no settings", got=str(file), fix="name a folder that `loraloom train` wrote")
    given: dict[str, Any] = {"data.dataset": str(place.dataset)}
    if place.model:
        given["model.source"] = place.model
    return read_settings(RunConfig, file, place.overrides, given)


def _wanted(settings: RunConfig, manifest: Manifest, domain: Any) -> Wanted:
    """The keys that a training with these settings asks for; opens the model and hashes its VAE and text encoders."""
    from loraloom.data.batches import BatchMaker, refuse_blind_flips
    from loraloom.data.cache import ContentCache
    from loraloom.data.caption_dropout import make_caption_dropout
    from loraloom.data.encode import LatentStore, TextStore
    from loraloom.models.loading import open_model
    from loraloom.prompts.encoder import PromptEncoder
    from loraloom.train.build import make_augmentation, source_of
    from loraloom.utils.dtypes import DTYPES

    model = open_model(source_of(settings), settings.model.family)
    prompts = settings.prompts
    encoder = PromptEncoder(text=model.text, domain=domain, method=prompts.method, max_windows=prompts.max_windows)
    nothing = ContentCache(None)
    vae = model.modules.fingerprint(model.info.vae.name)
    latents = LatentStore(model, manifest.folder, nothing, vae)
    texts = TextStore(encoder, nothing, DTYPES[settings.train.mixed_precision])
    learned, held = manifest.split("train"), manifest.split("validation")
    if settings.data.random_flip:
        refuse_blind_flips(learned, domain, settings.augment.flip_unknown)
    common = {"latents": latents, "texts": texts, "domain": domain, "seed": settings.train.seed}
    makers = [
        BatchMaker(
            examples=learned,
            random_flip=settings.data.random_flip,
            dropout=make_caption_dropout(settings.data, model, trains_text_encoder=settings.lora.text_encoder),
            augmentation=make_augmentation(settings, learned, domain),
            **common,
        ),
        BatchMaker(examples=held, **common),
    ]
    return Wanted(
        latents={latents.key(*item): item[0].id for maker in makers for item in maker.needed_latents()},
        texts={texts.key((text, False)): text for maker in makers for text in maker.needed_captions()},
        vae=vae,
        encoder=model.text.fingerprint,
        dtype=str(texts.dtype).removeprefix("torch."),
        method=prompts.method,
    )


def _reasons(report: CacheReport, state: State) -> list[str]:
    groups: dict[str, list[CacheFile]] = {}
    for file in report.files:
        if file.state == state:
            groups.setdefault(file.reason, []).append(file)
    shown = list(groups.items())[:_MOST_REASONS]
    more = len(groups) - len(shown)
    lines = [f"  {state}: {counted(len(files), 'file')}: {reason}{_first(files[0])}" for reason, files in shown]
    return lines + ([f"  {state}: {more:,} more reasons; --json lists all files"] if more else [])


def _first(file: CacheFile) -> str:
    return f", such as {_short(file.what)}" if file.what else f", such as {file.path.name[:12]}…"


def _such_as(missing: tuple[str, ...]) -> str:
    return f", such as {_short(missing[0])}" if missing else ""


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return repr(flat if len(flat) <= _SHOWN else f"{flat[:_SHOWN]}…")


def _as_json(report: CacheReport) -> dict[str, Any]:
    return {
        "folder": str(report.folder),
        "exact": report.exact,
        "bytes": sum(file.num_bytes for file in report.files),
        "counts": {kind: {state: len(report.of(kind, state)) for state in STATES} for kind in KINDS},
        "missing": {kind: list(names) for kind, names in report.missing.items()},
        "models": dict(report.models),
        "strangers": [str(path) for path in report.strangers],
        "files": [
            {
                "file": file.path.relative_to(report.folder).as_posix(),
                "kind": file.kind,
                "bytes": file.num_bytes,
                "state": file.state,
                "reason": file.reason,
                "what": file.what,
            }
            for file in report.files
        ],
    }
