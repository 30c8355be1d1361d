"""What was read lately, in memory: files whole and verified, or their versions alone.

For these neither index nor volume is looked at.

Only the newest durable record of a key is kept, and only of files that neither expire nor have flags: whoever changes
what is newest, or finds it damaged, has it forgotten (`nodes.overlay`). A value comes in when it is read, never when it
is written. Where only the version is asked for, as of a file's second owner, the record comes in without its value,
and takes a tenth of the room. While there is room each does; after that only one that was read before not long ago, so
that reading all files once (a backup, a comparison, the filling of a new node) drives nothing out.

Room is made by a clock: a hand goes round the places, and what nobody has read since it last came by has to go. It
takes `_STEPS_MAX` steps at most for one value, and places are found by several small tables, so nobody waits for
either. Places are columns of plain bytes and numbers, made once: a node has the garbage collector leave alone what is
there when it begins to serve, and to look through 280,000 places would take it 29 ms. None is empty: the last one moves
to where one goes, so that many tiny values leave nothing behind when they give way to few large ones.
"""

from __future__ import annotations

from typing import Final

from nodes.entry import HASH_BYTES
from sfss.memcache.own import words_of
from sfss.record import Record

VALUE_BYTES_MAX: Final = 32 * 1024
"""Of larger ones a copy out of the page cache is most of the work, and few fill the room of many."""

PLACE_BYTES: Final = 456
"""What a place takes besides its key and its value: measured, at the emptiest that the tables behind it get."""

_STEPS_MAX: Final = 64

_TABLES: Final = 16
"""A table that grows is made anew: 13 ms for one of all places, of the smallest files."""

_MARKS: Final = 1 << 16
"""Reads that are remembered of what wasn't kept, in half a MiB."""

# An index key begins with a hash, of which the last bytes are as good as random among the keys of one node.
_LAST: Final = HASH_BYTES - 1


class HotRecords:
    """Keeps records by index key, in `bytes_max` bytes; 0 keeps none. For the loop's thread."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes = 0
        self.hits = 0
        self._bytes_max = bytes_max
        self._tables: list[dict[bytes, int]] = [{} for _ in range(_TABLES)]
        """The place of each key."""
        self._keys: list[bytes] = []
        self._values: list[bytes] = []
        """Empty also where only the version is kept."""
        self._sizes: list[int] = []
        self._words: list[bytes] = []
        """`Record.words`; empty until it is read again."""
        self._versions: list[int] = []
        self._checksums: list[int] = []
        self._read_since: list[bool] = []
        """Whether it was read since the hand came by."""
        self._hand = 0
        # A list, of which the compiler takes an item in a tenth of the time.
        self._marks: list[int] = [0] * (_MARKS if bytes_max else 0)

    def __len__(self) -> int:
        return len(self._keys)

    def get(self, key: bytes) -> Record | None:
        """The newest durable record of a file, if it is kept whole."""
        place = self._tables[key[_LAST] & _TABLES - 1].get(key)
        if place is None:
            return None
        value = self._values[place]
        return self._record(place, value) if len(value) == self._sizes[place] else None

    def head(self, key: bytes) -> Record | None:
        """The same without its value, if that much is kept."""
        place = self._tables[key[_LAST] & _TABLES - 1].get(key)
        return None if place is None else self._record(place, b"")

    def _record(self, place: int, value: bytes) -> Record:
        self.hits += 1
        self._read_since[place] = True
        record = Record(value, self._sizes[place], 0, 0, self._versions[place], self._checksums[place], False)
        words = self._words[place]
        if not words:
            words = self._words[place] = words_of(record)
        record.words = words  # a proxy's read is answered by them: 1,700 instructions less
        return record

    def wants(self, key: bytes, size: int) -> bool:
        """Whether to `keep` a value of `size` bytes that was just read; 0 where only the version was."""
        if size > VALUE_BYTES_MAX or not self._bytes_max:
            return False
        if self.bytes + _bytes_of(key, size) <= self._bytes_max:
            return True
        at, mark = key[_LAST] << 8 | key[_LAST - 1], key[_LAST - 2]
        if self._marks[at] == mark:
            return True
        self._marks[at] = mark
        return False

    def keep(self, key: bytes, value: bytes, version: int, checksum: int) -> None:
        """Keep the newest durable record of a file, if it isn't yet and room can be made for it; it has neither flags
        nor expiry."""
        self._keep(key, value, len(value), version, checksum)

    def keep_head(self, key: bytes, size: int, version: int, checksum: int) -> None:
        """The same without its value, of `size` bytes."""
        self._keep(key, b"", size, version, checksum)

    def _keep(self, key: bytes, value: bytes, size: int, version: int, checksum: int) -> None:
        table = self._tables[key[_LAST] & _TABLES - 1]
        place = table.get(key)
        if place is not None:
            if not value or self._values[place]:
                return
            self._clear(place)
        taken = _bytes_of(key, len(value))
        steps = 0
        while self.bytes + taken > self._bytes_max:
            if steps == _STEPS_MAX or not self._keys:
                return
            steps += 1
            self._step()
        self.bytes += taken
        table[key] = len(self._keys)
        self._keys.append(key)
        self._values.append(value)
        self._sizes.append(size)
        self._words.append(b"")
        self._versions.append(version)
        self._checksums.append(checksum)
        self._read_since.append(False)

    def forget(self, key: bytes) -> None:
        """Its newest record is another one now, or not to be had from memory."""
        place = self._tables[key[_LAST] & _TABLES - 1].get(key)
        if place is not None:
            self._clear(place)

    def forget_all(self) -> None:
        """No record is what it was."""
        self.bytes = self._hand = 0
        for table in self._tables:
            table.clear()
        self._keys.clear()
        self._values.clear()
        self._sizes.clear()
        self._words.clear()
        self._versions.clear()
        self._checksums.clear()
        self._read_since.clear()

    def _step(self) -> None:
        place = self._hand if self._hand < len(self._keys) else 0
        self._hand = place + 1
        if self._read_since[place]:
            self._read_since[place] = False
        else:
            self._clear(place)

    def _clear(self, place: int) -> None:
        key = self._keys[place]
        self.bytes -= _bytes_of(key, len(self._values[place]))
        del self._tables[key[_LAST] & _TABLES - 1][key]
        last, value, size, words = self._keys.pop(), self._values.pop(), self._sizes.pop(), self._words.pop()
        version, checksum, read_since = self._versions.pop(), self._checksums.pop(), self._read_since.pop()
        if place < len(self._keys):
            self._tables[last[_LAST] & _TABLES - 1][last] = place
            self._keys[place] = last
            self._values[place] = value
            self._sizes[place] = size
            self._words[place] = words
            self._versions[place] = version
            self._checksums[place] = checksum
            self._read_since[place] = read_since


def _bytes_of(key: bytes, size: int) -> int:
    return PLACE_BYTES + len(key) + size
