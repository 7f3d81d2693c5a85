"""Records and settings that came after the first artefacts: clusters, sweeps, style recipes, prompts, others' PNGs."""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save_file

from loraloom import plugins
from loraloom.cli.inspect_command import with_speed_of
from loraloom.cluster.hosts import read_hosts
from loraloom.cluster.launching import job_of
from loraloom.config.caption import CaptionConfig
from loraloom.config.cluster import ClusterConfig
from loraloom.config.contradictions import contradictions
from loraloom.config.describing import leaves
from loraloom.config.evaluate import EvaluateConfig, SweepConfig
from loraloom.config.extending import complete
from loraloom.config.generate import GenerateConfig
from loraloom.config.inspect import InspectConfig
from loraloom.config.prepare import PrepareConfig
from loraloom.config.reading import read_settings, to_yaml
from loraloom.config.run import RunConfig
from loraloom.evaluate.generating import known_images
from loraloom.evaluate.sweep_plan import find_checkpoints, make_averages, read_lengths, read_scales
from loraloom.extensions.domains.floorplan.vision.palette_file import load_palette
from loraloom.generate.prompt_sets import read_prompts
from loraloom.generate.saving import recipe_requests
from loraloom.prepare.caption_edits import Edits
from loraloom.prompts.notes import Losses
from loraloom.tracking import JsonLines
from recipes.styles.parts import Parts
from recipes.styles.settings import read_styles

from .artefacts import RECIPE, build_settings, read_config
from .kinds import Artefact

SETTINGS: Mapping[str, Any] = {
    "run": RunConfig, "prepare": PrepareConfig, "generate": GenerateConfig, "evaluate": EvaluateConfig,
    "caption": CaptionConfig, "inspect": InspectConfig, "cluster": ClusterConfig,
}  # fmt: skip


def short(line: str) -> None:
    """Takes a line for the user, which has to be one that a terminal can show."""
    assert len(line) < 5000, f"a line of {len(line):,} letters"
    line.encode()


# ------------------------------------------------------------------------------------------------------------ settings


def defaults(kind: Any) -> dict[str, Any]:
    """Every setting with its default, as a tree."""
    tree: dict[str, Any] = {}
    for leaf in leaves(complete(kind)):
        place = tree
        *path, name = leaf.key.split(".")
        for part in path:
            place = place.setdefault(part, {})
        place[name] = list(leaf.default) if isinstance(leaf.default, tuple) else leaf.default
    return tree


def leaf_paths(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> list[tuple[str | int, ...]]:
    """Groups and settings of a tree."""
    inner = [leaf for key, value in tree.items() if isinstance(value, dict) for leaf in leaf_paths(value, (*path, key))]
    return [*((*path, key) for key in tree), *inner]


def settings_artefacts() -> list[Artefact]:
    """Every setting of every verb."""
    found: list[Artefact] = []
    for name, kind in SETTINGS.items():
        tree = {key: value for key, value in defaults(kind).items() if not isinstance(value, type(...))}
        tree = json.loads(json.dumps(tree, default=lambda value: None))
        read = partial(read_config, kind, "settings.yaml")
        found.append(
            Artefact(
                f"every setting of {name}",
                partial(build_settings, tree),
                "settings.yaml",
                read,
                leaf_paths(tree),
                most=120,
            )
        )
    return found


# ------------------------------------------------------------------------------------------------------------- cluster


def build_workers(folder: Path) -> None:
    folder.mkdir(parents=True)
    rows = [
        {"IPAddress": "192.168.0.11", "ComputerName": "a", "GPUCount": 1, "Processes": 2, "Transport": "ssh",
         "System": "linux", "User": "me", "Port": 22, "KeyFile": "~/.ssh/id", "KnownHosts": "k", "Root": "r",
         "Python": "/usr/bin/python3", "Dataset": "/data"},
        {"IPAddress": "192.168.0.12"},
    ]  # fmt: skip
    (folder / "workers.json").write_text(json.dumps(rows), encoding="utf-8")


def read_workers(folder: Path) -> None:
    for host in read_hosts(folder / "workers.json"):
        assert host.name and host.endpoint.address
        repr(host).encode()


def build_job(folder: Path) -> None:
    (folder / "data").mkdir(parents=True)
    tree = {"data": {"dataset": str(folder / "data")}, "train": {"output": "out", "low_bits": "nf4", "max_steps": 3}}
    (folder / "job.yaml").write_text(json.dumps(tree), encoding="utf-8")


def read_job(folder: Path) -> None:
    settings = read_settings(RunConfig, folder / "job.yaml")
    list(contradictions(settings))
    job = job_of(settings, cpu=True)
    to_yaml(job.settings).encode()
    assert job.name and job.home.is_absolute()


# -------------------------------------------------------------------------------------------------------------- sweeps


def build_run(folder: Path) -> None:
    """A run of three checkpoints, and images of an interrupted sweep of it."""
    key = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_{}.weight"
    for step in (3, 6, 9):
        place = folder / f"checkpoints/step_{step:07d}"
        place.mkdir(parents=True)
        record = {"format": "loraloom.adapter.1", "rank": 2, "alpha": 4.0, "size": "64x64", "step": step}
        tensors = {key.format("A"): torch.ones(2, 32) * step, key.format("B"): torch.ones(32, 2)}
        save_file(tensors, place / "adapter.safetensors", {"loraloom": json.dumps(record)})
        (place / "manifest.json").write_text(json.dumps({"step": step, "sha256": {}}), encoding="utf-8")
    (folder / "run.yaml").write_text("train:\n  seed: 3\n", encoding="utf-8")
    (folder / "events.jsonl").write_text(
        json.dumps({"time": 1.5, "kind": "step", "step": 3, "steps_per_second": 2.0}) + "\n", encoding="utf-8"
    )
    (folder / "images").mkdir()
    Image.new("RGB", (16, 16)).save(folder / "images/0.png")
    (folder / "images/prompts.jsonl").write_text(json.dumps(RECIPE) + "\n", encoding="utf-8")


def read_run(folder: Path) -> None:
    losses = Losses(short, strict=False)
    candidates = find_checkpoints(folder, SweepConfig(), losses)
    assert candidates
    lengths = read_lengths("0.1,0.2", len(candidates))
    make_averages(candidates, lengths, folder / "averages", losses)
    for place in known_images(folder / "images").values():
        assert place.is_relative_to(folder)


def read_events(folder: Path) -> None:
    """`inspect --run` reads the speed; a run that is resumed takes later lines back."""
    found = with_speed_of(folder, InspectConfig())
    assert found.step_seconds and found.step_seconds > 0


def resume_events(folder: Path) -> None:
    JsonLines(folder / "events.jsonl", 5)
    for line in (folder / "events.jsonl").read_text(encoding="utf-8").splitlines():
        assert json.loads(line)["step"] <= 5


# -------------------------------------------------------------------------------------------------------- style recipe

STYLES = """[prepare]
style = ["ink=raw/ink:inkstyle", "oil=samples:oil:oilstyle"]
size = 64
[run.lora]
rank = 4
[compare]
prompts = ["a house"]
blend = [0.6, 0.4]
"""


def build_styles(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "styles.toml").write_text(STYLES, encoding="utf-8")


def read_styles_toml(folder: Path) -> None:
    to_yaml(read_styles(folder / "styles.toml", "mini")).encode()


def build_styles_yaml(folder: Path) -> None:
    folder.mkdir(parents=True)
    tree = {
        "prepare": {"style": ["ink=raw/ink:inkstyle"], "size": 64, "domain": "freetext"},
        "samples": {"count": 8, "seed": 1},
        "run": {"lora": {"rank": 4}, "train": {"low_bits": "fp8"}},
        "compare": {"prompts": ["a"], "blend": [0.6, 0.4], "metrics": ["texture"], "guidance_scale": 3.0},
        "evaluate": {"metrics": ["texture"]},
    }
    (folder / "styles.yaml").write_text(json.dumps(tree), encoding="utf-8")


def read_styles_yaml(folder: Path) -> None:
    to_yaml(read_styles(folder / "styles.yaml", "mini")).encode()


def build_parts(folder: Path) -> None:
    folder.mkdir(parents=True)
    part = {"status": "done", "key": "0", "seconds": 1.5, "reason": "", "made": {"a": 1}}
    (folder / "parts.json").write_text(json.dumps({"train ink": part}), encoding="utf-8")


def read_parts(folder: Path) -> None:
    for part in Parts(folder, short).known.values():
        json.dumps([part.key, part.seconds, part.reason, part.made], allow_nan=False).encode()


# -------------------------------------------------------------------------------------------- prompts and wildcards


def build_prompts(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "prompts.txt").write_text("a cat\n\na (red:1.2) dog __animal__\n", encoding="utf-8")
    (folder / "animal.txt").write_text("a cat\na {big|small} dog\n", encoding="utf-8")


def read_prompt_file(folder: Path) -> None:
    for prompt in read_prompts(folder / "prompts.txt"):
        assert prompt.strip()
        prompt.encode()


def read_wildcards(folder: Path) -> None:
    edits = Edits.from_config(read_settings(CaptionConfig, values={"wildcards": str(folder)}))
    for text in edits.all_of(["a photo of __animal__"], "a", 3):
        text.encode()


def build_scenes(folder: Path) -> None:
    plugins.load("domains", "scenes").dataset_generator.write_dataset(folder, 1, seed=3, style="flat", progress=None)


def read_scenes(folder: Path) -> None:
    build_scenes(folder)


def build_palette(folder: Path) -> None:
    folder.mkdir(parents=True)
    palette = {"external": "#000000", "wall": "#5f5f5f", "bedroom": ["#ffd274", "#fde68a"]}
    (folder / "palette.json").write_text(json.dumps(palette), encoding="utf-8")


def read_palette(folder: Path) -> None:
    load_palette(folder / "palette.json")


# --------------------------------------------------------------------------------------- what other programs wrote

A1111 = (
    "a harbour, <lora:ink:0.8>\nNegative prompt: blur\nSteps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, "
    'Seed: 5, Size: 64x64, Model: "some, model", Clip skip: 2, Lora hashes: "ink: 0123", Version: v1'
)
COMFY: Mapping[str, Any] = {
    "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "m.safetensors"}},
    "2": {"class_type": "LoraLoader", "inputs": {"lora_name": "a\\ink.safetensors", "strength_model": 0.8, "model": ["1", 0]}},
    "3": {"class_type": "CLIPTextEncode", "inputs": {"text": "a harbour", "clip": ["2", 1]}},
    "4": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64}},
    "5": {"class_type": "KSampler", "inputs": {
        "seed": 5, "steps": 20, "cfg": 7.0, "sampler_name": "euler", "scheduler": "karras", "positive": ["3", 0],
        "negative": ["3", 0], "latent_image": ["4", 0], "model": ["2", 0]}},
}  # fmt: skip
LONG = 1_000_000 - 100
"""Nearly the longest text chunk that Pillow reads."""


def odd_parameters() -> Mapping[str, str]:
    """Texts of AUTOMATIC1111 by what is odd about them."""
    names = ("Steps: 20", "CFG scale: 7", "Seed: 5", "Size: 64x64", "Sampler: DPM++ 2M")
    texts = {"good": A1111}
    for name in names:
        key = name.split(":")[0]
        for value in ("-1", "0", "nan", "1e400", "9" * 5000, "", "x", '"', "\U0001f600", "٣", "1x", "999999x999999"):
            texts[f"{key} is {value[:9]!r} of {len(value)}"] = A1111.replace(name, f"{key}: {value}")
    return texts | {
        "no prompt": A1111[A1111.index("Steps") :],
        "a quote that never ends": A1111 + ', X: "' + "a" * 10_000,
        "a text of backslashes": A1111 + ', X: "' + "\\" * 99_999,
        "a megabyte of one word": f"Steps: 1, {'a' * LONG}",
        "a megabyte of words": f"Steps: 1, {'a ' * (LONG // 2)}",
        "a megabyte of blanks": f"Steps: 1, {' ' * LONG}",
        "a megabyte of line ends": "\n" * LONG + "Steps: 1, Seed: 2",
        "line ends after it": "Steps: 1, Seed: 2" + "\n" * LONG,
        "a megabyte of quotes": "Steps: 1, " + '"' * LONG,
        "a megabyte of commas": "Steps: 1" + "," * LONG,
        "a megabyte of colons": "Steps: 1," + "a:" * (LONG // 2),
        "50,000 beginnings": "Steps: 1,\n" * 50_000,
        "50,000 negatives": "Negative prompt: x\n" * 50_000 + "Steps: 1, Seed: 2",
        "50,000 LoRAs": "<lora:a:1>" * 50_000 + "\nSteps: 1, Seed: 2",
        "a sampler of a megabyte": f"a\nSteps: 1, Sampler: {'b' * LONG}, Seed: 2",
        "a clip skip of a megabyte": f"a\nSteps: 1, Clip skip: {'-' * LONG}, Seed: 2",
        "escape codes": A1111.replace("harbour", "\x1b[2J\x07").replace("DPM++ 2M", "\x1b[2J"),
    }


def odd_graphs() -> Mapping[str, str]:
    """Graphs of ComfyUI by what is odd about them."""

    def changed(node: str, key: str, value: Any) -> str:
        graph = json.loads(json.dumps(COMFY))
        graph[node]["inputs"][key] = value
        return json.dumps(graph)

    chain = {**COMFY, **{str(n): {"inputs": {"x": [str(n + 1), 0]}} for n in range(10, 9000)}}
    fan = json.loads(json.dumps(COMFY))
    fan["3"]["inputs"] = {str(number): ["3", number] for number in range(50_000)}
    values: list[Any] = [
        None,
        True,
        -1,
        10**30,
        1e308,
        "x",
        "9" * 5000,
        [],
        [["5", 0]],
        ["5", 0],
        ["3"],
        {},
        [None],
        "\U0001f600",
    ]
    texts = {"good": json.dumps(COMFY), "a chain": json.dumps(chain), "a node of links to itself": json.dumps(fan)}
    for node, key in (
        ("5", "seed"), ("5", "steps"), ("5", "cfg"), ("5", "positive"), ("5", "latent_image"), ("5", "sampler_name"),
        ("4", "width"), ("3", "text"), ("2", "lora_name"), ("2", "strength_model"), ("1", "ckpt_name"),
    ):  # fmt: skip
        for number, value in enumerate(values):
            texts[f"{key} is value {number}"] = changed(node, key, value)
    return texts | {
        "deep": '{"a":' * 50_000,
        "nodes that are lists": json.dumps({str(n): [] for n in range(100)}),
        "no node": "{}",
        "a sampler of a megabyte": changed("5", "sampler_name", "b" * (LONG // 2)),
        "a text of a megabyte": changed("3", "text", "b" * (LONG // 2)),
        "half a surrogate pair": json.dumps(COMFY).replace("a harbour", "\\ud800"),
        "digits": json.dumps(COMFY).replace("0.8", "9" * 5000),
        "9,000 LoRAs": json.dumps({**COMFY, **{f"l{n}": COMFY["2"] for n in range(9000)}}),
    }


def write_png(chunks: Mapping[str, str], folder: Path) -> None:
    """A PNG with text chunks."""
    folder.mkdir(parents=True, exist_ok=True)
    info = PngInfo()
    for key, text in chunks.items():
        info.add_itxt(key, text)
    Image.new("RGB", (32, 32)).save(folder / "0.png", pnginfo=info)


def read_png(folder: Path) -> None:
    """As `generate --from` reads it."""
    requests, shared = recipe_requests(folder / "0.png", short)
    json.dumps(shared, allow_nan=False)
    for request in requests:
        assert min(request.width, request.height) >= 1 and max(request.width, request.height) <= 1 << 14
        assert request.num_steps >= 1
        (request.prompt + request.negative_prompt + request.sampler).encode()


def odd_numbers() -> Mapping[str, Callable[[Path], object]]:
    """Texts of settings that hold several numbers, made up from their own letters."""
    rng = random.Random(7)

    def made(letters: Sequence[str], length: int) -> str:
        return "".join(rng.choice(letters) for _ in range(length))

    parts = ["0.4", "-", ":", ",", "1e3", "nan", "inf", " ", "0", "9" * 400, "+", "auto", "newest:", "all", "²"]
    texts = [made(parts, length) for length in (0, 1, 2, 3, 5, 9, 400) for _ in range(12)]
    return {
        f"{name} {number}": (lambda folder, read=read, text=text: read(text))
        for name, read in (("scales", read_scales), ("lengths", lambda text: read_lengths(text, 5)))
        for number, text in enumerate(texts)
    }


def record_artefacts() -> list[Artefact]:
    """All of this module that is one good file."""
    worker = [
        (0, key)
        for key in (
            "IPAddress",
            "ComputerName",
            "GPUCount",
            "Processes",
            "Transport",
            "System",
            "User",
            "Port",
            "KeyFile",
            "KnownHosts",
            "Root",
            "Python",
            "Dataset",
        )
    ]
    job = [
        ("data", "dataset"),
        ("train", "output"),
        ("train", "low_bits"),
        ("train", "max_steps"),
        ("data",),
        ("train",),
    ]
    styles = [
        ("prepare", "style"),
        ("prepare", "style", 0),
        ("prepare", "domain"),
        ("samples", "count"),
        ("run", "lora", "rank"),
        ("run", "train", "low_bits"),
        ("compare", "prompts", 0),
        ("compare", "blend"),
        ("compare", "blend", 0),
        ("compare", "metrics", 0),
        ("compare", "guidance_scale"),
        ("evaluate", "metrics"),
        ("evaluate",),
    ]
    part = [("train ink", key) for key in ("status", "key", "seconds", "reason", "made")]
    step = "checkpoints/step_0000006"
    rows = [(name,) for name in RECIPE]
    events = [("step",), ("kind",), ("steps_per_second",), ("time",)]
    return [
        *settings_artefacts(),
        Artefact("workers.json", build_workers, "workers.json", read_workers, worker),
        Artefact("job", build_job, "job.yaml", read_job, job),
        Artefact("run of a sweep: weights", build_run, f"{step}/adapter.safetensors", read_run),
        Artefact("run of a sweep: sums", build_run, f"{step}/manifest.json", read_run, [("step",), ("sha256",)]),
        Artefact("run of a sweep: images", build_run, "images/prompts.jsonl", read_run, rows),
        Artefact("events, for a speed", build_run, "events.jsonl", read_events, events),
        Artefact("run.yaml, for a speed", build_run, "run.yaml", read_events),
        Artefact("events of a resumed run", build_run, "events.jsonl", resume_events, events),
        Artefact("style recipe TOML", build_styles, "styles.toml", read_styles_toml),
        Artefact("style recipe YAML", build_styles_yaml, "styles.yaml", read_styles_yaml, styles),
        Artefact("parts of a recipe", build_parts, "parts.json", read_parts, part),
        Artefact("prompts", build_prompts, "prompts.txt", read_prompt_file),
        Artefact("wildcards", build_prompts, "animal.txt", read_wildcards),
        Artefact("scenes", build_scenes, "scenes.json", read_scenes, [("seed",), ("style",), ("count",), ("drawing",)]),
        Artefact("palette", build_palette, "palette.json", read_palette, [("external",), ("bedroom",), ("bedroom", 0)]),
    ]
