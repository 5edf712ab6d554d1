"""How far all containers of a pod were read, in the 255 bytes that a position may have.

A pod's containers are numbered in the order in which they are followed; a lane is what one request gives of a container: its merged
output, or one of its two streams. A container that was read to its end costs a bit, a lane that has given something 10 bytes or little
more. Pure.
"""

import hashlib

from otto_relay.sources.kubernetes_lines import Place, number
from otto_relay.wire import varint

MOST_BYTES = 255
MOST_LANES = 18
"""Lanes that may be read at the same time, so that they fit: 10 bytes each, 13 when stamps are out of order."""
_MERGED, _APART = 1, 2
_HEADER = 6
_UNTIL_NEWER = 1 << 20
"""As many lines behind the newest one as can't be: none with an earlier stamp is taken before one with a later."""
_WRONG = "these bytes are no position in a pod's log"


def mark_of(uid: str) -> bytes:
    """What tells a pod from another of the same name."""
    return hashlib.sha256(uid.encode()).digest()[:4]


def lane(container: int, *, stderr: bool) -> int:
    """The number of a lane; that of merged output is that of stdout."""
    return container * 2 + stderr


class Position:
    """Of one pod."""

    def __init__(self, mark: bytes, *, apart: bool) -> None:
        """`mark` is `mark_of` the pod's uid; `apart`: its containers have a lane for each stream."""
        self.mark = mark
        self.apart = apart
        self.ended: set[int] = set()
        """Containers that were read to their ends."""
        self._places: dict[int, bytes] = {}

    @classmethod
    def decoded(cls, data: bytes) -> "Position":
        """Raises ValueError when it is none."""
        try:
            return cls._decoded(data)
        except IndexError:
            raise ValueError(_WRONG) from None

    @classmethod
    def _decoded(cls, data: bytes) -> "Position":
        kind, size = data[0], data[5]
        at = _HEADER + size
        if kind not in {_MERGED, _APART} or at > len(data):
            raise ValueError(_WRONG)
        position = cls(data[1:5], apart=kind == _APART)
        bits = int.from_bytes(data[_HEADER:at], "little")
        position.ended = {container for container in range(size * 8) if bits >> container & 1}
        while at < len(data):
            lane_number, start = number(data, at)
            _, at = Place.decoded(data, start)
            if at > len(data):
                raise ValueError(_WRONG)
            position._places[lane_number] = data[start:at]
        return position

    def place(self, lane_number: int) -> Place:
        """How far a lane was read."""
        encoded = self._places.get(lane_number)
        return Place.decoded(encoded, 0)[0] if encoded else Place()

    def end(self, container: int) -> None:
        """A container was read to its end."""
        self.ended.add(container)
        for stderr in (False, True):
            self._places.pop(lane(container, stderr=stderr), None)

    def moved(self, lane_number: int, place: bytes) -> bytes:
        """A lane was read up to `place`: the position then.

        Where that does not fit, the least needed is left out: what other lanes remember for the case that their clock was set back.
        """
        self._places[lane_number] = place
        encoded = self.encoded()
        if len(encoded) > MOST_BYTES:
            for other in self._places:
                plain = Place(newest=self.place(other).newest, same=self.place(other).same, used=self.place(other).used)
                if other != lane_number and plain.newest >= 0:
                    self._places[other] = plain.encoded()
            encoded = self.encoded()
        return encoded

    def merged(self) -> "tuple[Position, frozenset[int]]":
        """The same without telling streams apart, and the containers of which that is not exact.

        Those are the ones that have given lines and not ended: nobody can know which of their lines between the newest of one stream and
        the newest of the other were had. Those count as had, so that none comes twice.
        """
        position = Position(self.mark, apart=False)
        position.ended = set(self.ended)
        unsure = frozenset(number_of_lane // 2 for number_of_lane in self._places)
        for container in unsure:
            lanes = [self._places.get(lane(container, stderr=stderr)) for stderr in (False, True)]
            if not all(lanes):
                position._places[lane(container, stderr=False)] = next(place for place in lanes if place)
                continue
            out, err = (self.place(lane(container, stderr=stderr)) for stderr in (False, True))
            newest = max(out.newest, err.newest)
            same = sum(place.same for place in (out, err) if place.newest == newest)
            late = Place(newest, same, after=_UNTIL_NEWER, earliest=max(out.earliest, err.earliest))
            position._places[lane(container, stderr=False)] = late.encoded()
        return position, unsure

    def encoded(self) -> bytes:
        """All of it."""
        size = max(self.ended, default=-1) // 8 + 1
        bits = sum(1 << container for container in self.ended).to_bytes(size, "little")
        header = bytes((_APART if self.apart else _MERGED,)) + self.mark + bytes((size,)) + bits
        return header + b"".join([varint(number_of_lane) + place for number_of_lane, place in self._places.items()])
