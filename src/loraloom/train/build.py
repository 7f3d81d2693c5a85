"""From settings to a run that stands ready: model, caches, adapter, optimizer, and where to go on.

In: a `RunConfig`. Out: a `Run`. Order matters for memory: VAE and text encoder fill the caches and are dropped before
the denoiser is read.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from loraloom.config.domains import open_domain
from loraloom.config.run import RunConfig, read_class_weights
from loraloom.data.batches import BatchMaker, refuse_blind_flips
from loraloom.data.bucket_sampler import EpochCache, Plan
from loraloom.data.cache import ContentCache
from loraloom.data.encode import LatentStore, TextStore
from loraloom.data.loss_weights import LatentWeights
from loraloom.data.manifest import Manifest, read_manifest
from loraloom.data.sizes import check_sizes, common_size
from loraloom.diffusion.balance import NoiseBalance
from loraloom.diffusion.objective import TimestepSampling, make_objective
from loraloom.generate.images import check_size, negative_prompts, unread_negative
from loraloom.lora.inject import Adapter, attach_new
from loraloom.models.loading import open_model
from loraloom.prompts.encoder import PromptEncoder
from loraloom.prompts.notes import Losses, cut_lines, reads_nothing, syntax_line, unknown_letters, what_cuts
from loraloom.protocols.data import Example
from loraloom.protocols.domain import Domain
from loraloom.protocols.generation import ImageRequest
from loraloom.protocols.model import DiffusionModel, ModelSource
from loraloom.tracking import Tracker
from loraloom.train.checkpoint import CheckpointFolder
from loraloom.train.distributed import Runtime
from loraloom.train.full import attach_full
from loraloom.train.optim import (
    Ema,
    LossScale,
    Updater,
    make_optimizer,
    weight_sums,
)
from loraloom.train.precompute import precompute_caches, stoppable
from loraloom.train.sampling import Sampler
from loraloom.train.signals import StopRequest
from loraloom.train.state import Run
from loraloom.train.step import TrainState
from loraloom.utils.atomic_files import write_text
from loraloom.utils.errors import UserError
from loraloom.utils.progress import Progress

Say = Callable[[str], None]

NUM_IMAGES_SEEN = 32
"""So many images, evenly spread, are looked at to say how much of them the weighed classes are."""


def set_up(
    config: RunConfig,
    runtime: Runtime,
    tracker: Tracker,
    say: Say,
    progress: Callable[[str], Progress],
    stop: StopRequest,
) -> Run:
    """Build a run from its settings. Every process calls this; the main one speaks.

    Raises:
        UserError: Anything wrong with settings, data or model, before the first step.
    """
    folder = Path(config.train.output)
    manifest = read_manifest(Path(config.data.dataset))
    learned = [example for example in manifest.examples if example.split == "train"]
    held_out = [example for example in manifest.examples if example.split == "validation"]
    if not learned:
        raise UserError(
            "the dataset has no training images", got=config.data.dataset, fix="prepare it with more images"
        )
    model = open_model(
        ModelSource(
            location=config.model.source,
            revision=config.model.revision,
            variant=config.model.variant,
            config=config.model.config,
            prediction_type=config.objective.prediction_type,
        ),
        config.model.family,
    )
    check_sizes(model, manifest.examples)
    domain = open_domain(config.data.domain, manifest.info.get("settings", {}))
    if config.data.random_flip:
        refuse_blind_flips(learned, domain)
    encoder = PromptEncoder(
        text=model.text, domain=domain, method=config.prompts.method, max_windows=config.prompts.max_windows
    )
    losses = Losses(say, config.train.strict)
    losses.add(*manifest.notes)
    report_captions(encoder, manifest.examples, folder if runtime.is_main else None, say, losses)
    train_batches, held_batches = make_batches(config, model, encoder, domain, runtime, learned, held_out)
    if train_batches.weighing:
        report_weights(train_batches.weighing, learned, say)
    sampler = make_sampler(config, folder, model, train_batches.texts, runtime, manifest.examples)
    if sampler:
        losses.add(*sample_losses(sampler, encoder))
    losses.check()
    agree(runtime, manifest, model)
    precompute_caches(config, runtime, (train_batches, held_batches), sampler, say, stoppable(progress, stop))
    train_state = make_train_state(config, model, train_batches, runtime, say)
    checkpoints = CheckpointFolder(folder / "checkpoints")
    return Run(
        config,
        folder,
        manifest,
        train_state,
        held_batches,
        sampler,
        checkpoints,
        tracker,
        say,
        base_sha256=model.modules.fingerprint(model.info.denoiser.name),
        notes=tuple(losses.lines),
        sums_at_start=weight_sums(train_state.adapter),
    )


def agree(runtime: Runtime, manifest: Manifest, model: DiffusionModel) -> None:
    """Raise `UserError` unless all processes learn the same dataset on the same base: they would average nonsense."""
    seen = set(runtime.gather_texts([f"{manifest.fingerprint} {model.modules.fingerprint(model.info.denoiser.name)}"]))
    if len(seen) > 1:
        raise UserError(
            "the machines have different datasets or models",
            got=f"{len(seen)} kinds",
            fix="copy one prepared dataset and one model to every machine",
        )


def report_captions(
    encoder: PromptEncoder, examples: Sequence[Example], folder: Path | None, say: Say, losses: Losses
) -> None:
    """Count every caption; what the method leaves out is listed in `captions_cut.txt` and counted in `losses`, where
    syntax that is text here is counted too.

    Raises:
        UserError: Captions need more than `prompts.max_windows` windows; all of them are named.
    """
    unlimited = replace(encoder, max_windows=1 << 30)
    plans = [(example.id, unlimited.plan(example.caption)) for example in examples]
    counts = [plan.num_tokens for _, plan in plans]
    capacity = encoder.text.tokenizer.window_tokens - 2
    say(
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
    if syntax := syntax_line([example.caption for example in examples], encoder, weighting=False, noun="captions"):
        losses.add(syntax)
    unknown, lost_letters = unknown_letters(encoder, [example.caption for example in examples], "captions")
    for line in unknown:
        say(line)
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


def report_weights(weighing: LatentWeights, examples: Sequence[Example], say: Say) -> None:
    """Say how much of the images each weighed class is, and warn of one that is nowhere.

    Raises:
        UserError: A class that the domain does not know.
    """
    seen = examples[:: max(1, len(examples) // NUM_IMAGES_SEEN)]
    for name, weight in weighing.weights.items():
        share = weighing.share(seen, name)
        found = f"in {share:.1%} of the latents" if share else "warning: none is there"
        say(f"class weights: {name} counts {weight:g} times, {found} ({len(seen)} images looked at)")


def make_batches(
    config: RunConfig,
    model: DiffusionModel,
    encoder: PromptEncoder,
    domain: Domain,
    runtime: Runtime,
    learned: Sequence[Example],
    held_out: Sequence[Example],
) -> tuple[BatchMaker, BatchMaker]:
    """The makers of training and held-out batches over shared caches."""
    data = config.data
    root = Path(data.cache_dir or Path(data.dataset) / "cache") if data.cache else None
    latent_cache = ContentCache(root / "latents" if root else None)
    text_cache = ContentCache(root / "texts" if root else None)
    dataset = Path(data.dataset)
    latents = LatentStore(model, dataset, latent_cache, model.modules.fingerprint(model.info.vae.name))
    latents.check([*learned, *held_out])
    texts = TextStore(encoder, text_cache, runtime.weight_dtype, live=config.lora.text_encoder)
    common = (latents, texts, domain, config.train.seed, model.info.schedule.num_timesteps)
    objective = config.objective
    sampling = TimestepSampling(
        objective.timestep_sampling, objective.logit_mean, objective.logit_std, objective.timestep_shift
    )
    weights = read_class_weights(objective.class_weights)
    weighing = LatentWeights(weights, domain, dataset, model.info.vae_scale_factor) if weights else None
    return (
        BatchMaker(
            learned,
            *common,
            noise_offset=objective.noise_offset,
            sampling=sampling,
            random_flip=data.random_flip,
            caption_dropout=data.caption_dropout,
            weighing=weighing,
        ),
        BatchMaker(held_out, *common),
    )


def make_train_state(
    config: RunConfig, model: DiffusionModel, batches: BatchMaker, runtime: Runtime, say: Say
) -> TrainState:
    """Place the denoiser, put the adapter on, make optimizer, average and plan."""
    full = config.train.method == "full"
    denoiser: Any = model.modules.place(
        model.info.denoiser.name, runtime.device, torch.float32 if full else runtime.weight_dtype
    )
    channels_last = config.train.channels_last and runtime.device.type == "cuda"
    if channels_last:
        denoiser.to(memory_format=torch.channels_last)
    adapter = (
        attach_full(model, config.lora.text_encoder) if full else attach_new(model, config.lora, config.train.seed)
    )
    announce(adapter, config, say)
    if config.train.gradient_checkpointing:
        for part in adapter.modules:
            model.modules.checkpoint_gradients(part)
    for part in adapter.modules:
        model.modules.get(part).train()
    if config.train.compile:
        denoiser.compile(dynamic=False)
    parameters = list(adapter.parameters.values())
    optimizer = make_optimizer(adapter, config.optim)
    updater = Updater(
        optimizer=optimizer,
        parameters=parameters,
        config=config.optim,
        max_steps=config.train.max_steps,
        loss_scale=LossScale(config.train.mixed_precision == "fp16"),
    )
    sizes = tuple((example.width, example.height) for example in batches.examples)
    plan = Plan(
        sizes, config.data.batch_size, runtime.num_devices, config.train.gradient_accumulation, config.train.seed
    )
    if line := slots_line(plan):
        say(line)
    objective = make_objective(
        model.info.schedule,
        snr_gamma=config.objective.snr_gamma,
        noise_offset=config.objective.noise_offset,
        device=runtime.device,
    )
    ema = Ema(parameters, config.lora.ema_decay) if config.lora.ema_decay else None
    balance = NoiseBalance(objective.num_timesteps, runtime.device) if config.objective.balance_noise else None
    return TrainState(
        model=model,
        adapter=adapter,
        objective=objective,
        updater=updater,
        ema=ema,
        batches=batches,
        epochs=EpochCache(plan),
        runtime=runtime,
        seed=config.train.seed,
        channels_last=channels_last,
        balance=balance,
        ragged=runtime.num_devices == 1 and not config.train.compile,
    )


def slots_line(plan: Plan) -> str | None:
    """A sentence about batches that some size cannot fill; None when each size fills at least one."""
    fewest = plan.smallest_bucket()
    if fewest >= plan.pass_size:
        return None
    slots, repeats = plan.slots()
    batch = f"a batch of {plan.batch_size}" + (
        f" on each of {plan.num_devices} devices" if plan.num_devices > 1 else ""
    )
    return (
        f"note: {batch} is more than the {fewest} image{'s' * (fewest != 1)} of one size: of {slots} slots of an epoch "
        f"{repeats} are repeats of weight zero, which teach nothing; --batch-size {max(1, fewest // plan.num_devices)} "
        "has fewer"
    )


def announce(adapter: Adapter, config: RunConfig, say: Say) -> None:
    """Which layers matched."""
    if config.train.method == "full":
        say(
            f"all of the {' and the '.join(part.replace('_', ' ') for part in adapter.modules)} learns: "
            f"{adapter.num_parameters:,} numbers, float32"
        )
        return
    for part, names in adapter.modules.items():
        shown = ", ".join(names[:2]) + (f", … {names[-1]}" if len(names) > 2 else "")
        say(f"LoRA on {len(names)} layers of the {part.replace('_', ' ')}: {shown}")
    say(f"rank {config.lora.rank}, {adapter.num_parameters:,} learning numbers, float32")


def make_sampler(
    config: RunConfig,
    folder: Path,
    model: DiffusionModel,
    texts: TextStore,
    runtime: Runtime,
    examples: Sequence[Example],
) -> Sampler | None:
    """The sampler of fixed prompts, or None when samples are off.

    Raises:
        UserError: A size that the model cannot draw, or a prompt that needs too many windows.
    """
    samples = config.samples
    if not samples.enabled:
        return None
    prompts = samples.prompts or tuple(dict.fromkeys(example.caption for example in examples))[:3]
    width, height = (samples.size, samples.size) if samples.size else common_size(examples)
    defaults = model.info.defaults
    solver = defaults.sampler if samples.sampler == "auto" else samples.sampler
    guidance = defaults.guidance_scale if samples.guidance_scale is None else samples.guidance_scale
    requests = [
        ImageRequest(
            prompt=prompt,
            negative_prompt=samples.negative_prompt,
            seed=samples.seed + number,
            num_steps=samples.steps,
            guidance_scale=guidance,
            sampler=solver,
            width=width,
            height=height,
        )
        for number, prompt in enumerate(prompts)
    ]
    method, weighting = config.train.method, bool(samples.prompts)
    sampler = Sampler(folder / "samples", model, texts, runtime, samples, requests, weighting, method)
    for request in requests:
        check_size(model, request)
    for text, weighting in sampler.wanted():
        texts.encoder.plan(text, weighting=weighting)  # raises now rather than at the first checkpoint
    return sampler
