"""loraloom: fine-tune text-to-image diffusion models by LoRA, and verify the images against their prompts.

Nothing is imported here, so that `import loraloom` is fast; every verb imports what it requires when it runs.
"""

__version__ = "0.1.0"
