"""The verb `loraloom plan`."""
