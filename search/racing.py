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
Racer = tuple[Arch, Right, Right | None]  # a candidate, what is known of it already, the rival that it races against

NOTHING: Right = np.zeros(0, dtype=np.bool_)


def given_up(right: Right, rival: Right, level: float = LEVEL) -> int | None:
    """After how many images, whole batches, a candidate is given up; None where it is not, of (n,) images seen of (N,).

    Two networks that are right equally often differ on D of all images, on one half in favour of each. In random order
    that is a walk of D steps that ends where it began. By the reflection principle it falls c steps behind, anywhere on
    its way, with probability C(D, D/2 + c) / C(D, D/2) < exp(-2 c^2 / (D + 1)) (Feller 1968, chapter III). Who is
    better in the end falls behind less often. D is the upper end of what the images seen tell.
    """
    seen = np.arange(BATCH, min(len(right) + 1, len(rival)), BATCH)  # ends of batches, but not of all
    against = rival[: len(right)]
    behind = np.cumsum(against.astype(int) - right)[seen - 1]
    steps = np.cumsum(right != against)[seen - 1]
    allowance = 2 * (1 - seen / len(rival)) * (np.sqrt(steps) + 1)
    most = (steps + allowance) * len(rival) / seen
    lost = np.flatnonzero(behind >= np.sqrt((most + 1) * math.log(1 / level) / 2))
    return int(seen[lost[0]]) if len(lost) else None


def raced(look: Callable[[int], Iterable[Right]], rival: Right | None, known: Right = NOTHING) -> Right:
    """What a candidate says of the images, up to where it is given up.

    `look` takes the number of the first batch of `BATCH` images to look at, behind those of which it is `known` what
    the candidate says.
    """
    first = len(known) // BATCH
    seen = known[: first * BATCH]
    for batch in look(first):
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
    is the same however much of that the store knows. `new` are those that were evaluated, and not known before.
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
        self.new: set[Arch] = set()

    def __call__(self, batch: Iterable[Sequence[int]]) -> Iterator[float]:
        """Accuracies of a batch in its order, each stored before it is given out."""
        archs = [tuple(int(gene) for gene in arch) for arch in batch]
        size = GROUP if self.place else max(len(archs), 1)
        for start in range(0, len(archs), size):
            group, rival = archs[start : start + size], self._rival()
            for first in range(0, len(group), self.together):
                yield from self._part(group[first : first + self.together], rival)

    def _rival(self) -> Right | None:
        return list(self.leaders.values())[-1] if self.place and len(self.leaders) == self.place else None

    def _part(self, archs: list[Arch], rival: Right | None) -> list[float]:
        """What is told of candidates that race together: what is new is stored as soon as it arrives.

        What another search of the run is at is waited for.
        """
        told = self._known(archs, rival)
        while missing := [arch for arch in dict.fromkeys(archs) if arch not in told]:
            with self.store.claims.taken(self.key, missing) as mine:
                told |= self._known(mine, rival)  # another may have ended in between
                told |= self._evaluated([arch for arch in mine if arch not in told], rival)
            if not mine and not self.store.claims.wait(self.key, missing[0]):
                told |= self._evaluated(missing[:1], rival)
            told |= self._known([arch for arch in missing if arch not in told], rival)
        self._lead({arch: right for arch, (right, value) in told.items() if type(value) is float})
        return [told[arch][1] for arch in archs]

    def _evaluated(self, archs: list[Arch], rival: Right | None) -> dict[Arch, tuple[Right, float]]:
        """What candidates say, and what is told of them, when they have raced."""
        known, told = {arch: self.store.answers(self.key, arch) for arch in archs}, {}
        start = time.perf_counter()
        found = self.evaluate([(arch, known[arch], rival) for arch in archs]) if archs else ()
        for right, arch in zip(found, archs, strict=True):
            seen = self.store.add_answers(self.key, arch, right, self.images, time.perf_counter() - start)
            value = outcome(seen, rival, self.images)  # None where another search stored other answers meanwhile
            seen, value = (right, outcome(right, rival, self.images)) if value is None else (seen, value)
            assert value is not None, "a candidate was left before it was given up"
            told[arch] = seen, value
            self.new.add(arch)
            start = time.perf_counter()
        return told

    def _known(self, archs: Iterable[Arch], rival: Right | None) -> dict[Arch, tuple[Right, float]]:
        """What the store knows of candidates; where no one is given up, an accuracy without answers will do."""
        told = {}
        for arch in archs:
            right = self.store.answers(self.key, arch)
            value = outcome(right, rival, self.images)
            if value is None and self.place is None:
                value = self.store.get(self.key, arch)
            if value is not None:
                told[arch] = right, value
        return told

    def _lead(self, finished: dict[Arch, Right]) -> None:
        """Take those that were seen to the end among the leaders, as far as they are."""
        if self.place:
            ranked = sorted((self.leaders | finished).items(), key=lambda known: -known[1].sum())
            self.leaders = dict(ranked[: self.place])
