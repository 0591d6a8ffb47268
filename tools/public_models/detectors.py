"""torchvision's detectors on a batch of images of equal size: backbone, heads, and the tail with its boxes.

Scaling and normalising images is left to the application. The tail sorts and suppresses boxes, which has no
static shape: a detector is captured up to the cut in the catalogue.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class SingleShot(nn.Module):
    """SSD, SSDlite, RetinaNet or FCOS: one head on all maps, then boxes."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.backbone: Any = detector.backbone
        self.head: Any = detector.head
        self.anchor_generator: Any = detector.anchor_generator
        self._detector = [detector]  # in a list, so that it is not registered a second time

    def forward(self, pictures: Tensor) -> Any:
        """Boxes of pictures [N, 3, H, W]."""
        maps = list(self.backbone(pictures).values())
        found = self.head(maps)
        anchors = self.anchor_generator(_image_list(pictures), maps)
        detector: Any = self._detector[0]
        return detector.postprocess_detections(found, anchors, _sizes(pictures))


class TwoStage(nn.Module):
    """Faster, Mask and Keypoint R-CNN: proposals, then heads on the cropped regions."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.backbone: Any = detector.backbone
        self.rpn: Any = detector.rpn
        self.roi_heads: Any = detector.roi_heads

    def forward(self, pictures: Tensor) -> Any:
        """Boxes (masks, keypoints) of pictures [N, 3, H, W]."""
        maps = self.backbone(pictures)
        proposals, _ = self.rpn(_image_list(pictures), maps, None)
        return self.roi_heads(maps, proposals, _sizes(pictures), None)[0]


def _sizes(pictures: Tensor) -> list[tuple[int, int]]:
    return [(pictures.shape[2], pictures.shape[3])] * pictures.shape[0]


def _image_list(pictures: Tensor) -> Any:
    from torchvision.models.detection.image_list import ImageList

    return ImageList(pictures, _sizes(pictures))
