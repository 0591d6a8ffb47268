"""Small models, lowered, with the folder that an app is written from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from mcc.app.facts import AppFacts, ports
from mcc.app.writer import write_app
from mcc.data.answer import Answer
from mcc.data.decoding import AnchorHead, Channels, Decoder, Level
from mcc.data.picture import Fit
from mcc.data.preprocessing import Preprocessing
from mcc.ir.graph import Graph, GraphBuilder, inputs, outputs, run
from mcc.ir.notes import shape_of
from mcc.lower.formats import get_format
from mcc.pass_api import PassContext, apply_pass
from mcc.runtime import get_target
from passes.insert_qdq import InsertQdq

HEIGHT, WIDTH = 12, 16
CLASSES = 5
LABELS = ("ant", 'a "bee"', "c$at", "dög", "</script>")
OWN = Preprocessing((0.4, 0.5, 0.6), (0.2, 0.3, 0.25), (HEIGHT, WIDTH), 0.5, channels="bgr")
GREY = Preprocessing((0.5,), (0.5,), (HEIGHT, WIDTH))
SIZE = (HEIGHT, WIDTH)
ANCHORS = tuple(
    (x - 3.0, y - 2.5, x + 3.0, y + 2.5) for y in (2.0, 6.0, 10.0) for x in (2.0, 6.0, 10.0, 14.0)
)
FINE, COARSE = ((2, 2), (6, 8)), ((4, 4), (3, 4))  # stride and size of the maps
DECODERS = {  # over the outputs of `detector`
    "distances": Decoder(SIZE, CLASSES, (
        Level(*FINE, Channels(0, 0, CLASSES), Channels(1, 0, 4)),
        Level(*COARSE, Channels(2, 4, CLASSES), Channels(2, 0, 4)),
    )),
    "distribution": Decoder(SIZE, CLASSES, (
        Level(*FINE, Channels(0, 0, CLASSES), Channels(3, 0, 12), "distribution"),
    )),
    "centre": Decoder(SIZE, CLASSES, (
        Level(*COARSE, Channels(2, 4, CLASSES), Channels(2, 0, 4), "centre", Channels(2, 9, 1)),
    )),
    "anchors": Decoder(SIZE, CLASSES, anchors=AnchorHead(4, 5, ANCHORS, True)),
    "anchors_sigmoid": Decoder(SIZE, CLASSES + 1, anchors=AnchorHead(4, 5, ANCHORS, False, (0.2, 0.3))),
}  # fmt: skip
ANSWERS = {"classes": Answer("classes"), "map": Answer("map"), "values": Answer("values")}


@dataclass(frozen=True)
class Written:
    """A written folder, and what it was written from."""

    folder: Path
    facts: AppFacts
    graph: Graph
    preprocessing: Preprocessing


def network(kind: str, channels: int) -> Graph:
    """A network with two outputs, of which the second is judged."""
    b, g = GraphBuilder(), torch.Generator().manual_seed(3)
    x = b.input("image", (1, channels, HEIGHT, WIDTH))
    x = b.conv2d(
        x,
        b.constant("w", torch.randn(8, channels, 3, 3, generator=g)),
        None,
        padding=(1, 1, 1, 1),
        activation="relu",
    )
    maps = b.conv2d(x, b.constant("v", torch.randn(CLASSES, 8, 1, 1, generator=g)), None)
    if kind == "map":
        return b.finish(x, maps)
    return b.finish(x, b.mean(maps, axes=(2, 3), keepdim=False))


def detector(channels: int) -> Graph:
    """A network with maps of two resolutions in several codings, and boxes and scores of twelve anchors."""
    b, g = GraphBuilder(), torch.Generator().manual_seed(4)

    def conv(x: Any, name: str, given: int, made: int, scale: float, stride: int = 1) -> Any:
        weight = b.constant(f"{name}w", scale * torch.randn(made, given, 3, 3, generator=g))
        return b.conv2d(x, weight, None, padding=(1, 1, 1, 1), stride=(stride, stride), activation="none")

    x = b.relu(conv(b.input("image", (1, channels, *SIZE)), "a", channels, 8, 0.4, 2))
    y = b.relu(conv(x, "b", 8, 16, 0.3, 2))
    logits, distances = conv(x, "c", 8, CLASSES, 0.1), b.relu(conv(x, "d", 8, 4, 0.3))
    joint, bins = conv(y, "e", 16, 10, 0.05), conv(x, "f", 8, 12, 0.2)

    def rows(name: str, width: int, scale: float) -> Any:
        flat = b.transpose(conv(y, name, 16, width, scale), perm=(0, 2, 3, 1))
        return b.reshape(flat, shape=(12, width))

    return b.finish(logits, distances, joint, bins, rows("g", 4, 0.05), rows("h", CLASSES + 1, 0.05))


def written(
    folder: Path, suffix: str, kind: str, *, integer: bool = False, channels: int = 3, **options: Any
) -> Written:
    """The folder of an app for a model file in `folder`.

    Args:
        options: of the writer of the format.
    """
    boxes = kind in DECODERS
    graph = detector(channels) if boxes else network(kind, channels)
    answer = Answer("boxes", boxes=DECODERS[kind].to_json()) if boxes else ANSWERS[kind]
    labels = (*LABELS, "last") if kind == "anchors_sigmoid" else LABELS
    preprocessing = (OWN if channels == 3 else GREY).for_channels(channels)
    if integer:
        chance = np.random.default_rng(5)
        images = chance.integers(0, 256, (64, channels, HEIGHT, WIDTH), dtype=np.uint8)
        feed = torch.from_numpy(preprocessing.apply(images, (HEIGHT, WIDTH)))
        graph = apply_pass(InsertQdq(), graph, PassContext((feed,)))
    form = get_format(suffix.removeprefix("."))
    file = folder / f"model{suffix}"
    file.write_bytes(form.lower(graph, normalisation=None, judged=1, **options))
    with get_target(form.host).session(file) as session:
        taken, given = ([shape_of(node) for node in nodes(graph)] for nodes in (inputs, outputs))
        read, wrote = ports(session, taken, given, file)
    facts = AppFacts(
        file.name, "net <one>", tuple(read), tuple(wrote), preprocessing, labels, answer, 1, 1, True
    )
    write_app(folder / "app", file, facts)
    return Written(folder / "app", facts, graph, preprocessing)


def picture(folder: Path, *, seed: int, size: tuple[int, int] = (40, 33)) -> Path:
    """A smooth picture with a colour of its own, so that a wrong order of channels shows."""
    chance = np.random.default_rng(seed)
    pixels = chance.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    pixels[..., seed % 3] //= 4
    path = folder / f"picture{seed}.png"
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


def expected(made: Written, file: Path) -> list[NDArray[np.float32]]:
    """Outputs of the graph for a picture, prepared as `mcc evaluate` does."""
    fit = Fit((HEIGHT, WIDTH), made.preprocessing.crop, made.facts.image[0], made.facts.answer.whole)  # type: ignore[index]
    x = made.preprocessing.apply(fit.decode(file)[None].copy(), (HEIGHT, WIDTH))
    return [value.numpy() for value in run(made.graph, torch.from_numpy(x))]
