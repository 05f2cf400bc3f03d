"""Tools for developers: comparisons with other programs and methods, and the training of pocket.

Each module is a command, `python -m warpcortex_cli.lab.NAME`; `python -m warpcortex_cli.results lab.NAME` writes what
it prints into `lab/RESULTS.md`. The product imports nothing from here.
"""

from warpcortex_cli.process import prepare

prepare()  # for `python -m warpcortex_cli.lab...`, which would load torch before any other line of ours
