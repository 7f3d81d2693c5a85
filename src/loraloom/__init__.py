"""loraloom: fine-tune text-to-image diffusion models by LoRA, and verify the images against their prompts.

Nothing is imported here, so that `import loraloom` is fast; every verb imports what it requires when it runs.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {"MultiLoRAGenerator": "loraloom.generate.multi_lora", "load_adapter": "loraloom.lora.pipelines"}
"""Public names and the modules that hold them, imported when they are asked for."""


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'loraloom' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *_PUBLIC]
