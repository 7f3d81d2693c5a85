"""From settings to a run that can train: model, caches, adapter, optimizer.

In: a `RunConfig`. Out: a `Run`. Order matters for memory: latents and prompt embeddings are precomputed, and VAE
and text encoder dropped, before the denoiser is read.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from loraloom.config.domains import open_domain
from loraloom.config.pairs import read_batch_sizes, read_class_weights
from loraloom.config.run import RunConfig
from loraloom.data.augment import Augmentation, settings_line
from loraloom.data.batches import BatchMaker, refuse_blind_flips
from loraloom.data.bucket_sampler import EpochCache, Plan
from loraloom.data.cache import ContentCache
from loraloom.data.caption_dropout import make_caption_dropout
from loraloom.data.encode import LatentStore, TextStore
from loraloom.data.loss_weights import LatentWeights
from loraloom.data.manifest import Manifest, read_manifest
from loraloom.data.sizes import check_sizes, common_size
from loraloom.diffusion.balance import NoiseBalance
from loraloom.diffusion.objective import TimestepSampling, make_objective
from loraloom.generate.images import check_size
from loraloom.generate.prompt_sets import find_prompts, read_prompts
from loraloom.lora.inject import attach_new
from loraloom.models.block_swap import repeated_blocks
from loraloom.models.loading import open_model
from loraloom.prompts.encoder import PromptEncoder
from loraloom.prompts.notes import Losses
from loraloom.protocols.data import Example
from loraloom.protocols.domain import Domain
from loraloom.protocols.generation import ImageRequest
from loraloom.protocols.model import DiffusionModel, ModelSource
from loraloom.tracking import Tracker
from loraloom.train.checkpoint import CheckpointFolder
from loraloom.train.distributed import Runtime
from loraloom.train.full import attach_full
from loraloom.train.notices import announce, distilled_lines, report_captions, report_weights, sample_losses
from loraloom.train.optim import (
    Ema,
    LossScale,
    Updater,
    make_optimizer,
    weight_sums,
)
from loraloom.train.precompute import precompute_caches
from loraloom.train.sampling import Sampler, spread
from loraloom.train.sharding import shard, shard_line
from loraloom.train.signals import StopRequest
from loraloom.train.state import Run, TrainState
from loraloom.train.swapping import frozen_bytes, low_bits_line, swap_line
from loraloom.utils.errors import UserError
from loraloom.utils.reporting import log, log_line, reporter


def set_up(
    config: RunConfig,
    runtime: Runtime,
    tracker: Tracker,
    stop: StopRequest,
) -> Run:
    """Build a run from its settings. Every process calls this; the main one speaks.

    Raises:
        UserError: Anything wrong with settings, data or model, before the first step.
    """
    folder = Path(config.train.output)
    manifest = read_manifest(Path(config.data.dataset))
    learned, held_out = manifest.split("train"), manifest.split("validation")
    if not learned:
        raise UserError(
            "the dataset has no training images", got=config.data.dataset, fix="prepare it with more images"
        )
    model = open_model(source_of(config), config.model.family)
    check_sizes(model, manifest.examples)
    domain = open_domain(config.data.domain, manifest.info.get("settings", {}))
    unflipped = refuse_blind_flips(learned, domain, config.augment.flip_unknown) if config.data.random_flip else None
    encoder = PromptEncoder(
        text=model.text, domain=domain, method=config.prompts.method, max_windows=config.prompts.max_windows
    )
    losses = Losses(log_line, config.train.strict)
    losses.add(*manifest.notes, *([unflipped] if unflipped else []), *distilled_lines(model.info))
    report_captions(encoder, manifest.examples, folder if runtime.is_main else None, losses)
    train_batches, held_batches = make_batches(
        config,
        model=model,
        encoder=encoder,
        domain=domain,
        runtime=runtime,
        learned=learned,
        held_out=held_out,
    )
    if train_batches.loss_weights:
        report_weights(train_batches.loss_weights, learned)
    sampler = make_sampler(
        config, folder=folder, model=model, texts=train_batches.texts, runtime=runtime, examples=manifest.examples
    )
    if sampler:
        losses.add(*sample_losses(sampler, encoder))
    elif config.samples.prompts or config.samples.prompt_file is not None:
        losses.add("note: samples are off: the sample prompts are not used")
    losses.check()
    agree(runtime, manifest, model)
    precompute_caches(config, runtime, (train_batches, held_batches), sampler, stop)
    train_state = make_train_state(config, model, train_batches, runtime)
    return Run(
        config=config,
        folder=folder,
        manifest=manifest,
        train_state=train_state,
        held_out=held_batches,
        sampler=sampler,
        checkpoints=CheckpointFolder(folder / "checkpoints"),
        tracker=tracker,
        sums_at_start=weight_sums(train_state.adapter),
        base_sha256=model.modules.fingerprint(model.info.denoiser.name),
        notes=tuple(losses.lines),
    )


def source_of(config: RunConfig) -> ModelSource:
    """Where the base model is, and how it is to be read."""
    return ModelSource(
        location=config.model.source,
        revision=config.model.revision,
        variant=config.model.variant,
        config=config.model.config,
        prediction_type=config.objective.prediction_type,
        options=config.model.options,
        clip_skip=config.model.clip_skip,
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


def make_batches(
    config: RunConfig,
    *,
    model: DiffusionModel,
    encoder: PromptEncoder,
    domain: Domain,
    runtime: Runtime,
    learned: Sequence[Example],
    held_out: Sequence[Example],
) -> tuple[BatchMaker, BatchMaker]:
    """The makers of training and held-out batches over shared caches."""
    data = config.data
    dropout = make_caption_dropout(data, model, trains_text_encoder=config.lora.text_encoder)
    if line := dropout.line():
        log.info(line)
    root = Path(data.cache_dir or Path(data.dataset) / "cache") if data.cache else None
    latent_cache = ContentCache(root / "latents" if root else None)
    text_cache = ContentCache(root / "texts" if root else None)
    dataset = Path(data.dataset)
    latents = LatentStore(model, dataset, latent_cache, model.modules.fingerprint(model.info.vae.name))
    latents.check(learned)
    latents.check(held_out)
    texts = TextStore(encoder, text_cache, runtime.weight_dtype, live=config.lora.text_encoder)
    held_batches = BatchMaker(examples=held_out, latents=latents, texts=texts, domain=domain, seed=config.train.seed)
    weights = read_class_weights(config.objective.class_weights)
    train_batches = replace(
        held_batches,
        examples=learned,
        random_flip=data.random_flip,
        augmentation=make_augmentation(config, learned, domain),
        dropout=dropout,
        loss_weights=LatentWeights(weights, domain, dataset, model.info.vae_scale_factor) if weights else None,
    )
    return train_batches, held_batches


def make_augmentation(config: RunConfig, learned: Sequence[Example], domain: Domain) -> Augmentation:
    """The variants that the settings ask for, with the subject of every image.

    Raises:
        UserError: They would make captions false, or loss weights by colour are set.
    """
    asked = config.augment
    made = Augmentation(variants=asked.variants, crop=asked.crop, light=asked.light, seed=config.train.seed)
    if not made.variants:
        return made
    made.refuse(learned, domain)
    if config.objective.class_weights:
        fix = "set augment.variants=0, or remove objective.class_weights"
        raise UserError("loss weights by colour and augmented variants exclude each other", fix=fix)
    made.find_subjects(Path(config.data.dataset), learned, reporter().bar("looking for subjects"))
    log.info(settings_line(made))
    return made


def make_plan(config: RunConfig, batches: BatchMaker, runtime: Runtime) -> Plan:
    """The bucket batch sampler of a run."""
    known: dict[tuple[int, int], tuple[int, int]] = {}  # one tuple for each size, not for each image
    sizes: list[tuple[int, int]] = []
    repeats: list[int] = []
    weights: list[float] = []
    batches_of: list[int | None] = []
    for row in batches.examples:  # once: rows of a large manifest are read from the disk
        sizes.append(known.setdefault((row.width, row.height), (row.width, row.height)))
        repeats.append(row.repeats)
        weights.append(row.weight)
        batches_of.append(row.batch_size)
    return Plan(
        sizes=tuple(sizes),
        batch_size=config.data.batch_size,
        num_devices=runtime.num_devices,
        accumulation=config.train.gradient_accumulation,
        seed=config.train.seed,
        repeats=tuple(repeats) if set(repeats) != {1} else (),
        weights=tuple(weights) if set(weights) != {1.0} else (),
        smaller_batches=read_batch_sizes(config.data.batch_size_from, config.data.batch_size),
        batch_sizes=tuple(batches_of) if set(batches_of) != {None} else (),
    )


def make_train_state(config: RunConfig, model: DiffusionModel, batches: BatchMaker, runtime: Runtime) -> TrainState:
    """Place the denoiser, inject the adapter, make the optimizer, the average and the batch sampler."""
    full = config.train.method == "full"
    split = config.train.shard and runtime.num_devices > 1
    # What the device may not hold as a whole: blocks that are swapped, and weights that are split over the ranks.
    stays = bool(config.train.block_swap) or split
    first_device = torch.device("cpu") if stays else runtime.device
    if config.train.low_bits != "no":
        model.modules.read_in_low_bits(model.info.denoiser.name, config.train.low_bits)
    denoiser: Any = model.modules.place(
        model.info.denoiser.name, first_device, torch.float32 if full else runtime.weight_dtype
    )
    if config.train.shard and not split:
        log_line("note: train.shard has no effect: the run has one process")
    if split:
        shard(denoiser, runtime.device)
        log_line(shard_line(denoiser, runtime.num_devices))
    channels_last = config.train.channels_last and runtime.device.type == "cuda" and not split
    if channels_last:
        denoiser.to(memory_format=torch.channels_last)
    adapter = (
        attach_full(model, config.lora.text_encoder) if full else attach_new(model, config.lora, config.train.seed)
    )
    announce(adapter, config)
    make_frozen_weights_small(config, model, runtime)
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
    objective = make_objective(
        model.info.schedule,
        snr_gamma=config.objective.snr_gamma,
        noise_offset=config.objective.noise_offset,
        device=runtime.device,
    )
    ema = Ema(adapter.parameters, config.lora.ema_decay) if config.lora.ema_decay else None
    balance = NoiseBalance(objective.num_timesteps, runtime.device) if config.objective.balance_noise else None
    return TrainState(
        model=model,
        adapter=adapter,
        objective=objective,
        updater=updater,
        ema=ema,
        batches=batches,
        epochs=EpochCache(make_plan(config, batches, runtime)),
        runtime=runtime,
        seed=config.train.seed,
        timestep_sampling=TimestepSampling(
            kind=config.objective.timestep_sampling,
            mean=config.objective.logit_mean,
            std=config.objective.logit_std,
            shift=config.objective.timestep_shift,
        ),
        channels_last=channels_last,
        balance=balance,
        ragged=runtime.num_devices == 1 and not config.train.compile,
    )


def make_frozen_weights_small(config: RunConfig, model: DiffusionModel, runtime: Runtime) -> None:
    """Say what low bits save, and keep blocks in CPU memory as the settings ask; the rest moves to the device."""
    if config.train.low_bits != "no":
        denoiser = model.modules.get(model.info.denoiser.name)
        log_line(low_bits_line(denoiser, config.train.low_bits, runtime.weight_dtype))
    if config.train.block_swap:
        swap_denoiser(config, model, runtime)


def swap_denoiser(config: RunConfig, model: DiffusionModel, runtime: Runtime) -> None:
    """Move the denoiser to the device but for the blocks that stay in CPU memory, and say what that saves."""
    part = model.info.denoiser.name
    denoiser = model.modules.get(part)
    frozen = frozen_bytes(denoiser)
    num_blocks = len(repeated_blocks(denoiser))
    swap = model.modules.swap_blocks(part, runtime.device, config.train.block_swap)
    log_line(swap_line(swap, num_blocks, frozen))


def make_sampler(
    config: RunConfig,
    *,
    folder: Path,
    model: DiffusionModel,
    texts: TextStore,
    runtime: Runtime,
    examples: Sequence[Example],
) -> Sampler | None:
    """The sampler of fixed prompts, or None when samples are off.

    Raises:
        UserError: A size that the model does not support, or a prompt that needs too many windows.
    """
    samples = config.samples
    if not samples.enabled:
        return None
    given = samples.prompts
    if samples.prompt_file is not None:
        given = (*given, *read_prompts(find_prompts(samples.prompt_file)))
    prompts = given or tuple(dict.fromkeys(example.caption for example in examples))[:3]
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
    weighting = bool(given)
    sampler = Sampler(
        folder=folder / "samples",
        model=model,
        texts=texts,
        runtime=runtime,
        config=samples,
        requests=spread(requests, runtime.num_devices, equal=config.train.shard),
        together=config.train.shard and runtime.num_devices > 1,
        weighting=weighting,
        method=config.train.method,
    )
    for request in requests:
        check_size(model, request)
    for text, weighting in sampler.wanted():
        texts.encoder.plan(text, weighting=weighting)  # raises now rather than at the first checkpoint
    return sampler
