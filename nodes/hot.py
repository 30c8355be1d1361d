"""What was read lately, whole and verified, in memory: for such a file neither index nor volume is looked at.

Only the newest durable record of a key is kept, and only of files that neither expire nor have flags: whoever changes
what is newest, or finds it damaged, has it forgotten (`nodes.overlay`). A value comes in when it is read, never when it
is written. While there is room each does; after that only one that was read before not long ago, so that reading all
files once (a backup, a comparison, the filling of a new node) drives nothing out.

Room is made by a clock: a hand goes round the places, and what nobody has read since it last came by has to go. It
takes `_STEPS_MAX` steps at most for one value, so nobody waits for it. Places are columns of plain bytes and numbers,
made once: a node has the garbage collector leave alone what is there when it begins to serve, and to look through
280,000 places would take it 29 ms. None is empty: the last one moves to where one goes, so that many tiny values leave
nothing behind when they give way to few large ones.
"""

from __future__ import annotations

from typing import Final

from sfss.record import Record

VALUE_BYTES_MAX: Final = 32 * 1024
"""Of larger ones a copy out of the page cache is most of the work, and few fill the room of many."""

PLACE_BYTES: Final = 448
"""What a place takes besides its key and its value: measured, at the emptiest that the table behind it gets."""

_STEPS_MAX: Final = 64

_MARKS: Final = 1 << 16
"""Reads that are remembered of what wasn't kept."""


class HotRecords:
    """Keeps records by index key, in `bytes_max` bytes; 0 keeps none. For the loop's thread."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes = 0
        self.hits = 0
        self._bytes_max = bytes_max
        self._places: dict[bytes, int] = {}
        self._keys: list[bytes] = []
        self._values: list[bytes] = []
        self._versions: list[int] = []
        self._checksums: list[int] = []
        self._read_since: list[bool] = []
        """Whether it was read since the hand came by."""
        self._hand = 0
        # A list, of which the compiler takes an item in a tenth of the time.
        self._marks: list[int] = [0] * (_MARKS if bytes_max else 0)

    def __len__(self) -> int:
        return len(self._places)

    def get(self, key: bytes) -> Record | None:
        """The newest durable record of a file, if it is kept."""
        place = self._places.get(key) if self._places else None
        if place is None:
            return None
        self.hits += 1
        self._read_since[place] = True
        value = self._values[place]
        return Record(value, len(value), 0, 0, self._versions[place], self._checksums[place], False)

    def wants(self, key: bytes, size: int) -> bool:
        """Whether to `keep` a value of `size` bytes that was just read."""
        if size > VALUE_BYTES_MAX or not self._bytes_max:
            return False
        if self.bytes + _bytes_of(key, size) <= self._bytes_max:
            return True
        # An index key begins with a hash: two bytes say where its third is noted.
        at, mark = key[0] << 8 | key[1], key[2]
        if self._marks[at] == mark:
            return True
        self._marks[at] = mark
        return False

    def keep(self, key: bytes, value: bytes, version: int, checksum: int) -> None:
        """Keep the newest durable record of a file, if it isn't yet and room can be made for it; it has neither flags
        nor expiry."""
        if key in self._places:
            return
        size = _bytes_of(key, len(value))
        steps = 0
        while self.bytes + size > self._bytes_max:
            if steps == _STEPS_MAX or not self._keys:
                return
            steps += 1
            self._step()
        self.bytes += size
        self._places[key] = len(self._keys)
        self._keys.append(key)
        self._values.append(value)
        self._versions.append(version)
        self._checksums.append(checksum)
        self._read_since.append(False)

    def forget(self, key: bytes) -> None:
        """Its newest record is another one now, or not to be had from memory."""
        place = self._places.get(key) if self._places else None
        if place is not None:
            self._clear(place)

    def forget_all(self) -> None:
        """No record is what it was."""
        self.bytes = self._hand = 0
        self._places.clear()
        self._keys.clear()
        self._values.clear()
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
        del self._places[key]
        last, value = self._keys.pop(), self._values.pop()
        version, checksum, read_since = self._versions.pop(), self._checksums.pop(), self._read_since.pop()
        if place < len(self._keys):
            self._places[last] = place
            self._keys[place] = last
            self._values[place] = value
            self._versions[place] = version
            self._checksums[place] = checksum
            self._read_since[place] = read_since


def _bytes_of(key: bytes, size: int) -> int:
    return PLACE_BYTES + len(key) + size
