"""How well a supernet ranks its networks: against networks trained alone, or a table of what these reached."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..errors import DivergedError, InputError
from ..files import check_target, read_json, write_bytes, write_json
from ..latency import LatencyTable, spread
from ..progress import Progress, silent, unheard
from ..report import ranking_chart, save_chart
from ..search import EvaluationStore
from ..search.store import STORE
from ..supernet import Data, Run, SearchSpace, Supernet, TrainSettings, load_run, load_supernet
from ..supernet.checkpoint import weights_fingerprint
from ..supernet.cost import analytic_cost, flops
from ..supernet.evaluation import accuracy, bn_images, calibrated_subnet
from ..supernet.metrics import METRICS
from ..supernet.ranking import Difference, Ranking, difference, ranking
from ..supernet.ranks import ALONE, Ranks
from ..supernet.space import Arch
from .evaluating import Evaluator, train_alone
from .pricing import load_tables
from .runs import as_asked, check_finished, run_data
from .training import supernet_settings

VERSION = 1
TRUTH = ".truth.csv"
BESIDE = (TRUTH, ".png")  # what is written beside a ranking, by its suffix
LEAST = 3  # networks, for a correlation
AGAIN = 1 / 3  # of the networks are trained with a second seed
WRITE = "write rows ARCH,ACCURACY such as 0-2-1,0.913"


@dataclass(frozen=True)
class Truth:
    """What networks reach when each is trained alone: by architecture, and `again` with another seed, of some.

    `lost` are the (architecture, seed) of trainings that ended without a finite figure.
    """

    accuracy: Mapping[Arch, float]
    again: Mapping[Arch, float]
    lost: tuple[tuple[Arch, int], ...] = ()


@dataclass(frozen=True)
class RankReport:
    """How networks are ranked against the truth: by the supernet, and by what it is to be compared with.

    `supernet` is by inherited weights with batch norms re-estimated, `without_bn` with those of the training (what puts
    out no numbers counts as the worst of the others),
    `flops` by size alone, `ceiling` by a second training of each alone (of those that had one; None without).
    `above_flops` and `above_ceiling` are by how much the supernet ranks better than these, over the networks that both
    judge. `cost` says what bands are of: `flops`, or a device. `lost` are the (architecture, seed) of trainings alone
    that ended without a figure. `truth` is the CSV of what networks reach, "" where they were trained. `asked` are
    options as they were given.
    """

    nets: int
    cost: str
    metric: str
    supernet: Ranking
    without_bn: Ranking
    flops: Ranking
    ceiling: Ranking | None
    above_flops: Difference
    above_ceiling: Difference | None
    networks: tuple[dict[str, Any], ...]
    lost: tuple[tuple[Arch, int], ...] = ()
    truth: str = ""
    asked: Mapping[str, str] = field(default_factory=dict)


def rank(
    run: Path,
    nets: int | None = None,
    truth: Path | None = None,
    out: Path | None = None,
    table: Path | None = None,
    again: int | None = None,
    epochs: int | None = None,
    seed: int = 0,
    progress: Progress = silent,
    ranks: Ranks = ALONE,
    note: Callable[[str], None] = unheard,
) -> RankReport:
    """Rank networks of a run's supernet against the `truth`, a CSV, or against `nets` networks trained alone.

    These are spread over the range of multiply-accumulates, and trained as the supernet was (`epochs` apart), `again`
    of them with a second seed too. They lie in the run and are trained once: an interrupted ranking goes on where it
    was. Their accuracy is of test images. `out` gets the report, with its picture and the truth beside it. All `ranks`
    call it alike: each trains and evaluates some of the networks, rank 0 does the rest.
    """
    if (nets is None) == (truth is None):
        raise InputError("give either --nets, to train networks alone, or --truth, a CSV of what they reach")
    if truth is not None and (again is not None or epochs is not None):
        raise InputError("--again and --epochs are for networks that are trained: leave them out with --truth")
    if again is not None and 0 < again < LEAST:
        raise InputError(f"--again {again} tells no ceiling: give at least {LEAST}, or 0 for none")
    if out is not None:
        check_places(out, truth)
    trained, supernet = load_run(run), load_supernet(run)
    if trained.arch is not None:
        raise InputError(f"{run} holds one network and no supernet: there is nothing to rank")
    check_finished(trained, note)
    space, data = supernet.space, run_data(trained, supernet.space)
    tables = load_tables([table] if table else [], space)
    asked = as_asked(run=run, nets=nets, again=again, epochs=epochs, seed=seed or None, table=table)
    if truth is not None:
        known = read_truth(truth, space)
    else:
        archs = spread(space, analytic_cost(space, "flops"), nets or 0, seed)
        twice = round(AGAIN * len(archs)) if again is None else again
        known = trained_alone(trained, space, data, archs, twice, epochs, progress, ranks)
    if len(known.accuracy) < LEAST:
        lost = f", {len(known.lost)} trainings ended without a finite {data.metric}: train with a smaller --lr"
        raise InputError(
            f"{len(known.accuracy)} networks tell no ranking: at least {LEAST} are needed"
            + (lost if known.lost else "")
        )
    evaluator = Evaluator(trained, supernet, data, weights_fingerprint(supernet), ranks)
    supernet.to(ranks.device)
    plain = with_statistics_of_training(supernet, data, list(known.accuracy), progress, ranks)
    if not ranks.first:
        evaluator.serve()
        said: RankReport = ranks.broadcast(None)
        return said
    with evaluator.helped():
        report = ranked(evaluator, known, plain, next(iter(tables.values()), None), progress)
    report = replace(report, truth="" if truth is None else str(truth.resolve()), asked=asked)
    if out is not None:
        save(report, known, out, truth)
    ranks.broadcast(report)
    return report


def read_truth(path: Path, space: SearchSpace) -> Truth:
    """A CSV with the columns `arch` (genes apart by hyphens), `accuracy` and, for some rows, `again`."""
    if not path.is_file():
        raise InputError(f"there is no file {path}: {WRITE}")
    try:
        rows = pd.read_csv(path, dtype={"arch": str})
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not readable as CSV ({error}): {WRITE}") from error
    if missing := {"arch", "accuracy"} - set(rows.columns):
        raise InputError(f"{path} lacks the column {min(missing)}: it needs arch and accuracy")
    accuracy: dict[Arch, float] = {}
    again: dict[Arch, float] = {}
    for line, row in enumerate(rows.to_dict("records"), 2):
        try:
            arch = space.canonical(space.check([int(gene) for gene in str(row["arch"]).split("-")]))
            value, second = float(row["accuracy"]), float(row.get("again", math.nan))
        except ValueError as error:
            raise InputError(f"{path}, line {line}: {error}; {WRITE}") from error
        except InputError as error:
            raise InputError(f"{path}, line {line}: {error}") from error
        if not math.isfinite(value) or arch in accuracy:
            raise InputError(f"{path}, line {line}: {row['arch']} has no accuracy, or comes twice; {WRITE}")
        accuracy[arch] = value
        if math.isfinite(second):
            again[arch] = second
    return Truth(accuracy, again)


def trained_alone(
    origin: Run,
    space: SearchSpace,
    data: Data,
    archs: Sequence[Arch],
    again: int,
    epochs: int | None,
    progress: Progress,
    ranks: Ranks,
) -> Truth:
    """Each network trained from scratch, the first seed for all, then a second for `again` of them, spread evenly.

    Each rank trains some of them, by itself, on its device.
    """
    settings = TrainSettings(**supernet_settings(origin))
    settings = replace(settings, sampling="uniform", largest_first=0.0, epochs=epochs or settings.epochs)
    if ranks.device.type == "cpu" and settings.precision == "fp16":
        settings = replace(settings, precision="fp32")
    rows = np.linspace(0, len(archs) - 1, min(again, len(archs))).round().astype(int).tolist()
    jobs = [(arch, settings.seed) for arch in archs] + [(archs[i], settings.seed + 1) for i in rows]
    reached = torch.zeros(len(jobs), dtype=torch.float64)
    for number in ranks.share(range(len(jobs))):
        arch, seed = jobs[number]

        def part(done: float, total: float, words: str, number: int = number) -> None:
            progress(number + done / total, len(jobs), f"network {number + 1} of {len(jobs)}: {words}")

        own = replace(settings, seed=seed)
        try:
            _, network = train_alone(origin, space, data, arch, own, part, ranks.device)
            reached[number] = test_accuracy(network, data, arch, seed)
        except DivergedError:
            reached[number] = math.nan
    ranks.sum_([reached])
    done = list(zip(jobs, reached.tolist(), strict=True))
    first = {arch: value for (arch, _), value in done[: len(archs)] if math.isfinite(value)}
    second = {arch: value for (arch, _), value in done[len(archs) :] if math.isfinite(value) and arch in first}
    return Truth(first, second, tuple(job for job, value in done if not math.isfinite(value)))


def test_accuracy(network: Supernet, data: Data, arch: Arch, seed: int) -> float:
    """What a network that was trained alone reaches on test images."""
    return accuracy(calibrated_subnet(network, arch, bn_images(data, seed)), data, data.test)


def with_statistics_of_training(
    supernet: Supernet, data: Data, archs: Sequence[Arch], progress: Progress, ranks: Ranks
) -> list[float]:
    """The metric of networks with inherited weights whose batch norms are not re-estimated; each rank takes some."""
    values = torch.zeros(len(archs), dtype=torch.float64)
    for number in ranks.share(range(len(archs))):
        progress(number + 1, len(archs), "accuracy without batch norms of their own")
        values[number] = accuracy(supernet.subnet(archs[number]).eval(), data, data.val)
    ranks.sum_([values])
    return values.tolist()


def ranked(
    evaluator: Evaluator, known: Truth, plain: Sequence[float], table: LatencyTable | None, progress: Progress
) -> RankReport:
    """All rankings of the networks whose truth is known; bands are of latency where there is a table.

    `plain` is what `with_statistics_of_training` found of them.
    """
    space, metric = evaluator.supernet.space, evaluator.data.metric
    archs, better = list(known.accuracy), METRICS[metric].direction
    truth = np.array([known.accuracy[arch] for arch in archs])
    sizes = np.array([flops(space, arch) for arch in archs], dtype=float)
    costs = sizes if table is None else table.predict_many(archs)
    inherited = list[float]()
    with EvaluationStore(evaluator.run.folder / STORE) as store:
        for number, value in enumerate(evaluator.stored(store)(archs), 1):
            progress(number, len(archs), "accuracy with inherited weights")
            inherited.append(value)
    inherited, plain = (finite(values, better) for values in (inherited, plain))
    both = [i for i, arch in enumerate(archs) if arch in known.again]
    second = np.array([known.again[archs[i]] for i in both])
    columns = {"accuracy": truth, "inherited": inherited, "without_bn": plain, "flops": sizes, "cost": costs}
    goal, said = better * truth, better * np.array(inherited)  # the larger the better, as figures must be
    has_ceiling = len(both) >= LEAST
    return RankReport(
        nets=len(archs),
        cost="flops" if table is None else table.name,
        metric=metric,
        supernet=ranking(said, goal, costs),
        without_bn=ranking(better * np.array(plain), goal, costs),
        flops=ranking(sizes, goal, costs),
        ceiling=ranking(better * second, goal[both], costs[both]) if has_ceiling else None,
        above_flops=difference(said, sizes, goal, costs),
        above_ceiling=difference(said[both], better * second, goal[both], costs[both]) if has_ceiling else None,
        networks=tuple(
            {"arch": arch, **dict(zip(columns, map(float, row), strict=True))}
            for arch, row in zip(archs, zip(*columns.values(), strict=True), strict=True)
        ),
        lost=known.lost,
    )


def finite(values: Sequence[float], better: int) -> list[float]:
    """The values, the worst of them (the least where more is `better`) instead of what is no number."""
    known = [value for value in values if math.isfinite(value)]
    worst = (min if better == 1 else max)(known, default=0.0)
    return [value if math.isfinite(value) else worst for value in values]


def check_places(out: Path, truth: Path | None) -> None:
    """InputError where a ranking and what belongs to it can't be written, or a file of the user's would be lost."""
    if out.suffix in BESIDE:
        raise InputError(
            f"{out} is no name for a ranking, which is JSON with files beside it: give one ending in .json"
        )
    check_target(out, "ranking")
    for path in (out.with_suffix(suffix) for suffix in BESIDE):
        check_target(path)
        read = truth is not None and path.resolve() == truth.resolve()
        if path.exists() and not read and (not out.exists() or truth_of(out) == path.resolve()):
            raise InputError(f"{path} is there already, and not of a ranking in {out}: give --out another name")


def truth_of(ranked: Path) -> Path | None:
    """The user's file that a ranking was made from; None where networks were trained for it."""
    read = read_json(ranked, "ranking", VERSION).get("truth")
    return Path(read).resolve() if read else None


def save(report: RankReport, known: Truth, out: Path, read: Path | None) -> None:
    """Write the report as JSON, then its picture and the truth as CSV beside it, unless it was `read` from there."""
    write_json(out, "ranking", VERSION, asdict(report))  # first: what lies beside it is known for its own
    rows = [
        {"arch": "-".join(map(str, arch)), "accuracy": value, "again": known.again.get(arch)}
        for arch, value in known.accuracy.items()
    ]
    if read is None or out.with_suffix(TRUTH).resolve() != read.resolve():
        write_bytes(out.with_suffix(TRUTH), pd.DataFrame(rows).to_csv(index=False).encode())
    points = [(net["inherited"], net["accuracy"], net["cost"]) for net in report.networks]
    chart = ranking_chart(points, report.supernet, report.cost, report.metric, width=420)
    save_chart(chart, out.with_suffix(".png"))
