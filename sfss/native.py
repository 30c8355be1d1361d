"""What is told to the compiler of a class that is made for every request; it means nothing to modules run interpreted.

`acyclic`: no instance is ever part of a cycle, so the garbage collector needn't know of it. `free_list_len=1`: the
memory of the one that ended last is kept for the next one. Together that makes a small object in 30 instructions
instead of 300.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mypy_extensions import mypyc_attr as mypyc_attr
else:

    def mypyc_attr(**attributes: Any) -> Any:
        """Leave the class as it is. The compiler goes by the name alone, and needs its package only when it runs."""
        return lambda kind: kind
