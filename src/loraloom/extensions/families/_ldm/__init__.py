"""What families share that denoise latents of an AutoencoderKL by a UNet that reads CLIP (Rombach et al. 2022)."""
