"""`python -m warpcortex_cli` is `warpcortex`."""

from warpcortex_cli.cli.app import main

if __name__ == "__main__":
    main()
