"""Puts two packages that lie side by side at the root of the repository into the wheel.

An editable installation has the root on its path (`dev-mode-dirs`), so nothing may be copied into it:
Python would find the copies first.
"""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGES = ("innbox_process", "relay")


class TwoPackages(BuildHookInterface[Any]):
    """See the module."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version != "editable":
            build_data["force_include"] |= {f"../../{name}": name for name in PACKAGES}
