"""`python -m relay.cli`: the same as `innbox-relay`."""

from relay.cli import main

main()
