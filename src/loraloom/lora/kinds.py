"""The kinds of adapter files that exist: how each is recognised by its keys, whether it is read, what is said of it.

In: the keys of a safetensors file. Out: for each key the role of its tensor in a kind that is read, or the first kind
that is not read and its sentence. Every key of a file is accounted for: it is read, or the file is refused.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from loraloom import plugins
from loraloom.lora.names import plain_stem
from loraloom.utils.errors import UserError
from loraloom.utils.untrusted import Shown, shown

_OLD_PROCESSOR = r"(?<=_lora)"
_ROLES: list[tuple[str, str]] = [
    (r"\.lora_A(?:\.\w+)?\.weight", "down"),
    (r"\.lora_B(?:\.\w+)?\.weight", "up"),
    (r"\.lora_down\.weight", "down"),
    (r"\.lora_up\.weight", "up"),
    (r"\.lora_mid\.weight", "mid"),
    (r"\.lora\.down\.weight", "down"),
    (r"\.lora\.up\.weight", "up"),
    (r"\.lora_linear_layer\.down\.weight", "down"),
    (r"\.lora_linear_layer\.up\.weight", "up"),
    (_OLD_PROCESSOR + r"\.down\.weight", "down"),
    (_OLD_PROCESSOR + r"\.up\.weight", "up"),
    (r"\.alpha", "alpha"),
    (r"\.dora_scale", "dora_scale"),
    (r"\.lora_magnitude_vector(?:\.\w+?)?(?:\.weight)?", "magnitude"),
    *((rf"\.{name}", name) for name in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")),
    *(
        (rf"\.{name}", name)
        for name in ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")
    ),
    (r"\.diff", "diff"),
    (r"\.diff_b", "diff_b"),
]
ROLES = [(re.compile(rf"(.+?){suffix}", re.DOTALL), role) for suffix, role in _ROLES]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadKind:
    """A kind that is read.

    Attributes:
        name: What users call it.
        formula: In `deltas.FORMULAS`; `lora` alone is kept as a pair, the others change the whole weight.
        needs: Sets of roles of which one must be there in full.
        may: Roles that may be there too.
    """

    name: str
    formula: str
    needs: tuple[frozenset[str], ...]
    may: frozenset[str] = frozenset()


def _all(*roles: str) -> frozenset[str]:
    return frozenset(roles)


_STRENGTH = _all("alpha", "dora_scale", "magnitude")
_LEFT, _RIGHT = (_all("lokr_w1"), _all("lokr_w1_a", "lokr_w1_b")), (_all("lokr_w2"), _all("lokr_w2_a", "lokr_w2_b"))
_HADA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")

READ: list[ReadKind] = [
    ReadKind(name="LoRA", formula="lora", needs=(_all("down", "up"),), may=_STRENGTH),
    ReadKind(name="LoCon with a core", formula="tucker", needs=(_all("down", "up", "mid"),), may=_STRENGTH),
    ReadKind(name="LoHa", formula="loha", needs=(_all(*_HADA), _all(*_HADA, "hada_t1", "hada_t2")), may=_STRENGTH),
    ReadKind(
        name="LoKr",
        formula="lokr",
        may=_STRENGTH,
        needs=(
            *(left | right for left in _LEFT for right in _RIGHT),
            *(left | _all("lokr_w2_a", "lokr_w2_b", "lokr_t2") for left in _LEFT),
        ),
    ),
    ReadKind(
        name="full difference",
        formula="diff",
        needs=(_all("diff"), _all("diff", "diff_b"), _all("diff_b")),
        may=_all("alpha"),
    ),
]
"""Kinds that are read. DoRA is any of the first four with norms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherKind:
    """A kind that is not read.

    Attributes:
        pattern: Searched in the keys that have no place in the model.
        what: A clause after the file's name.
        fix: What its user can do.
        base: Beginning of the architecture that it is for, where the kind is another base; empty where it is not.
    """

    pattern: str
    what: str
    fix: str
    base: str = ""


_OTHER_PROGRAM = (
    "use it in the program that it was made for, or ask its author for a LoRA, LoHa, LoKr or full difference"
)
_OTHER_BASE = "use an adapter for this base model"
_MERGE = "merge it into its base there and give the merged model as --model"

OTHER: list[OtherKind] = [
    OtherKind(
        pattern=r"^(emb_params|string_to_param|string_to_token|clip_[lg]|t5xxl)$|^string_to_param\.|^<[^>]*>$|^bundle_emb\.",
        what="holds a textual inversion (vectors for new words), which is not an adapter",
        fix="textual inversions are not read: use it in the program that it was made for",
    ),
    OtherKind(
        pattern=r"^(320|640|768|1024|1280|2048)\.|hypernet",
        what="is a hypernetwork, which is not an adapter of weights",
        fix="hypernetworks are not read: use it in A1111's web UI",
    ),
    OtherKind(
        pattern=r"^lora_controlnet$|^control_model\.|(^|[._])(input_hint_block|zero_convs|controlnet_\w+)[._]|^lllite_",
        what="is a ControlNet or a Control-LoRA: it needs a control image",
        fix="use it in ComfyUI or in a diffusers ControlNet pipeline",
    ),
    OtherKind(
        pattern=r"^(image_proj|ip_adapter)\.|\.to_[kv]_ip\.", what="is an IP-Adapter: it needs a reference image",
        fix="use it in ComfyUI or in a diffusers pipeline with load_ip_adapter",
    ),
    OtherKind(
        pattern=r"(^|[._])motion_modules[._]", what="is a motion LoRA for AnimateDiff: it needs a video model",
        fix="use it in AnimateDiff",
    ),
    OtherKind(
        pattern=r"(^|[._])(double_blocks|single_blocks|single_transformer_blocks)[._]",
        what="was trained on FLUX or a model of its layout", fix=_OTHER_BASE,
    ),
    OtherKind(
        pattern=r"(^|[._])joint_blocks[._]|^lora_te3_|^text_encoder_3\.",
        what="was trained on Stable Diffusion 3", fix=_OTHER_BASE,
    ),
    OtherKind(
        pattern=r"^(lora_)?transformer[._]|^(base_model\.model\.|diffusion_model\.)?(transformer_blocks|blocks|layers)\.\d",
        what="was trained on a diffusion transformer (such as FLUX, Stable Diffusion 3, PixArt or Qwen-Image)",
        fix=_OTHER_BASE,
    ),
    OtherKind(
        pattern=r"^lora_te[12]_|^text_encoder_2\.|transformer_blocks[._][1-9]|(^|[._])(add_embedding|label_emb)[._]",
        what="was trained on Stable Diffusion XL", fix=_OTHER_BASE, base="stable-diffusion-xl",
    ),
    OtherKind(  # the first level of these UNets has attention, and there is one text encoder
        pattern=r"^lora_te_text_model_|(^|[._])down_blocks[._]0[._]attentions[._]|(^|[._])input_blocks[._][12][._]1[._]|"
        r"(^|[._])up_blocks[._]3[._]attentions[._]",
        what="was trained on Stable Diffusion 1 or 2", fix=_OTHER_BASE, base="stable-diffusion-v",
    ),
    OtherKind(
        pattern=r"^lora_prior_|^prior[._]", what="was trained on a model with a prior (Stable Cascade or Kandinsky)",
        fix=_OTHER_BASE,
    ),
    OtherKind(
        pattern=r"\.oft_(blocks|diag|R|S)\b|^oft_|\.boft_[RS]\b|\.hra_u\b",
        what="is an orthogonal fine-tuning (OFT, BOFT or HRA): it rotates the base's weights", fix=_MERGE,
    ),
    OtherKind(
        pattern=r"\.ia3_l\b|\.on_input$", what="is an (IA)³: it scales activations and has no difference of weights",
        fix=_MERGE,
    ),
    OtherKind(
        pattern=r"\.(a1|a2|b1|b2|bm)\.weight$", what="is a GLoRA: its difference depends on the base's own weights", fix=_MERGE,
    ),
    OtherKind(
        pattern=r"\.(q_layer\.weight|p_layer\.weight|lambda_layer)$",
        what="is a T-LoRA: its strength changes with the noise level", fix=_OTHER_PROGRAM,
    ),
    OtherKind(
        pattern=r"\.(w_norm|b_norm)$|(norm\w*|group_norm|layer_norm\w*|ln_\w+)\.(diff|diff_b)$",
        what="changes norm layers too, which is not read", fix="ask its author for a file trained without `train_norm`",
    ),
    OtherKind(
        pattern=r"\.lora_(B|up)(\.\w+)?\.bias$", what="has biases beside its matrices (peft's lora_bias), which are not read",
        fix=_MERGE,
    ),
    OtherKind(
        pattern=r"\.lokr_t1$", what="has a core in the first half of a LoKr, for which no formula is published",
        fix=_OTHER_PROGRAM,
    ),
    OtherKind(
        pattern=r"\.(vera_lambda\w*|lora_E|lora_ranknum|lora_embedding_[AB]|fourierft_\w+|randlora_\w+|c3a_\w+|bone_\w+|miss_\w+|"
        r"road_\w+|shira_\w+|delora_\w+|waveft_\w+|gralora_\w+|hira_\w+)\b",
        what="is an adapter of another method of peft", fix=_MERGE,
    ),
    OtherKind(
        pattern=r"\.(set_weight|reshape_weight)$", what="replaces whole weights of the base", fix=_OTHER_PROGRAM,
    ),
    OtherKind(
        pattern=r"^(model\.diffusion_model|first_stage_model|cond_stage_model|conditioner|vae)\.",
        what="is a whole model, not an adapter", fix="generate with --model FILE instead of --adapter FILE",
    ),
    OtherKind(
        pattern=r"^((unet|text_encoder)\.)?(conv_in|conv_out|conv_norm_out|time_embedding\.\w+|text_model\.embeddings\.\w+)\.weight$|"
        r"^(encoder|decoder|quant_conv|post_quant_conv)\.",
        what="is one part of a whole model, not an adapter",
        fix="generate with --model and the folder that holds model_index.json",
    ),
]  # fmt: skip
"""Kinds that are not read, the surest sign first."""

_COMPILED = [(re.compile(kind.pattern), kind) for kind in OTHER]


def split_key(key: str) -> tuple[str, str] | None:
    """The stem of a key (the module) and the role of its tensor; None for a key of a kind that is not read."""
    for pattern, role in ROLES:
        if match := pattern.fullmatch(key):
            return plain_stem(match[1]), role
    return None


def kind_of(roles: Iterable[str], where: str, stem: str) -> ReadKind:
    """The kind of a layer with tensors of these roles.

    Raises:
        UserError: No kind has them all: half a pair, or two kinds in one layer.
    """
    present = set(roles)
    for kind in READ:
        if present - kind.may in kind.needs:
            return kind
    got = f"{', '.join(sorted(present))} of {shown(stem)}"
    fix = "the file is not whole: download it again, or ask its author"
    started = [(kind, need - present) for kind in READ for need in kind.needs if present - kind.may <= need]
    if not started:
        raise UserError(f"{where} mixes kinds in one layer", got=got, expected="the tensors of one kind", fix=fix)
    # A lone alpha or norm began every kind; a plain LoRA is the likeliest.
    kind, lacking = min(started, key=lambda one: len(one[1])) if present - _STRENGTH else started[0]
    expected = f"{', '.join(sorted(lacking))} too ({kind.name})"
    raise UserError(f"{where} holds half a layer", got=got, expected=expected, fix=fix)


def refuse(
    rest: Iterable[str],
    total: int,
    where: str,
    metadata: Mapping[str, str],
    made_for: str,
    own_family: str | None = None,
) -> UserError:
    """The error about a file with keys that have no place in the model.

    Args:
        rest: Those keys.
        total: Keys of the file.
        where: The file's name.
        metadata: The file's metadata.
        made_for: The model's architecture.
        own_family: The model's family; None where no model is compared with.
    """
    keys = sorted(rest)
    base = base_named(metadata)
    named = f"; its metadata names {base}" if base else ""
    family = _family_of(keys) if 2 * len(keys) > total else None
    if own_family and family and family[0] != own_family:
        return UserError(
            f"{where} was trained on {family[1]}, this model is {own_family}{named}",
            got=f"{len(keys):,} of {total:,} tensors without a place in {made_for}, such as {shown(keys[0])}",
            fix=f"name a {family[1]} model with --model, or get an adapter for {made_for}",
        )
    for pattern, kind in _COMPILED:
        if kind.base and made_for.startswith(kind.base):
            continue  # other layers of the same base: not another base
        example = next((key for key in keys if pattern.search(key)), None)
        if example is not None:
            fix = kind.fix
            if fix == _OTHER_BASE:
                fix = f"{fix}: use it with a program for its base, or get one for {made_for}"
            return UserError(
                f"{where} {kind.what}{named}",
                got=f"{len(keys):,} of {total:,} tensors without a place in {made_for}, such as {shown(example)}",
                fix=fix,
            )
    if not total:
        return UserError(f"{where} holds no tensor at all", fix="the file is empty: save or download it again")
    if not base and 2 * len(keys) < total:
        listed = ", ".join(str(shown(key)) for key in keys[:3]) + (", …" if len(keys) > 3 else "")
        return UserError(
            f"{where} fits this model but for {len(keys):,} of {total:,} tensors, whose kind is not known",
            got=Shown(listed),
            fix="they may change what it does: ask its author what they are, or for a file without them",
        )
    example = f"such as {keys[0][:200]}"
    fix = (
        f"use the base that its metadata names: {base}"
        if base
        else "use the base model that the adapter was trained on"
    )
    return UserError(
        f"{where} does not fit this model ({made_for})",
        got=f"{len(keys):,} of {total:,} tensors without a place, {example}",
        fix=fix,
    )


def _family_of(keys: Iterable[str]) -> tuple[str, str] | None:
    """Name and title of the first family whose layers these keys name, as families declare it; None without one."""
    for name in plugins.names("families"):
        family = plugins.load("families", name)
        pattern = getattr(family, "adapter_keys", None)
        if pattern and any(re.search(pattern, key) for key in keys):
            return name, getattr(family, "title", name)
    return None


def base_named(metadata: Mapping[str, str]) -> str:
    """The base that a file's metadata names, for a sentence; empty without one."""
    named: list[str] = []
    for key in ("ss_base_model_version", "modelspec.architecture", "ss_sd_model_name"):
        value = metadata.get(key, "").strip()
        if value and value != "None":
            named.append(f"{str(shown(value))[1:-1]} ({key})")
    return ", ".join(named)
