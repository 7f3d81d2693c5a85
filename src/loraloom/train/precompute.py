"""Precompute latents and prompt embeddings before the first step, shared out over the processes; a stop request ends it.

In: what an epoch can ask for. Out: full caches, and neither VAE nor text encoder in memory.
"""

from collections.abc import Sequence

import torch

from loraloom.config.run import RunConfig
from loraloom.data.batches import BatchMaker
from loraloom.train.distributed import Runtime
from loraloom.train.sampling import Sampler
from loraloom.train.signals import StopRequest
from loraloom.utils.progress import Progress
from loraloom.utils.reporting import log, reporter


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
    images = [item for batch in batches for item in batch.needed_latents()]
    captions = list(dict.fromkeys(caption for batch in batches for caption in batch.needed_captions()))
    if config.data.cache and runtime.is_main:
        maker.latents.cache.clean()
        maker.texts.cache.clean()
    missing = maker.latents.cache.missing([maker.latents.key(*item) for item in images])
    if missing:
        log.info(f"encoding {len(missing)} images")
    rounds = [slice(runtime.rank, None, runtime.num_devices), slice(None)] if config.data.cache else [slice(None)]
    for part in rounds:
        if maker.latents.cache.missing([maker.latents.key(*item) for item in images[part]]):
            model.modules.place(vae, runtime.device, torch.float32)
            maker.latents.fill(images[part], size, stoppable("encoding images", stop))
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
