"""A model with adapters that generates images: what `generate`, the interactive prompt and later the API share.

In: where model and adapters are, and the settings of generation. Out: a `Session` that makes images and their recipes from
prompts. Base model, prompt method, domain and image size are the adapter's own unless the user says otherwise.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from loraloom.config.domains import open_domain
from loraloom.config.generate import GenerateConfig
from loraloom.config.run import PromptMethod
from loraloom.generate.blending import Blending, klora_table_of
from loraloom.generate.images import generate, negative_prompts, unread_negative
from loraloom.generate.recipes import LIST_NAME, Recipe
from loraloom.generate.recorded import (
    difference,
    left_open,
    recorded_choices,
    recorded_options,
    size_of,
    stated_clip_skip,
    trigger_words,
)
from loraloom.lora.blend import Blend, Scale, Term, make_blend, name_of_place, parse_blend
from loraloom.lora.files import AdapterFile, read_adapter
from loraloom.lora.kinds import base_named
from loraloom.lora.klora import KloraTable
from loraloom.lora.record import recorded_base
from loraloom.lora.stack import LoraStack
from loraloom.models.loading import open_model
from loraloom.prompts.encoder import PromptEncoder
from loraloom.prompts.notes import Losses, cut_lines, syntax_line, unknown_letters
from loraloom.protocols.generation import GeneratedImage, ImageRequest
from loraloom.protocols.model import DiffusionModel, ModelSource, Tensors
from loraloom.utils.dtypes import DTYPES
from loraloom.utils.errors import UserError, did_you_mean
from loraloom.utils.progress import Progress

_KEPT_EMBEDDINGS = 256
"""Prompts whose embeddings a session keeps; one of 77 tokens takes 240 kB in float32 with Stable Diffusion 1."""


@dataclass(slots=True, kw_only=True)
class Session:
    """A model with adapters and settings; `open_session` makes one.

    Attributes:
        model: The model, placed on `device`.
        encoder: Reads the prompts.
        adapters: The loaded adapters by name.
        files: The file of each adapter by the same names.
        blend: How they act where a request does not say it; loaded ones that it does not name do not act.
        config: Settings of generation.
        device: Where the model computes.
        size: Width and height in pixels of the images that `requests` asks for.
    """

    model: DiffusionModel
    encoder: PromptEncoder
    adapters: LoraStack
    files: Mapping[str, AdapterFile]
    blend: Blend
    config: GenerateConfig
    device: torch.device
    size: tuple[int, int]
    _own: dict[str, Scale] | None = None
    _tables: dict[tuple[str, ...], KloraTable] = field(default_factory=dict[tuple[str, ...], KloraTable])
    _embeddings: dict[tuple[object, ...], Tensors] = field(default_factory=dict[tuple[object, ...], Tensors])

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
                    expanded_prompt=self.expanded(prompt, seed),
                    loras=None if self.blend.is_constant else str(self.blend),
                )
                made.append(request)
                if progress:
                    progress(len(made), len(prompts) * config.num_images)
        return made

    def expanded(self, prompt: str, seed: int) -> str:
        """The expanded prompt; empty if it equals the prompt."""
        verifier = self.encoder.domain.verifier
        expanded = verifier.expand_prompt(prompt, seed) if verifier and self.config.expand_prompts else prompt
        return expanded if expanded != prompt else ""

    def generate(
        self, requests: Sequence[ImageRequest], progress: Progress | None = None, *, mixed: bool | None = None
    ) -> Iterator[GeneratedImage]:
        """Images of the requests, in order; `mixed` as `mixes` has it for more requests than these."""
        return generate(
            self.model,
            self.encode,
            requests,
            batch_size=self.config.batch_size,
            autocast=self.autocast,
            progress=progress,
            blending=self.blending,
            mixed=self.mixes(requests) if mixed is None else mixed,
        )

    def mixes(self, requests: Sequence[ImageRequest]) -> bool:
        """Whether images of these requests with different LoRA settings share a batch."""
        return self.config.batch_loras and self._why_apart(requests) is None

    def _why_apart(self, requests: Sequence[ImageRequest]) -> str | None:
        """Why different LoRA settings cannot share a batch, as the end of a sentence."""
        if not all(self._blend_of(loras).is_constant for loras in {request.loras for request in requests}):
            return "a LoRA setting changes from step to step or from region to region"
        return self.adapters.why_no_sample_scales()

    def _blend_of(self, loras: str | None) -> Blend:
        return self.blend if loras is None else parse_blend(loras)

    def load(self, place: Path, term: Term, say: Callable[[str], None] = print) -> None:
        """Load one more adapter; it acts only in requests that name it.

        Raises:
            UserError: It cannot be read or does not fit, or its name is in use.
        """
        if term.name in self.files:
            raise UserError("two adapters of one name", got=term.name, fix="choose another name for one of them")
        file = read_adapter(place)
        losses = Losses(say, self.config.strict)
        _load_into(self.adapters, self.model, {term.name: file}, {}, losses)
        self.files = {**self.files, term.name: file}
        if self._own is not None:
            self._own[term.name] = 0.0

    def unload(self, name: str) -> None:
        """Remove an adapter and leave no trace of it.

        Raises:
            UserError: No adapter has this name.
        """
        self.adapters.remove(name)
        self.files = {other: file for other, file in self.files.items() if other != name}
        if self._own is not None:
            self._own.pop(name, None)

    def blending(self, requests: Sequence[ImageRequest]) -> Blending | None:
        """Set the scales that the requests of a batch ask for; or return the blend that changes them at every step.

        Args:
            requests: With one LoRA setting; or with several where `mixes`, and then each image has its own scales.

        Raises:
            UserError: A request names a LoRA that is not loaded.
        """
        stack, request = self.adapters, requests[0]
        if len({one.loras for one in requests}) > 1:
            self._own = self._own or stack.scales
            stack.set_sample_scales([self._scales_of(one) for one in requests])
            return None
        if request.loras is None:
            if self._own is not None:  # a request with LoRAs of its own came before
                stack.set_scales(self._own)
                stack.merge()
                self._own = None
            return None
        scales, blend = self._scales_of(request), parse_blend(request.loras)
        if self._own is None:
            self._own = stack.scales
        if blend.is_constant:
            stack.set_scales({name: scales.get(name, 0.0) for name in stack.names})
            stack.merge()  # takes less time than a step gains by it
            return None
        stack.unmerge()
        return Blending(stack, blend, self._table(blend))

    def _scales_of(self, request: ImageRequest) -> dict[str, Scale]:
        """The scale of each LoRA that a request names, or the session's own."""
        if request.loras is None:
            return dict(self._own or self.adapters.scales)
        blend = parse_blend(request.loras)
        for term in blend.terms:
            if term.name not in self.adapters.names:
                names = self.adapters.names
                raise UserError("this LoRA is not loaded", got=term.name, fix=did_you_mean(term.name, names))
        return {term.name: term.scale for term in blend.terms}

    def _table(self, blend: Blend) -> KloraTable | None:
        """K-LoRA's table, computed once for each pair of LoRAs."""
        if blend.method != "klora":
            return None
        names = tuple(term.name for term in blend.terms)
        if names not in self._tables:
            self._tables[names] = klora_table_of(self.adapters, blend)
        return self._tables[names]

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
                "prediction_type": source.prediction_type,
                "options": list(source.options),
                "clip_skip": self.model.info.clip_skip,
                "family": self.model.info.family,
                "sha256": self.model.modules.fingerprint(self.model.info.denoiser.name),
            },
            adapters=[
                {
                    "name": name,
                    "path": str(self.files[name].path),
                    "sha256": self.files[name].sha256,
                    "weight": scale,
                }
                for name, scale in (self._own or self.adapters.scales).items()
            ],
            prompt_method=self.encoder.method,
            domain=self.encoder.domain.name,
            weighting=self.config.weighting,
            precision=self.config.mixed_precision,
            repair_rounds=self.config.repair_rounds if self.config.repair else 0,
            repair_guidance=self.config.repair_guidance if self.config.repair else 0.0,
        )

    def completed(self, request: ImageRequest) -> ImageRequest:
        """A request of another program's recipe with the model's own sampler where it names none that is known here."""
        return replace(request, sampler=self.config.sampler) if request.sampler == "auto" else request

    def names_in(self, loras: str | None) -> list[str]:
        """The names of the LoRAs that act where a request says `loras`."""
        blend = self.blend if loras is None else parse_blend(loras)
        return [term.name for term in blend.terms if term.scale != 0]

    def triggers_of(self, loras: str | None) -> list[str]:
        """The trigger words of the LoRAs that act where a request says `loras`, of those that state one."""
        triggers = trigger_words(self.files)
        return [triggers[name] for name in self.names_in(loras) if name in triggers]

    def _missing_triggers(self, requests: Sequence[ImageRequest]) -> list[str]:
        """One line for each LoRA whose trigger word is missing from prompts in which it acts."""
        lines: list[str] = []
        for name, trigger in trigger_words(self.files).items():
            prompts = {request.prompt for request in requests if name in self.names_in(request.loras)}
            without = sum(trigger.lower() not in prompt.lower() for prompt in prompts)
            if without:
                where = "the prompt" if len(prompts) == 1 else f"{without:,} of {len(prompts):,} prompts"
                lines.append(
                    f"note: the trigger of {name}, {trigger!r}, is missing from {where}; --add-triggers adds it"
                )
        return lines

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
            *unknown_letters(self.encoder, [*reversed(prompts.values()), *negative], "prompts")[1],
        ]
        if weighting:
            lines.append(syntax_line([*reversed(prompts), *negative], self.encoder, weighting=True))
        lines += [unread_negative(self.model, requests), *self._missing_triggers(requests)]
        if self.config.batch_loras and (why := self._why_apart(requests)):
            lines.append(f"note: --batch-loras is not used: {why}")
        return [line for line in lines if line]

    def notes(self, requests: Sequence[ImageRequest]) -> list[str]:
        """Lines for the user: whether the model reads more than was written."""
        if not any(request.expanded_prompt for request in requests):
            return []
        return [
            f"note: prompts were expanded; see `expanded_prompt` in {LIST_NAME}; --no-expand-prompts turns this off"
        ]

    def encode(self, prompts: Sequence[str]) -> list[Tensors]:
        """The named tensors of each prompt; the last ones are kept, because grids use few prompts often."""
        stack, weighting = self.adapters, self.config.weighting
        # An adapter may be unloaded and another one loaded under its name: the file counts, not the name.
        acting = [(name, scale) for name, scale in stack.scales.items() if stack.changes_text(name)]
        setting = tuple(f"{self.files[name].sha256} {scale}" for name, scale in acting)
        keys = [(prompt, weighting, stack.merged, *setting) for prompt in prompts]
        missing = list(dict.fromkeys(key for key in keys if key not in self._embeddings))
        if missing:
            if len(self._embeddings) + len(missing) > _KEPT_EMBEDDINGS:
                self._embeddings.clear()
                missing = list(dict.fromkeys(keys))
            with torch.inference_mode(), self.autocast():
                found = self.encoder.encode([prompt for prompt, *_ in missing], weighting=weighting)
            self._embeddings.update(zip(missing, found, strict=True))
        return [self._embeddings[key] for key in keys]

    def autocast(self) -> AbstractContextManager[object]:
        """A context with the precision of the settings."""
        if self.config.mixed_precision == "no":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=DTYPES[self.config.mixed_precision])


def use_gpu(number: int) -> None:
    """Let this process compute on the GPU of that number, where there is one.

    Raises:
        UserError: There are GPUs, but not that many.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpus and number >= gpus:
        raise UserError("every process needs a GPU of its own", got=f"process {number + 1}", expected=f"at most {gpus}")
    if gpus:
        torch.cuda.set_device(number)


def open_session(
    config: GenerateConfig,
    *,
    source: ModelSource | None = None,
    family: str = "auto",
    adapters: Sequence[tuple[Path, Scale | Term]] = (),
    idle: Sequence[tuple[Path, Term]] = (),
    blend: str = "sum",
    switch_every: int = 1,
    method: PromptMethod | None = None,
    domain: str | None = None,
    clip_skip: int | None = None,
    changing: bool = False,
    say: Callable[[str], None] = print,
) -> Session:
    """Open the model, place it, and load and merge the adapters.

    Args:
        config: Settings of generation.
        source: The base; None takes the one that the first adapter was trained on.
        family: Kind of model, or `auto`.
        adapters: Path and scale of each, or its term in the blend. Without a term its name is that of its file or run, with
            `-2` added to the second of two alike.
        idle: Adapters that are loaded, and act only in requests that name them.
        blend: Method that blends `adapters`, see `lora.blend`.
        switch_every: Steps between two changes of the method `switch`.
        method: Prompt method; None takes the first that an adapter states, or `attention`.
        domain: What the texts are about; None takes the first that an adapter states, or `freetext`.
        clip_skip: Layer of the text encoders that is read, as in `ModelSource`; None takes the first that an adapter states, or
            the model's own.
        changing: Whether adapters or their scales will change; the merged weights are then kept twice.
        say: Takes lines for the user.

    Raises:
        UserError: Anything is missing or does not fit together; with `config.strict` also what is not used as it was given.
    """
    terms = terms_of(adapters)
    own = make_blend(tuple(terms), blend, switch_every)
    make_blend((*terms, *(term for _, term in idle)))  # names must differ
    places = [place for place, _ in (*adapters, *idle)]
    names = [term.name for term in (*terms, *(term for _, term in idle))]
    files = {name: read_adapter(place) for name, place in zip(names, places, strict=True)}
    losses = Losses(say, config.strict)
    options = config.model_options or recorded_options(files, losses)
    if source:
        model = open_model(replace(source, options=options or source.options), family)
    else:
        model = _open_recorded(list(files.values()), family, options)
    model = _with_clip_skip(model, family, files, clip_skip, losses)
    config = config.model_copy(update=left_open(config, model.info.defaults))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = DTYPES[config.mixed_precision]
    for part in model.info.parts:
        # The VAE keeps full precision: half precision overflows in some of them and gains little.
        model.modules.place(part.name, device, torch.float32 if part.role == "vae" else dtype)
    recorded = recorded_choices(files, config, method, domain, losses)
    stack = LoraStack(model)
    _load_into(stack, model, files, {term.name: term.scale for term in terms}, losses)
    if own.is_constant:
        stack.merge(keep_base=changing)
    texts = open_domain(recorded.domain, recorded.domain_settings)
    return Session(
        model=model,
        encoder=PromptEncoder(text=model.text, domain=texts, method=recorded.method, max_windows=1 << 10),
        adapters=stack,
        files=files,
        blend=own,
        config=config,
        device=device,
        size=size_of(model, config, recorded.size),
    )


def terms_of(adapters: Sequence[tuple[Path, Scale | Term]]) -> list[Term]:
    """A term for each adapter; those without one get the names of their files or runs, with a number where two are alike."""
    terms: list[Term] = []
    for place, scale in adapters:
        if isinstance(scale, Term):
            terms.append(scale)
            continue
        first = name = name_of_place(str(place))
        number = 1
        while name in {term.name for term in terms}:
            number += 1
            name = f"{first}-{number}"
        terms.append(Term(name=name, scale=scale))
    return terms


def _open_recorded(files: Sequence[AdapterFile], family: str, options: tuple[str, ...]) -> DiffusionModel:
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
                options=options,
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


def _with_clip_skip(
    model: DiffusionModel, family: str, files: Mapping[str, AdapterFile], asked: int | None, losses: Losses
) -> DiffusionModel:
    """The model with its text encoders read at the layer that the user or the first adapter that states one asks for."""
    stated = {name: skip for name, file in files.items() if (skip := stated_clip_skip(file)) is not None}
    used = asked
    if asked is None and model.info.source.clip_skip is None and model.info.clip_skip is not None:
        used = next(iter(stated.values()), None)
        if line := difference("clip skip", stated, "--clip-skip"):
            losses.add(line)
    if used is None or used == model.info.clip_skip:
        return model
    first = next(iter(stated), "")
    if asked is None and not files[first].record:
        losses.add(f"note: {first} was trained with clip skip {used}, which is used; --clip-skip overrides it")
    return open_model(replace(model.info.source, clip_skip=used), family)


def _load_into(
    stack: LoraStack,
    model: DiffusionModel,
    files: Mapping[str, AdapterFile],
    scales: Mapping[str, Scale],
    losses: Losses,
) -> None:
    """Load all adapters, those without a scale with 0.

    With `strict` what a file does not state, or another base, is an error before that.
    """
    updates = {name: file.updates(model) for name, file in files.items()}
    for name, file in files.items():
        losses.add(*updates[name].notes)
        trained_on = file.record.get("base_sha256")
        if trained_on and trained_on != model.modules.fingerprint(model.info.denoiser.name):
            other = (file.record.get("base") or {}).get("source")
            losses.add(f"note: {file.path.name} was trained on another base model ({other})")
    losses.check()
    for name, update in updates.items():
        stack.add(name, update, scales.get(name, 0.0))
