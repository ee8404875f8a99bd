"""Keeps the books of the KV cache: which sequence or which session holds which block.

The tensors belong to the runner. The cache stores the key and value vectors of a token in a
slot; a block is 16 neighbouring slots. A token's identity, its "key" in this module, is its id,
or for audio a negative number that no other audio of the process ever has.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

BLOCK_TOKENS = 16


@dataclass(frozen=True)
class Prefix:
    """The tokens of a session's earlier turns that are still in the cache, and their blocks."""

    keys: tuple[int, ...]
    blocks: tuple[int, ...]


@dataclass(frozen=True)
class Admission:
    """Blocks for a whole sequence; they hold its first `cached_tokens` tokens already."""

    blocks: tuple[int, ...]
    cached_tokens: int


class KvCache:
    """A block is free, or belongs to exactly one sequence or to one session's kept prefix.

    Prefixes are kept and found by owner, so no session ever gets what another one has computed.
    """

    def __init__(self, blocks: int) -> None:
        self.total = blocks
        # A stack: the block that was given back last is the next one to be used.
        self._free = list(range(blocks - 1, -1, -1))
        # By owner, the one that was quiet longest first.
        self._kept: OrderedDict[str, Prefix] = OrderedDict()

    @property
    def free(self) -> int:
        """Blocks that are not held."""
        return len(self._free)

    @property
    def kept(self) -> int:
        """Blocks of prefixes that wait for their session's next turn."""
        return sum(len(prefix.blocks) for prefix in self._kept.values())

    @property
    def available(self) -> int:
        """Blocks that `admit` can give to a sequence: those that no sequence holds."""
        return self.free + self.kept

    def admit(self, owner: str | None, keys: Sequence[int], tokens: int) -> Admission | None:
        """Give blocks to a sequence of up to `tokens` tokens that begins with `keys`.

        The owner's prefix is reused as far as its keys are the same. At least one key is left
        to compute, as its logits are needed. Where blocks are short, the owners that were quiet
        longest lose their prefixes. Returns None where running sequences hold too many blocks.
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
        """Take a sequence's blocks back; those of the first `keys` stay with its owner."""
        if owner is None or not keys:
            self._give_back(blocks)
            return
        self.forget(owner)
        used = blocks_for(len(keys))
        self._give_back(blocks[used:])
        self._kept[owner] = Prefix(tuple(keys), blocks[:used])

    def forget(self, owner: str) -> None:
        """Drop the prefix of an owner that is gone or starts again."""
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
