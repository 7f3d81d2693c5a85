"""A dataset to batches: manifest, bucket sampler, latents, prompt embeddings, cache, loss weights."""
