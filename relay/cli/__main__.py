"""`python -m relay.cli`, for where the command itself is not on the path."""

from relay.cli import main

main()
