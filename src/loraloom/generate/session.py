"""A model with adapters that generates images: what `generate`, the interactive prompt and later the API share.

In: where model and adapters are, and the settings of generation. Out: a `Session` that makes images and their recipes from
prompts. Base model, prompt method, domain and image size are the adapter's own unless the user says otherwise.
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
from loraloom.generate.recipes import LIST_NAME, Recipe, adapter_name
from loraloom.lora.files import AdapterFile, read_adapter
from loraloom.lora.kinds import base_named
from loraloom.lora.record import recorded_base
from loraloom.lora.stack import LoraStack, Scale
from loraloom.models.loading import open_model
from loraloom.prompts.encoder import PromptEncoder
from loraloom.prompts.notes import Losses, cut_lines, syntax_line
from loraloom.protocols.generation import GeneratedImage, ImageRequest
from loraloom.protocols.model import DiffusionModel, ModelSource, SamplingDefaults, Tensors
from loraloom.utils.dtypes import DTYPES
from loraloom.utils.errors import UserError
from loraloom.utils.progress import Progress
from loraloom.utils.untrusted import shown


@dataclass(slots=True, kw_only=True)
class Session:
    """A model with adapters and settings; `open_session` makes one.

    Attributes:
        model: The model, placed on `device`.
        encoder: Reads the prompts.
        adapters: The adapters by name: the file's name, or the run's; of two alike the second has `-2` added.
        files: The file of each adapter by the same names.
        config: Settings of generation.
        device: Where the model computes.
        size: Width and height in pixels of the images that `requests` asks for.
    """

    model: DiffusionModel
    encoder: PromptEncoder
    adapters: LoraStack
    files: Mapping[str, AdapterFile]
    config: GenerateConfig
    device: torch.device
    size: tuple[int, int]

    @property
    def guidance(self) -> float:
        """Guidance scale; `open_session` has replaced None by the model's default."""
        assert self.config.guidance_scale is not None
        return self.config.guidance_scale

    def requests(self, prompts: Sequence[str], progress: Progress | None = None) -> list[ImageRequest]:
        """`num_images` requests for each prompt; each prompt has the same consecutive seeds, from `config.seed`.

        Expanding a prompt may take a second or two (`Verifier.expand_prompt`); `progress` counts requests.
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
        """The expanded prompt; empty if it equals the prompt."""
        verifier = self.encoder.domain.verifier
        expanded = verifier.expand_prompt(prompt, seed) if verifier and self.config.expand_prompts else prompt
        return expanded if expanded != prompt else ""

    def generate(self, requests: Sequence[ImageRequest], progress: Progress | None = None) -> Iterator[GeneratedImage]:
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
        """All that determines the image of a request in this session."""
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
                {"path": str(self.files[name].path), "sha256": self.files[name].sha256, "weight": scale}
                for name, scale in self.adapters.scales.items()
            ],
            prompt_method=self.encoder.method,
            domain=self.encoder.domain.name,
            weighting=self.config.weighting,
            precision=self.config.mixed_precision,
            repair_rounds=self.config.repair_rounds if self.config.repair else 0,
            repair_guidance=self.config.repair_guidance if self.config.repair else 0.0,
        )

    def losses(self, requests: Sequence[ImageRequest]) -> list[str]:
        """Lines about prompts and negative prompts that are not read in full, and one line about unsupported emphasis syntax;
        the latter not with `weighting` off, which asks for plain text."""
        weighting = self.config.weighting
        prompts = {request.prompt: request.text for request in reversed(requests)}  # the first of several expansions
        negative = negative_prompts(self.model, requests)
        lines: list[str | None] = [
            *cut_lines(self.encoder, reversed(prompts.values()), weighting=weighting),
            *cut_lines(
                self.encoder, negative, weighting=weighting, noun="negative prompts", what="the negative prompt "
            ),
        ]
        if weighting:
            lines.append(syntax_line([*reversed(prompts), *negative], self.encoder, weighting=True))
        return [line for line in [*lines, unread_negative(self.model, requests)] if line]

    def notes(self, requests: Sequence[ImageRequest]) -> list[str]:
        """Lines for the user: whether the model reads more than was written."""
        if not any(request.expanded_prompt for request in requests):
            return []
        return [
            f"note: prompts were expanded; see `expanded_prompt` in {LIST_NAME}; --no-expand-prompts turns this off"
        ]

    def encode(self, prompts: Sequence[str]) -> list[Tensors]:
        """The named tensors of each prompt."""
        with torch.inference_mode(), self.autocast():
            return self.encoder.encode(prompts, weighting=self.config.weighting)

    def autocast(self) -> AbstractContextManager[object]:
        """A context with the precision of the settings."""
        if self.config.mixed_precision == "no":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=DTYPES[self.config.mixed_precision])


def open_session(
    config: GenerateConfig,
    *,
    source: ModelSource | None = None,
    family: str = "auto",
    adapters: Sequence[tuple[Path, Scale]] = (),
    method: PromptMethod | None = None,
    domain: str | None = None,
    changing: bool = False,
    say: Callable[[str], None] = print,
) -> Session:
    """Open the model, place it, and load and merge the adapters.

    Args:
        config: Settings of generation.
        source: The base; None takes the one that the first adapter was trained on.
        family: Kind of model, or `auto`.
        adapters: Path and scale of each.
        method: Prompt method; None takes the first that an adapter states, or `attention`.
        domain: What the texts are about; None takes the first that an adapter states, or `freetext`.
        changing: Whether adapters or their scales will change; the merged weights are then kept twice.
        say: Takes lines for the user.

    Raises:
        UserError: Anything is missing or does not fit together; with `config.strict` also what is not used as it was given.
    """
    files = _by_name([read_adapter(place) for place, _ in adapters])
    model = open_model(source, family) if source else _open_recorded(list(files.values()), family)
    config = config.model_copy(update=_left_open(config, model.info.defaults))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = DTYPES[config.mixed_precision]
    for part in model.info.parts:
        # The VAE keeps full precision: half precision overflows in some of them and gains little.
        model.modules.place(part.name, device, torch.float32 if part.role == "vae" else dtype)
    losses = Losses(say, config.strict)
    recorded = _recorded(files, config, method, domain, losses)
    stack = _load(model, files, [scale for _, scale in adapters], losses)
    stack.merge(keep_base=changing)
    texts = open_domain(recorded.domain, recorded.domain_settings)
    return Session(
        model=model,
        encoder=PromptEncoder(text=model.text, domain=texts, method=recorded.method, max_windows=1 << 10),
        adapters=stack,
        files=files,
        config=config,
        device=device,
        size=_size(model, config, recorded.size),
    )


def _by_name(files: Sequence[AdapterFile]) -> dict[str, AdapterFile]:
    """Adapters by the names of their files or runs, with a number added where two are alike."""
    named: dict[str, AdapterFile] = {}
    for file in files:
        first = name = adapter_name(str(file.path))
        number = 1
        while name in named:
            number += 1
            name = f"{first}-{number}"
        named[name] = file
    return named


def _left_open(config: GenerateConfig, defaults: SamplingDefaults) -> dict[str, Any]:
    """The model's defaults for settings that are `auto` or None."""
    return {
        "sampler": defaults.sampler if config.sampler == "auto" else config.sampler,
        "guidance_scale": defaults.guidance_scale if config.guidance_scale is None else config.guidance_scale,
    }


def _open_recorded(files: Sequence[AdapterFile], family: str) -> DiffusionModel:
    """The base that the first adapter was trained on."""
    base = files[0].record.get("base") if files else None
    if not isinstance(base, dict) or not base.get("source"):
        what = f"{files[0].path.name} does not record its base model" if files else "no model was given"
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Recorded:
    """What the adapters say of how they were trained; of several that differ, the first that states it.

    Attributes:
        method: Prompt method, the user's where one was chosen.
        domain: Name of the domain, the user's where one was chosen.
        domain_settings: Settings of that domain.
        size: Image size, such as `512x512`; empty where none states it.
    """

    method: PromptMethod
    domain: str
    domain_settings: Mapping[str, Any]
    size: str


def _recorded(
    files: Mapping[str, AdapterFile],
    config: GenerateConfig,
    method: PromptMethod | None,
    domain: str | None,
    losses: Losses,
) -> _Recorded:
    """What the adapters record; where two of them differ and the user has not chosen, one line says which is used."""
    methods = _stated(files, "prompt_method")
    domains = _stated(files, "domain")
    used = domain or next(iter(domains.values()), "freetext")
    same = {name: file for name, file in files.items() if domains.get(name) == used}
    settings, sizes = _stated(same, "domain_settings"), _stated(files, "size")
    if config.width or config.height:
        sizes = {}
    for what, stated, flag in (
        ("prompt method", methods if method is None else {}, "--prompt-method"),
        ("domain", domains if domain is None else {}, "--domain"),
        ("set of domain settings", settings, ""),
        ("image size", sizes, "--width and --height"),
    ):
        if line := _difference(what, stated, flag):
            losses.add(line)
    first, used_method = next(iter(methods.items()), ("", "attention"))
    if method is None and used_method not in get_args(PromptMethod):
        raise UserError(
            f"{files[first].path.name} names an unknown prompt method",
            got=used_method,
            fix="name one with --prompt-method",
        )
    return _Recorded(
        method=method or used_method,
        domain=str(used),
        domain_settings=next(iter(settings.values()), {}),
        size=next(iter(_stated(files, "size").values()), ""),
    )


def _stated(files: Mapping[str, AdapterFile], field: str) -> dict[str, Any]:
    """The value of a field of the record, by name, of the adapters that have one."""
    return {name: file.record[field] for name, file in files.items() if file.record.get(field) is not None}


def _difference(what: str, stated: Mapping[str, Any], flag: str) -> str | None:
    """One line about adapters that were trained with another value than the first; None where all agree."""
    if not stated:
        return None
    (first, used), *rest = stated.items()
    others = [(name, value) for name, value in rest if value != used]
    if not others:
        return None
    name, value = others[0]
    verb = "was" if len(others) == 1 else "were"
    more = f" (and {len(others) - 1:,} more)" if len(others) > 1 else ""
    override = f"; {flag} overrides it" if flag else ""
    return (
        f"note: {len(others):,} of {len(stated):,} adapters {verb} trained with another {what}: {name} with {shown(value)}"
        f"{more}, {first} with {shown(used)}, which is used{override}"
    )


def _load(
    model: DiffusionModel, files: Mapping[str, AdapterFile], scales: Sequence[Scale], losses: Losses
) -> LoraStack:
    """Load all adapters; with `strict` what a file does not state, or another base, is an error before that."""
    updates = {name: file.updates(model) for name, file in files.items()}
    for name, file in files.items():
        losses.add(*updates[name].notes)
        trained_on = file.record.get("base_sha256")
        if trained_on and trained_on != model.modules.fingerprint(model.info.denoiser.name):
            other = (file.record.get("base") or {}).get("source")
            losses.add(f"note: {file.path.name} was trained on another base model ({other})")
    losses.check()
    stack = LoraStack(model)
    for (name, update), scale in zip(updates.items(), scales, strict=True):
        stack.add(name, update, scale)
    return stack


def _size(model: DiffusionModel, config: GenerateConfig, recorded: str) -> tuple[int, int]:
    """Width and height: the user's, else the adapter's, else the model's."""
    trained = recorded.split("x")
    width, height = (int(trained[0]), int(trained[1])) if len(trained) == 2 else (model.info.defaults.size_px,) * 2
    if config.width or config.height:
        return config.width or config.height or width, config.height or config.width or height
    return width, height
