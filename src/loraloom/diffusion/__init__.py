"""Objectives: what noise, which target, which weight. Tensors in, tensors out; no model, no loop."""
