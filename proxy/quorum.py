"""How many replicas keep a key, and how many answers make one: N, W and R, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass

from sfss.errors import SetupError


@dataclass(frozen=True, slots=True)
class Quorum:
    """N copies are kept, W of them must hold a write before it is acknowledged, R must answer a read.

    Any two write quorums must share a replica (2W > N), and any read quorum one with every write quorum (R + W > N).
    R = 1 is let through although it breaks the second rule: then a hit may be old (`relaxed`).
    Why these rules suffice: docs/replication.rst.
    """

    n: int = 3
    w: int = 2
    r: int = 2

    @classmethod
    def over(cls, members: int, n: int = 3, w: int = 2, r: int = 2) -> Quorum:
        """The quorum for so many nodes configured (not alive), where the settings may ask for more copies than there
        are nodes: two nodes make 2/2/2, one makes 1/1/1. Raises `SetupError` for what can't keep its promise."""
        for name, number in (("N", n), ("W", w), ("R", r)):
            if number < 1:
                raise SetupError(f"{name}={number} is less than 1")
        if w > n:
            raise SetupError(f"W={w} is more than N={n}")
        if r > n:
            raise SetupError(f"R={r} is more than N={n}")
        copies = min(n, members)
        quorum = cls(copies, min(w, copies), min(r, copies))
        if 2 * quorum.w <= quorum.n:
            raise SetupError(f"W={quorum.w} of N={quorum.n}: two writes could miss each other; W must be over N/2")
        if quorum.r > 1 and quorum.r + quorum.w <= quorum.n:
            raise SetupError(
                f"R={quorum.r} and W={quorum.w} of N={quorum.n}: a read could miss a write; R+W must be over N (or R=1)"
            )
        return quorum

    @property
    def relaxed(self) -> bool:
        """Whether a hit is believed from one replica, and may be old."""
        return self.r == 1 and self.n > 1

    @property
    def holders(self) -> int:
        """How many replicas must be known to hold what a read returns, so that no later read returns less."""
        return 1 if self.relaxed else self.w

    @property
    def answers(self) -> int:
        """How many replicas a read hears before it decides on a hit."""
        return 1 if self.relaxed else max(self.r, self.w)

    @property
    def answers_for_absence(self) -> int:
        """How many before it decides that there is none: enough to meet every write quorum."""
        return max(self.answers, self.n - self.w + 1)

    def strict(self) -> Quorum:
        """The same copies, read strictly: what writes decide on, also where R = 1."""
        return Quorum(self.n, self.w, self.n - self.w + 1) if self.relaxed else self

    def __str__(self) -> str:
        return f"{self.n}/{self.w}/{self.r}"
