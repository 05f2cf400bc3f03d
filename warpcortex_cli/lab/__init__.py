"""What only developers run: comparisons with other programs and methods, and how pocket is made.

Each module is a command, `python -m warpcortex_cli.lab.NAME`; `python -m warpcortex_cli.results lab.NAME` writes what
it prints into `lab/RESULTS.md`. Nothing of the product imports this room.
"""

from warpcortex_cli.process import prepare

prepare()  # for `python -m warpcortex_cli.lab...`, which loads torch before any other line of ours is run
