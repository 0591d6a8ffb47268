"""Published measurements on phones: tables of blocks, and a fit for other blocks."""

from cost_models.phones.blocks import Block, PhoneNetwork, block_named, read_network
from cost_models.phones.model import FEATURES, PhoneCostModel, Row, features, read_table

__all__ = [
    "FEATURES",
    "Block",
    "PhoneCostModel",
    "PhoneNetwork",
    "Row",
    "block_named",
    "features",
    "read_network",
    "read_table",
]
