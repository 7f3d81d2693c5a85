"""Check whether this machine can train, and how to fix what is missing.

In: optionally a model and a dataset. Out: one record per check, with a verdict and, unless it is ok, a fix. Checks change
nothing; an error inside a library becomes a failed check, not a traceback.
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

from loraloom.utils.counted import counted
from loraloom.utils.errors import UserError
from loraloom.utils.memory import total_memory_bytes

GIB = 1 << 30
HUB_TIMEOUT_S = 5.0
MAX_DECODED = 1000
"""Number of images of a dataset that are decoded; of the others only the header is read."""
OK, WARN, FAIL = "ok", "warn", "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check.

    Attributes:
        name: What was checked.
        verdict: `ok`, `warn` (works, but look at it) or `fail` (will not work).
        found: What was found.
        fix: What to do, an imperative; empty when there is nothing to do.
    """

    name: str
    verdict: Literal["ok", "warn", "fail"]
    found: str
    fix: str = ""


def check_all(model: str | None = None, dataset: Path | None = None) -> list[Check]:
    """All checks in the order of the report. Imports torch; asks the hub only about a model that is not on this machine."""
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
    """`check_packages` with the requirements of the installed package; a warning if it is not installed."""
    try:
        return check_packages(metadata.requires(package) or [])
    except metadata.PackageNotFoundError:
        found = f"{package} runs from its source folder, so versions were not compared"
        return [Check("packages", WARN, found, "run `pip install -e .` in that folder")]


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
    verdict = Check("packages", OK, ", ".join(good) or "none required")
    return [*bad, verdict]


def check_torchvision() -> Check:
    """torchvision is optional, but a build for another torch breaks transformers, diffusers and peft."""
    if find_spec("torchvision") is None:
        return Check("torchvision", OK, "not installed; it is optional")
    try:
        import torchvision  # pyright: ignore[reportMissingImports]
    except Exception as error:
        return Check(
            "torchvision",
            FAIL,
            f"installed but broken: {_first_line(error)}",
            "run `pip uninstall torchvision`, or install the build for your version of torch",
        )
    return Check("torchvision", OK, str(torchvision.__version__))


def check_trackers() -> Check:
    """Optional trackers; JSON lines are always written."""
    found = [f"{name} {metadata.version(name)}" for name in ("tensorboard", "wandb") if find_spec(name) is not None]
    if not found:
        return Check("trackers", OK, "none installed; JSON lines are always written")
    return Check("trackers", OK, ", ".join(found))


def check_compiler() -> Check:
    """A C++ compiler, which torch.compile requires."""
    names = ("cl",) if os.name == "nt" else ("c++", "g++", "clang++")
    path = next((found for name in names if (found := shutil.which(name))), None)
    if path is None:
        fix = "install a C++ compiler to use --compile (Debian: apt install g++)"
        return Check("compiler", WARN, "no C++ compiler", fix)
    return Check("compiler", OK, path)


# -------------------------------------------------------------------------------------------------- hardware


def check_torch() -> list[Check]:
    """torch and its GPUs, or the CPU's cores and threads."""
    try:
        import torch
    except Exception as error:
        fix = "install torch for this machine as described on pytorch.org"
        return [Check("torch", FAIL, f"cannot be imported: {_first_line(error)}", fix)]
    version = Check("torch", OK, f"{torch.__version__}, CUDA build {torch.version.cuda or 'none'}")
    if not torch.cuda.is_available():
        from loraloom.train.precision import bf16_speed_up, cpu_precision

        faster = bf16_speed_up()
        found = f"none; CPU with {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        found += f"bf16 matrix products {faster:.1f} times as fast as float32"
        driver = shutil.which("nvidia-smi") is not None
        fix = (
            "there is an NVIDIA driver, but this build of torch cannot use it: install a CUDA build of torch"
            if driver
            else ""
        )
        fix = (
            fix
            or f"a CPU can train small models slowly; --mixed-precision {cpu_precision(faster)} is fastest on this one"
        )
        return [version, Check("GPU", WARN, found, fix)]
    checks = [version]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        bf16 = "bf16" if properties.major >= 8 else "no bf16: use --mixed-precision fp16"
        found = f"{properties.name}, {free / GIB:.1f} of {total / GIB:.1f} GiB free, {bf16}"
        if free < 6 * GIB:
            fix = "close other programs that use this GPU, or use --gradient-checkpointing and a small --batch-size"
            checks.append(Check(f"GPU {index}", WARN, found, fix))
        else:
            checks.append(Check(f"GPU {index}", OK, found))
    return checks


def check_memory(total_bytes: int | None) -> Check:
    """8 GiB are enough to load Stable Diffusion 1.5 in float32."""
    if total_bytes is None:
        return Check("memory", WARN, "unknown", "make sure that this machine has at least 8 GiB")
    found = f"{total_bytes / GIB:.1f} GiB"
    if total_bytes < 8 * GIB:
        return Check("memory", WARN, found, "use a small model, or a machine with 8 GiB or more")
    return Check("memory", OK, found)


def check_disk(name: str, folder: Path) -> Check:
    """Free space on the disk of `folder`, which may not exist yet."""
    existing = folder
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    found = f"{free / GIB:.1f} GiB free at {folder}"
    if free < GIB:
        return Check(name, FAIL, found, "free some space: a base model takes 2 to 7 GiB, a run about 1 GiB")
    if free < 10 * GIB:
        return Check(name, WARN, found, "a base model takes 2 to 7 GiB, a run about 1 GiB")
    return Check(name, OK, found)


def check_windows() -> Check:
    """Whether Windows allows paths over 260 characters, which occur in the model cache."""
    if sys.platform != "win32":
        return Check("Windows", OK, "not Windows")
    import winreg

    try:
        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, r"SYSTEM\CurrentControlSet\Control\FileSystem") as key:
            enabled = bool(winreg.QueryValueEx(key, "LongPathsEnabled")[0])
    except OSError:
        enabled = False
    if enabled:
        return Check("Windows", OK, "long paths are allowed; several GPUs or machines communicate over gloo")
    fix = "set LongPathsEnabled to 1 (Group Policy: Enable Win32 long paths), or set HF_HOME to a short path"
    return Check("Windows", WARN, "paths over 260 characters are not allowed", fix)


# ------------------------------------------------------------------------------------------------ model and dataset


def hub_cache() -> Path:
    """Folder of models from the hub."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def check_model(location: str) -> Check:
    """A folder, a single-file checkpoint, or a hub id that is in the cache or on the hub."""
    path = Path(location).expanduser()
    if path.is_dir():
        if (path / "model_index.json").is_file():
            return _check_model_folder(path)
        return Check("model", FAIL, f"{path} has no model_index.json", "give a diffusers folder or a .safetensors file")
    if path.is_file():
        from loraloom.utils.safetensors_io import check_safetensors

        try:
            check_safetensors(path)
        except UserError as error:
            return Check("model", FAIL, _first_line(error), error.fix or "")
        return Check("model", OK, f"checkpoint {path}, {path.stat().st_size / GIB:.1f} GiB")
    if location.count("/") != 1 or path.is_absolute() or location.startswith((".", "~")):
        return Check("model", FAIL, f"{location} does not exist", "check the path, or give a hub id: owner/name")
    return _check_hub_model(location)


def _check_model_folder(path: Path) -> Check:
    """Open configs and tokenizer as training does; weights are not read."""
    from loraloom.models.loading import open_model
    from loraloom.protocols.model import ModelSource
    from loraloom.utils.quiet import quiet

    try:
        with quiet():
            model = open_model(ModelSource(location=str(path)))
    except UserError as error:
        return Check("model", FAIL, _first_line(error), error.fix or "download it again")
    except Exception as error:
        return Check(
            "model",
            FAIL,
            f"cannot be opened: {_first_line(error)}",
            "check that torch and diffusers are installed correctly",
        )
    return Check("model", OK, f"folder {path}, {model.info.family} of {model.info.defaults.size_px} px")


def check_dataset(folder: Path) -> Check:
    """A dataset folder: rows are readable, images have the recorded sizes, the first `MAX_DECODED` are decoded."""
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
    found = f"{counted(train, 'image')} for training, {validation} held out; {decoded:,} of {len(manifest.examples):,} decoded"
    return Check("dataset", OK, found)


def _check_hub_model(repo: str) -> Check:
    from huggingface_hub import HfApi, constants, errors, try_to_load_from_cache

    try:
        cached = try_to_load_from_cache(repo, "model_index.json")
    except errors.HFValidationError:
        return Check("model", FAIL, f"{repo} is neither a path nor a hub id", "check the name: owner/name")
    if isinstance(cached, str):
        return Check("model", OK, f"{repo} is in the cache (its weights are checked when it is opened)")
    if constants.HF_HUB_OFFLINE:
        fix = "unset HF_HUB_OFFLINE, or copy the model to this machine and give its folder"
        return Check("model", FAIL, f"{repo} is not in the cache, and HF_HUB_OFFLINE is set", fix)
    try:
        found = HfApi().model_info(repo, timeout=HUB_TIMEOUT_S)
    except errors.GatedRepoError:
        return Check("model", FAIL, f"{repo} is gated", "accept its terms on its page, then run `hf auth login`")
    except errors.RepositoryNotFoundError:
        return Check(
            "model", FAIL, f"{repo} is not on the hub", "check the name, or run `hf auth login` if it is private"
        )
    except Exception as error:
        fix = "connect to the network, or copy the model to this machine and give its folder"
        return Check(
            "model", FAIL, f"{repo} is not in the cache, and the hub cannot be reached: {_first_line(error)}", fix
        )
    if found.gated:
        return Check(
            "model", WARN, f"{repo} is on the hub, gated", "accept its terms on its page, then run `hf auth login`"
        )
    return Check("model", OK, f"{repo} is on the hub; the first run downloads it")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
