"""A model with adapters, ready to draw: what `generate`, the interactive prompt and later the API share.

In: where model and adapters are, and the drawing settings. Out: a `Session` that turns prompts into saved images with
their recipes. The prompt method and the base model are the adapter's own unless the user says otherwise.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch

from loraloom.config.domains import open_domain
from loraloom.config.generate import GenerateConfig
from loraloom.config.run import PromptMethod
from loraloom.generate.images import generate, negative_prompts, unread_negative
from loraloom.generate.recipes import LIST_NAME, Recipe
from loraloom.lora.files import AdapterFile, attach, read_adapter
from loraloom.lora.inject import Adapter, set_weight
from loraloom.lora.kinds import base_named
from loraloom.lora.merged import MergedLora
from loraloom.lora.reading import Updates
from loraloom.lora.record import recorded_base
from loraloom.models.loading import open_model
from loraloom.prompts.encoder import PromptEncoder
from loraloom.prompts.notes import Losses, cut_lines, syntax_line, unknown_letters
from loraloom.protocols.generation import GeneratedImage, ImageRequest
from loraloom.protocols.model import DiffusionModel, ModelSource, SamplingDefaults, Tensors
from loraloom.utils.dtypes import DTYPES
from loraloom.utils.errors import UserError
from loraloom.utils.progress import Progress


@dataclass(slots=True)
class Placed:
    """An adapter on the model with its present weight."""

    file: AdapterFile
    adapter: Adapter
    weight: float


@dataclass(slots=True, kw_only=True)
class Session:
    """See the module. `open_session` makes one."""

    model: DiffusionModel
    encoder: PromptEncoder
    adapters: list[Placed]
    config: GenerateConfig
    device: torch.device
    size: tuple[int, int]
    folding: MergedLora

    @property
    def guidance(self) -> float:
        """Classifier-free guidance; `open_session` has put what suits the model where the settings left it open."""
        assert self.config.guidance_scale is not None
        return self.config.guidance_scale

    def set_weight(self, index: int, weight: float) -> None:
        """Change how much an adapter counts, in a session that was opened as `changing`."""
        placed = self.adapters[index]
        set_weight(self.model, placed.adapter, weight)
        self.folding.renew()
        placed.weight = weight

    def requests(self, prompts: Sequence[str], progress: Progress | None = None) -> list[ImageRequest]:
        """`num_images` requests for each prompt, seeds counted up from the configured one for every prompt alike.

        A prompt that leaves much open may take a second or two (`Verifier.filled`); `progress` counts requests.
        """
        config = self.config
        width, height = self.size
        made: list[ImageRequest] = []
        for prompt in prompts:
            for seed in range(config.seed, config.seed + config.num_images):
                request = ImageRequest(
                    prompt=prompt,
                    negative_prompt=config.negative_prompt,
                    seed=seed,
                    num_steps=config.steps,
                    guidance_scale=self.guidance,
                    sampler=config.sampler,
                    width=width,
                    height=height,
                    expanded_prompt=self._expanded(prompt, seed),
                )
                made.append(request)
                if progress:
                    progress(len(made), len(prompts) * config.num_images)
        return made

    def _expanded(self, prompt: str, seed: int) -> str:
        """The expanded prompt; empty where it is the prompt itself."""
        verifier = self.encoder.domain.verifier
        filled = verifier.expand_prompt(prompt, seed) if verifier and self.config.fill_in else prompt
        return filled if filled != prompt else ""

    def draw(self, requests: Sequence[ImageRequest], progress: Progress | None = None) -> Iterator[GeneratedImage]:
        """Images of the requests, in order."""
        return generate(
            self.model,
            self.encode,
            requests,
            batch_size=self.config.batch_size,
            autocast=self.autocast,
            progress=progress,
        )

    def recipe(self, request: ImageRequest) -> Recipe:
        """All that decides the image of a request in this session."""
        source = self.model.info.source
        return Recipe(
            request=request,
            model={
                "source": source.location,
                "revision": source.revision,
                "variant": source.variant,
                "config": source.config,
                "family": self.model.info.family,
                "sha256": self.model.modules.fingerprint(self.model.info.denoiser.name),
            },
            adapters=[
                {"path": str(placed.file.path), "sha256": placed.file.sha256, "weight": placed.weight}
                for placed in self.adapters
            ],
            prompt_method=self.encoder.method,
            domain=self.encoder.domain.name,
            weighting=self.config.weighting,
            precision=self.config.mixed_precision,
            repair_rounds=self.config.repair_rounds if self.config.repair else 0,
            repair_guidance=self.config.repair_guidance if self.config.repair else 0.0,
        )

    def losses(self, requests: Sequence[ImageRequest]) -> list[str]:
        """Lines about prompts and negative prompts that are not read in full, and one about syntax that is text here, unless
        weights were switched off: then it is meant as text."""
        weighting = self.config.weighting
        prompts = {request.prompt: request.text for request in reversed(requests)}  # of several expansions the first
        negative = negative_prompts(self.model, requests)
        lines: list[str | None] = [
            *cut_lines(self.encoder, reversed(prompts.values()), weighting=weighting),
            *cut_lines(
                self.encoder, negative, weighting=weighting, noun="negative prompts", what="the negative prompt "
            ),
            *unknown_letters(self.encoder, [*reversed(prompts.values()), *negative], "prompts")[1],
        ]
        if weighting:
            lines.append(syntax_line([*reversed(prompts), *negative], self.encoder, weighting=True))
        return [line for line in [*lines, unread_negative(self.model, requests)] if line]

    def notes(self, requests: Sequence[ImageRequest]) -> list[str]:
        """Lines for the user: whether the model is told more than was written."""
        if not any(request.expanded_prompt for request in requests):
            return []
        return [
            f"note: what the prompt leaves open is decided first: `expanded_prompt` in {LIST_NAME}; off with --no-fill-in"
        ]

    def encode(self, prompts: Sequence[str]) -> list[Tensors]:
        """The named tensors of each prompt."""
        with torch.inference_mode(), self.autocast():
            return self.encoder.encode(prompts, weighting=self.config.weighting)

    def autocast(self) -> AbstractContextManager[object]:
        """The precision of the settings."""
        if self.config.mixed_precision == "no":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=DTYPES[self.config.mixed_precision])


def open_session(
    config: GenerateConfig,
    *,
    source: ModelSource | None = None,
    family: str = "auto",
    adapters: Sequence[tuple[Path, float]] = (),
    method: PromptMethod | None = None,
    domain: str | None = None,
    changing: bool = False,
    say: Callable[[str], None] = print,
) -> Session:
    """Open the model, put the adapters on, place everything.

    Args:
        config: Drawing settings.
        source: The base; None takes the one that the first adapter was trained on.
        family: Kind of model, or `auto`.
        adapters: Where each lies and how much it counts.
        method: Prompt method; None takes the first adapter's, or `attention`.
        domain: What the texts are about; None takes the first adapter's, or `freetext`.
        changing: Whether `set_weight` will be called; the adapted weights are then kept twice.
        say: Where notes go.

    Raises:
        UserError: Anything missing or not fitting together.
    """
    files = [read_adapter(place) for place, _ in adapters]
    record: Mapping[str, Any] = files[0].record if files else {}
    model = open_model(source, family) if source else _open_recorded(record, files, family)
    config = config.model_copy(update=_left_open(config, model.info.defaults))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = DTYPES[config.mixed_precision]
    for part in model.info.parts:
        # The VAE keeps full precision: half precision overflows in some of them and gains little.
        model.modules.place(part.name, device, torch.float32 if part.role == "vae" else dtype)
    placed = _place(model, files, [weight for _, weight in adapters], Losses(say, config.strict))
    texts = open_domain(domain or str(record.get("domain", "freetext")), record.get("domain_settings", {}))
    chosen = method or _recorded_method(record, files)
    return Session(
        model=model,
        encoder=PromptEncoder(text=model.text, domain=texts, method=chosen, max_windows=1 << 10),
        adapters=placed,
        config=config,
        device=device,
        size=_size(model, config, record),
        folding=MergedLora(model, [each.adapter for each in placed], changing=changing),
    )


def _left_open(config: GenerateConfig, defaults: SamplingDefaults) -> dict[str, Any]:
    """The model's own defaults for what the settings leave open."""
    return {
        "sampler": defaults.sampler if config.sampler == "auto" else config.sampler,
        "guidance_scale": defaults.guidance_scale if config.guidance_scale is None else config.guidance_scale,
    }


def _open_recorded(record: Mapping[str, Any], files: Sequence[AdapterFile], family: str) -> DiffusionModel:
    """The base that the first adapter was trained on."""
    base = record.get("base")
    if not isinstance(base, dict) or not base.get("source"):
        what = f"{files[0].path.name} does not say which model it belongs to" if files else "no model was named"
        raise UserError(what, expected=base_named(files[0].metadata) or None if files else None, fix="add --model")
    source, config = recorded_base(base, files[0].path)
    try:
        return open_model(
            ModelSource(
                location=source,
                revision=base.get("revision"),
                variant=base.get("variant"),
                config=config,
                prediction_type=base.get("prediction_type", "auto"),
            ),
            family,
        )
    except UserError as error:
        raise UserError(
            error.what,
            got=error.got,
            expected=error.expected,
            fix=f"{files[0].path.name} recorded {base['source']!r} as its base; --model overrides it"
            + (f". {error.fix}" if error.fix else ""),
        ) from None


def _recorded_method(record: Mapping[str, Any], files: Sequence[AdapterFile]) -> PromptMethod:
    """How the adapter was taught to read long prompts; `attention` when it does not say."""
    method = record.get("prompt_method", "attention")
    if method not in get_args(PromptMethod):
        raise UserError(
            f"{files[0].path.name} names an unknown prompt method", got=method, fix="name one with --prompt-method"
        )
    return method


def _place(
    model: DiffusionModel, files: Sequence[AdapterFile], weights: Sequence[float], losses: Losses
) -> list[Placed]:
    """Put all adapters on; with `strict` what a file does not state, or another base, is an error before that."""
    updates: list[Updates] = []
    for file in files:
        updates.append(file.updates(model))
        losses.add(*updates[-1].notes)
        trained_on = file.record.get("base_sha256")
        if trained_on and trained_on != model.modules.fingerprint(model.info.denoiser.name):
            other = (file.record.get("base") or {}).get("source")
            losses.add(f"note: {file.path.name} was trained on another base ({other})")
    losses.check()
    return [
        Placed(file, attach(model, update, f"adapter{number}", weight), weight)
        for number, (file, update, weight) in enumerate(zip(files, updates, weights, strict=True))
    ]


def _size(model: DiffusionModel, config: GenerateConfig, record: Mapping[str, Any]) -> tuple[int, int]:
    trained = str(record.get("size") or "").split("x")
    width, height = (int(trained[0]), int(trained[1])) if len(trained) == 2 else (model.info.defaults.size_px,) * 2
    if config.width or config.height:
        return config.width or config.height or width, config.height or config.width or height
    return width, height
