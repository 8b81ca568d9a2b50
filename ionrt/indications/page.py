"""The tables of one page: every number with its dose system, how that is known, and a reference that leads to its source."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from ionrt.indications.facts import Indications, counts
from ionrt.outcome import binomial_ci

SMALL = 40  # patients behind a page, at most, for its banner


def tables(facts: Indications, page: str) -> dict[str, pd.DataFrame]:
    """All that is known about an indication, as it is printed.

    Parameters
    ----------
    facts : of `load`; page : name of the indication.

    Returns
    -------
    {"banner", "schedules", "constraints", "beams", "outcomes", "toxicity", "why", "trials", "gaps", "sources"}: tables of text.
    The column ``ref`` holds numbers in brackets that stand at the sources; "(abstract)" where only the abstract was read.
    Percentages of patients carry exact (Clopper-Pearson) limits over every count that rounds to the printed figure; those of
    survival curves published limits, or none.
    """
    entry = facts.pages[page]
    refs = _References(facts)
    made = {"banner": _banner(facts, page)}
    made["schedules"] = _rows(facts.of("schedules", page), lambda r: {
        "dose": f"{r['total']:g} {_unit(r)} in {r['fractions']:g}",
        "per fraction": f"{r['total'] / r['fractions']:.2f} {_unit(r)}",
        "for": _said(r), "known": r["confidence"], "ref": refs(r["source"]),
    })  # fmt: skip
    made["constraints"] = _rows(facts.of("constraints", page).sort_values(["system", "kind"]), lambda r: {
        "system": f"{r['system']} ({r['basis']})", "organ": r["organ"], "limit": _limit(r),
        "fractions": f"{r['fractions']:g}" if r["fractions"] > 0 else "not stated",
        "kind": r["kind"].replace("cut_off", "association"), "remark": _said(r), "known": r["confidence"],
        "ref": refs(r["source"]),
    })  # fmt: skip
    made["outcomes"] = pd.DataFrame(
        [_outcome(r, refs) for r in facts.outcomes[facts.outcomes["page"] == page].to_dict("records")]
    )
    made["toxicity"] = _rows(facts.of("toxicity", page), lambda r: {
        "event": r["term"], "percent": f"{r['percent']:g}", "n": f"{r['n']:g}", "95 % limits": exact_limits(r),
        "remark": r["what"], "ref": refs(r["source"]),
    })  # fmt: skip
    for part in ("beams", "why"):
        made[part] = pd.DataFrame([{"what": t["text"], "ref": refs(t.get("source") or "")} for t in entry[part]])
    made["trials"] = _rows(facts.of("trials", page), lambda r: {
        "what": _said(r), "status": f"{r['status']} (seen {r['seen']})", "ref": refs(r["source"])
    })  # fmt: skip
    made["gaps"] = pd.DataFrame({"missing": entry["gaps"]})
    made["sources"] = refs.table()
    return {name: t.astype(str) if len(t) else pd.DataFrame({"": ["none found"]}) for name, t in made.items()}


def exact_limits(row: pd.Series | dict[str, Any]) -> str:
    """Exact limits [%] of one toxicity rate, over all counts that round to its percentage; why not, where there is none."""
    percent, n = float(row["percent"]), float(row["n"])
    events = row["events"]
    possible = [int(events)] if pd.notna(events) else counts(percent, n)
    if not possible:
        return f"none: no whole number of {n:g} gives {percent:g} %"
    found = 100 * binomial_ci(possible, [int(n)] * len(possible))[["lower", "upper"]]
    text = f"{found['lower'].min():.1f} to {found['upper'].max():.1f}"
    return text if len(possible) == 1 else f"{text} ({possible[0]} to {possible[-1]} patients)"


class _References:
    """Numbers the sources of a page in the order in which they are used."""

    def __init__(self, facts: Indications) -> None:
        self.rows = facts.sources.set_index("id")
        self.used: dict[str, int] = {}

    def __call__(self, source: str) -> str:
        if not source:
            return "memory, no source"
        number = self.used.setdefault(source, len(self.used) + 1)
        return f"[{number}] ({self.rows['read'][source]})"

    def table(self) -> pd.DataFrame:
        rows = []
        for source, number in self.used.items():
            one = self.rows.loc[source]
            where = [
                f"doi:{one['doi']}" * bool(one["doi"]),
                f"PMID {one['pmid']}" * bool(one["pmid"]),
                one["pmc"],
                one["registry"],
            ]
            shown = ", ".join(w for w in where if w) or one["url"]
            rows.append({"ref": f"[{number}]", "source": one["cite"], "read": one["read"], "where": shown})
        return pd.DataFrame(rows)


def _rows(table: pd.DataFrame, make: Callable[[pd.Series], dict[str, str]]) -> pd.DataFrame:
    return pd.DataFrame([make(row) for _, row in table.iterrows()], index=table.index)


def _unit(row: pd.Series | dict[str, Any]) -> str:
    return f"Gy (RBE; {row['system']}, {row['basis']})"


def _said(row: pd.Series) -> str:
    """The remark, with the row's dose system wherever it gives a dose."""
    return re.sub(r"Gy ?\(RBE\)", _unit(row), row["what"]) if "system" in row else str(row["what"])


def _limit(row: pd.Series) -> str:
    if pd.isna(row["limit"]):
        return f"{row['metric']}: no value"
    unit = _unit(row) if "(RBE)" in row["unit"] else row["unit"].replace("percent", "%").replace("cc", "cm3")
    return f"{row['metric']} {row['op']} {row['limit']:g} {unit}"


def _outcome(row: dict[str, Any], refs: _References) -> dict[str, str]:
    low, high, n = (float(row[c]) for c in ("low", "high", "n"))
    limits = f"{low:g} to {high:g} (published)" if np.isfinite([low, high]).all() else "not published"
    if pd.isna(row["years"]) and np.isfinite(n):  # crude: a share of patients
        limits = exact_limits(row) + " (exact)"
    years = "" if pd.isna(row["years"]) else f" at {row['years']:g} y"
    return {
        "study": str(row["study"]), "n": f"{n:g}" if np.isfinite(n) else "not stated", "schedule": str(row["schedule"]),
        "system": f"{row['system']} ({row['basis']})", "endpoint": f"{row['endpoint']}{years}",
        "group": re.sub(r"Gy ?\(RBE\)", _unit(row), str(row["group"])),
        "percent": f"{row['percent']:g}", "95 % limits": limits, "ref": refs(str(row["source"])),
    }  # fmt: skip


def patients(facts: Indications, page: str) -> int:
    """Patients behind a page: the largest n of each study, summed; series that share patients count twice."""
    rows = facts.outcomes[facts.outcomes["page"] == page]
    return int(rows.groupby("id")["n"].max().sum())


def _banner(facts: Indications, page: str) -> pd.DataFrame:
    n, one = patients(facts, page), facts.schedule(page)
    lines = [
        "Research, not advice. Not reviewed by a physician.",
        f"At most {n} patients stand behind this page; series may share some.",
    ]
    if n <= SMALL:
        lines.append(f"SMALL NUMBERS: {n} patients. No figure here carries a decision; read the limits, not the percentages.")
    if one is None:
        lines.append("No schedule is a default here. The plan below uses a dose per fraction chosen for comparison only.")
    elif one["system"] != facts.pages[page]["planned_in"]:
        stand = facts.pages[page]["planned_in"]
        lines.append(f"Published in {one['system']} ({one['basis']}), planned in {stand}: continuity is assumed, not shown.")
    if one is not None and one["fractions"] <= 4:
        lines.append("So few fractions lie outside what the RBE models were tuned on: look at the physical dose first.")
    return pd.DataFrame({"": lines})
