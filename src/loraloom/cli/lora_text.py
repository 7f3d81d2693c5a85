"""Lines that `loraloom lora` prints: facts about a file, fates of keys, errors of layers, interference.

In: records of `lora`. Out: lines, or JSON.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

from loraloom.lora.facts import Facts
from loraloom.lora.fates import Checked
from loraloom.lora.interference import Interference
from loraloom.lora.low_rank import Truncated, total_error
from loraloom.utils.untrusted import shown

_TITLE = 14
"""Width of the column of titles."""
_VISIBLE = 5e-6
"""Relative errors below are rounding."""


def size_text(num_bytes: int) -> str:
    """A size for people."""
    return f"{num_bytes / 1e6:,.1f} MB" if num_bytes >= 1e5 else f"{num_bytes / 1e3:,.1f} kB"


def rank_text(ranks: Mapping[int, int]) -> str:
    """`rank 16`, or `rank 4 to 16`."""
    if not ranks:
        return "no rank"
    low, high = min(ranks), max(ranks)
    return f"rank {low}" if low == high else f"rank {low} to {high}"


def facts_lines(facts: Facts) -> Iterator[str]:
    """What a file is, in words."""
    dtypes = ", ".join(f"{count:,} {dtype}" for dtype, count in facts.dtypes.items())
    yield f"{facts.path.name}: {size_text(facts.num_bytes)}, {facts.tensors:,} tensors ({dtypes or 'none'})"
    yield _line("sha256", facts.sha256)
    yield _line("key format", facts.key_format)
    for part in facts.parts:
        kinds = ", ".join(f"{count:,} layers of {kind}" for kind, count in part.kinds.items())
        yield _line(part.name, f"{kinds}, {rank_text(part.ranks)}, {_strength(part.factors)}")
    yield _line("base", facts.base or "not named")
    yield _line("trigger words", ", ".join(facts.triggers) or "none named")
    if facts.tags:
        yield _line("frequent tags", ", ".join(f"{tag} ({count:,})" for tag, count in facts.tags.items()))
    for word, value in facts.training.items():
        yield _line("training", f"{word}: {value}")
    for step in facts.made_by:
        yield _line("made by", step)
    if facts.other_metadata:
        listed = ", ".join(str(shown(key))[1:-1] for key in facts.other_metadata[:8])
        more = f" and {len(facts.other_metadata) - 8:,} more" if len(facts.other_metadata) > 8 else ""
        yield _line("more metadata", listed + more)
    if facts.non_finite:
        yield _line(
            "numbers", f"{len(facts.non_finite):,} tensors hold NaN or infinity, such as {shown(facts.non_finite[0])}"
        )
    else:
        yield _line("numbers", "all finite")
    if facts.not_read:
        yield _line(
            "not read", f"{len(facts.not_read):,} tensors, such as {shown(facts.not_read[0])}: see `lora check`"
        )
    for fault in facts.faults:
        yield _line("fault", fault)


def facts_as_json(found: Sequence[Facts], figure: Interference | None) -> str:
    """Everything as JSON."""
    files = [{**asdict(facts), "path": str(facts.path)} for facts in found]
    for file in files:
        for part in file["parts"]:
            part["factors"] = {"unstated" if key is None else str(key): value for key, value in part["factors"].items()}
    said: dict[str, object] = {"files": files}
    if figure is not None:
        said["interference"] = {"cosine": figure.cosine, "overlap": figure.overlap, "shared": figure.shared}
    return json.dumps(said, indent=2, ensure_ascii=False, allow_nan=False)


def interference_lines(figure: Interference, names: Sequence[str]) -> Iterator[str]:
    """The interference of two files in words."""
    yield f"interference of {names[0]} and {names[1]}"
    yield _line("cosine", f"{figure.cosine:+.3f} of the changes of weights: 0 is none, 1 the same, below 0 they cancel")
    yield _line("overlap", f"{figure.overlap:.1%} of the input directions of the smaller one are read by both")
    alone = f"{figure.only_first:,} only by {names[0]}, {figure.only_second:,} only by {names[1]}"
    yield _line("layers", f"{figure.shared:,} changed by both, {alone}")
    worst = sorted(figure.layers.items(), key=lambda item: -abs(item[1]))[:3]
    for (part, module), cosine in worst:
        name = str(shown(f"{part} {module}"))[1:-1]
        yield _line("largest", f"{cosine:+.3f} in {name}")


def fate_lines(checked: Checked, most: int, *, with_used: bool) -> Iterator[str]:
    """The fates of the keys: counts, then the unused ones, and with `with_used` all."""
    used = [fate for fate in checked.fates if fate.used]
    unused = [fate for fate in checked.fates if not fate.used]
    yield f"{checked.file.path.name}: {len(checked.fates):,} tensors, {len(used):,} used, {len(unused):,} not used"
    if with_used:
        for fate in used:
            yield f"  used      {_whole(fate.key)} -> {fate.where}: {fate.why}"
    for fate in unused[:most]:
        yield f"  not used  {_whole(fate.key)}: {fate.why}"
    if len(unused) > most:
        yield f"  and {len(unused) - most:,} more that are not used; --all lists them"


def error_lines(found: Sequence[Truncated], most: int | None) -> Iterator[str]:
    """The error of all layers, then of the worst ones."""
    ranks = rank_text({one.layer.rank: 1 for one in found})
    before = rank_text({one.rank_before: 1 for one in found})
    yield f"error of all {len(found):,} layers: {total_error(found):.3%} (Frobenius norm); {before} before, {ranks} now"
    listed = sorted(found, key=lambda one: -one.relative) if most is not None else found
    lossy = [one for one in listed if one.relative >= _VISIBLE]
    shown_ones = lossy[:most] if most is not None else listed
    for one in shown_ones:
        name = str(shown(f"{one.layer.part} {one.layer.module}"))[1:-1]
        yield f"  {one.relative:8.3%}  rank {one.rank_before} -> {one.layer.rank}  {name}"
    rest = len(lossy) - len(shown_ones)
    if most is not None and rest > 0:
        yield f"  {rest:,} more layers have an error, each smaller; --all lists every layer"


def _whole(key: str) -> str:
    """A key in full, printable."""
    return key if key.isprintable() else ascii(key)


def _strength(factors: Mapping[float | None, int]) -> str:
    """alpha / rank in words."""
    if not factors or set(factors) == {None}:
        return "no alpha stated: alpha = rank"
    known = sorted(factor for factor in factors if factor is not None)
    text = f"alpha / rank {known[0]:g}" + (f" to {known[-1]:g}" if len(known) > 1 else "")
    return text + (f", not stated for {factors[None]:,} layers" if None in factors else "")


def _line(title: str, text: str) -> str:
    return f"  {title:<{_TITLE}}  {text}"
