"""`python -m wsistain`."""

from wsistain.cli import main

main()
