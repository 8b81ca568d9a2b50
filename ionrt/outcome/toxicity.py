"""Toxicity: exact intervals, worst grade per patient, crude rates, and actuarial late toxicity with death competing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ionrt.outcome.columns import Names, check_level, check_once, event_codes, names_of, number, numbers, require, stratum_codes
from ionrt.outcome.competing import cumulative_incidence
from ionrt.quantities import IonrtError, one_of

INTERVALS = {"clopper-pearson": "beta", "wilson": "wilson"}


def binomial_ci(
    events: int | Sequence[int], n: int | Sequence[int], *, level: float = 0.95, method: str = "clopper-pearson"
) -> pd.DataFrame:
    """Confidence interval of a proportion.

    Parameters
    ----------
    events, n : counts, numbers or sequences of the same length; 0 <= events <= n, n > 0.
    level : confidence level.
    method : "clopper-pearson" (exact) or "wilson" (score, without continuity correction).

    Returns
    -------
    DataFrame, one row per pair: `events`, `n`, `rate`, `lower`, `upper`, all as shares of one.

    Raises
    ------
    IonrtError
        Counts that are no whole numbers with 0 <= events <= n, n > 0; a level out of (0, 1), an unknown method.

    References
    ----------
    Clopper and Pearson 1934, doi:10.1093/biomet/26.4.404; Wilson 1927, doi:10.1080/01621459.1927.10502953.

    Examples
    --------
    No event in 20 patients: a true rate of up to 1 - 0.025^(1/20) = 17 % is not excluded.

    >>> ionrt.outcome.binomial_ci(0, 20)[["rate", "lower", "upper"]].round(3).values.tolist()
    [[0.0, 0.0, 0.168]]
    """
    one_of(method, list(INTERVALS), what="method")
    x, size = np.broadcast_arrays(np.atleast_1d(np.asarray(events, dtype=float)), np.atleast_1d(np.asarray(n, dtype=float)))
    if (size <= 0).any() or (x < 0).any() or (x > size).any() or (x != np.round(x)).any():
        raise IonrtError("expected whole numbers 0 <= events <= n with n > 0")
    from statsmodels.stats.proportion import proportion_confint

    lower, upper = proportion_confint(x, size, alpha=1 - check_level(level), method=INTERVALS[method])
    lower, upper = np.where(x == 0, 0.0, lower), np.where(x == size, 1.0, upper)  # Wilson's ends are there up to rounding
    return pd.DataFrame({"events": x.astype(int), "n": size.astype(int), "rate": x / size, "lower": lower, "upper": upper})


def _one_scale(toxicity: pd.DataFrame) -> None:
    """Refuse to mix grading scales: a grade 2 of one is not a grade 2 of another."""
    require(toxicity, "pid", "grade", "scale")
    grade = number(toxicity, "grade")
    if not np.isin(grade, range(6)).all():
        raise IonrtError(f"column 'grade': expected 0..5, got {sorted(set(grade.tolist()))}")
    scales = sorted(toxicity.scale.astype(str).unique())
    if len(scales) > 1:
        raise IonrtError(f"grading scales {', '.join(scales)} are mixed; analyse them one by one, or convert them openly")


def worst_grade(toxicity: pd.DataFrame, patients: pd.DataFrame, *, by: Names = None) -> pd.DataFrame:
    """Worst grade per patient (and per column of `by`, for instance "term"); 0 for a patient without an entry.

    Parameters
    ----------
    toxicity : the toxicity table: `pid`, `grade` 0..5, `scale`, and the columns of `by`. One scale only.
    patients : table with a column `pid` of all patients who were followed, one row each.
    by : column name or names to keep apart.

    Returns
    -------
    DataFrame, one row per patient and level of `by`: `pid`, those columns, `grade`.

    Raises
    ------
    IonrtError
        Mixed grading scales, grades out of 0..5, a patient twice, toxicity of a stranger.
    """
    require(patients, "pid")
    check_once(patients, "pid", "patients:")
    everyone = patients[["pid"]].reset_index(drop=True)
    columns = names_of(by)
    if len(toxicity) == 0:
        return everyone.assign(grade=0) if not columns else pd.DataFrame(columns=["pid", *columns, "grade"])
    _one_scale(toxicity)
    require(toxicity, columns)
    strangers = ~toxicity.pid.isin(everyone.pid)
    if strangers.any():
        raise IonrtError(f"toxicity: patient {toxicity.pid[strangers].iloc[0]!r} is not among the patients")
    if columns:
        everyone = everyone.merge(toxicity[columns].drop_duplicates(), how="cross")
    worst = toxicity.reset_index(drop=True).assign(grade=number(toxicity, "grade"))
    worst = worst.groupby(["pid", *columns], observed=True, as_index=False).grade.max()
    out = everyone.merge(worst, on=["pid", *columns], how="left")
    return out.assign(grade=out.grade.fillna(0).astype(int))


def crude_rate(
    worst: pd.DataFrame, *, grade: int, by: Names = None, level: float = 0.95, method: str = "clopper-pearson"
) -> pd.DataFrame:
    """Share of patients whose worst grade (`worst_grade`) reaches `grade`, with an exact interval, per stratum of `by`.

    Crude rates ignore how long patients were followed; for late effects use `actuarial_toxicity`.
    """
    _check_grade(grade)
    require(worst, "grade")
    codes, labels = stratum_codes(worst, by)
    reached = (worst.grade >= grade).to_numpy()
    table = binomial_ci(np.bincount(codes, weights=reached), np.bincount(codes), level=level, method=method)  # type: ignore[arg-type]
    table.insert(0, "stratum", labels)
    table.insert(1, "grade", grade)
    return table


def _check_grade(grade: int) -> None:
    if grade not in (1, 2, 3, 4, 5):
        raise IonrtError(f"grade: expected 1, 2, 3, 4 or 5, got {grade}")


def toxicity_times(toxicity: pd.DataFrame, patients: pd.DataFrame, *, grade: int, late_from: float = 90.0) -> pd.DataFrame:
    """Time to the first late toxicity of at least `grade`, with death competing.

    Parameters
    ----------
    toxicity : the toxicity table: `pid`, `grade`, `scale`, `day_from`, `day_to` (missing: still going on). One scale only.
    patients : one row per patient: `pid`, `last_day` (death or last look), `dead` (0 or 1), and anything to stratify by.
    grade : 1..5.
    late_from : day [d] from which toxicity is late; an episode that began before and goes on counts from then. 0 takes all
        toxicity.

    Returns
    -------
    `patients` with two more columns: `time` [d] and `code` (0 censored, 1 toxicity, 2 death without it).

    Raises
    ------
    IonrtError
        A grade other than 1 to 5, mixed grading scales, a patient twice, toxicity of a stranger or after the last follow-up.

    Examples
    --------
    >>> patients = pd.DataFrame({"pid": ["a", "b"], "last_day": [700.0, 400.0], "dead": [0, 1]})  # days, SYNTHETIC
    >>> toxicity = pd.DataFrame({"pid": ["a"], "grade": [3], "scale": ["CTCAE 5.0"], "day_from": [200.0], "day_to": [260.0]})
    >>> ionrt.outcome.toxicity_times(toxicity, patients, grade=2)[["pid", "time", "code"]].values.tolist()
    [['a', 200.0, 1], ['b', 400.0, 2]]
    """
    _check_grade(grade)
    require(patients, "pid", "last_day", "dead")
    check_once(patients, "pid", "patients:")
    last = number(patients, "last_day", minimum=0.0)
    out = patients.assign(time=last, code=np.where(event_codes(patients, "dead", competing=False) > 0, 2, 0))
    if len(toxicity) == 0:
        return out
    _one_scale(toxicity)
    require(toxicity, "day_from")
    if "day_to" not in toxicity.columns:
        raise IonrtError("toxicity: column 'day_to' is missing; leave its cells empty for episodes that go on")
    end = np.nan_to_num(numbers(toxicity.day_to, "column 'day_to'"), nan=np.inf)
    counts = (number(toxicity, "grade") >= grade) & (end >= late_from)
    begin = np.maximum(number(toxicity, "day_from"), late_from)
    onset = pd.Series(begin[counts]).groupby(toxicity.pid.to_numpy()[counts]).min()
    first = out.pid.map(onset).to_numpy(dtype=float)
    had = np.isfinite(first)
    # an old episode still open at death before `late_from` is no late toxicity
    late = had & (first <= last)
    begun_after = had & ~late & (first > late_from)
    if begun_after.any():
        raise IonrtError(f"toxicity after the last follow-up of patient {out.pid[begun_after].iloc[0]!r}; correct the table")
    return out.assign(time=np.where(late, first, last), code=np.where(late, 1, out.code))


def actuarial_toxicity(
    toxicity: pd.DataFrame,
    patients: pd.DataFrame,
    *,
    grade: int,
    at: Sequence[float] = (),
    by: Names = None,
    late_from: float = 90.0,
    level: float = 0.95,
) -> pd.DataFrame:
    """Cumulative incidence of late toxicity with death as competing event (1 - Kaplan-Meier would be too high).

    `at`: times [d] since the patient's day 0. The rows of `cumulative_incidence` for the toxicity, with the grade.
    """
    times = toxicity_times(toxicity, patients, grade=grade, late_from=late_from)
    table = cumulative_incidence(times, "time", "code", by=by, at=at, level=level, causes=(1, 2))
    table = table[table.cause == 1].drop(columns="cause").reset_index(drop=True)
    table.insert(1, "grade", grade)
    return table
