"""What a node counts over all entries, whatever takes the place of what."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nodes.entry import index_key, pack_entry, unflipped
from nodes.format import Kind, pack_fields, record_bytes
from nodes.overlay import Figures
from sfss.stamps import COUNT_BITS

KEY = index_key(b"k")
records = st.tuples(
    st.integers(1, 2),  # volume
    st.sampled_from([10, 100]),  # value bytes
    st.sampled_from([0, 1]),  # expires, in seconds
    st.sampled_from([500 << COUNT_BITS, 5000 << COUNT_BITS]),  # version
    st.integers(0, 2**64 - 1),  # checksum
    st.sampled_from([Kind.FILE, Kind.TOMBSTONE]),
)


def entry_of(volume: int, value_bytes: int, expires: int, version: int, checksum: int, kind: Kind) -> bytes:
    return pack_entry(KEY, volume, 4096, pack_fields(value_bytes, 0, expires, version, checksum), kind)


def told(figures: Figures) -> tuple[object, ...]:
    return (
        figures.files,
        figures.tombstones,
        {volume: count for volume, count in figures.live.items() if count},
        {place: grown for place, grown in figures.changed.items() if grown},
        figures.files_changed,
        figures.version_max,
        list(figures.tree.digests),
        list(figures.tree.counts),
        figures.tree.changed,
        figures.damaged,
    )


@given(records, records, st.sampled_from([0, 1000 << COUNT_BITS]), st.booleans(), st.integers(-1, 8 * 48 - 1))
def test_an_exchange_counts_like_a_removal_and_an_addition(old, new, bound, damaged, flipped):
    old_entry = entry_of(*old)
    figures = Figures(), Figures()
    for each in figures:
        each.bounds.hide(KEY[0], bound)
        size = record_bytes(1, old[1])
        each.add(KEY, old_entry, old[0], size, old[3], old[4], old[5] == Kind.FILE)
        if damaged:
            each.found_damaged(KEY, old_entry)
    if flipped >= 0:
        bits = int.from_bytes(old_entry, "big") ^ 1 << flipped
        old_entry = bits.to_bytes(len(old_entry), "big")
        assert unflipped(KEY, old_entry) == entry_of(*old)
    volume, value_bytes, _, version, checksum, kind = new
    what = (volume, record_bytes(1, value_bytes), version, checksum)
    exchanged, model = figures

    if kind != Kind.FILE or not exchanged.exchange(KEY, old_entry, *what):
        exchanged.remove(KEY, old_entry)
        exchanged.add(KEY, entry_of(*new), *what, kind == Kind.FILE)
    model.remove(KEY, old_entry)
    model.add(KEY, entry_of(*new), *what, kind == Kind.FILE)

    assert told(exchanged) == told(model)
