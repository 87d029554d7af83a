"""What is wrong with an image data set, measured: ``convnext-ablation data-report``.

`folder` finds the images, `measure` measures them, `remember` reads none twice. `exact` and `near` look for
duplicates, `pretraining` for images that pre-training has seen. All of it ends as `findings`, which `page`
and `summary` show to a person and ``findings.csv`` holds for a program. `command` puts it together.
"""

from convnext_ablation.cli.data_report import data_report
from convnext_ablation.data.report.findings import Finding

__all__ = ["Finding", "data_report"]
