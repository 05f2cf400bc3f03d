"""Measuring whether the thoughts help, with the product's own engine."""

from warpcortex_cli.process import prepare

prepare()  # for `python -m warpcortex_cli.eval...`, which would load torch before any other line of ours
