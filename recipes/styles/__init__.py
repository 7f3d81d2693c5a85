"""Train several styles, blend them, and show with figures what each learned: `python -m recipes.styles run --out FOLDER`."""
