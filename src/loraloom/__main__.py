"""`python -m loraloom` is `loraloom`."""

from loraloom.cli import main

if __name__ == "__main__":
    main()
