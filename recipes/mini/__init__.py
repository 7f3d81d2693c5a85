"""The recipe of the built-in base `mini`: a small Stable Diffusion 1 trained from scratch on synthetic images."""
