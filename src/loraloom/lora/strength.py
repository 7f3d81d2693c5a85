"""How strong an adapter says it is: alpha and rank per layer, per part, or for the whole file.

In: what a file states in its metadata, in an `adapter_config.json` beside it, or in tensors named `.alpha`. Out: the
number that each layer's update is multiplied by. The first that is stated counts:

    1. the layer's own `.alpha` tensor                         sd-scripts, LyCORIS
    2. `lora_adapter_metadata` (diffusers) or `adapter_config.json` (peft): alpha_pattern, then lora_alpha, over the rank;
       over its square root with use_rslora
    3. `alpha` of our own record
    4. `ss_network_alpha`                                      sd-scripts
    5. nothing: alpha = rank, which is said

What is stated and not understood is refused: a wrong strength is a wrong image.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from loraloom.utils.errors import UserError
from loraloom.utils.untrusted import parse_json, parse_record, read_json_object, shown

METADATA_KEY = "lora_adapter_metadata"
CONFIG_NAME = "adapter_config.json"

Positive = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
Rank = Annotated[int, Field(ge=1, le=1 << 20)]

_NO_EFFECT = {
    "alora_invocation_tokens", "arrow_config", "auto_mapping", "base_model_name_or_path", "bias", "corda_config",
    "decompose_both", "decompose_factor", "ensure_weight_tying", "eva_config", "exclude_modules", "inference_mode",
    "init_lora_weights", "init_weights", "layers_pattern", "layers_to_transform", "loftq_config", "lora_dropout",
    "megatron_config", "megatron_core", "module_dropout", "modules_to_save", "monteclora_config", "peft_type", "peft_version",
    "qalora_group_size", "rank_dropout", "rank_dropout_scale", "revision", "runtime_config", "target_modules", "task_type",
    "use_effective_conv2d", "velora_config", "lora_ga_config", "pissa_niter", "kasa_config",
}  # fmt: skip
"""Fields of peft's configs that say nothing about a finished adapter's strength, or that its tensors show."""

_KINDS = {"LORA": "lora_alpha", "LOHA": "alpha", "LOKR": "alpha"}
_PLAIN_START = {True, False, None, "gaussian", "eva", "orthogonal", "lycoris", "lora_ga"}
"""Ways to begin that leave the base as it is. PiSSA, OLoRA, CorDA and LoftQ change the base's weights too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stated:
    """What peft or diffusers states about one part. Alphas and ranks are by name or end of name of a module."""

    r: Rank | None = None
    alpha: Positive | None = None
    alpha_pattern: dict[str, Positive] = field(default_factory=dict)
    rank_pattern: dict[str, Rank] = field(default_factory=dict)
    use_rslora: bool = False
    use_dora: bool = False

    def factor(self, names: tuple[str, ...], rank: int | None, where: str) -> float | None:
        """alpha / rank of a module by all its names; None where no alpha is stated."""
        stated = _of_pattern(self.rank_pattern, names) or self.r
        if stated is not None and rank is not None and stated != rank:
            raise UserError(
                f"{where} states another rank than its tensors have",
                got=f"{stated} for {names[0]}",
                expected=rank,
                fix="the metadata belongs to another file: ask its author",
            )
        rank = rank if rank is not None else stated
        alpha = _of_pattern(self.alpha_pattern, names) or self.alpha
        if alpha is None or rank is None:
            return None
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


@dataclass(frozen=True, slots=True, kw_only=True)
class Strength:
    """What a file states outside its tensors.

    Attributes:
        where: The file's name, for errors.
        parts: What is stated for one part by its diffusers name (`unet`); for all parts under the empty name.
        alpha: One alpha for all layers.
    """

    where: str
    parts: Mapping[str, Stated] = field(default_factory=dict)
    alpha: float | None = None

    def stated(self, component: str) -> Stated | None:
        """What is stated for a part."""
        return self.parts.get(component) or self.parts.get("")

    def factor(self, component: str, names: tuple[str, ...], rank: int | None) -> float | None:
        """What a layer's update is multiplied by, or None where nothing is stated."""
        stated = self.stated(component)
        factor = stated.factor(names, rank, self.where) if stated else None
        if factor is None and self.alpha is not None and rank is not None:
            factor = self.alpha / rank
        return factor


def read_strength(path: Path, metadata: Mapping[str, str], own_alpha: float | None, *, peft_names: bool) -> Strength:
    """What a file and the config beside it state.

    Args:
        path: The adapter file.
        metadata: Its metadata.
        own_alpha: The alpha of our own record.
        peft_names: Whether its keys are peft's own, so that `adapter_config.json` beside it belongs to it.

    Raises:
        UserError: Something is stated that is not understood.
    """
    where = path.name
    parts: dict[str, Stated] = {}
    if METADATA_KEY in metadata:
        said = parse_json(metadata[METADATA_KEY], f"{METADATA_KEY} of {where}")
        if not isinstance(said, dict):
            raise UserError(f"{METADATA_KEY} of {where} is not a JSON object", got=shown(said), fix="ask its author")
        for component, fields in _by_part(said).items():
            parts[component] = parse_config(fields, f"{METADATA_KEY} of {where}")
    config = path.parent / CONFIG_NAME
    if peft_names and not parts and (config.exists() or config.is_symlink()):
        parts[""] = parse_config(read_json_object(config, CONFIG_NAME), CONFIG_NAME)
    alpha = own_alpha
    if alpha is None and "ss_network_alpha" in metadata and not parts:
        alpha = _kohya_alpha(metadata["ss_network_alpha"], where)
    return Strength(where=where, parts=parts, alpha=alpha)


def parse_config(fields: Mapping[str, Any], where: str) -> Stated:
    """peft's config of one part.

    Raises:
        UserError: A field of another type or range, or one that changes the result in a way that is not computed here.
    """
    fix = "this adapter needs the program that made it"
    kind = fields.get("peft_type") or "LORA"
    if not isinstance(kind, str) or kind not in _KINDS:
        raise UserError(
            f"{where}: this kind of adapter is not read", got=shown(kind), expected=", ".join(_KINDS), fix=fix
        )
    start = fields.get("init_lora_weights", True)
    if not (start is None or isinstance(start, bool | str)) or start not in _PLAIN_START:
        raise UserError(
            f"{where}: init_lora_weights changed the base's weights too",
            got=shown(start),
            expected="an adapter alone",
            fix="convert it with peft: save_pretrained(path_initial_model_for_weight_conversion=...)",
        )
    alpha_name = _KINDS[kind]
    kept = {"r", alpha_name, "alpha_pattern", "rank_pattern", "use_rslora", "use_dora"}
    for name, value in fields.items():
        harmless = value is None or value is False or value in ([], {}, "")
        if name not in kept and name not in _NO_EFFECT and not harmless:
            raise UserError(f"{where}: {shown(name)} is not understood", got=shown(value), fix=fix)
    known = {name: value for name, value in fields.items() if name in kept and value is not None}
    if alpha_name in known:
        known["alpha"] = known.pop(alpha_name)
        if alpha_name == "alpha":
            known["alpha"] = fields["alpha"]
    stated = parse_record(Stated, json.dumps(known), where, fix="ask its author for a file that states it rightly")
    for pattern in (*stated.alpha_pattern, *stated.rank_pattern):
        _literal(pattern, where)
    return stated


def _by_part(said: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """diffusers' flat keys `unet.lora_alpha` by their first word; keys without one hold for all parts."""
    parts: dict[str, dict[str, Any]] = {}
    for key, value in said.items():
        component, _, name = key.rpartition(".")
        parts.setdefault(component, {})[name] = value
    return parts


def _kohya_alpha(text: str, where: str) -> float | None:
    """`ss_network_alpha` as sd-scripts writes it; `None` is the rank, `Dynamic` (resize_lora.py) the layers' own alphas."""
    if text.strip() in {"", "None", "Dynamic"}:
        return None
    try:
        alpha = float(text)
    except ValueError:
        alpha = math.nan
    if not (math.isfinite(alpha) and 0 < alpha <= 1e9):
        raise UserError(
            f"{where}: ss_network_alpha", got=shown(text), expected="a positive number", fix="ask its author"
        )
    return alpha


def _literal(pattern: str, where: str) -> str:
    """A pattern of peft that is a name or the end of one, as text.

    peft takes regular expressions here. One from a file may take for ever, and none of the programs that write such files
    writes more than names.
    """
    text = pattern.removeprefix("^").removesuffix("$").replace("\\.", ".")
    if not text or not all(letter.isalnum() or letter in "._-" for letter in text):
        raise UserError(
            f"{where}: a pattern is not a module's name",
            got=shown(pattern),
            expected="letters, digits, dots and underscores",
            fix="ask its author for a file with the names written out",
        )
    return text


def _of_pattern(pattern: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """The first entry whose name is one of `names` or its end after a dot, as peft's `get_pattern_key` decides."""
    for key, value in pattern.items():
        text = _literal(key, "the pattern")
        for name in names:
            if name == text or (name.endswith(f".{text}") and not key.startswith("^")):
                return value
    return None
