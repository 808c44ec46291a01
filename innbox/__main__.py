"""`python -m innbox`: the same as `innbox`."""

from innbox import main

main()
