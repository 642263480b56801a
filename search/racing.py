"""Racing: a candidate is given up as soon as it is so far behind the best that it will hardly catch up.

After Hoeffding races (Maron & Moore 1994: https://proceedings.neurips.cc/paper/1993/hash/02a32ad2669e6fe298e607fe7cc0e1a0-Abstract.html),
with what both say of the same images compared, and a bound for a whole race in place of one for every look.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ..supernet.evaluation import BATCH
from ..supernet.space import Arch
from .problem import Estimate
from .store import EvaluationStore

LEVEL = 0.05  # the chance at most that a candidate is given up that is as good as its rival
GROUP = 8  # candidates that have the same rival, however many processes evaluate them

Right = NDArray[np.bool_]  # of each image, in a random order that is always the same, whether a network is right
Racer = tuple[Arch, Right | None]  # a candidate, and the rival that it races against


def given_up(right: Right, rival: Right, level: float = LEVEL) -> int | None:
    """After how many images, whole batches, a candidate is given up; None where it is not, of (n,) images seen of (N,).

    Two networks that are right equally often differ on D of all images, on one half in favour of each. In random order
    that is a walk of D steps that ends where it began. By the reflection principle it falls c steps behind, anywhere on
    its way, with probability C(D, D/2 + c) / C(D, D/2) < exp(-2 c^2 / (D + 1)) (Feller 1968, chapter III). Who is
    better in the end falls behind less often. D is the upper end of what the images seen tell.
    """
    differ = right != rival[: len(right)]
    if not differ.any():
        return None
    seen = np.arange(1, len(right) + 1)
    behind = np.cumsum(np.where(right, -1, 1) * differ)
    steps = np.cumsum(differ)
    allowance = 2 * (1 - seen / len(rival)) * (np.sqrt(steps) + 1)
    most = (steps + allowance) * len(rival) / seen
    lost = np.flatnonzero(behind >= np.sqrt((most + 1) * math.log(1 / level) / 2))
    batches = -(-int(seen[lost[0]]) // BATCH) * BATCH if len(lost) else len(rival)
    return batches if batches < len(rival) else None


def raced(batches: Iterable[Right], rival: Right | None) -> Right:
    """What a candidate says of the images, `BATCH` at a time, up to where it is given up."""
    seen = np.zeros(0, dtype=np.bool_)
    for batch in batches:
        seen = np.concatenate([seen, batch])
        if rival is not None and given_up(seen, rival) is not None:
            break
    return seen


def outcome(right: Right, rival: Right | None, images: int) -> float | None:
    """What a search is told of a candidate: its accuracy on all images, or an estimate if it is given up before.

    The estimate is the rival's accuracy less the difference on the images seen. None where more must be seen.
    """
    seen = None if rival is None else given_up(right, rival)
    if seen is not None and rival is not None:
        return Estimate(max(0.0, float(rival.mean() - (rival[:seen].mean() - right[:seen].mean()))))
    return float(right.mean()) if len(right) == images else None


class RacedAccuracy:
    """The accuracy of a Problem whose candidates race against the `place`-th best that this search has met so far.

    `evaluate` takes racers, `together` at most, and gives for each what `raced` does, best one by one; with `place`
    None no one is given up. What is told of a candidate is a function of what it and its rival say of all `images`: it
    is the same however much of that the store knows. `reused` and `evaluated` count where the answers came from.
    """

    def __init__(
        self,
        store: EvaluationStore,
        key: str,
        images: int,
        evaluate: Callable[[list[Racer]], Iterable[Right]],
        together: int = 1,
        place: int | None = 1,
    ) -> None:
        self.store, self.key, self.images, self.evaluate = store, key, images, evaluate
        self.together, self.place = together, place
        self.leaders: dict[Arch, Right] = {}  # the `place` best, the best first
        self.reused = self.evaluated = 0

    def __call__(self, batch: Iterable[Sequence[int]]) -> Iterator[float]:
        """Accuracies of a batch in its order, each stored before it is given out."""
        archs = [tuple(int(gene) for gene in arch) for arch in batch]
        for start in range(0, len(archs), GROUP):
            group, rival = archs[start : start + GROUP], self._rival()
            for first in range(0, len(group), self.together):
                yield from self._part(group[first : first + self.together], rival)

    def _rival(self) -> Right | None:
        return list(self.leaders.values())[-1] if self.place and len(self.leaders) == self.place else None

    def _part(self, archs: list[Arch], rival: Right | None) -> list[float]:
        """What is told of candidates that race together: what is new is stored as soon as it arrives."""
        known = {arch: self.store.answers(self.key, arch) for arch in archs}
        missing = [arch for arch, right in known.items() if outcome(right, rival, self.images) is None]
        self.reused += len(archs) - len(missing)
        start = time.perf_counter()
        found = self.evaluate([(arch, rival) for arch in missing]) if missing else ()
        for right, arch in zip(found, missing, strict=True):
            known[arch] = self.store.add_answers(self.key, arch, right, self.images, time.perf_counter() - start)
            self.evaluated += 1
            start = time.perf_counter()
        told = [outcome(known[arch], rival, self.images) for arch in archs]
        self._lead({arch: known[arch] for arch, value in zip(archs, told, strict=True) if type(value) is float})
        return [value for value in told if value is not None]

    def _lead(self, finished: dict[Arch, Right]) -> None:
        """Take those that were seen to the end among the leaders, as far as they are."""
        if self.place:
            ranked = sorted((self.leaders | finished).items(), key=lambda known: -known[1].sum())
            self.leaders = dict(ranked[: self.place])
