"""Precompute latents and prompt embeddings before the first step, shared out over the processes; a stop request ends it.

In: what an epoch can ask for. Out: full caches, and neither VAE nor text encoder in memory.
"""

from collections.abc import Iterator, Sequence
from itertools import chain, islice

import torch

from loraloom.config.run import RunConfig
from loraloom.data.batches import BatchMaker
from loraloom.data.encode import Wanted
from loraloom.protocols.data import Example
from loraloom.train.distributed import Runtime
from loraloom.train.sampling import Sampler
from loraloom.train.signals import StopRequest
from loraloom.utils.counted import counted
from loraloom.utils.progress import Progress
from loraloom.utils.reporting import log, reporter

_PIECE = 4096
"""Images that are looked at together: the rows of a large dataset are not all in memory."""


def _missing_latents(batches: Sequence[BatchMaker], part: slice) -> Iterator[list[tuple[Example, bool]]]:
    """What the cache lacks of every `part.step`-th image from `part.start`, in pieces; pieces without any are left out."""
    latents = batches[0].latents
    every = chain.from_iterable(batch.needed_latents() for batch in batches)
    images = islice(every, part.start, part.stop, part.step)
    while piece := list(islice(images, _PIECE)):
        keys = {latents.key(*image): image for image in piece}
        if lacking := latents.cache.missing(list(keys)):
            yield [keys[key] for key in lacking]


def stoppable(title: str, stop: StopRequest) -> Progress:
    """The progress callback of a titled piece of work, which raises `StoppedError` when a stop was asked for."""
    advance = reporter().bar(title)

    def both(done: int, total: int) -> None:
        advance(done, total)
        stop.check()

    return both


def precompute_caches(
    config: RunConfig,
    runtime: Runtime,
    batches: Sequence[BatchMaker],
    sampler: Sampler | None,
    stop: StopRequest,
) -> None:
    """Encode what is missing, shared out over the processes, then drop the encoders.

    Without a common disk each process encodes what its own still lacks.

    Raises:
        StoppedError: A stop was asked for; what was encoded is kept.
    """
    maker = batches[0]
    model = maker.latents.model
    vae, encoders = model.info.vae.name, [part.name for part in model.info.text_encoders]
    captions = all_captions(batches)
    if config.data.cache and runtime.is_main:
        maker.latents.cache.clean()
        maker.texts.cache.clean()
    missing = count_missing(batches, slice(None))
    if missing:
        log.info(f"encoding {counted(missing, 'image')}")
    rounds = [slice(runtime.rank, None, runtime.num_devices), slice(None)] if config.data.cache else [slice(None)]
    for part in rounds:
        encode_images(batches, part, config.data.encode_batch_size, runtime.device, stop, missing // (part.step or 1))
        runtime.barrier()
    model.modules.drop(vae)
    if config.lora.text_encoder:
        for encoder in encoders:
            model.modules.place(encoder, runtime.device, torch.float32)
        return
    wanted = [(caption, False) for caption in captions] + (sampler.wanted() if sampler else [])
    for part in rounds:
        encode_texts(maker, wanted[part], runtime.device, stop)
        runtime.barrier()
    for encoder in encoders:
        model.modules.drop(encoder)


def all_captions(batches: Sequence[BatchMaker]) -> list[str]:
    """Every caption that an epoch of any of these can ask for, each once."""
    return list(dict.fromkeys(caption for batch in batches for caption in batch.needed_captions()))


def count_missing(batches: Sequence[BatchMaker], part: slice) -> int:
    """Images of a part that the cache lacks."""
    return sum(len(images) for images in _missing_latents(batches, part))


def encode_images(
    batches: Sequence[BatchMaker],
    part: slice,
    batch_size: int,
    device: torch.device,
    stop: StopRequest,
    missing: int = 0,
) -> int:
    """Encode what the cache lacks of the images of a part; returns how many were encoded.

    Args:
        batches: Their needs are put one after the other; the first one's store encodes.
        part: Which of them.
        batch_size: Images encoded at once.
        device: Where the VAE computes.
        stop: Ends it.
        missing: About how many will be encoded, for the bar.

    Raises:
        StoppedError: A stop was asked for; what was encoded is kept.
    """
    latents = batches[0].latents
    show, done = stoppable("encoding images", stop), 0
    for images in _missing_latents(batches, part):
        if not done:
            latents.model.modules.place(latents.model.info.vae.name, device, torch.float32)
        total = max(missing, done + len(images))
        latents.fill(images, batch_size, lambda now, _, done=done, total=total: show(done + now, total))
        done += len(images)
    return done


def encode_texts(maker: BatchMaker, wanted: Sequence[Wanted], device: torch.device, stop: StopRequest) -> int:
    """Encode what the cache lacks of some texts; returns how many were encoded; raises as `encode_images`."""
    if not maker.texts.missing(wanted):
        return 0
    modules = maker.latents.model.modules
    for encoder in maker.latents.model.info.text_encoders:
        modules.place(encoder.name, device, torch.float32)
    return maker.texts.fill(wanted, stoppable("encoding captions", stop))
