"""The architectures of the zoo, with their factories and inputs.

Names are those of torchvision and timm, with the library in front: `tv/resnet18`, `timm/ghostnet_100`.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tools.public_models.detectors import SingleShot, TwoStage
from tools.public_models.importing import declare_operators
from tools.public_models.unet import UNet

SIDE = 64
"""Height and width of images unless stated otherwise: smaller than in training, with the same operators."""


@dataclass(frozen=True)
class Architecture:
    """One network of the zoo.

    Attributes:
        name: Library and name in it.
        side: Height and width of its images.
        cut: Modules at which its tail is cut off; empty: captured as a whole.
        options: Options of its factory.
    """

    name: str
    side: int = SIDE
    cut: tuple[str, ...] = ()
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Input [N, C, H, W]."""
        return (1, 3, self.side, self.side)

    def build(self) -> nn.Module:
        """The network with random weights, in eval mode; the same each time."""
        library, _, name = self.name.partition("/")
        torch.manual_seed(0)
        if library == "mcc":
            module: nn.Module = UNet()
        else:
            declare_operators()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of both libraries, about weights that are not loaded
                module = _build_torchvision(name, self) if library == "tv" else _build_timm(name, self)
        return settled(module.eval())


def _build_torchvision(name: str, architecture: Architecture) -> nn.Module:
    from torchvision import models

    options = dict(architecture.options)
    if name.startswith(
        ("fcn", "deeplab", "lraspp", "ssd", "fasterrcnn", "maskrcnn", "keypointrcnn", "fcos", "retina")
    ):
        options = {"weights": None, "weights_backbone": None, **options}
    module: nn.Module = models.get_model(name, **options)
    if architecture.cut:
        return TwoStage(module) if "rcnn" in name else SingleShot(module)
    return module


def _build_timm(name: str, architecture: Architecture) -> nn.Module:
    import timm

    return timm.create_model(name, pretrained=False, **dict(architecture.options))


def settled(module: nn.Module) -> nn.Module:
    """Move parameters and statistics that all have one value (0, 1, 1e-6) away from it, at random.

    A fresh network initialises many branches with zero, and every batch norm as the identity: a mistake in
        such a branch
    would not show.
    """
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, value in (*module.named_parameters(), *module.named_buffers()):
            if (
                not value.is_floating_point()
                or value.numel() < 2
                or not bool((value == value.flatten()[0]).all())
            ):
                continue
            if float(value.flatten()[0]) == 0.0:
                value.copy_(torch.randn(value.shape, generator=generator) * 0.1)
            else:
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return module


def _timm(names: str, **given: Any) -> list[Architecture]:
    return [Architecture(f"timm/{name}", **given) for name in names.split()]


def _tv(names: str, **given: Any) -> list[Architecture]:
    return [Architecture(f"tv/{name}", **given) for name in names.split()]


_NO_AUXILIARY = (("aux_logits", False), ("init_weights", False))

TORCHVISION = [
    *_tv("alexnet vgg11 vgg13 vgg16 vgg19 vgg11_bn vgg13_bn vgg16_bn vgg19_bn"),
    *_tv("resnet18 resnet34 resnet50 resnet101 resnet152 resnext50_32x4d resnext101_32x8d"),
    *_tv("wide_resnet50_2 wide_resnet101_2 squeezenet1_0 squeezenet1_1"),
    *_tv("densenet121 densenet161 densenet169 densenet201"),
    *_tv("googlenet", options=_NO_AUXILIARY),
    *_tv("inception_v3", options=_NO_AUXILIARY, side=139),
    *_tv("mobilenet_v2 mobilenet_v3_large mobilenet_v3_small mnasnet0_5 mnasnet0_75 mnasnet1_0 mnasnet1_3"),
    *_tv("shufflenet_v2_x0_5 shufflenet_v2_x1_0 shufflenet_v2_x1_5 shufflenet_v2_x2_0"),
    *_tv("efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3 efficientnet_b4 efficientnet_b5"),
    *_tv("efficientnet_b6 efficientnet_b7 efficientnet_v2_s efficientnet_v2_m efficientnet_v2_l"),
    *_tv("convnext_tiny convnext_small convnext_base convnext_large"),
    *_tv("regnet_y_400mf regnet_y_800mf regnet_y_1_6gf regnet_y_3_2gf regnet_y_8gf regnet_y_16gf"),
    *_tv("regnet_y_32gf regnet_y_128gf"),
    *_tv("fcn_resnet50 fcn_resnet101 deeplabv3_resnet50 deeplabv3_resnet101 deeplabv3_mobilenet_v3_large"),
    *_tv("lraspp_mobilenet_v3_large"),
    *_tv("ssdlite320_mobilenet_v3_large ssd300_vgg16", side=300, cut=("head",)),
    *_tv("retinanet_resnet50_fpn_v2 fcos_resnet50_fpn", cut=("head",)),
    *_tv("fasterrcnn_resnet50_fpn fasterrcnn_resnet50_fpn_v2", cut=("rpn.head",)),
    *_tv("fasterrcnn_mobilenet_v3_large_fpn fasterrcnn_mobilenet_v3_large_320_fpn", cut=("rpn.head",)),
    *_tv("maskrcnn_resnet50_fpn_v2 keypointrcnn_resnet50_fpn", cut=("rpn.head",)),
]
"""The convolutional networks of the 85 that Torch-Pruning tries (its examples/torchvision_models)."""

OTHERS = [
    Architecture("mcc/unet"),
    *_tv("regnet_x_400mf regnet_x_1_6gf resnext101_64x4d"),
    *_timm("resnet10t resnet26d resnet50_gn resnet101s resnetblur18 resnetaa34d resnet50c resnetrs50"),
    *_timm("seresnet18 seresnext26d_32x4d ecaresnet26t ecaresnext26t_32x4d skresnet18 skresnext50_32x4d"),
    *_timm("resnetv2_50 resnetv2_50d_gn resnetv2_50x1_bit resnet51q resnet33ts gcresnet33ts senet154"),
    *_timm("res2net50_14w_8s res2next50 resnest14d resnest26d resnest50d_4s2x40d"),
    *_timm("regnetx_002 regnety_004 regnety_040_sgn regnetv_040 regnetz_005 regnetz_b16 regnetz_040_h"),
    *_timm("densenetblur121d rdnet_tiny vgg13_bn inception_next_atto"),
    *_timm("legacy_xception xception41 xception65p"),
    *_timm("mobilenetv1_100 mobilenetv1_100h mobilenetv2_050 mobilenetv2_110d mobilenetv3_small_050"),
    *_timm("mobilenetv3_large_150d tf_mobilenetv3_large_minimal_100 mobilenet_edgetpu_v2_xs"),
    *_timm("mobilenetv4_conv_small mobilenetv4_conv_medium mobilenetv4_conv_aa_medium"),
    *_timm("mobilenetv4_hybrid_medium mobilenetv5_base mobileone_s0 mobileone_s1 mobileone_s4"),
    *_timm("mnasnet_small semnasnet_075 spnasnet_100 fbnetc_100 fbnetv3_b mixnet_s mixnet_m tf_mixnet_s"),
    *_timm(
        "efficientnet_lite0 efficientnet_es efficientnet_b0_gn efficientnet_b0_g16_evos efficientnet_cc_b0_4e"
    ),
    *_timm("efficientnet_blur_b0 gc_efficientnetv2_rw_t tf_efficientnet_b0 tf_efficientnetv2_b0"),
    *_timm("tf_efficientnet_lite1 efficientnet_b1_pruned tinynet_a tinynet_e"),
    *_timm("ghostnet_050 ghostnet_100 ghostnetv2_100 ghostnetv3_100 repghostnet_050 repghostnet_100"),
    *_timm("hardcorenas_a hardcorenas_f lcnet_050 lcnet_100 lcnetv2_small"),
    *_timm("repvgg_a0 repvgg_b1g4 repvgg_d2se repvit_m0_9 repvit_m1_1 gernet_s"),
    *_timm("convnext_atto convnext_atto_ols convnext_atto_rms convnextv2_atto convnext_zepto_rms_ols"),
    *_timm("edgenext_xx_small edgenext_small convmixer_768_32 starnet_s050 starnet_s1 mambaout_femto"),
    *_timm("fasternet_t0 fasternet_s shvit_s1 cspnext_tiny lowformer_b0 cpubone_nano"),
    *_timm("hrnet_w18_small hrnet_w18_small_v2 hrnet_w18"),
    *_timm("dla34 dla46x_c dla60_res2net dla60x dpn48b dpn68b"),
    *_timm("ese_vovnet19b_slim_dw ese_vovnet39b eca_vovnet39b vovnet39a"),
    *_timm("nfnet_l0 eca_nfnet_l0 nf_regnet_b0 nf_resnet50 nf_seresnet26 dm_nfnet_f0"),
    *_timm("rexnet_100 rexnetr_100 rexnet_150 selecsls42 selecsls60b"),
    *_timm("cspresnet50 cspresnext50 cspdarknet53 cs3darknet_s cs3darknet_focus_s cs3sedarknet_l darknet17"),
    *_timm("darknetaa53 sedarknet21 hgnet_tiny hgnetv2_b0 hgnetv2_b4 tresnet_m"),
    *_timm("poolformer_s12 poolformerv2_s12 convformer_s18 fastvit_t8 mobilevit_xxs"),
    *_timm("efficientformer_l1 visformer_tiny", side=224),
    *_timm("inception_v4 inception_resnet_v2", side=139),
    *_timm("mobilevitv2_050 efficientvit_b0 efficientvit_m0 swiftformer_xs"),
]
"""Other families, chosen for variety."""

SMALL = [
    "mcc/unet",
    *("tv/squeezenet1_1", "tv/shufflenet_v2_x0_5", "tv/mobilenet_v3_small", "tv/regnet_x_400mf"),
    *("tv/resnet18", "tv/mnasnet0_5", "timm/resnet10t", "timm/resnest14d", "timm/ghostnet_050"),
    *("timm/mobilenetv4_conv_small", "timm/lcnet_050", "timm/tinynet_e", "timm/mobileone_s0"),
    *("timm/repghostnet_050", "timm/starnet_s050", "timm/convnext_atto_rms", "timm/dla46x_c"),
    *("timm/ese_vovnet19b_slim_dw", "timm/mobilevitv2_050"),
]
"""Twenty for the tests: small, and each of another kind."""

ALL: dict[str, Architecture] = {entry.name: entry for entry in (*TORCHVISION, *OTHERS)}
