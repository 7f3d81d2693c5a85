"""`loraloom generate`: generate images and save them with their recipes.

In: generation settings and the other options of the verb. Out: images with recipes in a folder, a contact sheet, and
lines for the user.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from PIL import Image

from loraloom.cli.interactive import Bars, Interactive
from loraloom.cli.lora_options import NamedLoras, named_loras, with_triggers
from loraloom.config.generate import MAX_ADAPTER_WEIGHT, MAX_SEED, GenerateConfig
from loraloom.config.run import PromptMethod
from loraloom.generate.prompt_sets import find_prompts, read_prompts
from loraloom.generate.report import Row, Shown, write_report
from loraloom.generate.saving import generate_into, keep_image, next_number, part_of, recipe_requests
from loraloom.generate.session import Session, open_session, use_gpu
from loraloom.generate.sheet import contact_sheet
from loraloom.lora.blend import Scale, Term
from loraloom.lora.files import find_adapter
from loraloom.prompts.notes import Losses
from loraloom.protocols.generation import ImageRequest
from loraloom.protocols.model import ModelSource
from loraloom.utils.atomic_files import sha256_file
from loraloom.utils.counted import counted
from loraloom.utils.errors import UserError, did_you_mean
from loraloom.utils.image_files import write_png
from loraloom.utils.locks import FolderLock, lock_folder, refuse_if_held
from loraloom.utils.output_paths import check_folder, images_folder
from loraloom.utils.progress import Progress
from loraloom.utils.ranks import supervised_rank
from loraloom.utils.untrusted import check_range, check_text
from loraloom.verify.best_of import (
    VerifiedImage,
    formal_prompts,
    gains,
    generate_verified,
    require_verifier,
    save_receipt,
    say_unread,
    with_words,
)

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class GenerateOptions:
    """Options of the verb that are not generation settings; see its help."""

    prompts: Sequence[str] = ()
    adapters: Sequence[Path] = ()
    weights: Sequence[Scale | Term] = ()
    loras: Sequence[str] = ()
    lora_dir: Path | None = None
    blend: str = "sum"
    switch_every: int = 1
    add_triggers: bool = False
    model: str | ModelSource | None = None
    model_config: str | None = None
    prediction_type: str = "auto"
    clip_skip: int | None = None
    prompt_method: str | None = None
    domain: str | None = None
    prompts_file: Path | None = None
    recipe: Path | None = None
    interactive: bool = False
    out: Path | None = None


def generate(config: GenerateConfig, options: GenerateOptions, given: Mapping[str, Any], say: Say, bars: Bars) -> None:
    """Generate and save images.

    Args:
        config: Generation settings.
        options: The other options.
        given: Settings that the user gave; the others may come from a recipe.
        say: Takes lines for the user.
        bars: Shows progress.

    Raises:
        UserError: No prompt, options that exclude each other, or something is missing.
    """
    _check(config, options)
    say = _of_rank(say)
    named = _named(options)
    out = images_folder(options.out, () if options.recipe else named.paths)
    check_folder(out)
    refuse_if_held(out)  # before a model is opened, which is slow
    file = options.prompts_file
    prompts = [*options.prompts, *(read_prompts(find_prompts(str(file))) if file else [])]
    requests: list[ImageRequest] = []
    losses = Losses(say, config.strict)
    wanted_model: str | None = None
    if options.recipe:
        requests, shared = recipe_requests(options.recipe, losses.add)
        wanted_model = (shared["model"] or {}).get("sha256")
        config, options = _from_recipe(config, options, shared, given, losses.add)
        named = _named(options)
        requests = [_without_tags(request, named) for request in requests]
        # Every request has its own size: those that the adapters recorded do not matter.
        config = config.model_copy(update={"width": requests[0].width, "height": requests[0].height})
    elif not prompts and not options.interactive:
        raise UserError(
            "no prompt",
            fix="add a prompt in quotes, --prompts-file, --recipe or --interactive, for example: loraloom "
            'generate --adapter runs/dog "a photo of sksdog on the beach"',
        )
    method = _method(options.prompt_method)
    read = [named.read_prompt(prompt) for prompt in prompts]
    changing = options.interactive or any(request.loras is not None for request in requests)
    session = open_session(
        config,
        source=_source(options),
        clip_skip=options.clip_skip,
        adapters=named.loaded,
        idle=named.idle,
        blend=named.method,
        switch_every=named.switch_every,
        method=method,
        domain=options.domain,
        changing=changing or any(blend is not None for _, blend in read),
        say=say,
    )
    _check_verified(session)
    if wanted_model and session.model.modules.fingerprint(session.model.info.denoiser.name) != wanted_model:
        losses.add("note: the recipe was made with another model; images will differ")
    if options.interactive:
        _interact(session, out, say, bars)
        return
    requests = [session.completed(request) for request in requests]
    if options.add_triggers:
        read = [(with_triggers(prompt, session.triggers_of(blend)), blend) for prompt, blend in read]
    formal = formal_prompts(session, [prompt for prompt, _ in read], losses)
    verifier = session.encoder.domain.verifier
    if verifier:
        say_unread(verifier, requests, losses)
    losses.check()
    with lock_folder(out, say) as lock, bars() as bar:
        wanted = requests or _requests(session, formal, read, bar("texts"))
        losses.add(*session.losses(wanted))
        losses.check()
        for note in session.notes(wanted):
            say(note)
        if part := supervised_rank():
            _generate_part(session, wanted, part, lock, bar)
        elif verifier:
            _generate_verified(session, wanted, lock, say, bar)
        else:
            _generate_all(session, wanted, lock, say, bar)


def _of_rank(say: Say) -> Say:
    """In a rank: compute on its own GPU; and let the first rank alone speak, because all have the same lines."""
    part = supervised_rank()
    if part:
        use_gpu(part[0])
    return say if not part or part[0] == 0 else _silent


def _interact(session: Session, out: Path, say: Say, bars: Bars) -> None:
    # A live display would disturb the line being typed: it is opened only while images are generated.
    with suppress(ImportError):
        import readline  # noqa: F401 - gives input() its arrow keys and history; not on Windows
    Interactive(session, out, say, bars).run(lambda: input("> "))


def _check_verified(session: Session) -> None:
    """Raise `UserError` where images would be verified, or are to be, and cannot be."""
    if session.config.best_of > 1 or session.config.repair:
        require_verifier(session)
    if session.encoder.domain.verifier and supervised_rank():
        raise UserError(
            "--num-processes does not verify images yet, and this domain verifies each one",
            fix="leave --num-processes out, or add --domain freetext for images without receipts",
        )


def _requests(
    session: Session, formal: Sequence[str], read: Sequence[tuple[str, str | None]], progress: Progress
) -> list[ImageRequest]:
    """The requests of all prompts; `read` has each prompt as written, and the blend that its tags ask for."""
    each = range(session.config.num_images)
    made = with_words(session.requests(formal, progress), [prompt for prompt, _ in read for _ in each])
    blends = [blend for _, blend in read for _ in each]
    return [
        request if blend is None else replace(request, loras=blend) for request, blend in zip(made, blends, strict=True)
    ]


def _generate_part(
    session: Session,
    requests: Sequence[ImageRequest],
    part: tuple[int, int],
    lock: FolderLock,
    bar: Callable[[str], Any],
) -> None:
    """This rank's images, named by their number among all; `generate_ranks` puts them together."""
    mixed = session.mixes(requests)
    mine = part_of(requests, session.config.batch_size, *part, mixed=mixed)
    for image in session.generate([request for _, request in mine], bar("denoiser steps"), mixed=mixed):
        lock.renew()
        keep_image(session, lock.folder, f"{mine[image.index][0]:05d}", image)


def _generate_all(
    session: Session, requests: Sequence[ImageRequest], lock: FolderLock, say: Say, bar: Callable[[str], Any]
) -> None:
    out = lock.folder
    made: list[tuple[Path, ImageRequest]] = []
    seconds = 0.0
    for path, image in generate_into(session, requests, lock, bar("denoiser steps")):
        made.append((path, image.request))
        seconds += image.seconds
        say(f"{path}  seed {image.request.seed}  {image.seconds:.1f} s")
    if len(made) > 1:
        say(f"contact sheet: {write_sheet(made, out)}")
    say(f"{counted(len(made), 'image')} in {seconds:.1f} s; generate them again with --recipe {out / 'prompts.jsonl'}")


def _generate_verified(
    session: Session,
    requests: Sequence[ImageRequest],
    lock: FolderLock,
    say: Say,
    bar: Callable[[str], Any],
) -> None:
    """As `_generate_all`, with a receipt for each image."""
    verifier = require_verifier(session)
    made: list[tuple[Path, ImageRequest]] = []
    all_verified: list[VerifiedImage] = []
    out = lock.folder
    first = next_number(out)
    for verified in generate_verified(session, requests, progress=bar("denoiser steps")):
        image = verified.image
        words = image.request.words or image.request.prompt
        verified = replace(verified, receipt=replace(verified.receipt, unread=verifier.unread(words)))
        lock.renew()
        path = keep_image(session, out, f"{first + image.index:05d}", image)
        save_receipt(out, path.stem, verified, verifier, words)
        made.append((path, image.request))
        all_verified.append(verified)
        met, all_ = verified.receipt.count(True), len(verified.receipt.verdicts)
        say(f"{path}  seed {image.request.seed}  {met}/{all_} sentences met  {image.seconds:.1f} s")
    if len(made) > 1:
        say(f"contact sheet: {write_sheet(made, out)}")
    gains(all_verified, say)
    page = out / "receipts" / "report.html"
    _report(page, made, all_verified)
    say(f"report with the verdict on every sentence: {page}; generate them again with --recipe {out / 'prompts.jsonl'}")


def _report(page: Path, made: Sequence[tuple[Path, ImageRequest]], all_verified: Sequence[VerifiedImage]) -> None:
    """Write the report: one section per prompt, with all images of this call."""
    shown: dict[str, list[Shown]] = {}
    for (path, request), verified in zip(made, all_verified, strict=True):
        title = f"{path.name}, seed {request.seed}"
        shown.setdefault(request.prompt, []).append(Shown(title, verified.image.image, verified.receipt))
    share = sum(verified.receipt.share_met for verified in all_verified) / len(all_verified)
    whole = sum(verified.receipt.complete for verified in all_verified)
    facts = [("sentences met", f"{share:.0%}"), ("images that meet every sentence", f"{whole} of {len(all_verified)}")]
    write_report(
        page, "Images verified against their prompts", facts, [Row(prompt, row) for prompt, row in shown.items()]
    )


def write_sheet(made: Sequence[tuple[Path, ImageRequest]], out: Path) -> Path:
    """Write a contact sheet of the files that still exist: one row per prompt, one column per seed."""
    made = [(path, request) for path, request in made if path.is_file()]
    prompts = list(dict.fromkeys(request.prompt for _, request in made))
    rows: list[list[Image.Image | None]] = []
    for prompt in prompts:
        row: list[Image.Image | None] = []
        for path, request in made:
            if request.prompt == prompt:
                with Image.open(path) as image:
                    row.append(image.convert("RGB"))
        rows.append(row)
    longest = max(range(len(rows)), key=lambda index: len(rows[index]))
    seeds = [f"seed {request.seed}" for _, request in made if request.prompt == prompts[longest]]
    path = out / "sheet.png"
    write_png(path, contact_sheet(rows, prompts, seeds))
    return path


def _silent(line: str) -> None:
    pass


def _check(config: GenerateConfig, options: GenerateOptions) -> None:
    for prompt in options.prompts:
        check_text(prompt, "the prompt")
    check_text(config.negative_prompt, "the negative prompt")
    for weight in options.weights:
        check_range(weight, "--adapter-weight", -MAX_ADAPTER_WEIGHT, MAX_ADAPTER_WEIGHT, whole=False)
    if config.seed + config.num_images - 1 > MAX_SEED:
        raise UserError("--seed is too large for --num-images", got=config.seed, expected=f"seeds up to {MAX_SEED:,}")
    if options.interactive and (config.best_of > 1 or config.repair):
        raise UserError(
            "--best-of and --repair cannot be used with --interactive",
            fix="leave them out; each image is verified there too",
        )
    if options.weights and options.loras:
        raise UserError("--adapter-weight belongs to --adapter", fix="write the scale behind the path: --lora PATH:0.6")
    if options.recipe and (options.prompts or options.prompts_file or options.interactive):
        raise UserError("--recipe contains its own prompts", fix="leave out the prompts, or leave out --recipe")
    if len(options.weights) > len(options.adapters):
        raise UserError(
            "there are more --adapter-weight than --adapter",
            got=len(options.weights),
            expected=f"at most {len(options.adapters)}",
        )
    if not options.adapters and not options.loras and not options.model and not options.recipe:
        raise UserError("no model", fix="add --adapter RUN, which names its base model, or --model")


def _named(options: GenerateOptions) -> NamedLoras:
    """The LoRAs that were named; adapters without a weight get 1."""
    weights = [*options.weights, *([1.0] * (len(options.adapters) - len(options.weights)))]
    return named_loras(
        list(zip(options.adapters, weights, strict=True)),
        options.loras,
        method=options.blend,
        switch_every=options.switch_every,
        folder=options.lora_dir,
    )


def _without_tags(request: ImageRequest, named: NamedLoras) -> ImageRequest:
    """A request of a recipe whose prompt may hold `<lora:...>` of another program."""
    if request.loras is not None:
        return request
    prompt, blend = named.read_prompt(request.prompt)
    return request if blend is None else replace(request, prompt=prompt, loras=blend)


def _method(name: str | None) -> PromptMethod | None:
    known = get_args(PromptMethod)
    if name is not None and name not in known:
        raise UserError("unknown --prompt-method", got=name, fix=did_you_mean(name, known))
    return name  # pyright: ignore[reportReturnType] - checked against the type's own values


def _from_recipe(
    config: GenerateConfig, options: GenerateOptions, shared: Mapping[str, Any], given: Mapping[str, Any], say: Say
) -> tuple[GenerateConfig, GenerateOptions]:
    """Model, adapters and other options from a recipe; options that the user gave override it."""
    model, adapters = shared["model"] or {}, shared["adapters"] or []
    for adapter in adapters if not (options.adapters or options.loras) else []:
        if sha256_file(find_adapter(Path(adapter["path"]))) != adapter["sha256"]:
            say(f"note: {adapter['path']} is not the file that the recipe was made with; images will differ")
    guidance = shared["repair_guidance"] if shared["repair_rounds"] else config.repair_guidance
    config = config.model_copy(
        update={
            "weighting": given.get("weighting", shared["weighting"] is not False),
            "mixed_precision": given.get("mixed_precision", shared["precision"] or "no"),
            "repair": given.get("repair", bool(shared["repair_rounds"])),
            "repair_rounds": given.get("repair_rounds", shared["repair_rounds"] or config.repair_rounds),
            "repair_guidance": given.get("repair_guidance", guidance),
        }
    )
    own = bool(options.adapters or options.loras)
    return config, replace(
        options,
        model=options.model or _source_of(model),
        adapters=options.adapters if own else tuple(Path(adapter["path"]) for adapter in adapters),
        weights=options.weights if own else tuple(_term_of(adapter) for adapter in adapters),
        prompt_method=options.prompt_method or shared["prompt_method"],
        domain=options.domain or shared["domain"],
    )


def _term_of(adapter: Mapping[str, Any]) -> Scale | Term:
    """How an adapter of a recipe acts; recipes of earlier versions have no names."""
    return Term(name=adapter["name"], scale=adapter["weight"]) if adapter.get("name") else adapter["weight"]


def _source(options: GenerateOptions) -> ModelSource | None:
    """The base that the user or a recipe names; None where the adapter is to say it.

    Raises:
        UserError: Something is said of a base that is not named, or is no kind of prediction.
    """
    known = ("auto", "epsilon", "v_prediction")
    if options.prediction_type not in known:
        fix = did_you_mean(options.prediction_type, known)
        raise UserError("unknown --prediction-type", got=options.prediction_type, fix=fix)
    if isinstance(options.model, str):
        return ModelSource(location=options.model, config=options.model_config, prediction_type=options.prediction_type)
    if options.model_config is not None or options.prediction_type != "auto":
        raise UserError(
            "--model-config and --prediction-type are about a --model", fix="add --model, or leave them out"
        )
    return options.model


def _source_of(model: Mapping[str, Any]) -> ModelSource | None:
    """The base model that a recipe names, with its revision, variant and config."""
    if not model.get("source"):
        return None
    return ModelSource(
        location=model["source"],
        revision=model.get("revision"),
        variant=model.get("variant"),
        config=model.get("config"),
        prediction_type=model.get("prediction_type") or "auto",
        options=tuple(model.get("options") or ()),
        clip_skip=model.get("clip_skip"),
    )
