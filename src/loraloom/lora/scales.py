"""The scale of each layer: one number for a whole adapter, or numbers by part and block.

In: a scale as the user wrote it, and the layers that an adapter changes. Out: a number for each layer, or a mistake in a line.
"""

from collections.abc import Iterator, Mapping

from loraloom.config.generate import MAX_ADAPTER_WEIGHT
from loraloom.lora.blend import REST, Scale
from loraloom.utils.errors import UserError, did_you_mean
from loraloom.utils.untrusted import check_range


def _blocks(places: list[tuple[str, str]]) -> dict[str, set[str]]:
    """Every name that a scale by part or block may have, with the parts that it means."""
    found: dict[str, set[str]] = {}
    for part, module in places:
        found.setdefault(part, set()).add(part)
        words = module.split(".")
        for end in range(1, len(words) + 1):
            block = ".".join(words[:end])
            found.setdefault(block, set()).add(part)
            found.setdefault(f"{part}.{block}", set()).add(part)
    return found


def check_scale(name: str, scale: Scale, places: list[tuple[str, str]]) -> None:
    """Refuse a scale that is out of range, or names a part or block in which the adapter changes nothing.

    Args:
        name: The adapter's, for errors.
        scale: A number, or numbers by part and block.
        places: Part and module of each layer that the adapter changes.
    """
    if not isinstance(scale, Mapping):
        check_range(scale, f"the scale of {name}", -MAX_ADAPTER_WEIGHT, MAX_ADAPTER_WEIGHT, whole=False)
        return
    known = _blocks(places)
    seen: dict[tuple[str, str], str] = {}
    for block, number in scale.items():
        what = f"the scale of {name} in {block}"
        check_range(number, what, -MAX_ADAPTER_WEIGHT, MAX_ADAPTER_WEIGHT, whole=False)
        if block == REST:
            continue
        if block not in known:
            fix = did_you_mean(block, _few(block, known))
            raise UserError(f"{name} changes no layer in this part or block", got=block, fix=fix)
        if len(known[block]) > 1:
            fix = "write " + " or ".join(f"{part}.{block}" for part in sorted(known[block]))
            raise UserError(f"several parts of the model have a block {block}", got=f"a scale of {name}", fix=fix)
        (part,) = known[block]
        other = seen.setdefault((part, block.removeprefix(f"{part}.")), block)
        if other != block:
            raise UserError(f"two scales of {name} for one block", got=f"{other} and {block}", fix="keep one of them")


def _few(block: str, known: Mapping[str, object]) -> Iterator[str]:
    """The known names of at most as many words as `block` has, and at least two: those that its author may have meant."""
    words = max(2, block.count(".") + 1)
    return (name for name in known if name.count(".") < words)


def scale_of(scale: Scale, part: str, module: str) -> float:
    """The scale of one layer."""
    if not isinstance(scale, Mapping):
        return float(scale)
    found, longest = float(scale.get(REST, 1.0)), -1
    for block, number in scale.items():
        inner = block.removeprefix(f"{part}.")
        length = 0 if block == part else len(inner)
        if (block == part or f"{module}.".startswith(f"{inner}.")) and length > longest:
            found, longest = float(number), length
    return found
