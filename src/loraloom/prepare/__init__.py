"""A raw folder to a dataset: detect the layout, decode, crop, split, write, report."""
