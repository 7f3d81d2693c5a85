"""The `loraloom prepare` command that carries out what `inspect` advises, to be pasted into a terminal.

In: settings and findings. Out: one command line. What the user gave to `inspect` is kept.
"""

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loraloom.config.describing import leaves
from loraloom.config.extending import complete
from loraloom.config.inspect import InspectConfig
from loraloom.config.prepare import PrepareConfig
from loraloom.prepare.inspection.findings import Thresholds
from loraloom.utils.output_paths import COMMAND


def advised(config: InspectConfig, counts: Mapping[str, int], thresholds: Thresholds, *, coded: bool) -> dict[str, Any]:
    """Settings of `prepare` that findings advise, by key; what the user has set already is left alone.

    Args:
        config: What the user gave.
        counts: Number of findings by code.
        thresholds: The limits in use.
        coded: Whether colours of these images encode classes, so that no new ones may arise between two of them.
    """
    advice: dict[str, Any] = {}
    if counts.get("too_small"):
        advice["max_enlargement"] = thresholds.max_enlargement
    if counts.get("cut") and config.crop in {"bucket", "center"}:
        advice["crop"] = "smart"
    if counts.get("exact_duplicate") and config.duplicates == "keep":
        advice["duplicates"] = "exact"
    if coded and config.resample == "lanczos":
        advice["resample"] = "nearest"
    return advice


def command_line(
    source: Path, out: Path, config: InspectConfig, advice: Mapping[str, Any], model: str | None = None
) -> str:
    """The command, quoted for this system's shell."""
    kind = complete(PrepareConfig)
    words = ["prepare", str(source), "--out", str(out)]
    for leaf in leaves(kind):
        value = advice.get(leaf.key, leaf.default if leaf.key == "max_enlargement" else getattr(config, leaf.key))
        if value != leaf.default:
            words += _words(leaf.flag, leaf.key, value)
    if model:
        words += ["--model", model]
    return f"{COMMAND} {quoted(words)}"


def quoted(words: Sequence[str]) -> str:
    """Words as one line of this system's shell."""
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def _words(flag: str | None, key: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [flag if value else f"--no-{flag.removeprefix('--')}"] if flag else ["--set", f"{key}={value}".lower()]
    values = value if isinstance(value, tuple) else (value,)
    texts = [f"{one:g}" if isinstance(one, float) else str(one) for one in values]
    return [word for text in texts for word in ([flag, text] if flag else ["--set", f"{key}={text}"])]
