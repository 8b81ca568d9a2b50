"""The tables of one page: every number with its dose system, how that is known, and a reference that leads to its source."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from ionrt.compare.cases import system_of
from ionrt.indications.facts import Indications, counts
from ionrt.indications.limits import why_not
from ionrt.outcome import binomial_ci
from ionrt.quantities import one_of
from ionrt.rbe import DOSE_SYSTEMS

SMALL = 40  # patients behind a page, at most, for its banner
WITH_PLAN = "with the plan below"
ABBREVIATIONS = {
    "ACC": "adenoid cystic carcinoma", "bRFS": "biochemical relapse-free survival", "CKD": "chronic kidney disease",
    "CSS": "cause-specific survival", "CTV": "clinical target volume", "DFS": "disease-free survival",
    "DLT": "dose-limiting toxicity", "DMFS": "distant metastasis-free survival", "FFLP": "freedom from local progression",
    "G": "grade", "GI": "gastrointestinal", "GTV": "gross tumour volume", "GU": "genitourinary",
    "HCC": "hepatocellular carcinoma", "LA-NSCLC": "locally advanced non-small-cell lung cancer",
    "LAPC": "locally advanced pancreatic cancer", "LC": "local control", "LKB": "Lyman-Kutcher-Burman model",
    "LPFS": "local progression-free survival",
    "LR CIF": "cumulative incidence of local recurrence with death competing", "MFS": "metastasis-free survival",
    "OR": "odds ratio", "OS": "overall survival", "PFS": "progression-free survival", "PSM": "propensity-score matching",
    "PTV": "planning target volume", "RILD": "radiation-induced liver disease",
    "RILSN": "radiation-induced lumbosacral neuropathy", "RP2D": "recommended dose for phase II",
    "SIB": "simultaneous integrated boost", "TACE": "transarterial chemoembolisation", "VC": "vital capacity",
}  # fmt: skip


def tables(facts: Indications, page: str) -> dict[str, pd.DataFrame]:
    """All that is known about an indication, as it is printed.

    Parameters
    ----------
    facts : of `load`.
    page : name of the indication.

    Returns
    -------
    {"banner", "schedules", "constraints", "beams", "outcomes", "toxicity", "why", "trials", "gaps", "sources"}: tables of text.
    The column ``ref`` holds numbers in brackets that stand at the sources; "(abstract)" where only the abstract was read.
    Percentages of patients carry exact (Clopper-Pearson) limits over every count that rounds to the printed figure; those of
    survival curves published limits, or none. ``attrs["abbreviations"]`` says what those in a table stand for.

    Raises
    ------
    IonrtError
        A page that the data do not have.
    """
    entry = facts.pages[one_of(page, tuple(facts.pages), what="indication")]
    refs = _References(facts)
    made = {"banner": _banner(facts, page)}
    made["schedules"] = _rows(facts.of("schedules", page), [], lambda r: {
        "dose": f"{r['total']:g} {_unit(r)} in {r['fractions']:g}",
        "per fraction [same unit]": f"{r['total'] / r['fractions']:.2f}",
        "for": _said(r), "known": r["confidence"], "ref": refs(r["source"]),
    })  # fmt: skip
    held, fractions = set(against(facts, page).values()), fractions_of(facts, page)
    limits = facts.of("constraints", page).sort_values(["system", "organ", "kind"])
    made["constraints"] = _rows(limits, ["system", "organ"], lambda r: {
        "system": f"{r['system']} ({r['basis']})", "organ": _words(r["organ"]), "limit": _limit(r),
        "fractions": f"{r['fractions']:g}" if r["fractions"] > 0 else "not stated",
        "kind": r["kind"].replace("cut_off", "association"), "remark": _said(r), "ref": refs(r["source"]),
        "compared": _compared({why_not(r, system, fractions).partition(" (")[0] for system in held}),
    })  # fmt: skip
    outcomes = facts.outcomes[facts.outcomes["page"] == page]
    made["outcomes"] = _rows(outcomes, ["study", "schedule", "system"], lambda r: _outcome(r, refs))
    made["toxicity"] = _rows(facts.of("toxicity", page), ["event"], lambda r: {
        "event": r["term"], "rate [%]": f"{r['percent']:g}", "n": f"{r['n']:g}", "95 % limits": exact_limits(r),
        "remark": _said(r), "ref": refs(r["source"]),
    })  # fmt: skip
    for part in ("beams", "why", "gaps"):
        said = [(_set(t["text"]), t.get("source") or "") for t in entry[part]]
        made[part] = pd.DataFrame([{"what": t, "ref": refs(s) if s or part != "gaps" else ""} for t, s in said])
    made["trials"] = _rows(facts.of("trials", page), ["trial"], lambda r: {
        "trial": r.name, "what": _said(r), "status": f"{r['status']} (seen {r['seen']})", "ref": refs(r["source"])
    })  # fmt: skip
    made["sources"] = refs.table()
    made = {name: t.astype(str) if len(t) else pd.DataFrame({"": ["none found"]}) for name, t in made.items()}
    made = {name: t.loc[:, t.ne("").any()] for name, t in made.items()}  # a column that nothing stands in is left out
    for table in made.values():
        text = table.reset_index().to_csv()
        used = [f"{short}: {long}" for short, long in ABBREVIATIONS.items() if re.search(rf"\b{short}(?=\b|\d)", text)]
        table.attrs["abbreviations"] = "; ".join(used) + "." * bool(used)
    return made


def fractions_of(facts: Indications, page: str) -> float:
    """Of the schedule that the page plans; NaN where there is none."""
    one = facts.schedule(page)
    return float("nan") if one is None else float(one["fractions"])


def against(facts: Indications, page: str) -> dict[str, str]:
    """The dose system of each ion or mix that the page plans: protons alone have their own beside a carbon clinic's dose."""
    model = str(DOSE_SYSTEMS[facts.pages[page]["planned_in"]].model)
    names = {s.model: s.name for s in DOSE_SYSTEMS.values() if s.model}
    return {mix: names[system_of(mix.split("+"), model, "constant")] for mix in facts.pages[page]["plan"]["ions"]}


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
        return f"[{number}]\N{NO-BREAK SPACE}({self.rows['read'][source]})"

    def table(self) -> pd.DataFrame:
        rows = []
        for source, number in self.used.items():
            one = self.rows.loc[source]
            named = {"doi": "doi:", "pmid": "PMID ", "pmc": "", "registry": ""}
            shown = ", ".join(f"{before}{one[kind]}" for kind, before in named.items() if one[kind]) or one["url"]
            rows.append({"ref": f"[{number}]", "source": one["cite"], "read": one["read"], "where": shown})
        return pd.DataFrame(rows)


def _rows(table: pd.DataFrame, heads: list[str], make: Callable[[pd.Series], dict[str, str]]) -> pd.DataFrame:
    """One printed row per row of a table, `heads` in front."""
    made = pd.DataFrame([make(row) for _, row in table.iterrows()])
    return made.set_index(heads) if heads and len(made) else made


def _words(name: str) -> str:
    """A name of the tables in words: late_skin_G3_4 is "late skin G3-4"."""
    return re.sub(r"G(\d)_(\d)", r"G\1-\2", str(name)).replace("_", " ").replace("plus", " or more")


def _set(text: str) -> str:
    """Signs and units as they are printed."""
    for plain, printed in {"<=": "≤", ">=": "≥", "+-": "±", "keV/um": "keV/µm", "cm3": "cm³", "cm2": "cm²"}.items():
        text = text.replace(plain, printed)
    return text


def _compared(reasons: set[str]) -> str:
    """Whether a plan of the page meets a constraint; why not, where none does."""
    return WITH_PLAN if "" in reasons else f"no: {'; '.join(sorted(reasons))}"


def _unit(row: pd.Series | dict[str, Any]) -> str:
    return f"Gy (RBE; {row['system']}, {row['basis']})"


def _said(row: pd.Series) -> str:
    """The remark, with the row's dose system wherever it gives a dose."""
    text = _set(str(row["what"]))
    return re.sub(r"Gy ?\(RBE\)", _unit(row), text) if "system" in row else text


def _limit(row: pd.Series) -> str:
    if pd.isna(row["limit"]):
        return f"{row['metric']}: no value"
    unit = _unit(row) if "(RBE)" in row["unit"] else row["unit"].replace("percent", "%").replace("cc", "cm3")
    return _set(f"{row['metric']} {row['op']} {row['limit']:g} {unit}")


def _outcome(row: pd.Series, refs: _References) -> dict[str, str]:
    low, high, n = (float(row[c]) for c in ("low", "high", "n"))
    limits = f"{low:g} to {high:g} (published)" if np.isfinite([low, high]).all() else "not published"
    if pd.isna(row["years"]) and np.isfinite(n):  # crude: a share of patients
        limits = exact_limits(row) + " (exact)"
    years = "" if pd.isna(row["years"]) else f" at {row['years']:g} y"
    return {
        "study": str(row["study"]), "schedule": str(row["schedule"]) or "not stated",
        "system": f"{row['system']} ({row['basis']})",
        "endpoint": f"{_words(row['endpoint'])}{years}", "n": f"{n:g}" if np.isfinite(n) else "not stated",
        "group": re.sub(r"Gy ?\(RBE\)", _unit(row), _set(str(row["group"]))),
        "rate [%]": f"{row['percent']:g}", "95 % limits": limits, "ref": refs(str(row["source"])),
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
    if len(systems := dict.fromkeys(against(facts, page).values())) > 1:
        lines.append(f"Planned in several dose systems ({', '.join(systems)}): the same number of Gy, not the same effect.")
    if one is not None and one["fractions"] <= 4:
        lines.append("So few fractions lie outside what the RBE models were tuned on: look at the physical dose first.")
    return pd.DataFrame({"": lines})
