"""What was assumed and done, for whoever wants to check it or to cite it."""

from __future__ import annotations

from screening.contract import NOTICE
from screening.report.document import Bullets, Paragraph, Section
from screening.report.findings import Findings

REFERENCES = (
    "Rogan WJ, Gladen B. Estimating prevalence from the results of a screening test. Am J Epidemiol 1978;107:71-76.",
    "Lang Z, Reiczigel J. Confidence limits for prevalence of disease adjusted for estimated sensitivity and "
    "specificity. Prev Vet Med 2014;113:13-22.",
    "Gelman A, Carpenter B. Bayesian analysis of tests with unknown specificity and sensitivity. J R Stat Soc C "
    "2020;69:1269-1283.",
    "Saerens M, Latinne P, Decaestecker C. Adjusting the outputs of a classifier to new a priori probabilities. "
    "Neural Comput 2002;14:21-41.",
    "Bella A et al. Quantification via probability estimators (PACC). ICDM 2010.",
    "Begg CB, Greenes RA. Assessment of diagnostic tests when disease verification is subject to selection bias. "
    "Biometrics 1983;39:207-215.",
    "Vickers AJ, Elkin EB. Decision curve analysis. Med Decis Making 2006;26:565-574.",
    "Hundepool A et al. Statistical Disclosure Control. Wiley 2012.",
    "Collins GS et al. TRIPOD+AI statement. BMJ 2024;385:e078378.",
    "MSAIC-Net. arXiv 2606.06718, 2026.",
)


def methods(findings: Findings) -> Section:
    """Assumptions, disclosure control, sources and versions."""
    frame = findings.frame
    hidden = (
        "Counts are exact: this report was made for its archive's owner and must not be shared."
        if frame.exact
        else f"Counts from 1 to {frame.smallest_count} are hidden, and others where they could be worked out from them; "
        f"shown counts are multiples of {frame.round_to}, so that parts need not add up to their total exactly. Every share, "
        "estimate, interval and figure here was computed from the counts as shown, none from exact ones. Ages of 90 "
        "and over are one band, dates are months. A report is renewed only when enough patients are new, so that "
        "two nights' reports give nothing away by their difference. Two reports on overlapping patients with "
        "different settings could: share one of them only."
    )
    return Section(
        "methods",
        "Methods, assumptions and limits",
        [
            Bullets(
                (
                    "The share of patients flagged is corrected by sensitivity and specificity (Rogan and Gladen). "
                    "Local readings take precedence over the counts that came with the model.",
                    "Assumed: sensitivity and specificity are the same here as where they were measured, in each "
                    "group within the uncertainty shown. Nothing in the ECGs of this archive can prove that; only "
                    "readings of them can.",
                    "Assumed: patients whose ECGs were rejected or not screened are like the others of their group.",
                    "The reference standard is what readers state of an ECG. It is not scar on imaging, and readers "
                    "differ.",
                    "The score-based estimates assume that the distribution of scores among cases, and among "
                    "others, is the one that was measured with the model; only the share of cases may differ (prior "
                    "shift).",
                    "Intervals of corrected figures carry the sampling of patients and the uncertainty of "
                    "sensitivity and specificity. They do not carry what the assumptions above would cost if they "
                    "fail.",
                )
            ),
            Paragraph(hidden),
            Paragraph("Sources"),
            Bullets(REFERENCES),
            Paragraph(
                f"Made on {frame.made} with "
                + ", ".join(f"{name} {version}" for name, version in frame.versions.items())
                + f". Index rule: {frame.index_rule}. {NOTICE}"
            ),
        ],
    )
