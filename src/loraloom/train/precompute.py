"""Precompute latents and prompt embeddings before the first step, shared out over the processes; a stop request ends it.

In: what an epoch can ask for. Out: full caches, and neither VAE nor text encoder in memory.
"""

from collections.abc import Iterator, Sequence
from itertools import chain, islice

import torch

from loraloom.config.run import RunConfig
from loraloom.data.batches import BatchMaker
from loraloom.protocols.data import Example
from loraloom.train.distributed import Runtime
from loraloom.train.sampling import Sampler
from loraloom.train.signals import StopRequest
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
    model, size = maker.latents.model, config.data.encode_batch_size
    vae, encoders = model.info.vae.name, [part.name for part in model.info.text_encoders]
    captions = list(dict.fromkeys(caption for batch in batches for caption in batch.needed_captions()))
    if config.data.cache and runtime.is_main:
        maker.latents.cache.clean()
        maker.texts.cache.clean()
    missing = sum(len(part) for part in _missing_latents(batches, slice(None)))
    if missing:
        log.info(f"encoding {missing} images")
    rounds = [slice(runtime.rank, None, runtime.num_devices), slice(None)] if config.data.cache else [slice(None)]
    for part in rounds:
        show, done = stoppable("encoding images", stop), 0
        for images in _missing_latents(batches, part):
            if not done:
                model.modules.place(vae, runtime.device, torch.float32)
            total = max(missing // (part.step or 1), done + len(images))
            maker.latents.fill(images, size, lambda now, _, done=done, show=show, total=total: show(done + now, total))
            done += len(images)
        runtime.barrier()
    model.modules.drop(vae)
    if config.lora.text_encoder:
        for encoder in encoders:
            model.modules.place(encoder, runtime.device, torch.float32)
        return
    wanted = [(caption, False) for caption in captions] + (sampler.wanted() if sampler else [])
    for part in rounds:
        if maker.texts.missing(wanted[part]):
            for encoder in encoders:
                model.modules.place(encoder, runtime.device, torch.float32)
            maker.texts.fill(wanted[part], stoppable("encoding captions", stop))
        runtime.barrier()
    for encoder in encoders:
        model.modules.drop(encoder)
