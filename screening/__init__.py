"""Screen large archives of 12-lead ECGs for myocardial infarction and scar.

Retrospective research software, not a medical device.
"""

__version__ = "0.1.0"
