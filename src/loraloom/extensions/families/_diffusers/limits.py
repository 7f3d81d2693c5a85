"""Rules for configs of diffusers models, and what an AutoencoderKL, a DDPM schedule and a model_index.json may say.

In: a config as JSON holds it. Out: nothing, or a `UserError` with file, key, value and range. A number that decides an
allocation has its range here. Keys that a family does not name are the library's to ignore.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from loraloom.models.files import refuse_foreign
from loraloom.utils.errors import UserError
from loraloom.utils.untrusted import check_range, library_errors, shown

Rule = Callable[[Any, str], None]
"""Given a value and what errors call it; raises `UserError`."""


def whole(low: int, high: int) -> Rule:
    """A whole number from low to high."""
    return lambda value, where: check_range(value, where, low, high)


def number(low: float, high: float) -> Rule:
    """A finite number from low to high."""
    return lambda value, where: check_range(value, where, low, high, whole=False)


def flag(value: Any, where: str) -> None:
    """True or false."""
    if not isinstance(value, bool):
        raise UserError(where, got=shown(value), expected="true or false")


def text(value: Any, where: str) -> None:
    """A text of at most 1,000 characters."""
    if not isinstance(value, str) or len(value) > 1000:
        raise UserError(where, got=shown(value), expected="a text")


def one_of(*known: str) -> Rule:
    """One of some words."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, str) or value not in known:
            raise UserError(where, got=shown(value), expected=" or ".join(known))

    return check


def nothing(value: Any, where: str) -> None:
    """Null: the key stands for something that this family does not have."""
    if value is not None:
        raise UserError(
            where, got=shown(value), expected="null", fix="the model requires inputs that this family lacks"
        )


def or_null(rule: Rule) -> Rule:
    """What the rule takes, or null."""
    return lambda value, where: None if value is None else rule(value, where)


def keys(rules: Mapping[str, Rule]) -> Rule:
    """Names with values, of which those that are known are what their rules take."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise UserError(where, got=shown(value), expected="names with values")
        check_config(value, rules, where)

    return check


def each(rule: Rule, most: int) -> Rule:
    """A list of 1 to `most` values that the rule takes."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, list) or not 1 <= len(value) <= most:
            raise UserError(where, got=shown(value), expected=f"a list of 1 to {most} values")
        for index, entry in enumerate(value):
            rule(entry, f"{where}[{index}]")

    return check


def one_or_each(rule: Rule, most: int) -> Rule:
    """What the rule takes, or a list of that."""
    several = each(rule, most)
    return lambda value, where: several(value, where) if isinstance(value, list) else rule(value, where)


MAX_BLOCKS = 6
MAX_WIDTH = 8192
MAX_VOCABULARY = 1_000_000
ACTIVATION = one_of("silu", "swish", "mish", "gelu", "relu")
WIDTHS = each(whole(1, MAX_WIDTH), MAX_BLOCKS)

VAE: Mapping[str, Rule] = {
    "_class_name": one_of("AutoencoderKL"),
    "in_channels": whole(3, 3),
    "out_channels": whole(3, 3),
    "down_block_types": each(one_of("DownEncoderBlock2D"), MAX_BLOCKS),
    "up_block_types": each(one_of("UpDecoderBlock2D"), MAX_BLOCKS),
    "block_out_channels": WIDTHS,
    "layers_per_block": whole(1, 8),
    "act_fn": ACTIVATION,
    "latent_channels": whole(1, 64),
    "norm_num_groups": whole(1, 1024),
    "sample_size": or_null(one_or_each(whole(1, 8192), 2)),
    "scaling_factor": number(1e-6, 1e6),
    "shift_factor": or_null(number(-1e6, 1e6)),
    "latents_mean": nothing,
    "latents_std": nothing,
    "force_upcast": flag,
    "use_quant_conv": flag,
    "use_post_quant_conv": flag,
    "mid_block_add_attention": flag,
}

SCHEDULE: Mapping[str, Rule] = {
    "_class_name": one_of(
        "DDIMScheduler",
        "DDPMScheduler",
        "PNDMScheduler",
        "LMSDiscreteScheduler",
        "EulerDiscreteScheduler",
        "EulerAncestralDiscreteScheduler",
        "HeunDiscreteScheduler",
        "KDPM2DiscreteScheduler",
        "KDPM2AncestralDiscreteScheduler",
        "DPMSolverMultistepScheduler",
        "DPMSolverSinglestepScheduler",
        "DPMSolverSDEScheduler",
        "DEISMultistepScheduler",
        "UniPCMultistepScheduler",
        "LCMScheduler",
        "TCDScheduler",
        "SASolverScheduler",
    ),
    "num_train_timesteps": whole(1, 100_000),
    "beta_start": number(1e-9, 0.999),
    "beta_end": number(1e-9, 0.999),
    "beta_schedule": one_of("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"),
    "trained_betas": or_null(each(number(0, 1), 100_000)),
    "prediction_type": text,
    "timestep_spacing": one_of("leading", "trailing", "linspace"),
    "steps_offset": whole(0, 1000),
    "clip_sample": flag,
    "clip_sample_range": number(1e-6, 1e6),
    "sample_max_value": number(1e-6, 1e6),
    "dynamic_thresholding_ratio": number(0, 1),
    "thresholding": flag,
    "rescale_betas_zero_snr": flag,
    "set_alpha_to_one": flag,
    "skip_prk_steps": flag,
    "variance_type": or_null(text),
}


def check_config(config: Mapping[str, Any], rules: Mapping[str, Rule], where: str) -> None:
    """Raise `UserError` unless every known key has a value in its range."""
    for key, rule in rules.items():
        if key in config:
            rule(config[key], f"{where}: {key}")


def check_vae(config: Mapping[str, Any], rules: Mapping[str, Rule] = VAE) -> None:
    """Raise `UserError` for a VAE config whose numbers are out of range or do not fit together."""
    where = "vae/config.json"
    check_config(config, rules, where)
    widths = config.get("block_out_channels", [64])
    down = config.get("down_block_types", ["DownEncoderBlock2D"])
    up = config.get("up_block_types", ["UpDecoderBlock2D"])
    same_length(where, {"block_out_channels": widths, "down_block_types": down, "up_block_types": up})
    groups_divide(where, config.get("norm_num_groups", 32), widths)


def check_schedule(config: Mapping[str, Any]) -> None:
    """Raise `UserError` for a scheduler config that describes no schedule of this family."""
    where = "scheduler/scheduler_config.json"
    check_config(config, SCHEDULE, where)
    if config.get("beta_start", 0.0001) > config.get("beta_end", 0.02):
        raise UserError(f"{where}: beta_start", got=config["beta_start"], expected="at most beta_end")
    betas, steps = config.get("trained_betas"), config.get("num_train_timesteps", 1000)
    if betas and len(betas) != steps:
        raise UserError(
            f"{where}: trained_betas", got=f"{len(betas):,} values", expected=f"num_train_timesteps ({steps:,})"
        )


def make_config(kind: Any, values: Mapping[str, Any], where: str, **fixed: Any) -> Any:
    """A config of a library's class from checked values; JSON's `1` is the float that the class asks for.

    Raises:
        UserError: The class refuses a value; names `where`.
    """
    given = {
        key: float(value) if type(value) is int and isinstance(getattr(kind, key, None), float) else value
        for key, value in values.items()
    }
    with library_errors(where, where, fix="check the config, or download it again"):
        return kind(**given, **fixed)


def same_length(where: str, lists: Mapping[str, list[Any]]) -> None:
    """Raise `UserError` unless lists with one entry for each block have one length."""
    if len({len(values) for values in lists.values()}) > 1:
        got = ", ".join(f"{key} {len(values)}" for key, values in lists.items())
        raise UserError(f"{where}: lists of different length", got=got, expected="one entry for each block")


def groups_divide(where: str, groups: int, widths: list[int]) -> None:
    """Raise `UserError` unless group norms divide every width."""
    for width in widths:
        if width % groups:
            raise UserError(f"{where}: norm_num_groups", got=groups, expected=f"a divisor of every width ({width})")


def check_components(
    index: Mapping[str, Any],
    pipelines: Collection[str],
    components: Mapping[str, set[str]],
    unused: set[str],
    *,
    libraries: Collection[str] = ("diffusers", "transformers"),
) -> None:
    """Raise `UserError` unless a model_index.json names a pipeline, its parts, and nothing of its own.

    Args:
        index: The file as JSON holds it.
        pipelines: Classes that the pipeline may have, the plain one first.
        components: Name of a part to the classes that it may have.
        unused: Names of parts that may be there and are not opened.
        libraries: Where a part's class may come from.
    """
    where = "model_index.json"
    refuse_foreign(index, where)
    one_of(*pipelines)(index.get("_class_name", next(iter(pipelines))), f"{where}: _class_name")
    for name, entry in index.items():
        if name.startswith("_") or name == "requires_safety_checker":
            continue
        if name not in components and name not in unused:
            raise UserError(f"{where} names a part that this family does not have", got=shown(name))
        if entry in (None, [None, None]) and name not in components:
            continue
        if not (isinstance(entry, list) and len(entry) == 2 and all(isinstance(word, str) for word in entry)):
            raise UserError(f"{where}: {name}", got=shown(entry), expected="a library and a class")
        known = components.get(name)
        if entry[0] not in libraries or (known and entry[1] not in known):
            expected = " or ".join(sorted(known)) if known else "a class of diffusers or transformers"
            raise UserError(
                f"{where}: {name}", got=shown(entry), expected=expected, fix="use a model without custom code"
            )
