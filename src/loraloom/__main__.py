"""`python -m loraloom` is `loraloom`."""

from loraloom.cli.app import main

if __name__ == "__main__":
    main()
