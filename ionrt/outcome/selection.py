"""The Delta-NTCP rule: which patient gains enough from the better plan."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ionrt.outcome.columns import number, probabilities, require
from ionrt.quantities import IonrtError


def delta_ntcp_rule(
    df: pd.DataFrame,
    *,
    reference: str = "ntcp_reference",
    candidate: str = "ntcp_candidate",
    grade: str = "grade",
    by: str = "pid",
    grade_2: float = 10.0,
    grade_3: float = 5.0,
    total: float = 15.0,
) -> pd.DataFrame:
    """Patients who qualify for the candidate treatment by their gain in complication probability.

    A patient qualifies with a gain of at least `grade_2` points for one toxicity of grade 2, at least `grade_3` points for one
    of grade 3 or more, or at least `total` points for the sum over the toxicities of grade 2.

    Parameters
    ----------
    df : one row per patient and toxicity.
    reference, candidate : columns of NTCP (0..1) under the reference (photon) plan and the candidate plan.
    grade : column of the grade that the NTCP model predicts (2..5).
    by : column of the patient.
    grade_2, grade_3, total : thresholds in percentage points.

    Returns
    -------
    DataFrame, one row per patient: `by`, `max_grade_2`, `max_grade_3`, `sum_grade_2` [percentage points], `qualifies`, `reason`
        ("" where none).

    Validity: research on how a rule would select; the thresholds are those of the Dutch protocol for head and neck cancer.

    Raises
    ------
    IonrtError
        Missing columns, probabilities out of 0..1, grades below 2 or above 5.

    References
    ----------
    Langendijk et al. 2021, doi:10.14338/IJPT-20-00089.1.

    Examples
    --------
    A gain of 12 points of dysphagia of grade 2 qualifies (at least 10), 4 points of grade 3 do not (at least 5). SYNTHETIC.

    >>> ntcp = {"ntcp_reference": [0.32, 0.14], "ntcp_candidate": [0.20, 0.10], "grade": [2, 3]}
    >>> ionrt.outcome.delta_ntcp_rule(pd.DataFrame({"pid": ["a", "b"], **ntcp}))["qualifies"].tolist()
    [True, False]
    """
    require(df, by, reference, candidate, grade)
    old, new, severity = probabilities(df, reference), probabilities(df, candidate), number(df, grade)
    if not np.isin(severity, (2, 3, 4, 5)).all():
        raise IonrtError(f"column {grade!r}: expected 2, 3, 4 or 5; the rule says nothing about other grades")
    # rounding: 0.30 - 0.20 is not quite 0.10 in binary
    gain = pd.Series(np.round(100 * (old - new), 9))
    patient = df[by].reset_index(drop=True)
    second, third = pd.Series(severity == 2), pd.Series(severity >= 3)
    out = pd.DataFrame(
        {
            "max_grade_2": gain.where(second).groupby(patient).max(),
            "max_grade_3": gain.where(third).groupby(patient).max(),
            "sum_grade_2": gain.where(second, 0.0).groupby(patient).sum(),
        }
    ).rename_axis(by)
    rules = {
        f"grade 2: {grade_2:g} points": out.max_grade_2 >= grade_2,
        f"grade 3: {grade_3:g} points": out.max_grade_3 >= grade_3,
        f"sum of grade 2: {total:g} points": out.sum_grade_2.round(9) >= total,
    }
    met = pd.DataFrame(rules)
    out["qualifies"] = met.any(axis=1)
    out["reason"] = [", ".join(met.columns[row]) for row in met.to_numpy()]
    return out.reset_index()
