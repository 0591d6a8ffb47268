"""Published tables of phones: sums of blocks compared with whole networks, and with a simulated core.

    python -m tools.results.phones --tables DIR -o out/phones

DIR holds `pixel1_blocks.yaml`, `note10/*_lookup_table.yaml` and `networks/*.json`: files that the authors of
ProxylessNAS and Once-for-all published under the MIT licence (github.com/han-cai/files). They are no part of
this project. Resumable; writes docs/results/phones.md and its plots.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from cost_models.phones.blocks import Block, PhoneNetwork, read_network
from cost_models.phones.model import PhoneCostModel, Row, read_table
from tools.results import phones_plot, phones_sim
from tools.results.prediction_runs import Notebook

PAGE = Path(__file__).parents[2] / "docs" / "results" / "phones.md"
WANTED = 0.1  # relative error at most, of a sum against a stated latency

# Input side of each network, from the `run.config` published beside its description.
SIDES = {
    "note10_lat-8ms_top1-71.4_finetune-25": 160,
    "note10_lat-11ms_top1-73.6_finetune-25": 176,
    "note10_lat-16ms_top1-75.5_finetune-25": 192,
    "note10_lat-30ms_top1-78.4_finetune-75": 224,
    "note10_lat-41ms_top1-79.3_finetune-75": 220,
    "note10_lat-64ms_top1-80.2_finetune-75": 260,
    "pixel1_lat-20ms_top1-71.4_finetune-25": 152,
    "pixel1_lat-28ms_top1-73.3_finetune-25": 160,
    "pixel1_lat-58ms_top1-76.9_finetune-75": 220,
    "pixel1_lat-132ms_top1-79.8_finetune-75": 228,
    "pixel1_lat-143ms_top1-80.1_finetune-75": 240,
}

# ProxylessNAS-Mobile (Cai 2019, figure 4; 78 ms on Pixel 1, table 2): the network that the Pixel 1 table was
# made for. Side, channels read and made, expansion, window, stride of each bottleneck.
REFERENCE_MS = 78.0
REFERENCE = (
    (112, 32, 16, 1, 3, 1), (112, 16, 32, 3, 5, 2), (56, 32, 32, 3, 3, 1), (56, 32, 40, 3, 7, 2),
    (28, 40, 40, 3, 3, 1), (28, 40, 40, 3, 5, 1), (28, 40, 40, 3, 5, 1), (28, 40, 80, 6, 7, 2),
    (14, 80, 80, 3, 5, 1), (14, 80, 80, 3, 5, 1), (14, 80, 80, 3, 5, 1), (14, 80, 96, 6, 5, 1),
    (14, 96, 96, 3, 5, 1), (14, 96, 96, 3, 5, 1), (14, 96, 96, 3, 5, 1), (14, 96, 192, 6, 7, 2),
    (7, 192, 192, 6, 7, 1), (7, 192, 192, 3, 7, 1), (7, 192, 192, 3, 7, 1), (7, 192, 320, 6, 7, 1),
)  # fmt: skip

PAGE_TEXT = """\
# Real phones

Nothing here was measured by mcc: the tables hold mean milliseconds of blocks in TensorFlow Lite, float32, one
core, that others measured on a Pixel 1 (72 blocks, one input size) and a Note10 (five input sizes of 96
blocks); the networks' names state the latency of the whole on that phone. Question: does a sum of blocks, as
mcc's cost models are, meet the whole? Written by

    python -m tools.results.phones --tables DIR -o out/phones

where DIR holds `pixel1_blocks.yaml`, `note10/`, `networks/` from github.com/han-cai/files (MIT).

| phone | stated | input | blocks, of which in the table | sum | error | after the factor |
| --- | --- | --- | --- | --- | --- | --- |
{rows}

Within {within}: {raw} of {count} as they are, {after} of {count} after the factor.

Only one network (Note10, 30 ms) consists of rows of the tables alone: its sum is the stated latency to 0.1 %.
What the tables lack (other widths, input sizes) comes from a fit with the physics of kernels
(`cost_models/phones/model.py`), whose relative standard deviation over the rows is {note10:.1f} % for the
Note10 and {pixel1:.1f} % for the Pixel 1.

The Pixel 1 table reads high: ProxylessNAS-Mobile, by its authors (20 of its 23 blocks are rows), sums to
{own:.1f} ms where their paper states {reference:.0f} ms. The last column corrects Pixel 1 sums by that
one factor, {factor:.3f}; none of the eleven networks took part in it. The table knows neither
squeeze-and-excitation nor hard swishes, which those five networks have: they count as nothing there.

![sum against stated latency](phones.svg)
"""


@dataclass(frozen=True)
class Checked:
    """One network: what is stated, and what the table sums to.

    Attributes:
        blocks: Number of its blocks, of which `measured` are rows of the table.
        summed_ms: Sum of the table and of fits between its rows.
        factor: Correction from the sums of this phone to whole networks.
    """

    network: PhoneNetwork
    side: int
    blocks: int
    measured: int
    summed_ms: float
    factor: float

    @property
    def error(self) -> float:
        """Relative error of the uncorrected sum."""
        return self.summed_ms / self.network.stated_ms - 1.0

    @property
    def corrected(self) -> float:
        """Relative error after the factor."""
        return self.factor * self.summed_ms / self.network.stated_ms - 1.0


def tables_of(folder: Path) -> dict[str, list[dict[Block, Row]]]:
    """The tables of each phone."""
    return {
        "pixel1": [read_table(folder / "pixel1_blocks.yaml")],
        "note10": [read_table(path) for path in sorted((folder / "note10").glob("*_lookup_table.yaml"))],
    }


def reference_blocks() -> tuple[Block, ...]:
    """ProxylessNAS-Mobile as blocks."""
    found = [Block("stem", 224, 3, 32)]
    for side, read, made, expansion, window, stride in REFERENCE:
        skip = stride == 1 and read == made
        found.append(Block("bottleneck", side, read, made, expansion * read, window, stride, skip))
    return (*found, Block("pointwise", 7, 320, 1280), Block("classifier", 7, 1280, 1000))


def check(folder: Path) -> tuple[list[Checked], dict[str, PhoneCostModel]]:
    """All networks of a folder against the models of their phones."""
    models = {phone: PhoneCostModel.from_tables(phone, tables) for phone, tables in tables_of(folder).items()}
    own_ms = models["pixel1"].network(reference_blocks()).cost / 1e3
    factors = {"pixel1": REFERENCE_MS / own_ms, "note10": 1.0}
    found: list[Checked] = []
    for path in (folder / "networks").glob("*.json"):
        network = read_network(path)
        blocks, model = network.blocks(SIDES[network.name]), models[network.phone]
        measured = sum(block in model.rows for block in blocks)
        summed = model.network(blocks).cost / 1e3
        found.append(
            Checked(network, SIDES[network.name], len(blocks), measured, summed, factors[network.phone])
        )
    return sorted(found, key=lambda c: (c.network.phone, c.network.stated_ms)), models


def page(found: list[Checked], models: dict[str, PhoneCostModel]) -> str:
    """The page as Markdown."""
    factor = next(c.factor for c in found if c.network.phone == "pixel1")
    raw = sum(abs(c.error) <= WANTED for c in found)
    after = sum(abs(c.corrected) <= WANTED for c in found)
    rows = [
        f"| {c.network.phone} | {c.network.stated_ms:.0f} ms | {c.side} | {c.blocks}, {c.measured} "
        f"| {c.summed_ms:.2f} ms | {100 * c.error:+.1f} % | {100 * c.corrected:+.1f} % |"
        for c in found
    ]
    return PAGE_TEXT.format(
        rows="\n".join(rows), within=f"{100 * WANTED:.0f} %", raw=raw, after=after, count=len(found),
        factor=factor,
        note10=100 * models["note10"].error, pixel1=100 * models["pixel1"].error,
        own=REFERENCE_MS / factor, reference=REFERENCE_MS,
    )  # fmt: skip


@click.command()
@click.option("--tables", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("-o", "--output", default="out/phones", show_default=True, type=click.Path(path_type=Path))
def main(tables: Path, output: Path) -> None:
    """Check, simulate what is missing, and write the page."""
    output.mkdir(parents=True, exist_ok=True)
    found, models = check(tables)
    notes = Notebook(output / "notes.json")
    ranked = [
        one
        for phone, held in tables_of(tables).items()
        for one in phones_sim.rank(phone, held[-1], notes, output)
    ]
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page(found, models) + phones_sim.section(ranked), encoding="utf-8")
    phones_plot.simulated(
        {
            name: points
            for one in ranked
            for name, points in (
                (one.name, one.chosen(wide=False)),
                (f"{one.name}, 7x7", [(m, c) for b, m, c in one.points if b.window == 7]),
            )
        },
        PAGE.with_name("phones-simulated.svg"),
    )
    phones_plot.stated(
        [(c.network.phone, c.network.stated_ms, c.summed_ms) for c in found], PAGE.with_suffix(".svg")
    )
    click.echo(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
