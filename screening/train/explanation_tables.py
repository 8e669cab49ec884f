"""The audit of explanations in words and tables: a section of the model card, and a page of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from screening.contract import TERRITORIES
from screening.train.explained import AS_THEY_ARE, LAID
from screening.train.without_leads import MAIN_TASK

HEADING = "## Explanations"
PICTURES = ("explanation_places.png", "explanation_curves.png", "explanation_cohort.png")
_LIMIT = "## Limits"  # the section of a card that this one goes before


def render(found: Mapping[str, Any]) -> str:
    """Return what `explanations.audit_explanations` found as Markdown, from ``## Explanations`` on."""
    parts = [
        HEADING,
        _what(found),
        "### Where the infarct is",
        _places(found),
        "### What the network reads",
        _curves(found),
        "### Sanity",
        _sanity(found),
        "### Stability",
        _stability(found),
        "### The whole cohort",
        _cohort(found),
        _retrained(found),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def amended(card: str, section: str) -> str:
    """Return a card with the section in it: in the place of an earlier one, else before ``## Limits``, else at its end."""
    earlier = re.search(rf"^{re.escape(HEADING)}\n.*?(?=^## |\Z)", card, flags=re.MULTILINE | re.DOTALL)
    if earlier:
        return _joined(card[: earlier.start()], section, card[earlier.end() :])
    limits = re.search(rf"^{re.escape(_LIMIT)}$", card, flags=re.MULTILINE)
    at = limits.start() if limits else len(card)
    return _joined(card[:at], section, card[at:])


def _joined(*parts: str) -> str:
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def headline(found: Mapping[str, Any]) -> str:
    """Return in a sentence whether the territories are where the infarcts are."""
    row = _row(found["localisation"], "territory", LAID)
    paper = _row(found["localisation"], "lead, mean", AS_THEY_ARE)
    better = row["minus_papers"]
    verdict = "above" if better["low"] > 0 else "below" if better["high"] < 0 else "not told apart from"
    return (
        f"The leading territory is one that the statements name in {_value(row['hits'])} of {row['n']:,} flagged infarcts; by "
        f"chance it would be in {row['chance']['value']:.3f} ({row['chance']['low']:.3f}-{row['chance']['high']:.3f}). That is "
        f"{verdict} the paper's operator, {_value(paper['hits'])}: {_signed(better)}."
    )


def _what(found: Mapping[str, Any]) -> str:
    explained = found["explained"]
    names = ", ".join(f"{of['name']} ({of['records']:,} records)" for of in found["networks"])
    counts = "; ".join(f"{what}: {count:,}" for what, count in explained.items())
    return (
        f"{headline(found)}\n\nEvery record is explained by a network that has not seen it ({names}), with "
        f"{found['settings']['donors']} donors a record, on {found['records']:,} labelled records under rule "
        f"`{found['catalog']['label_rule']}`. {counts[:1].upper()}{counts[1:]}. An importance is the mean fall of the logit "
        "when a part of the ECG is taken from other patients; territories share what the logit falls by when all are taken "
        "(Shapley values). Intervals are 95%, over patients. Statements say where a reader "
        "saw the infarct: they are no anatomy."
    )


def _places(found: Mapping[str, Any]) -> str:
    rows = [
        [
            of["method"],
            of["donors"] or "-",
            _value(of["hits"]),
            f"{of['chance']['value']:.3f} ({of['chance']['low']:.3f}-{of['chance']['high']:.3f})",
            _value(of["single"]),
            _number(of["auroc"]["mean"]),
            _signed(of["minus_papers"]) if "minus_papers" in of else "reference",
        ]
        for of in found["localisation"]
    ]
    text = (
        "Hit: the wall of greatest importance is one that the statements name (AMI and ASMI: septal or anterior; ALMI: "
        "anterior or lateral; IMI and IPMI: inferior; ILMI and IPLMI: inferior or lateral; LMI: lateral; posterior "
        "infarcts have no leads of their own and are left out). Chance: the same with the named walls shuffled among the "
        "records; it depends on how often a method names the commonest wall. Strict: where one wall alone is named. "
        "AUROC: of a wall's importance, above the mean of the four, for being named; mean over walls."
        "\n\n"
        + _table(
            ["importance", "donors", "hit rate", "by chance", "strict", "AUROC", "hit rate less the paper's"], rows
        )
    )
    for name, codes in found["by_code"].items():
        counted = [[code, *(f"{of[wall]:,}" for wall in TERRITORIES)] for code, of in codes.items()]
        where = "donors' beats laid on the record's" if name == "territory" else "mean over leads, donors as they are"
        text += (
            f"\n\nLeading wall by statement, where one place is stated ({name.split(',')[0]}; {where}):\n\n"
            + _table(["stated", *TERRITORIES], counted)
        )
    if found["injury"]:
        row = _row(found["injury"], "territory", LAID)
        text += (
            f"\n\nOf {row['n']:,} flagged records with subendocardial injury alone (INJ...), the leading territory is a named "
            f"one in {_value(row['hits'])} (by chance {row['chance']['value']:.3f})."
        )
    return text + f"\n\n![Hit rates and chance]({PICTURES[0]})"


def _curves(found: Mapping[str, Any]) -> str:
    rows = [
        [
            of["method"],
            of["donors"] or "-",
            _signed(of["deletion"]["area"]),
            _signed(of["insertion"]["area"]),
            " ".join(f"{share:.2f}" for share in of["deletion"]["flagged"]["most"]),
        ]
        for of in found["deletion"]
    ]
    first = found["deletion"][0]
    any_order = " ".join(f"{share:.2f}" for share in first["deletion"]["flagged"]["any"])
    return (
        "Territories are taken from donors one after the other, the most important first (deletion), or put into donors' ECGs "
        f"(insertion); the order comes from other donors than those that lend here ({first['donors_each']} each). Gain: how "
        "much lower (deletion) or higher (insertion) the logit is than in a random order, mean over the steps, in logits. In a "
        f"random order the share still flagged is {any_order} after 0 to 4 territories.\n\n"
        + _table(["order by", "donors", "gain of deletion", "gain of insertion", "still flagged after 0 to 4"], rows)
        + f"\n\n![Deletion and insertion]({PICTURES[1]})"
    )


def _sanity(found: Mapping[str, Any]) -> str:
    rows = [
        [what, _value(of["hits"]), f"{of['chance']:.3f}", _signed(of["rank_correlation"])]
        for what, of in found["sanity"].items()
    ]
    networks = next(iter(found["sanity"].values()))["networks"]
    return (
        "Importances of networks with random weights should have no structure: territories should hit as by chance, and rank "
        "as those of the trained network no more often than not (Adebayo et al. 2018, arXiv 1810.03292). Means over "
        f"{networks} networks, with the range of their hit rates; Spearman's correlation by record. A random classifier on "
        "trained features may by luck point the way of the trained one, or against it: its range is wide, its mean counts.\n\n"
        + _table(["network", "hit rate (range)", "by chance", "rank correlation with the trained"], rows)
    )


def _stability(found: Mapping[str, Any]) -> str:
    rows = [
        [
            operator,
            lend,
            f"{of['donors']}",
            _value(of["rank_correlation"]),
            _value(of["same_leading"]),
            _number(of["standard_error"]),
            f"{_number(of['spread'])} ({_number(of['spread_expected'])})",
            _number(of["covered"]),
        ]
        for lend, by_operator in found["stability"].items()
        for operator, of in by_operator.items()
    ]
    return (
        "Two disjoint sets of donors explain the same records. The stated standard error is right where the differences spread "
        "as it says (in brackets what Student's t expects) and 0.95 of them lie in their 95% interval.\n\n"
        + _table(
            [
                "operator",
                "donors",
                "a set",
                "rank correlation",
                "same leading part",
                "standard error",
                "spread over it",
                "covered",
            ],
            rows,
        )
    )


def _cohort(found: Mapping[str, Any]) -> str:
    rows = [
        [operator, part, _signed(of["auroc"]), _signed(of["auprc"])]
        for operator, by_task in found["cohort"].items()
        for part, of in by_task.get(MAIN_TASK, {}).items()
    ]
    return (
        f"What is lost of AUROC and AUPRC ({MAIN_TASK}) when a part is permuted over all records, beats laid on each other.\n\n"
        + _table(["operator", "part", "AUROC lost", "AUPRC lost"], rows)
        + f"\n\n![Importance for the cohort]({PICTURES[2]})"
    )


def _retrained(found: Mapping[str, Any]) -> str:
    groups = found["retrained"]["groups"]
    if not groups:
        return "### Drop and retrain\n\nNot run: networks without groups of leads were not trained (`--retrain`)."
    rows = [
        [group, f"{of['auroc']:.3f}", f"{of['lost']:+.3f}", _signed(of["permuted"])] for group, of in groups.items()
    ]
    correlation = found["retrained"]["rank_correlation"]
    said = f" Rank correlation of the two over groups: {correlation:+.2f}." if correlation is not None else ""
    return (
        "### Drop and retrain\n\nThe same training on ECGs in which a group of leads is a flat line (Hooker et al. 2019, arXiv "
        "1806.10758). What retraining makes good elsewhere is redundant; what permuting loses is what this network reads."
        f"{said}\n\n"
        + _table(["without", "AUROC retrained", "AUROC lost by retraining", "AUROC lost by permuting"], rows)
    )


def _row(rows: Sequence[Mapping[str, Any]], method: str, donors: str) -> Mapping[str, Any]:
    return next(row for row in rows if (row["method"], row["donors"]) == (method, donors))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _value(figure: Mapping[str, Any]) -> str:
    return "-" if figure["value"] is None else f"{figure['value']:.3f} ({figure['low']:.3f}-{figure['high']:.3f})"


def _signed(figure: Mapping[str, Any]) -> str:
    if figure["value"] is None:
        return "-"
    return f"{figure['value']:+.3f} ({figure['low']:+.3f} to {figure['high']:+.3f})"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
