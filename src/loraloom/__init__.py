"""loraloom: teach a text-to-image diffusion model something new by LoRA, and prove that it learned it.

Nothing is imported here: `import loraloom` costs nothing, and every verb imports what it needs when it runs.
"""

__version__ = "0.1.0"
