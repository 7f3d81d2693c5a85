"""Generate images from prompts, seeds and adapters: one iterable of images for samples, verification and saving."""
