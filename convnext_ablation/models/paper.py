"""What the paper reports for its roadmap: table 10 of Liu et al., 2022, arXiv:2201.03545.

None of it was measured with this package.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class Reported(NamedTuple):
    """A row of the paper's table.

    Attributes:
        top1: ImageNet-1k top-1 in percent at 224, mean of three seeds.
        gmacs: Billions of multiply-accumulates at 224; the paper calls them FLOPs.
    """

    top1: float
    gmacs: float


REPORTED: Mapping[str, Reported] = MappingProxyType(
    {
        "roadmap_00_resnet50": Reported(78.82, 4.09),
        "roadmap_01_stage_ratio": Reported(79.36, 4.53),
        "roadmap_02_patchify_stem": Reported(79.51, 4.42),
        "roadmap_03_depthwise": Reported(78.28, 2.35),
        "roadmap_04_wide": Reported(80.50, 5.27),
        "roadmap_05_inverted": Reported(80.64, 4.64),
        "roadmap_06_moved_up": Reported(79.92, 4.07),
        "roadmap_07_kernel_5": Reported(80.35, 4.10),
        "roadmap_08_kernel_7": Reported(80.57, 4.15),
        "roadmap_09_kernel_9": Reported(80.57, 4.21),
        "roadmap_10_kernel_11": Reported(80.47, 4.29),
        "roadmap_11_gelu": Reported(80.62, 4.15),
        "roadmap_12_fewer_acts": Reported(81.27, 4.15),
        "roadmap_13_fewer_norms": Reported(81.41, 4.15),
        "roadmap_14_layer_norm": Reported(81.47, 4.15),
        "roadmap_15_separate_downsampling": Reported(81.97, 4.46),
    }
)
