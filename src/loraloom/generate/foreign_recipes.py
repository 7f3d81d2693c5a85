"""What AUTOMATIC1111's web UI (and Forge, SD.Next) or ComfyUI wrote into a PNG: prompt, settings, LoRAs.

In: the texts of a PNG's chunks. Out: a `ForeignRecipe`, whose row has the fields of an `ImageRequest`. Another program makes
another image of the same settings, because its initial noise and samplers differ.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loraloom.config.generate import MAX_ADAPTER_WEIGHT, MAX_GUIDANCE, MAX_SEED, MAX_SIDE_PX, MAX_STEPS
from loraloom.utils.errors import UserError
from loraloom.utils.untrusted import parse_json, shown

_LAST_LINE = re.compile(r"^[ \t]*+Steps: \d{1,9},", re.MULTILINE)
# A name has a limit, and nothing is tried twice: a text of a megabyte would otherwise be searched for hours.
_FACT = re.compile(r'(?<![\w \-/])\s{0,9}+(\w[\w \-/]{0,79}):\s*+("(?:\\.|[^\\"])*+"|[^,]*+)(?:,|$)')
_NEGATIVE = re.compile(r"^Negative prompt:[ \t]?", re.MULTILINE)

_SOLVERS = {
    "ddim": "ddim",
    "dpm++ 2m": "dpmpp_2m_karras",
    "dpm++ 2m karras": "dpmpp_2m_karras",
    "dpmpp_2m": "dpmpp_2m_karras",
    "euler": "euler",
    "euler a": "euler_a",
    "euler_ancestral": "euler_a",
    "unipc": "unipc",
    "uni_pc": "unipc",
    "lcm": "lcm",
}
"""Names of solvers in both programs, small letters, and ours."""
_EVEN = {"normal", "uniform"}
"""Schedules of both programs with evenly spaced timesteps, small letters."""
_OF_THE_SAMPLER = {"automatic", "sgm uniform", "sgm_uniform", "simple"}
"""Those that leave it to the sampler, or differ from even timesteps by the last one."""
_MAX_NODES = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignRecipe:
    """What another program says of its image.

    Attributes:
        program: `AUTOMATIC1111` or `ComfyUI`.
        prompt, negative_prompt: Text; A1111's holds `<lora:name:0.8>` as it was written.
        settings: The fields of `ImageRequest` that it states, within their ranges.
        model: Name of its checkpoint; empty where it does not say.
        loras: Name and scale of each LoRA that ComfyUI loaded.
        notes: Sentences for the user about what is stated and has no equal here.
    """

    program: str
    prompt: str
    negative_prompt: str = ""
    settings: Mapping[str, Any]
    model: str = ""
    loras: Sequence[tuple[str, float]] = ()
    notes: Sequence[str] = ()

    def as_row(self) -> dict[str, Any]:
        """The row of a recipe: an `ImageRequest`'s fields, ours where nothing is stated."""
        defaults = {"seed": 0, "num_steps": 25, "guidance_scale": 7.5, "sampler": "auto", "width": 512, "height": 512}
        tags = "".join(f" <lora:{name}:{scale:g}>" for name, scale in self.loras)
        return {"prompt": self.prompt + tags, "negative_prompt": self.negative_prompt, **defaults, **self.settings}


def foreign_recipe(chunks: Mapping[str, Any], where: str) -> ForeignRecipe | None:
    """The recipe in a PNG's text chunks; None where no program that is known here wrote one.

    Raises:
        UserError: A chunk is there and is not what its program writes.
    """
    text, graph = chunks.get("parameters"), chunks.get("prompt")
    if isinstance(text, str) and _LAST_LINE.search(text):
        return _read_a1111(text)
    if isinstance(graph, str) and graph.lstrip().startswith("{"):
        return _read_comfyui(graph, where)
    return None


def _read_a1111(text: str) -> ForeignRecipe:
    start = [match.start() for match in _LAST_LINE.finditer(text)][-1]
    body, facts_text = text[:start].rstrip("\n"), " ".join(text[start:].split("\n"))
    facts = {key.strip(): _unquoted(value.strip()) for key, value in _FACT.findall(facts_text)}
    prompt, *negative = _NEGATIVE.split(body, maxsplit=1)
    solver = facts.get("Sampler", "")
    schedule = facts.get("Schedule type", "")
    notes: list[str] = []
    settings: dict[str, Any] = {}
    _put(settings, "num_steps", facts.get("Steps"), 1, MAX_STEPS, whole=True)
    _put(settings, "guidance_scale", facts.get("CFG scale"), 1, MAX_GUIDANCE, whole=False)
    _put(settings, "seed", facts.get("Seed"), 0, MAX_SEED, whole=True)
    size = re.fullmatch(r"(\d{1,6})x(\d{1,6})", facts.get("Size", ""))
    if size:
        _put(settings, "width", size[1], 1, MAX_SIDE_PX, whole=True)
        _put(settings, "height", size[2], 1, MAX_SIDE_PX, whole=True)
    _put_solver(settings, notes, solver, schedule)
    unused = [
        key for key in ("Clip skip", "Denoising strength", "Hires upscale", "Variation seed", "VAE") if key in facts
    ]
    notes += [f"its {key} ({_said(facts[key])}) is not used" for key in unused]
    return ForeignRecipe(
        program="AUTOMATIC1111",
        prompt=prompt.strip(),
        negative_prompt=negative[0].strip() if negative else "",
        settings=settings,
        model=facts.get("Model", ""),
        notes=notes,
    )


def _unquoted(value: str) -> str:
    if value.startswith('"'):
        try:
            found = json.loads(value)
        except ValueError:
            return value.strip('"')
        return found if isinstance(found, str) else value
    return value


def _said(value: str) -> str:
    """A value as a sentence has it: itself where it is short and printable."""
    return value if value.isprintable() and len(value) <= 60 else str(shown(value))


def _put(settings: dict[str, Any], name: str, value: object, least: float, most: float, *, whole: bool) -> None:
    """Keep a number that is one and within its range; another is as good as none."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return
    try:
        number = int(value) if whole else float(value)
    except (ValueError, OverflowError):
        return
    if least <= number <= most:
        settings[name] = number


def _put_solver(settings: dict[str, Any], notes: list[str], name: str, schedule: str) -> None:
    if not name:
        return
    found = _SOLVERS.get(name.lower())
    if found is None:
        notes.append(f"its sampler ({_said(name)}) has no equal here: the model's own is used")
        return
    settings["sampler"] = found
    kind = schedule.lower()
    if found != "dpmpp_2m_karras":
        if kind and kind not in _EVEN | _OF_THE_SAMPLER and not kind.startswith(found.partition("_")[0]):
            notes.append(f"its schedule ({_said(schedule)}) has no equal here for {found}: even steps are used")
    elif kind in _EVEN and "karras" not in name.lower():
        settings["sampler"] = "dpmpp_2m"
    elif kind and "karras" not in f"{name} {schedule}".lower():
        notes.append(f"its schedule ({_said(schedule)}) has no equal here: Karras is used")


# --------------------------------------------------------------------------------------------------------- ComfyUI


def _read_comfyui(text: str, where: str) -> ForeignRecipe | None:
    graph = parse_json(text, f"the ComfyUI graph in {where}")
    if not isinstance(graph, dict) or len(graph) > _MAX_NODES:
        raise UserError(
            f"the ComfyUI graph in {where} is not one", got=type(graph).__name__, expected="nodes by number"
        )
    nodes: dict[str, dict[str, Any]] = {
        key: node for key, node in graph.items() if isinstance(node, dict) and isinstance(node.get("inputs"), dict)
    }
    samplers = [node for node in nodes.values() if {"positive", "negative"} <= node["inputs"].keys()]
    samplers = [node for node in samplers if {"seed", "noise_seed"} & node["inputs"].keys()]
    if not samplers:
        return None
    first = samplers[0]["inputs"]
    notes = [f"its graph has {len(samplers)} samplers: the first one is read"] if len(samplers) > 1 else []
    settings: dict[str, Any] = {}
    seed = first.get("seed", first.get("noise_seed"))
    _put(settings, "seed", _value(nodes, seed), 0, MAX_SEED, whole=True)
    _put(settings, "num_steps", _value(nodes, first.get("steps")), 1, MAX_STEPS, whole=True)
    _put(settings, "guidance_scale", _value(nodes, first.get("cfg")), 1, MAX_GUIDANCE, whole=False)
    _put_solver(settings, notes, str(first.get("sampler_name", "")), str(first.get("scheduler", "")))
    latent = _node(nodes, first.get("latent_image"))
    for side in ("width", "height"):
        _put(settings, side, _value(nodes, latent.get(side)), 1, MAX_SIDE_PX, whole=True)
    loras: list[tuple[str, float]] = []
    for node in nodes.values():
        name, strength = node["inputs"].get("lora_name"), node["inputs"].get("strength_model", 1.0)
        if isinstance(name, str) and isinstance(strength, int | float) and abs(strength) <= MAX_ADAPTER_WEIGHT:
            loras.append((re.split(r"[/\\]", name)[-1].removesuffix(".safetensors"), float(strength)))
    names = [node["inputs"].get("ckpt_name") or node["inputs"].get("unet_name") for node in nodes.values()]
    return ForeignRecipe(
        program="ComfyUI",
        prompt=_text(nodes, first["positive"]),
        negative_prompt=_text(nodes, first["negative"]),
        settings=settings,
        model=next((name for name in names if isinstance(name, str)), ""),
        loras=loras,
        notes=notes,
    )


def _node(nodes: Mapping[str, dict[str, Any]], link: object) -> Mapping[str, Any]:
    """The inputs of the node that a link `[number, output]` leads to; nothing where it is no link."""
    if isinstance(link, list) and link and isinstance(link[0], str | int) and str(link[0]) in nodes:
        return nodes[str(link[0])]["inputs"]
    return {}


def _value(nodes: Mapping[str, dict[str, Any]], value: object) -> object:
    """A number, or the one in the node that it comes from."""
    if not isinstance(value, list):
        return value
    inputs = _node(nodes, value)
    return next((inputs[key] for key in ("value", "seed", "noise_seed", "int", "float") if key in inputs), None)


def _text(nodes: Mapping[str, dict[str, Any]], link: object) -> str:
    """The text behind a conditioning: the first node on the way that holds one."""
    seen: set[str] = set()
    waiting = [link]
    while waiting:
        current = waiting.pop(0)
        if not (isinstance(current, list) and current) or str(current[0]) in seen:
            continue
        seen.add(str(current[0]))
        inputs = _node(nodes, current)
        for key in ("text", "text_g", "text_l", "clip_l", "t5xxl", "value", "string"):
            if isinstance(inputs.get(key), str) and inputs[key].strip():
                return inputs[key].strip()
        waiting += [
            value for key, value in inputs.items() if isinstance(value, list) and key not in {"clip", "model", "vae"}
        ]
    return ""
