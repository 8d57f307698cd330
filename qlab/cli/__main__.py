"""`python -m qlab.cli` is `qlab`."""

from qlab.cli import main

main()
