"""`python -m ops.cli`: the same as `innbox`."""

from ops.cli import main

main()
