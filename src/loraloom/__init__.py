"""loraloom: teach a text-to-image diffusion model something new by LoRA, and prove that it learned it.

Nothing is imported here: `import loraloom` costs nothing, and every verb imports what it needs when it runs.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {"load_adapter": "loraloom.lora.pipelines"}
"""Public names and the modules that hold them, imported when they are asked for."""


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'loraloom' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *_PUBLIC]
