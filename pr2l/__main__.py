"""`python -m pr2l` is the `pr2l` command."""

from pr2l.cli import main

main()
