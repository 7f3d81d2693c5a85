"""Dtypes by the names that settings, exports and accelerate give them."""

import torch

DTYPES = {"no": torch.float32, "fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""`no` is mixed precision's word for full precision."""
