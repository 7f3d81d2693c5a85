"""What a user reads before the first step: captions, loss weights, layers, and batches that cannot be filled.

In: what was built from the settings. Out: lines of the log; what is not used as it was given is counted in `Losses`.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from loraloom.config.run import RunConfig
from loraloom.data.bucket_sampler import Plan, Slot
from loraloom.data.ledger import LEDGER_FILE, ledger_lines, make_ledger, updates_sentence, write_ledger
from loraloom.data.loss_weights import LatentWeights
from loraloom.generate.images import negative_prompts, unread_negative
from loraloom.lora.inject import Adapter
from loraloom.prompts.encoder import PromptEncoder
from loraloom.prompts.notes import Losses, cut_lines, reads_nothing, syntax_line, unknown_letters, what_cuts
from loraloom.protocols.data import Example
from loraloom.protocols.model import ModelInfo
from loraloom.train.sampling import Sampler
from loraloom.train.state import Run
from loraloom.utils.atomic_files import write_text
from loraloom.utils.counted import counted
from loraloom.utils.errors import UserError
from loraloom.utils.reporting import log

NUM_IMAGES_SEEN = 32
"""Number of images, evenly spread, in which the share of each class with a loss weight is measured."""


def distilled_lines(info: ModelInfo) -> list[str]:
    """A warning for a base that was distilled to few steps; empty for others.

    Raises:
        UserError: The family does not train on it as it was opened.
    """
    if info.distilled is None:
        return []
    if info.trains_if is not None:
        raise UserError(f"this base is not trained: {info.distilled}", got=info.source.location, fix=info.trains_if)
    return [f"warning: {info.distilled}: training unlearns that, and images of few steps lose sharpness"]


def report_captions(encoder: PromptEncoder, examples: Sequence[Example], folder: Path | None, losses: Losses) -> None:
    """Count every caption; what the method leaves out is listed in `captions_cut.txt` and counted in `losses`, where
    syntax that is text here is counted too.

    Raises:
        UserError: Captions need more than `prompts.max_windows` windows; all of them are named.
    """
    unlimited = replace(encoder, max_windows=1 << 30)
    captions = [named for example in examples for named in example.named_captions]
    plans = [(name, unlimited.plan(caption)) for name, caption in captions]
    counts = [plan.num_tokens for _, plan in plans]
    capacity = encoder.text.tokenizer.window_tokens - 2
    log.info(
        f"captions: {min(counts)} to {max(counts)} tokens, {sum(count > capacity for count in counts)} of {len(counts)} "
        f"longer than one window of {capacity}"
    )
    over = [(id_, len(plan.windows)) for id_, plan in plans if len(plan.windows) > encoder.max_windows]
    if over:
        named = ", ".join(f"{id_} ({count})" for id_, count in over[:20]) + (" …" if len(over) > 20 else "")
        raise UserError(
            f"{len(over)} captions need more windows than prompts.max_windows",
            got=named,
            expected=f"at most {encoder.max_windows}",
            fix=f"set prompts.max_windows={max(count for _, count in over)}, shorten them, or "
            "choose prompts.method=smart",
        )
    if syntax := syntax_line([caption for _, caption in captions], encoder, weighting=False, noun="captions"):
        losses.add(syntax)
    unknown, lost_letters = unknown_letters(encoder, [caption for _, caption in captions], "captions")
    for line in unknown:
        log.info(line)
    losses.add(*lost_letters)
    cut = [(id_, plan) for id_, plan in plans if plan.lost]
    if not cut:
        return
    nothing = sum(reads_nothing(plan) for _, plan in cut)
    losses.add(
        f"warning: {what_cuts(encoder)} leaves out part of {len(cut)} captions, listed in captions_cut.txt"
        + (f"; nothing is read of {nothing} of them" if nothing else "")
    )
    if folder:
        lines = [
            f"{id_}: {plan.lost_tokens} of {plan.num_tokens} tokens: {' | '.join(plan.lost)}\n" for id_, plan in cut
        ]
        write_text(folder / "captions_cut.txt", "".join(lines))


def sample_losses(sampler: Sampler, encoder: PromptEncoder) -> list[str]:
    """Lines about the sample prompts and their negative prompt, as `Session.losses`. Captions are counted as captions."""
    prompts = [request.prompt for request in sampler.requests] if sampler.weighting else []
    negative = negative_prompts(sampler.model, sampler.requests)
    weighting = sampler.weighting
    lines = [
        *cut_lines(encoder, prompts, weighting=weighting, noun="sample prompts", what="the sample prompt "),
        *cut_lines(encoder, negative, weighting=weighting, what="the negative prompt of samples "),
        syntax_line([*prompts, *negative], encoder, weighting=weighting, noun="sample prompts"),
        unread_negative(sampler.model, sampler.requests),
    ]
    return [line for line in lines if line]


def report_weights(loss_weights: LatentWeights, examples: Sequence[Example]) -> None:
    """Log the share of the images of each class with a loss weight; warn of a class that is in none.

    Raises:
        UserError: A class that the domain does not know.
    """
    seen = examples[:: max(1, len(examples) // NUM_IMAGES_SEEN)]
    for name, weight in loss_weights.weights.items():
        share = loss_weights.share(seen, name)
        found = f"in {share:.1%} of the latents" if share else "warning: none is there"
        log.info(f"class weights: {name} counts {weight:g} times, {found} ({len(seen)} images looked at)")


def announce(adapter: Adapter, config: RunConfig) -> None:
    """Which layers matched."""
    if config.train.method == "full":
        log.info(
            f"all of the {' and the '.join(part.replace('_', ' ') for part in adapter.modules)} learns: "
            f"{adapter.num_parameters:,} numbers, float32"
        )
        return
    for part, names in adapter.modules.items():
        shown = ", ".join(names[:2]) + (f", … {names[-1]}" if len(names) > 2 else "")
        log.info(f"LoRA on {len(names)} layers of the {part.replace('_', ' ')}: {shown}")
    log.info(f"rank {config.lora.rank}, {adapter.num_parameters:,} learning numbers, float32")


def batch_lines(plan: Plan, num_ranks: int) -> list[str]:
    """How many images a step learns from, and how the ranks share them; what a user reads before the first step."""
    ranks = counted(plan.num_devices, "rank")
    images = counted(plan.step_size, "image")
    lines = [f"batch: {plan.largest_batch} per device x {plan.accumulation} accumulation x {ranks} = {images} a step"]
    smaller = [f"{batch} from {math.isqrt(pixels)} squared pixels" for pixels, batch in plan.smaller_batches]
    own = sorted({batch for batch in plan.batch_sizes if batch is not None})
    if own:
        lines.append(
            f"batch of some folders: {', '.join(map(str, own))} per device; each image keeps its share of the loss"
        )
    if smaller:
        lines.append(f"batch of large images: {', '.join(smaller)}; each image keeps its share of the loss")
    if num_ranks != plan.num_devices:
        full = (Slot(0, 1.0),) * plan.pass_size
        counts = [len(plan.micro_batches(full, rank, num_ranks)) * plan.accumulation for rank in range(num_ranks)]
        lines.append(
            f"the run was started on {ranks} and is now on {num_ranks}: a step keeps its {images}, in up to "
            f"{max(counts)} micro-batch{'es' * (max(counts) != 1)} on a rank"
        )
        if idle := counts.count(0):
            lines.append(f"warning: {idle} of {num_ranks} ranks learn from nothing: a batch has only {plan.pass_size}")
    if line := slots_line(plan):
        lines.append(line)
    return lines


def slots_line(plan: Plan) -> str | None:
    """A sentence about batches that some size cannot fill; None when each size fills at least one."""
    counts = {bucket: count for bucket, count in plan.seen_by_bucket().items() if count < plan.pass_size_of(bucket)}
    if not counts:
        return None
    bucket = min(counts, key=lambda one: (counts[one], one))
    fewest, batch_size = counts[bucket], bucket.batch_size
    slots, repeats = plan.slots()
    batch = f"a batch of {batch_size}" + (f" on each of {plan.num_devices} devices" if plan.num_devices > 1 else "")
    fewer = max(1, fewest // plan.num_devices)
    own = batch_size != plan.batch_size_of(bucket.size)
    fix = "a smaller --batch-size-of in prepare" if own else f"--batch-size {fewer}"
    return (
        f"note: {batch} is more than the {counted(fewest, 'image')} of one size: of {slots} slots of an epoch "
        f"{repeats} are repeats of weight zero, from which nothing is learned; {fix} has fewer"
    )


def report_ledger(plan: Plan, run: Run, folder: Path) -> list[str]:
    """Write `ledger.jsonl` in the main process; returns what a user reads of it before the first step."""
    ids = [example.id for example in run.train_state.batches.examples]
    steps = run.config.train.max_steps
    ledger = make_ledger(plan, ids, steps)
    if run.train_state.runtime.is_main:
        write_ledger(folder, ledger)
    return [*ledger_lines(ledger), f"{updates_sentence(ledger, steps=steps)}; see {folder / LEDGER_FILE}"]
