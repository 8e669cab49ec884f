"""From protected counts to findings: every estimate of the report, in one place and in one order.

Nothing here sees an exact count.
"""

from __future__ import annotations

from dataclasses import replace

from screening.report.findings import Findings
from screening.report.groups import Groups
from screening.report.joint import Inputs, Joint
from screening.report.overall import Overall

__all__ = ["Inputs", "find"]


def find(inputs: Inputs) -> Findings:
    """Estimate everything."""
    joint = Joint(inputs)  # one stream of random numbers runs through all that follows, in this order
    overall, groups = Overall(joint), Groups(joint)
    total, parts = overall.total()
    headline, estimators, correction = overall.estimators(total, parts)
    return Findings(
        frame=inputs.frame,
        models=joint.models,
        total=replace(total, adjusted=headline.cell, shared=headline.cell),
        headline=headline,
        estimators=estimators,
        correction=correction,
        groups=groups.by_dimension(),
        standardised=groups.standardised(),
        trend=groups.trend(),
    )
