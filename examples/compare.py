"""Two systems on the same questions: how far apart, and whether that is chance.

python examples/compare.py OURS THEIRS DATA PROTOCOL        # predictions that timetok score reads
"""

import sys
from dataclasses import dataclass

import numpy as np

from timetok.errors import ArgumentError
from timetok.metrics import Report
from timetok.recipes.evaluate import read_questions, score_file


@dataclass(frozen=True)
class Difference:
    """How much higher one average is than another, its confidence interval, and a two-sided p-value."""

    value: float
    low: float
    high: float
    p_value: float

    def __str__(self) -> str:
        return f"{self.value:+.3f}  ({self.low:+.3f} to {self.high:+.3f}, p = {self.p_value:.4f})"


def compare(
    one: Report, other: Report, *, num_resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> dict[str, Difference]:
    """Averages of one system less those of another on the same questions, by name, with paired tests over videos.

    The interval is a bootstrap's, with the same videos drawn for both; the p-value that of a permutation test, which
    swaps the systems' answers video by video, because questions about one video go together. Where a protocol drops
    answers, those of either side are left out. F1, no average, is not compared. ArgumentError is raised unless both are
    of one protocol and the same questions.
    """
    ours, theirs = ({sample.question_id: sample.measures for sample in report.per_sample} for report in (one, other))
    if one.protocol != other.protocol or ours.keys() != theirs.keys():
        raise ArgumentError("other: expected a report of the same protocol and questions")
    names = [name for name in one.values if all(name in each.per_sample[0].measures for each in (one, other))]
    difference = np.array([[ours[key][name] - theirs[key][name] for name in names] for key in ours])  # [n c]
    places = {vid: k for k, vid in enumerate(sorted({sample.vid for sample in one.per_sample}))}
    totals, counts = np.zeros((2, len(places), difference.shape[1]))
    video = [places[sample.vid] for sample in one.per_sample]
    np.add.at(totals, video, np.nan_to_num(difference))
    np.add.at(counts, video, ~np.isnan(difference))
    if one.protocol.average == "video":
        totals, counts = totals / np.maximum(counts, 1), np.sign(counts)

    def mean(times: np.ndarray) -> np.ndarray:
        found = times @ counts
        return np.divide(times @ totals, found, out=np.full(len(found), np.nan), where=found > 0)

    rng, num = np.random.default_rng(seed), len(totals)
    drawn = np.array([mean(np.bincount(rng.integers(num, size=num), minlength=num)) for _ in range(num_resamples)])
    known, ends = ~np.isnan(drawn).all(0) & (num > 1), np.full((len(names), 2), np.nan)
    if known.any():
        ends[known] = np.nanquantile(drawn[:, known], (0.5 - level / 2, 0.5 + level / 2), axis=0).T
    swapped = [rng.choice((-1.0, 1.0), num) @ totals for _ in range(num_resamples)]
    extreme = np.sum(np.abs(swapped) >= np.abs(totals.sum(0)) * (1 - 1e-9), axis=0)  # whatever the order of a sum
    p_values = ((extreme + 1) / (num_resamples + 1)).tolist()
    values = zip(names, mean(np.ones(num)).tolist(), ends, p_values, strict=True)
    return {name: Difference(value, *map(float, between), p) for name, value, between, p in values}


if __name__ == "__main__":
    if len(sys.argv) == 5:
        ours, theirs, data, protocol = sys.argv[1:]
        questions = read_questions(data, protocol)
        reports = [score_file(each, questions, protocol=protocol) for each in (ours, theirs)]
        print(*(f"{name:<10} {each}" for name, each in compare(*reports).items()), sep="\n")
    else:
        print(__doc__)
