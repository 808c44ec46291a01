"""`python -m ops.cli`: the same as `innbox`, in a checkout."""

from ops.cli import main

main()
