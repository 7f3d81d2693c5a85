"""Code shared by families of rectified flow (Liu et al. 2022) on diffusers: schedule, sampler, parts, names of layers."""
