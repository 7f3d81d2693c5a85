"""Whether this machine can train, and what to do where it cannot.

In: perhaps a model and a dataset. Out: records of what was looked at, each with a verdict and, unless all is well, what
to do. Looking changes nothing; a library that is broken in its own way becomes a record, not a traceback.
"""

import json
import os
import platform
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from loraloom.utils.errors import UserError
from loraloom.utils.memory import total_memory_bytes

GIB = 1 << 30
HUB_TIMEOUT_S = 5.0
MAX_DECODED = 1000
"""Images of a dataset that are decoded; of the others only the size is read."""
OK, WARN, FAIL = "ok", "warn", "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What.
        verdict: `ok`, `warn` (works, but look at it) or `fail` (will not work).
        found: What was found.
        fix: What to do, an imperative; empty when nothing is.
    """

    name: str
    verdict: Literal["ok", "warn", "fail"]
    found: str
    fix: str = ""


def check_all(model: str | None = None, dataset: Path | None = None) -> list[Check]:
    """All checks in reading order. Imports torch, and asks the hub only about a named model that is not here."""
    checks = [check_python(sys.version_info[:2]), *check_own_packages()]
    checks += [check_torchvision(), *check_torch(), check_memory(total_memory_bytes())]
    checks += [check_disk("disk here", Path.cwd()), check_disk("disk of the model cache", hub_cache())]
    checks += [check_compiler(), check_trackers()]
    if os.name == "nt":
        checks.append(check_windows())
    if model is not None:
        checks.append(check_model(model))
    if dataset is not None:
        checks.append(check_dataset(dataset))
    return checks


def print_checks(checks: Sequence[Check], *, as_json: bool) -> None:
    """A table for people, or a JSON list for programs, on stdout."""
    if as_json:
        print(json.dumps([asdict(check) for check in checks], indent=2))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    colours = {OK: "green", WARN: "yellow", FAIL: "red"}
    table = Table("", "check", "found", box=None, pad_edge=False, show_header=False)
    for check in checks:
        fix = f"\n[dim]->[/] {escape(check.fix)}" if check.fix else ""
        table.add_row(f"[{colours[check.verdict]}]{check.verdict}[/]", check.name, escape(check.found) + fix)
    console = Console()
    console.print(table)
    counts = ", ".join(f"{sum(check.verdict == verdict for check in checks)} {verdict}" for verdict in (OK, WARN, FAIL))
    console.print(f"\n{counts}", highlight=False)


# ------------------------------------------------------------------------------------------------- what is installed


def check_python(version: tuple[int, ...]) -> Check:
    """Python at or above 3.11."""
    found = f"{version[0]}.{version[1]} on {platform.system()} {platform.machine()}"
    if version < (3, 11):
        return Check("Python", FAIL, found, "install Python 3.11 or newer")
    return Check("Python", OK, found)


def check_own_packages(package: str = "loraloom") -> list[Check]:
    """`check_packages` with what an installed package requires; code that runs from its sources says no versions."""
    try:
        return check_packages(metadata.requires(package) or [])
    except metadata.PackageNotFoundError:
        found = f"{package} runs from its sources, so versions were not compared"
        return [Check("packages", WARN, found, "pip install -e . in its folder")]


def check_packages(requirements: Sequence[str], version_of: Callable[[str], str] = metadata.version) -> list[Check]:
    """Installed versions against the package's own requirements; extras are left out."""
    from packaging.requirements import Requirement

    bad: list[Check] = []
    good: list[str] = []
    for line in requirements:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = version_of(requirement.name)
        except metadata.PackageNotFoundError:
            bad.append(Check(requirement.name, FAIL, "not installed", f"pip install '{requirement}'"))
            continue
        if requirement.specifier.contains(version, prereleases=True):
            good.append(f"{requirement.name} {version}")
        else:
            found = f"{version}, expected {requirement.specifier}"
            bad.append(Check(requirement.name, FAIL, found, f"pip install '{requirement}'"))
    verdict = Check("packages", OK, ", ".join(good) or "none needed")
    return [*bad, verdict]


def check_torchvision() -> Check:
    """torchvision is not needed; one that was built for another torch breaks transformers, diffusers and peft."""
    if find_spec("torchvision") is None:
        return Check("torchvision", OK, "not installed, not needed")
    try:
        import torchvision  # pyright: ignore[reportMissingImports]
    except Exception as error:
        return Check(
            "torchvision",
            FAIL,
            f"installed but broken: {_first_line(error)}",
            "pip uninstall torchvision, or install the build that belongs to your torch",
        )
    return Check("torchvision", OK, str(torchvision.__version__))


def check_trackers() -> Check:
    """Optional trackers; JSON lines are always written."""
    found = [f"{name} {metadata.version(name)}" for name in ("tensorboard", "wandb") if find_spec(name) is not None]
    if not found:
        return Check("trackers", OK, "none installed; JSON lines are always written")
    return Check("trackers", OK, ", ".join(found))


def check_compiler() -> Check:
    """A C++ compiler, which torch.compile needs."""
    names = ("cl",) if os.name == "nt" else ("c++", "g++", "clang++")
    path = next((found for name in names if (found := shutil.which(name))), None)
    if path is None:
        fix = "install a C++ compiler if you want --compile (Debian: apt install g++)"
        return Check("compiler", WARN, "no C++ compiler", fix)
    return Check("compiler", OK, path)


# -------------------------------------------------------------------------------------------------- what it runs on


def check_torch() -> list[Check]:
    """torch and its GPUs, or the CPU's cores and threads."""
    try:
        import torch
    except Exception as error:
        fix = "install torch as pytorch.org says for this machine"
        return [Check("torch", FAIL, f"cannot be imported: {_first_line(error)}", fix)]
    version = Check("torch", OK, f"{torch.__version__}, CUDA build {torch.version.cuda or 'none'}")
    if not torch.cuda.is_available():
        from loraloom.train.precision import bf16_speed_up, cpu_precision

        faster = bf16_speed_up()
        found = f"none; CPU with {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        found += f"bf16 products {faster:.1f} times as fast as float32"
        driver = shutil.which("nvidia-smi") is not None
        fix = "an NVIDIA driver is here but torch cannot use it: install a CUDA build of torch" if driver else ""
        fix = (
            fix or f"a CPU trains small models, slowly; --mixed-precision {cpu_precision(faster)} is the quickest here"
        )
        return [version, Check("GPU", WARN, found, fix)]
    checks = [version]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        bf16 = "bf16" if properties.major >= 8 else "no bf16: use --mixed-precision fp16"
        found = f"{properties.name}, {free / GIB:.1f} of {total / GIB:.1f} GiB free, {bf16}"
        if free < 6 * GIB:
            fix = "close other programs on it, or use --gradient-checkpointing and a small --batch-size"
            checks.append(Check(f"GPU {index}", WARN, found, fix))
        else:
            checks.append(Check(f"GPU {index}", OK, found))
    return checks


def check_memory(total_bytes: int | None) -> Check:
    """8 GiB hold Stable Diffusion 1.5 in float32 with room to work."""
    if total_bytes is None:
        return Check("memory", WARN, "cannot be told", "see that 8 GiB are there")
    found = f"{total_bytes / GIB:.1f} GiB"
    if total_bytes < 8 * GIB:
        return Check("memory", WARN, found, "use a small model, or a machine with 8 GiB or more")
    return Check("memory", OK, found)


def check_disk(name: str, folder: Path) -> Check:
    """Free space where `folder` is or will be."""
    standing = folder
    while not standing.exists():
        standing = standing.parent
    free = shutil.disk_usage(standing).free
    found = f"{free / GIB:.1f} GiB free at {folder}"
    if free < GIB:
        return Check(name, FAIL, found, "free some space: a base model takes 2 to 7 GiB, a run about 1")
    if free < 10 * GIB:
        return Check(name, WARN, found, "a base model takes 2 to 7 GiB, a run about 1")
    return Check(name, OK, found)


def check_windows() -> Check:
    """Paths over 260 characters, which the model cache has, must be allowed."""
    if sys.platform != "win32":
        return Check("Windows", OK, "not Windows")
    import winreg

    try:
        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, r"SYSTEM\CurrentControlSet\Control\FileSystem") as key:
            enabled = bool(winreg.QueryValueEx(key, "LongPathsEnabled")[0])
    except OSError:
        enabled = False
    if enabled:
        return Check("Windows", OK, "long paths allowed; several GPUs or machines talk over gloo")
    fix = "set LongPathsEnabled to 1 (Group Policy: Enable Win32 long paths), or set HF_HOME to a short path"
    return Check("Windows", WARN, "paths over 260 characters are not allowed", fix)


# ------------------------------------------------------------------------------------------------ model and dataset


def hub_cache() -> Path:
    """Where models from the hub are kept."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def check_model(location: str) -> Check:
    """A folder, a single checkpoint, or a hub id that is in the cache or can be reached."""
    path = Path(location).expanduser()
    if path.is_dir():
        if (path / "model_index.json").is_file():
            return _check_model_folder(path)
        return Check("model", FAIL, f"{path} has no model_index.json", "name a diffusers folder or a .safetensors file")
    if path.is_file():
        from loraloom.utils.safetensors_io import check_safetensors

        try:
            check_safetensors(path)
        except UserError as error:
            return Check("model", FAIL, _first_line(error), error.fix or "")
        return Check("model", OK, f"checkpoint {path}, {path.stat().st_size / GIB:.1f} GiB")
    if location.count("/") != 1 or path.is_absolute() or location.startswith((".", "~")):
        return Check("model", FAIL, f"{location} is not here", "check the path, or name a hub id: owner/name")
    return _check_hub_model(location)


def _check_model_folder(path: Path) -> Check:
    """Configs and tokenizer, as they are read before a training; weights are read when they are needed."""
    from loraloom.models.loading import open_model
    from loraloom.protocols.model import ModelSource
    from loraloom.utils.quiet import quiet

    try:
        with quiet():
            model = open_model(ModelSource(location=str(path)))
    except UserError as error:
        return Check("model", FAIL, _first_line(error), error.fix or "download it again")
    except Exception as error:
        return Check("model", FAIL, f"cannot be opened: {_first_line(error)}", "see that torch and diffusers are whole")
    return Check("model", OK, f"folder {path}, {model.info.family} of {model.info.defaults.size_px} px")


def check_dataset(folder: Path) -> Check:
    """A folder that `loraloom prepare` made: rows readable, images of the size that their rows say, the first ones decoded."""
    from loraloom.data.encode import open_prepared
    from loraloom.data.manifest import read_manifest

    try:
        manifest = read_manifest(folder)
    except UserError as error:
        return Check("dataset", FAIL, _first_line(error), error.fix or "run `loraloom prepare` on the raw folder")
    bad: list[UserError] = []
    for number, example in enumerate(manifest.examples):
        try:
            open_prepared(folder, example, decode=number < MAX_DECODED)
        except UserError as error:
            bad.append(error)
    if bad:
        more = f" (and {len(bad) - 1:,} more)" if len(bad) > 1 else ""
        return Check("dataset", FAIL, _first_line(bad[0]) + more, bad[0].fix or "run `loraloom prepare` again")
    train, validation = len(manifest.split("train")), len(manifest.split("validation"))
    decoded = min(len(manifest.examples), MAX_DECODED)
    found = f"{train} images to learn from, {validation} held out; {decoded:,} of {len(manifest.examples):,} decoded"
    return Check("dataset", OK, found)


def _check_hub_model(repo: str) -> Check:
    from huggingface_hub import HfApi, constants, errors, try_to_load_from_cache

    try:
        cached = try_to_load_from_cache(repo, "model_index.json")
    except errors.HFValidationError:
        return Check("model", FAIL, f"{repo} is neither here nor a hub id", "check the spelling: owner/name")
    if isinstance(cached, str):
        return Check("model", OK, f"{repo} is in the cache (its weights are checked when it is opened)")
    if constants.HF_HUB_OFFLINE:
        fix = "unset HF_HUB_OFFLINE, or copy the model here and name its folder"
        return Check("model", FAIL, f"{repo} is not in the cache, and HF_HUB_OFFLINE is set", fix)
    try:
        found = HfApi().model_info(repo, timeout=HUB_TIMEOUT_S)
    except errors.GatedRepoError:
        return Check("model", FAIL, f"{repo} is gated", "accept its terms on its page, then run `hf auth login`")
    except errors.RepositoryNotFoundError:
        return Check(
            "model", FAIL, f"the hub knows no {repo}", "check the spelling, or `hf auth login` if it is private"
        )
    except Exception as error:
        fix = "connect to the network, or copy the model here and name its folder"
        return Check(
            "model", FAIL, f"{repo} is not in the cache, and the hub cannot be reached: {_first_line(error)}", fix
        )
    if found.gated:
        return Check(
            "model", WARN, f"{repo} is on the hub, gated", "accept its terms on its page and run `hf auth login`, once"
        )
    return Check("model", OK, f"{repo} is on the hub; the first run downloads it")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__
