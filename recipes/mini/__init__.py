"""The built-in base `mini`, and how it is made: a small Stable Diffusion 1 trained from nothing on drawn images."""
