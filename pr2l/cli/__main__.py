"""`python -m pr2l.cli` is the `pr2l` command."""

from pr2l.cli import main

main()
