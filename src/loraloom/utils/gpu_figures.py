"""Utilization, memory and power of an NVIDIA GPU, through nvidia-ml-py where it is installed.

In: the UUID of a GPU. Out: a few numbers, or none with the reason; nothing here raises.
"""

from dataclasses import dataclass, field
from typing import Any

PACKAGE = "nvidia-ml-py"


@dataclass(slots=True)
class GpuFigures:
    """Figures of one GPU.

    Attributes:
        uuid: UUID of the GPU as the driver writes it, `GPU-…`; empty without a GPU.
        problem: Why there are no figures, or empty.
    """

    uuid: str
    problem: str = ""
    _nvml: Any = None
    _handle: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.uuid:
            return
        try:
            import pynvml  # pyright: ignore[reportMissingImports]
        except ImportError:
            self.problem = f"{PACKAGE} is not installed (extra track)"
            return
        try:
            pynvml.nvmlInit()
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(self.uuid)
            self._nvml = pynvml
        except Exception as error:  # its errors have one base class, which stubs do not know
            self.problem = f"the driver does not answer ({error})"

    def read(self) -> dict[str, float]:
        """`gpu_utilization_percent`, `gpu_memory_mib` (of all processes) and `gpu_power_w`, as far as the driver knows them."""
        if self._nvml is None:
            return {}
        nvml, handle = self._nvml, self._handle
        found: dict[str, float] = {}
        for name, ask in {
            "gpu_utilization_percent": lambda: float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu),
            "gpu_memory_mib": lambda: nvml.nvmlDeviceGetMemoryInfo(handle).used / 2**20,
            "gpu_power_w": lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000,
        }.items():
            try:
                found[name] = ask()
            except Exception:  # some cards know no power, some no utilization
                continue
        return found
