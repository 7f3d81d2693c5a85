"""Precompute the caches of a dataset without a training, in parts that several machines or jobs share out.

In: the settings of the training, and which part. Out: cached latents and caption embeddings. A file is named by all that it
is made of, so parts need no joining: on a shared disk they lie beside each other, and copied folders are laid into one.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from loraloom.config.domains import open_domain
from loraloom.config.run import RunConfig
from loraloom.data.batches import refuse_blind_flips
from loraloom.data.manifest import read_manifest
from loraloom.data.sizes import check_sizes
from loraloom.models.loading import open_model
from loraloom.prompts.encoder import PromptEncoder
from loraloom.prompts.notes import Losses
from loraloom.train.build import make_batches, source_of
from loraloom.train.distributed import make_runtime
from loraloom.train.notices import report_captions
from loraloom.train.precompute import all_captions, count_missing, encode_images, encode_texts
from loraloom.train.run import with_domain
from loraloom.train.signals import listen_for_stop
from loraloom.utils.errors import UserError
from loraloom.utils.parts import Part
from loraloom.utils.reporting import log_line


@dataclass(frozen=True, slots=True, kw_only=True)
class Precomputed:
    """What `precompute_part` did.

    Attributes:
        images, captions: Encoded by all processes of this call.
        images_needed, captions_needed: All that the training asks for.
        images_missing, captions_missing: What no part has encoded yet.
        is_main: Whether this process is the one that speaks.
    """

    images: int
    captions: int
    images_needed: int
    captions_needed: int
    images_missing: int
    captions_missing: int
    is_main: bool


def precompute_part(config: RunConfig, part: Part | None = None, *, cpu: bool = False) -> Precomputed:
    """Encode what the caches lack of a part of a dataset; its processes share the part out.

    Args:
        config: Settings of the training that will read the caches.
        part: Which images and captions; None: all.
        cpu: Compute on the CPU even where there is a GPU.

    Raises:
        UserError: As `train`, before its first step.
        StoppedError: A stop was asked for; what was encoded is kept.
    """
    if not config.data.cache:
        raise UserError("data.cache is off: nothing would be kept", fix="switch data.cache on")
    config = with_domain(config)
    manifest = read_manifest(Path(config.data.dataset))
    learned, held_out = manifest.split("train"), manifest.split("validation")
    model = open_model(source_of(config), config.model.family)
    check_sizes(model, manifest.examples)
    domain = open_domain(config.data.domain, manifest.info.get("settings", {}))
    if config.data.random_flip:
        refuse_blind_flips(learned, domain, config.augment.flip_unknown)
    method, windows = config.prompts.method, config.prompts.max_windows
    encoder = PromptEncoder(text=model.text, domain=domain, method=method, max_windows=windows)
    runtime = make_runtime(config.train.mixed_precision, cpu=cpu)
    report_captions(encoder, manifest.examples, None, Losses(log_line, config.train.strict))
    batches = make_batches(
        config,
        model=model,
        encoder=encoder,
        domain=domain,
        runtime=runtime,
        learned=learned,
        held_out=held_out,
    )
    part = part or Part(1, 1)
    share = part.shared(runtime.rank, runtime.num_devices).slice
    wanted = [] if config.lora.text_encoder else [(caption, False) for caption in all_captions(batches)]
    maker = batches[0]
    with listen_for_stop() as stop:
        missing = count_missing(batches, share)
        images = encode_images(batches, share, config.data.encode_batch_size, runtime.device, stop, missing)
        model.modules.drop(model.info.vae.name)
        captions = encode_texts(maker, wanted[share], runtime.device, stop)
    done = runtime.sum_numbers(torch.tensor([images, captions], device=runtime.device)).tolist()
    return Precomputed(
        images=int(done[0]),
        captions=int(done[1]),
        images_needed=sum(1 for batch in batches for _ in batch.needed_latents()),
        captions_needed=len(wanted),
        images_missing=count_missing(batches, slice(None)),
        captions_missing=len(maker.texts.missing(wanted)),
        is_main=runtime.is_main,
    )
