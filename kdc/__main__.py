"""`python -m kdc` is `kdc`."""

from kdc.cli import main

main()
