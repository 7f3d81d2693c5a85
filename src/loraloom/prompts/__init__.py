"""From a caption to what the denoiser's cross-attention reads: counting, windows, weights, encoding.

The same encoder serves training, samples, generation and the check of exports.
"""
