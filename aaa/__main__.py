"""`python -m aaa` is `aaa`."""

from aaa.cli import main

main()
