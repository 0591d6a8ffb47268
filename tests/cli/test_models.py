"""Commands that read models and files, on a small network, from end to end in this process."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mcc.calibrate.store import Store
from mcc.cli import main
from mcc.cost_api import Measurement
from mcc.ir.graph import Graph, copy_graph, set_constant
from mcc.ir.storage import load_graph, save_graph
from mcc.runtime.registry import get_target
from tests.calibrate.kernels import pool
from tests.report.networks import classifier


@pytest.fixture
def mcc(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a command line in an empty folder; the status must be as expected. Returns stdout."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, status: int = 0) -> str:
        code = main.run(arguments)
        captured = capsys.readouterr()
        assert code == status, captured.err
        return captured.err if status else captured.out

    return run


def stored(graph: Graph, name: str) -> str:
    """The graph in a file of that name in the working folder."""
    save_graph(graph, Path(name))
    return name


def test_opt_writes_what_every_command_reads(mcc: Any) -> None:
    model = stored(classifier(batch_norm=True), "net.mcc")
    text = mcc("opt", model, "-p", "sparsify-1x1{sparsity=0.5}")
    assert text.startswith("mcc 1\n")
    assert "sparse=(1, 0.5)" in text
    report = json.loads(mcc("opt", model, "-p", "sparsify-1x1{sparsity=0.5}", "-o", "thin.mcc", "--json"))
    assert report["steps"][0]["pass"] == "sparsify-1x1{sparsity=0.5}"
    assert report["steps"][0]["changed"] is True
    weight = load_graph("thin.mcc").get_parameter("wide_weight")
    assert float((weight == 0).float().mean()) == 0.5
    assert mcc("opt", "thin.mcc", "-p", "sparsify-1x1{sparsity=0.5}") == text


def test_opt_shows_what_passes_did(mcc: Any) -> None:
    model = stored(classifier(), "net.mcc")
    both = "sparsify-1x1{sparsity=0.5},sparsify-1x1"
    out = mcc("opt", model, "-p", both, "--timing", "--stats")
    assert "verify ms" in out
    assert "weights zeroed" in out
    assert mcc("opt", model, "-p", both, "--print-after", "all").count("# after") == 2
    assert mcc("opt", model, "-p", both, "--print-after", "changed").count("# after") == 1
    assert json.loads(mcc("opt", model, "-p", both, "--bisect-limit", "1", "--json"))["steps"][1:] == []


def test_opt_runs_a_pass_of_ones_own(mcc: Any, tmp_path: Path) -> None:
    (tmp_path / "say_nothing.py").write_text(
        "from dataclasses import dataclass\nfrom mcc.pass_api import Pass\n\n@dataclass(frozen=True)\n"
        "class SayNothing(Pass):\n    name = 'say-nothing'\n    def run(self, graph, ctx):\n        pass\n"
    )
    model = stored(classifier(), "net.mcc")
    mcc("opt", model, "-p", "say-nothing", "--load", "say_nothing.py")
    assert "absent.py: no such file" in mcc("opt", model, "-p", "x", "--load", "absent.py", status=2)


def test_opt_leaves_a_reproducer_of_a_failing_pass(mcc: Any, tmp_path: Path) -> None:
    (tmp_path / "drift_weights.py").write_text(
        "from dataclasses import dataclass\nimport torch\nfrom mcc.pass_api import Pass\n\n"
        "@dataclass(frozen=True)\nclass DriftWeights(Pass):\n    name = 'drift-weights'\n"
        "    def run(self, graph, ctx):\n        with torch.no_grad():\n"
        "            graph.get_parameter('wide_weight').mul_(1.01)\n"
    )
    model = stored(classifier(), "net.mcc")
    said = mcc("opt", model, "-p", "drift-weights", "--load", "drift_weights.py", status=1)
    assert "from the exact twin" in said
    assert "mcc opt mcc-reproducer/before-drift-weights.mcc" in said
    assert Path("mcc-reproducer/before-drift-weights.mcc").exists()
    mcc("opt", model, "-p", "drift-weights", "--load", "drift_weights.py", "--no-verify")


def test_diff(mcc: Any) -> None:
    a = stored(classifier(), "a.mcc")
    changed = copy_graph(classifier())
    set_constant(changed, "wide_weight", torch.zeros(16, 8, 1, 1))
    b = stored(changed, "b.mcc")
    assert mcc("diff", a, a) == "no difference in 6 nodes\n"
    assert "~ wide" in mcc("diff", a, b, "--html", "d.html")
    assert "b.mcc" in Path("d.html").read_text()
    found = json.loads(mcc("diff", a, b, "--json"))
    assert found["equal"] is False
    assert [node["b"]["name"] for node in found["nodes"]] == ["wide"]
    assert "= stem" in mcc("diff", a, b, "--all")


def test_bad_models_are_one_sentence(mcc: Any) -> None:
    Path("broken.mcc").write_text("mcc 1\n%x = input() {} : f32[1,3]\n")
    Path("broken.tflite").write_bytes(b"nonsense")
    for arguments, said in (
        (["inspect", "absent.mcc"], "no such file"),
        (["inspect", "broken.mcc"], "has no return line"),
        (["inspect", "broken.tflite"], "is no TFLite file"),
        (["diff", "broken.tflite", "broken.mcc"], "is no TFLite file"),
        (["opt", "no.such.module:factory", "-p", ""], "no.such.module"),
        (["lower", "nothing", "--to", "tflite"], "'nothing' is no model"),
        (["verify", "absent.mcc", "broken.tflite"], "is no TFLite file"),
    ):
        text = mcc(*arguments, status=2)
        assert said in text, text
        assert text.count("\n") == 1


@pytest.mark.parametrize(
    ("to", "target"),
    [
        ("tflite", "litert-host"),
        pytest.param("onnx", "ort-host", marks=pytest.mark.slow),
        pytest.param("ort", "ort-host", marks=pytest.mark.slow),
        pytest.param("pte", "executorch-host", marks=pytest.mark.slow),
    ],
)
def test_lower_verify_evaluate_and_bench(mcc: Any, to: str, target: str) -> None:
    model = stored(classifier(batch_norm=True), "net.mcc")
    file = f"net.{to}"
    assert json.loads(mcc("lower", model, "--to", to, "--json"))["file"] == file
    checked = json.loads(mcc("verify", model, file, "--json", "--count", "8"))
    assert checked["passed"] is True
    assert checked["target"] == target
    assert "agrees" in mcc("verify", model, file, "--data", "digits", "--count", "8")
    scores = json.loads(mcc("evaluate", file, "--data", "digits", "--limit", "50", "--json"))
    assert scores[0]["images"] == 50
    assert 0 <= scores[0]["accuracy"] <= 1
    assert "95 % interval" in mcc("evaluate", file, model, "--data", "digits", "--limit", "20",
                                  "--target", target, "-q")  # fmt: skip
    measured = json.loads(mcc("bench", file, file, "--target", target, "--budget", "1s", "--json"))
    assert [entry["file"] for entry in measured] == [file, file]
    for entry in measured:
        assert {"median", "p10", "p90", "runs"} <= set(entry["latency_us"])
        assert entry["peak_memory_bytes"] >= 0
        assert entry["target"] == target
        assert isinstance(entry["ops"], list)


def test_options_of_lower_reach_the_writers(mcc: Any) -> None:
    import onnx

    model = stored(classifier(), "net.mcc")
    sizes = {
        flags: json.loads(
            mcc("lower", model, "--to", "tflite", "-o", f"n{len(flags)}.tflite", *flags, "--json")
        )
        for flags in ((), ("--fp16",))
    }
    assert sizes[("--fp16",)]["size_bytes"] < sizes[()]["size_bytes"]
    mcc("lower", model, "--to", "onnx", "--opset", "21")
    assert onnx.load("net.onnx").opset_import[0].version == 21
    found = json.loads(mcc("lower", model, "--to", "onnx", "-o", "net.ort", "--processor", "amd64", "--json"))
    assert (found["format"], Path("net.ort").read_bytes()[4:8]) == ("ort", b"ORTM")
    for flags, said in (
        (("--to", "onnx", "--fp16"), "--fp16: onnx files have no such option"),
        (("--to", "pte", "--opset", "17"), "--opset: pte files have no such option"),
        (
            ("--to", "pte", "--via", "tensorflow"),
            "--via: no such way to pte; choose auto or direct or export",
        ),
    ):
        assert said in mcc("lower", model, *flags, status=2)


@pytest.mark.slow
@pytest.mark.parametrize("to", ["tflite", "onnx", "pte"])
def test_a_quantised_graph_is_verified_against_the_simulator(
    mcc: Any, to: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = stored(classifier(quantised=True), "int8.mcc")
    mcc("lower", model, "--to", to, "-o", f"int8.{to}")
    found = json.loads(mcc("verify", model, f"int8.{to}", "--json"))
    assert found["passed"] is True
    assert "integer simulator" in found["rule"]
    # The float model is another model: a quantised file is not within float rounding of it.
    assert main.run(["verify", stored(classifier(), "float.mcc"), f"int8.{to}", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["passed"] is False


def test_verify_finds_a_file_that_computes_something_else(mcc: Any) -> None:
    model = stored(classifier(), "net.mcc")
    mcc("lower", model, "--to", "tflite", "-o", "net.tflite")
    other = copy_graph(classifier())
    with torch.no_grad():
        other.get_parameter("wide_weight").mul_(1.01)
    said = main.run(["verify", stored(other, "other.mcc"), "net.tflite"])
    assert said == 1


def test_inspect(mcc: Any) -> None:
    model = stored(classifier(batch_norm=True), "net.mcc")
    found = json.loads(mcc("inspect", model, "--json"))
    assert [layer["kind"] for layer in found["layers"]] == [
        "conv2d 3x3", "depthwise 3x3", "conv2d 1x1", "mean", "linear",
    ]  # fmt: skip
    assert found["macs"] == sum(layer["macs"] for layer in found["layers"]) > 0
    text = mcc("inspect", model, "--why")
    assert "is 3x3, not 1x1" in text
    mcc("lower", model, "--to", "tflite", "-o", "net.tflite")
    assert json.loads(mcc("inspect", "net.tflite", "--json"))["operators"]["CONV_2D"] == 2
    assert "operators" in mcc("inspect", "net.tflite")
    assert "shown channels first" in mcc("inspect", "net.tflite")


def test_inspect_of_a_device_never_seen(mcc: Any) -> None:
    model = stored(classifier(), "net.mcc")
    found = json.loads(mcc("inspect", model, "--target", "litert-host", "--roofline", "10,8", "--json"))
    layers = {layer["kind"]: layer for layer in found["layers"]}
    forms = layers["conv2d 1x1"]["forms"]
    assert [name.split()[0] for name in forms] == ["float", "int8", "rank"]
    assert {form["source"] for form in forms.values()} == {"roofline"}
    assert found["measured"] is None
    assert 0.5 < found["roofline_share"] < 1
    assert {roofline["kind"] for roofline in found["rooflines"]} >= {"conv2d, float", "linear, float"}
    assert forms["float"]["latency_us"] == layers["conv2d 1x1"]["predicted_latency_us"]
    mcc("lower", model, "--to", "tflite", "-o", "net.tflite")
    assert found["file_bytes"] == Path("net.tflite").stat().st_size
    text = mcc("inspect", model, "--target", "litert-host", "--roofline", "10,8")
    assert "cost of each layer in each form" in text
    assert "roofline ± 50 %" in text
    assert "is estimated by a roofline: " in text
    for bad in ("10", "0,8", "10,inf", "a,b"):
        assert "no pair of rates" in mcc(
            "inspect", model, "--target", "litert-host", "--roofline", bad, status=2
        )
    assert "needs a --target" in mcc("inspect", model, "--roofline", "10,8", status=2)


def test_tables_are_shared(mcc: Any, tmp_path: Path, cache_dir: Path) -> None:
    """Rows of this device count on this device, those of another are named and do not."""
    here = get_target("litert-host").fingerprint()
    row = Measurement(pool(16), 3.0, 2.9, 3.1, 10, "2026-01-01", 0.0)
    with Store(tmp_path / "theirs.sqlite") as store:
        store.add(here.key(), [row])
        store.add(replace(here, device="a phone").key(), [row])
        store.export(tmp_path / "theirs.json")
    asked = ["calibrate", "--target", "litert-host", "--merge", str(tmp_path / "theirs.json")]
    found = json.loads(mcc(*asked, "--export", "ours.json", "--json"))
    assert (found["merged"], found["exported"], found["usable"]) == (2, 1, 1)
    assert [key.split("|")[1] for key in found["stale"]] == ["a phone"]
    assert len(json.loads(Path("ours.json").read_text())["kernels"]) == 1
    assert "belong to another version or device" in mcc(*asked)
    Path("bad.json").write_text("[]")
    assert "is no table" in mcc("calibrate", "--target", "litert-host", "--merge", "bad.json", status=2)


@pytest.mark.slow
def test_calibrate_then_inspect_predicts(mcc: Any, cache_dir: Path, disturbed_rows_count: None) -> None:
    model = stored(classifier(), "net.mcc")
    asked = ["--target", "litert-host", "--json"]
    unmeasured = ["inspect", model, "--target", "litert-host", "--no-measure"]
    assert "no operator was measured" in mcc(*unmeasured, status=2)
    first = json.loads(mcc("calibrate", "--model", model, "--budget", "2min", *asked))
    assert first["measured"] > 4
    assert first["left"] == 0
    assert Path(first["path"]).is_relative_to(cache_dir)
    again = json.loads(mcc("calibrate", "--model", model, *asked))
    assert again["measured"] == 0
    assert again["known"] >= first["measured"]
    found = json.loads(mcc("inspect", model, *asked))
    layers = [layer["predicted_latency_us"] for layer in found["layers"]]
    assert found["predicted_latency_us"] == pytest.approx(
        sum(layers) + found["predicted_overhead_us"], rel=1e-3
    )
    assert all(layer["source"] == "measured" for layer in found["layers"])
    assert "confidence" in mcc(*unmeasured)


@pytest.mark.slow
def test_inspect_measures_what_it_lacks(mcc: Any, cache_dir: Path, disturbed_rows_count: None) -> None:
    model = stored(classifier(), "net.mcc")
    asked = ["inspect", model, "--target", "litert-host", "--json"]
    first = json.loads(mcc(*asked))
    assert first["measured"]["measured"] == len(first["layers"])
    assert (first["roofline_share"], first["rooflines"], first["measured"]["left"]) == (0, [], 0)
    bounds = (first["predicted_latency_us_low"], first["predicted_latency_us_high"])
    assert 0 < bounds[0] < first["predicted_latency_us"] < bounds[1]
    assert json.loads(mcc(*asked))["measured"]["measured"] == 0
    assert json.loads(mcc(*asked, "--no-measure"))["measured"] is None
