"""Measuring whether the thoughts help, with the product's own engine."""

from warpcortex_cli.process import prepare

prepare()  # for `python -m warpcortex_cli.eval...`, which loads torch before any other line of ours is run
