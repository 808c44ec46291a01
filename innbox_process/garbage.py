"""Python's search for garbage in cycles: it leaves out what a process has loaded, and runs less often.

By itself it searches after every 700 new objects, and now and then through all modules, which are never
garbage. That was an eighth of the processor time of a busy process.
"""

import gc

# New containers, more than those freed, between two searches: some megabytes at most.
_NEW_MAX = 10_000


def search_less() -> None:
    """Take what is loaded for permanent; call it when the process has started, before its loop."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_NEW_MAX, *gc.get_threshold()[1:])
