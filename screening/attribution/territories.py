"""Which leads look at which wall of the left ventricle.

After the Fourth Universal Definition of Myocardial Infarction (Thygesen et al., 2018) and textbooks of electrocardiography:
septal V1-V2, anterior V3-V4, lateral I, aVL, V5-V6, inferior II, III, aVF. aVR looks at none of them.
"""

from __future__ import annotations

from screening.contract import LEADS, TERRITORIES

LEADS_OF: dict[str, tuple[str, ...]] = dict(
    zip(TERRITORIES, (("V1", "V2"), ("V3", "V4"), ("I", "aVL", "V5", "V6"), ("II", "III", "aVF")), strict=True)
)
TERRITORY_OF = {lead: next((wall for wall, leads in LEADS_OF.items() if lead in leads), "") for lead in LEADS}
"""Lead -> its territory, empty for aVR."""
