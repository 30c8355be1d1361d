"""N, W and R: which are refused, and what they become over few nodes."""

import pytest

from proxy.quorum import Quorum
from sfss.errors import SetupError


@pytest.mark.parametrize(("nodes", "expected"), [(1, "1/1/1"), (2, "2/2/2"), (3, "3/2/2"), (12, "3/2/2")])
def test_copies_are_capped_by_the_nodes_configured(nodes, expected):
    assert str(Quorum.over(nodes)) == expected


@pytest.mark.parametrize(
    ("n", "w", "r", "message"),
    [
        (3, 1, 3, "W must be over N/2"),
        (4, 2, 3, "W must be over N/2"),
        (5, 3, 2, r"R\+W must be over N"),
        (3, 4, 2, "W=4 is more than N=3"),
        (3, 2, 4, "R=4 is more than N=3"),
        (0, 1, 1, "N=0 is less than 1"),
        (3, 0, 2, "W=0 is less than 1"),
    ],
)
def test_quorums_that_could_miss_each_other_are_refused(n, w, r, message):
    with pytest.raises(SetupError, match=message):
        Quorum.over(12, n, w, r)


def test_r_1_is_relaxed_for_hits_and_still_hears_enough_for_a_miss():
    quorum = Quorum.over(3, 3, 2, 1)

    assert quorum.relaxed
    assert (quorum.answers, quorum.holders, quorum.answers_for_absence) == (1, 1, 2)
    assert not quorum.strict().relaxed


def test_one_node_is_not_relaxed():
    assert not Quorum.over(1).relaxed


@pytest.mark.parametrize(("n", "w", "r"), [(3, 2, 2), (3, 3, 2), (4, 3, 2), (5, 3, 3), (5, 4, 2)])
def test_a_read_hears_every_acknowledged_write_and_knows_of_w_holders(n, w, r):
    quorum = Quorum.over(12, n, w, r)

    assert quorum.answers + w > n
    assert quorum.answers >= quorum.holders == w
