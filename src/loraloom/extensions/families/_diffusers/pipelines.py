"""A loaded pipeline of diffusers as a model, for adapters: its parts are the pipeline's own modules.

In: a pipeline, and what the family knows of its parts and keys. Out: what reading and loading adapters asks of a model.
"""

from dataclasses import dataclass
from typing import Any, cast

from torch import nn

from loraloom.protocols.model import DiffusionModel, LoraFormat, Part


@dataclass(frozen=True, slots=True)
class _Info:
    family: str
    parts: tuple[Part, ...]

    def part(self, name: str) -> Part:
        return next(part for part in self.parts if part.name == name)


@dataclass(frozen=True, slots=True)
class _Modules:
    pipeline: Any
    lora_format: LoraFormat

    def get(self, part: str) -> nn.Module:
        return getattr(self.pipeline, self.lora_format.component(part))

    def skeleton(self, part: str) -> nn.Module:
        return self.get(part)


@dataclass(frozen=True, slots=True)
class _PipelineModel:
    info: _Info
    lora_format: LoraFormat
    modules: _Modules


def wrap_pipeline(pipeline: Any, family: str, parts: tuple[Part, ...], lora_format: LoraFormat) -> DiffusionModel:
    """The pipeline as a model of a family. Only what adapters need is there: parts, names of keys, and modules."""
    present = tuple(part for part in parts if getattr(pipeline, lora_format.component(part.name), None) is not None)
    modules = _Modules(pipeline, lora_format)
    return cast("DiffusionModel", _PipelineModel(_Info(family, present), lora_format, modules))
