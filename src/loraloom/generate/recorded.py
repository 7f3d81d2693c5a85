"""What adapters record of how they were trained: the choices that a session takes from them, and their trigger words.

In: adapter files by name, and what the user chose. Out: prompt method, domain and image size, with one line for each in
which the adapters differ.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from loraloom.config.generate import GenerateConfig
from loraloom.config.run import MAX_CLIP_SKIP, PromptMethod
from loraloom.lora.files import AdapterFile
from loraloom.prompts.notes import Losses
from loraloom.protocols.model import DiffusionModel, SamplingDefaults
from loraloom.utils.errors import UserError
from loraloom.utils.untrusted import shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
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


def recorded_choices(
    files: Mapping[str, AdapterFile],
    config: GenerateConfig,
    method: PromptMethod | None,
    domain: str | None,
    losses: Losses,
) -> Recorded:
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
        if line := difference(what, stated, flag):
            losses.add(line)
    first, used_method = next(iter(methods.items()), ("", "attention"))
    if method is None and used_method not in get_args(PromptMethod):
        raise UserError(
            f"{files[first].path.name} names an unknown prompt method",
            got=used_method,
            fix="name one with --prompt-method",
        )
    return Recorded(
        method=method or used_method,
        domain=str(used),
        domain_settings=next(iter(settings.values()), {}),
        size=next(iter(_stated(files, "size").values()), ""),
    )


def recorded_options(files: Mapping[str, AdapterFile], losses: Losses) -> tuple[str, ...]:
    """The options of the family that the first adapter was trained with; one line where another differs."""
    stated = {
        name: tuple(file.record["base"].get("options", ())) for name, file in files.items() if file.record.get("base")
    }
    if line := difference("set of model options", stated, "--model-option"):
        losses.add(line)
    return next(iter(stated.values()), ())


def _stated(files: Mapping[str, AdapterFile], field: str) -> dict[str, Any]:
    """The value of a field of the record, by name, of the adapters that have one."""
    return {name: file.record[field] for name, file in files.items() if file.record.get(field) is not None}


def difference(what: str, stated: Mapping[str, Any], flag: str) -> str | None:
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


def trigger_words(files: Mapping[str, AdapterFile]) -> dict[str, str]:
    """The trigger word of each adapter that states one."""
    stated = {
        name: str(file.record.get("trigger") or file.metadata.get("modelspec.trigger_phrase", "")).strip()
        for name, file in files.items()
    }
    return {name: trigger for name, trigger in stated.items() if trigger}


def stated_clip_skip(file: AdapterFile) -> int | None:
    """What an adapter says of the layer that its prompts were read at: our own record, or sd-scripts' metadata."""
    if file.record:
        return file.record.get("clip_skip")
    text = file.metadata.get("ss_clip_skip", "")
    return int(text) if text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= MAX_CLIP_SKIP else None


def left_open(config: GenerateConfig, defaults: SamplingDefaults) -> dict[str, Any]:
    """The model's defaults for settings that are `auto` or None."""
    return {
        "sampler": defaults.sampler if config.sampler == "auto" else config.sampler,
        "guidance_scale": defaults.guidance_scale if config.guidance_scale is None else config.guidance_scale,
    }


def size_of(model: DiffusionModel, config: GenerateConfig, recorded: str) -> tuple[int, int]:
    """Width and height: the user's, else the adapter's, else the model's."""
    trained = recorded.split("x")
    width, height = (int(trained[0]), int(trained[1])) if len(trained) == 2 else (model.info.defaults.size_px,) * 2
    if config.width or config.height:
        return config.width or config.height or width, config.height or config.width or height
    return width, height
