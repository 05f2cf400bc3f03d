"""Speed and memory, measured through the product's own engine."""

from warpcortex_cli.process import prepare

prepare()  # for `python -m warpcortex_cli.bench...`, which would load torch before any other line of ours
