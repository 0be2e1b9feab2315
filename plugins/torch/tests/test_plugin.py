"""The entry module."""

from __future__ import annotations

import subprocess
import sys

from sia_torch.plugin import sia_engines


def test_the_entry_module_imports_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "peft")
    code = f"import sys, sia_torch.plugin; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_it_offers_the_engine() -> None:
    assert [offer.name for offer in sia_engines()] == ["torch"]
