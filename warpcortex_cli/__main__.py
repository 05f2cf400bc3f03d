"""`warpcortex`, which is `python -m warpcortex_cli` too."""

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Imports the command line, which takes a moment in which Ctrl-C may come already, and runs it."""
    try:
        from warpcortex_cli.phases import phase
        from warpcortex_cli.process import importing

        with importing(), phase("the command line"):
            from warpcortex_cli.cli.app import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
