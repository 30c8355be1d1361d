"""What is told to the compiler of a class that is made for every request; it means nothing to modules run interpreted.

`free_list_len=1`: the memory of the one that ended last is kept for the next one. That makes a small object in 155
instructions instead of 390. `acyclic` would save another 40, and is not to be used: such an object has no head for the
garbage collector, and mypyc 2.4 has CPython write there all the same when one is freed within 50 others, as below the
traceback of an error that many have waited for. That spoils the memory before it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mypy_extensions import mypyc_attr as mypyc_attr
else:

    def mypyc_attr(**attributes: Any) -> Any:
        """Leave the class as it is. The compiler goes by the name alone, and needs its package only when it runs."""
        return lambda kind: kind
