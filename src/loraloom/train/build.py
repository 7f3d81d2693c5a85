"""From settings to a run that stands ready: model, caches, adapter, optimizer, and where to go on.

In: a `RunConfig`. Out: a `Run`. Order matters for memory: VAE and text encoder fill the caches and are dropped before
the denoiser is read.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from loraloom import __version__
from loraloom.config.domains import open_domain, recorded_options
from loraloom.config.run import RunConfig, read_class_weights
from loraloom.data.batches import BatchMaker, refuse_blind_flips
from loraloom.data.bucket_sampler import EpochCache, Plan
from loraloom.data.cache import ContentCache
from loraloom.data.encode import LatentStore, TextStore
from loraloom.data.loss_weights import LatentWeights
from loraloom.data.manifest import Manifest, read_manifest
from loraloom.diffusion.balance import NoiseBalance
from loraloom.diffusion.objective import TimestepSampling, make_objective
from loraloom.generate.images import check_size, negative_prompts, unread_negative
from loraloom.lora.inject import Adapter, attach_new
from loraloom.lora.record import FORMAT, FULL_FORMAT, relative_base
from loraloom.models.loading import open_model
from loraloom.prompts.encoder import PromptEncoder
from loraloom.prompts.notes import Losses, cut_lines, reads_nothing, syntax_line
from loraloom.protocols.data import Example
from loraloom.protocols.domain import Domain
from loraloom.protocols.generation import ImageRequest
from loraloom.protocols.model import DiffusionModel, ModelSource
from loraloom.tracking import Tracker
from loraloom.train.checkpoint import Checkpoint, CheckpointFolder
from loraloom.train.distributed import Runtime
from loraloom.train.full import attach_full
from loraloom.train.optim import (
    Ema,
    LossScale,
    Updater,
    make_optimizer,
    optimizer_tensors,
    restore_optimizer,
    weight_sums,
)
from loraloom.train.precompute import precompute_caches, stoppable
from loraloom.train.sampling import Sampler
from loraloom.train.signals import StopRequest
from loraloom.train.step import TrainState
from loraloom.utils.atomic_files import write_text
from loraloom.utils.errors import UserError
from loraloom.utils.locks import FolderLock
from loraloom.utils.progress import Progress
from loraloom.utils.untrusted import library_errors, shown

Say = Callable[[str], None]

NUM_IMAGES_SEEN = 32
"""So many images, evenly spread, are looked at to say how much of them the weighed classes are."""


@dataclass(slots=True)
class Run:
    """A run that stands ready.

    Attributes:
        start: Finished steps of the checkpoint it goes on from, or 0.
        best_step, best_loss: Of the lowest validation loss so far.
        skipped_in_row: Updates that were not finite since the last good one; overflows of fp16's loss scale apart.
        skipped: All updates that were skipped since `start`.
        largest_norm: Of the gradients of all updates since `start` that were not skipped.
        sums_at_start: `weight_sums` before anything was learned or restored.
        notes: What was given and is not used as it was given, a line each.
        lock: Of the run folder, in the main process.
    """

    config: RunConfig
    folder: Path
    manifest: Manifest
    train_state: TrainState
    held_out: BatchMaker
    sampler: Sampler | None
    checkpoints: CheckpointFolder
    tracker: Tracker
    say: Say
    start: int = 0
    best_step: int | None = None
    best_loss: float | None = None
    skipped_in_row: int = 0
    skipped: int = 0
    largest_norm: float = 0.0
    sums_at_start: Tensor | None = None
    base_sha256: str = ""
    notes: tuple[str, ...] = ()
    lock: FolderLock | None = None

    def checkpoint(self, done: int) -> Checkpoint:
        """Everything that a resume needs."""
        train_state = self.train_state
        tensors, rest = optimizer_tensors(train_state.updater.optimizer)
        averaged = (
            dict(zip(train_state.adapter.parameters, train_state.ema.shadow, strict=True)) if train_state.ema else {}
        )
        scale = train_state.updater.loss_scale
        state = {
            "best_step": self.best_step, "best_loss": self.best_loss, "skipped_in_row": self.skipped_in_row,
            "loss_scale": scale.value, "good_steps": scale.good_steps, "dataset": self.manifest.fingerprint,
            "devices": train_state.runtime.num_devices, "base_sha256": self.base_sha256,
            "balance": train_state.balance.seen_2k.tolist() if train_state.balance else None,
        }  # fmt: skip
        return Checkpoint(done, train_state.adapter.state(), averaged, tensors, rest, state)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint.

        Raises:
            UserError: The dataset, the base or the number of devices is not what it was.
        """
        train_state, state = self.train_state, checkpoint.state
        now = {
            "dataset": self.manifest.fingerprint,
            "devices": train_state.runtime.num_devices,
            "base_sha256": self.base_sha256,
        }
        for key, value in now.items():
            if state.get(key) != value:
                raise UserError(
                    f"this run cannot go on: its {key} has changed", got=value, expected=shown(state.get(key)),
                    fix="restore it, or start a new run with another --out",
                )  # fmt: skip
        train_state.adapter.load(checkpoint.adapter)
        with library_errors("the checkpoint's state", f"step {checkpoint.step}", fix="choose another checkpoint"):
            self._restore_state(checkpoint)

    def _restore_state(self, checkpoint: Checkpoint) -> None:
        """What a checkpoint holds beside the weights; a file from elsewhere may hold anything there."""
        train_state, state = self.train_state, checkpoint.state
        if train_state.ema and checkpoint.ema:
            for shadow, key in zip(train_state.ema.shadow, train_state.adapter.parameters, strict=True):
                shadow.copy_(checkpoint.ema[key])
        restore_optimizer(train_state.updater.optimizer, checkpoint.optimizer, checkpoint.optimizer_rest)
        train_state.updater.loss_scale.value = state["loss_scale"]
        train_state.updater.loss_scale.good_steps = state["good_steps"]
        if train_state.balance:
            train_state.balance.seen_2k.copy_(torch.tensor(state["balance"]))
        self.start = checkpoint.step
        self.best_step, self.best_loss, self.skipped_in_row = (
            state["best_step"], state["best_loss"], state["skipped_in_row"],
        )  # fmt: skip

    def record(self, done: int) -> dict[str, Any]:
        """What the adapter says of itself."""
        config, model = self.config, self.train_state.model
        source = model.info.source
        width, height = common_size(self.manifest.examples)
        return {
            "format": FULL_FORMAT if config.train.method == "full" else FORMAT,
            "loraloom": __version__, "family": model.info.family,
            "base": {
                "source": source.location, "revision": source.revision, "variant": source.variant, "config": source.config,
                "prediction_type": source.prediction_type, "path": relative_base(source.location, self.folder),
            },
            "base_sha256": self.base_sha256, "rank": config.lora.rank, "alpha": config.lora.alpha or config.lora.rank,
            "target": config.lora.target, "prompt_method": config.prompts.method, "domain": config.data.domain,
            "domain_settings": recorded_options(config.data.domain, self.manifest.info.get("settings", {})),
            "trigger": self.manifest.info.get("settings", {}).get("trigger", ""), "dataset": self.manifest.fingerprint,
            "num_images": len(self.train_state.batches.examples), "size": f"{width}x{height}", "step": done,
            "epoch": done // self.train_state.epochs.steps_per_epoch, "batch_size": config.data.batch_size,
            "accumulation": config.train.gradient_accumulation, "optimizer": config.optim.optimizer,
            "scheduler": config.optim.scheduler, "precision": config.train.mixed_precision,
            "base_file_sha256": model.modules.file_sha256(),
            "max_steps": config.train.max_steps, "learning_rate": config.optim.learning_rate, "seed": config.train.seed,
            "config": config.model_dump(mode="json"),
        }  # fmt: skip


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
            config.model.source,
            config.model.revision,
            config.model.variant,
            config.model.config,
            config.objective.prediction_type,
        ),
        config.model.family,
    )
    check_sizes(model, manifest.examples)
    domain = open_domain(config.data.domain, manifest.info.get("settings", {}))
    if config.data.random_flip:
        refuse_blind_flips(learned, domain)
    encoder = PromptEncoder(model.text, domain, config.prompts.method, config.prompts.max_windows)
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
        config, folder, manifest, train_state, held_batches, sampler, checkpoints, tracker, say,
        base_sha256=model.modules.fingerprint(model.info.denoiser.name), notes=tuple(losses.lines),
        sums_at_start=weight_sums(train_state.adapter),
    )  # fmt: skip


def agree(runtime: Runtime, manifest: Manifest, model: DiffusionModel) -> None:
    """Raise `UserError` unless all processes learn the same dataset on the same base: they would average nonsense."""
    seen = set(runtime.gather_texts([f"{manifest.fingerprint} {model.modules.fingerprint(model.info.denoiser.name)}"]))
    if len(seen) > 1:
        raise UserError(
            "the machines have different datasets or models", got=f"{len(seen)} kinds",
            fix="copy one prepared dataset and one model to every machine",
        )  # fmt: skip


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
            f"{len(over)} captions need more windows than prompts.max_windows", got=named, expected=f"at most "
            f"{encoder.max_windows}", fix=f"set prompts.max_windows={max(count for _, count in over)}, shorten them, or "
            "choose prompts.method=smart",
        )  # fmt: skip
    if syntax := syntax_line([example.caption for example in examples], encoder, weighting=False, noun="captions"):
        losses.add(syntax)
    cut = [(id_, plan) for id_, plan in plans if plan.lost]
    if not cut:
        return
    nothing = sum(reads_nothing(plan) for _, plan in cut)
    losses.add(
        f"warning: prompts.method={encoder.method} leaves out part of {len(cut)} captions, listed in captions_cut.txt"
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
            learned, *common, noise_offset=objective.noise_offset, sampling=sampling, random_flip=data.random_flip,
            caption_dropout=data.caption_dropout, weighing=weighing,
        ),
        BatchMaker(held_out, *common),
    )  # fmt: skip


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
        optimizer, parameters, config.optim, config.train.max_steps, LossScale(config.train.mixed_precision == "fp16")
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
        model, adapter, objective, updater, ema, batches, EpochCache(plan), runtime, config.train.seed,
        channels_last, balance, ragged=runtime.num_devices == 1 and not config.train.compile,
    )  # fmt: skip


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
            prompt, samples.negative_prompt, samples.seed + number, samples.steps, guidance,
            solver, width, height,
        )
        for number, prompt in enumerate(prompts)
    ]  # fmt: skip
    method, weighting = config.train.method, bool(samples.prompts)
    sampler = Sampler(folder / "samples", model, texts, runtime, samples, requests, weighting, method)
    for request in requests:
        check_size(model, request)
    for text, weighting in sampler.wanted():
        texts.encoder.plan(text, weighting=weighting)  # raises now rather than at the first checkpoint
    return sampler


def common_size(examples: Sequence[Example]) -> tuple[int, int]:
    """The most frequent (width, height); the smallest of equally frequent ones."""
    counts: dict[tuple[int, int], int] = {}
    for example in examples:
        counts[example.width, example.height] = counts.get((example.width, example.height), 0) + 1
    return min(counts, key=lambda size: (-counts[size], size))


def check_sizes(model: DiffusionModel, examples: Sequence[Example]) -> None:
    """Raise `UserError` when a prepared image does not fall on whole latents."""
    step = model.info.size_multiple
    for example in examples:
        if example.width % step or example.height % step:
            raise UserError(
                f"image {example.id} has sides that are no multiples of {step}",
                got=f"{example.width}x{example.height}",
                fix=f"prepare again with --size and --bucket-step multiples of {step}",
            )
