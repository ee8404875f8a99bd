"""Who holds which block of the KV cache.

Bookkeeping only; the tensors are the runner's. A token's key and value are stored under a
slot, and a block is a run of slots. What a token is, is said by its key: the token's id, or
for audio a negative number that no other audio of the process ever has.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

BLOCK_TOKENS = 16


@dataclass(frozen=True)
class Prefix:
    """Tokens of a session's earlier turns that are still in the cache."""

    keys: tuple[int, ...]
    blocks: tuple[int, ...]


@dataclass(frozen=True)
class Admission:
    """Blocks for a whole sequence; the first `cached_tokens` of them are computed already."""

    blocks: tuple[int, ...]
    cached_tokens: int


class KvCache:
    """A block is free, or belongs to exactly one sequence or one session's kept prefix.

    Prefixes are kept by owner and found by owner: nobody is ever given another's blocks.
    """

    def __init__(self, blocks: int) -> None:
        self.total = blocks
        self._free = list(range(blocks - 1, -1, -1))
        self._kept: OrderedDict[str, Prefix] = OrderedDict()

    @property
    def free(self) -> int:
        """Blocks that nobody holds."""
        return len(self._free)

    @property
    def kept(self) -> int:
        """Blocks of prefixes that wait for their session's next turn."""
        return sum(len(prefix.blocks) for prefix in self._kept.values())

    def admit(self, owner: str | None, keys: Sequence[int], tokens: int) -> Admission | None:
        """Blocks for a sequence of up to `tokens` tokens that begins with `keys`.

        The owner's prefix is reused as far as it is the same; at least one key is left to
        compute, as its logits are needed. The prefixes of the longest-quiet owners go when
        blocks are short. None when running sequences hold too many.
        """
        prefix = self._kept.pop(owner, None) if owner is not None else None
        cached = 0 if prefix is None else _common(prefix.keys, keys[:-1])
        held = () if prefix is None else prefix.blocks[: blocks_for(cached)]
        if prefix is not None:
            self._give_back(prefix.blocks[len(held) :])
        missing = blocks_for(tokens) - len(held)
        while missing > len(self._free) and self._kept:
            _, quiet = self._kept.popitem(last=False)
            self._give_back(quiet.blocks)
        if missing > len(self._free):
            if owner is not None and cached:
                self._kept[owner] = Prefix(tuple(keys[:cached]), held)
            return None
        taken = tuple(self._free.pop() for _ in range(missing))
        return Admission(held + taken, cached)

    def release(self, owner: str | None, blocks: tuple[int, ...], keys: Sequence[int] = ()) -> None:
        """The sequence is over; an owner's stored `keys` are kept for its next turn."""
        if owner is None or not keys:
            self._give_back(blocks)
            return
        self.forget(owner)
        used = blocks_for(len(keys))
        self._give_back(blocks[used:])
        self._kept[owner] = Prefix(tuple(keys), blocks[:used])

    def forget(self, owner: str) -> None:
        """The owner is gone, or starts anew."""
        prefix = self._kept.pop(owner, None)
        if prefix is not None:
            self._give_back(prefix.blocks)

    def _give_back(self, blocks: tuple[int, ...]) -> None:
        self._free.extend(reversed(blocks))


def blocks_for(tokens: int) -> int:
    """Blocks that hold this many tokens."""
    return -(-tokens // BLOCK_TOKENS)


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    count = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        count += 1
    return count
