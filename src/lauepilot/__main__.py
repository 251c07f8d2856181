"""``python -m lauepilot``: the command line."""

from lauepilot.cli import main

if __name__ == "__main__":
    main()
