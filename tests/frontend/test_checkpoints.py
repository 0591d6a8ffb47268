"""Checkpoints as training frameworks write them: which weights are taken, what is said, what is refused."""

from __future__ import annotations

import argparse
import collections
import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mcc.errors import DataError, UsageError
from mcc.files import split_entry
from mcc.frontend.checkpoint import read_sets
from mcc.frontend.weights import load_weights

State = dict[str, Tensor]


def network(seed: int = 0, classes: int = 4) -> nn.Sequential:
    torch.manual_seed(seed)
    made = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Sequential(nn.Linear(8, classes))
    )
    made[1].get_buffer("running_mean").normal_()
    return made


RAW, EMA = network(1).state_dict(), network(2).state_dict()


def prefixed(value: State, prefix: str) -> State:
    return {prefix + name: tensor for name, tensor in value.items()}


def loaded(content: Any, tmp_path: Path, entry: str = "") -> tuple[State, tuple[str, ...]]:
    torch.save(content, tmp_path / "w.pth")
    module = network()
    said = load_weights(module, tmp_path / f"w.pth{entry}")
    return module.state_dict(), said


def equal(one: State, other: State) -> bool:
    return all(torch.equal(one[name], value) for name, value in other.items())


class History:
    """A class of the training program that mcc does not have."""

    def __init__(self) -> None:
        self.losses = [1.0, 0.5]
        self.best = torch.tensor(0.9)


class Options(dict[str, Any]):
    """As Lightning's AttributeDict: a dictionary of a class of its own."""


class Items(list[int]):
    """A list of a class of its own."""


OPTIMISER = {"state": {0: {"exp_avg": torch.zeros(8, 3, 3, 3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
MMENGINE = {"meta": {"mmengine_version": "0.10"}, "message_hub": {"log_scalars": {"loss": History()}}}
COUNTED = {"module.n_averaged": torch.tensor(5), **prefixed(EMA, "module.module.")}

ONE_SET: dict[str, Any] = {
    "compiled": prefixed(RAW, "_orig_mod."),
    "compiled, in parallel": prefixed(RAW, "module._orig_mod."),
    "Lightning": {
        "state_dict": prefixed(RAW, "model."), "epoch": 3, "optimizer_states": [OPTIMISER],
        "hyper_parameters": Options(lr=0.1), "callbacks": {"ModelCheckpoint": {"best": torch.tensor(0.9)}},
    },
    "Lightning, with a metric and a loss": {
        "state_dict": {
            **prefixed(RAW, "net."), "loss.weight": torch.ones(4), "accuracy.correct": torch.tensor(3),
        }
    },
    "with options": {"model": RAW, "args": argparse.Namespace(lr=0.1), "optimizer": OPTIMISER},
    "timm": {"epoch": 3, "arch": "x", "state_dict": RAW, "optimizer": OPTIMISER, "amp_scaler": {}},
    "YOLOX": {"start_epoch": 3, "model": RAW, "optimizer": OPTIMISER, "best_ap": 0.4, "curr_ap": None},
    "Detectron2": {"model": RAW, "optimizer": OPTIMISER, "scheduler": {"milestones": []}, "iteration": 5},
    "DeepSpeed": {"module": RAW, "ds_version": "0.9", "dp_world_size": 1},
    "MMCV": {"meta": {"mmcv_version": "1.7", "seed": 0}, "state_dict": prefixed(RAW, "module.")},
    "MMCV with EMA": {"state_dict": {**RAW, **{"ema_" + n.replace(".", "_"): v for n, v in EMA.items()}}},
    "MMEngine": {"state_dict": RAW, **MMENGINE},
    "Accelerate, in float16": {n: v.half().float() if v.is_floating_point() else v for n, v in RAW.items()},
    "Hugging Face": prefixed(RAW, "timm_model."),
    "profiled by thop": {**RAW, "0.total_ops": torch.zeros(1), "0.total_params": torch.zeros(1)},
    "of torch before 0.4.1": {name: v for name, v in RAW.items() if "num_batches" not in name},
    "under any key": {"generator": RAW, "rng_state": torch.zeros(3, dtype=torch.uint8)},
    "two levels down": {"state": {"net": RAW}, "optimizer": OPTIMISER},
    "numbers beside": {**RAW, "epoch": 3, "best": 0.9},
    "a history beside": {"state_dict": RAW, "history": History(), "list": Items([1, 2])},
    "a dictionary of another class": {"state_dict": RAW, "results": collections.defaultdict(list, x=[1.0])},
    "the same twice": {"model": RAW, "best": {name: value.clone() for name, value in RAW.items()}},
}  # fmt: skip


@pytest.mark.parametrize("form", ONE_SET)
def test_one_set_of_weights_is_found(form: str, tmp_path: Path) -> None:
    state, _ = loaded(ONE_SET[form], tmp_path)
    wanted = ONE_SET[form] if form == "Accelerate, in float16" else RAW
    assert equal(state, {name: value for name, value in wanted.items() if name in state and name in RAW})


TWO_SETS: dict[str, tuple[Any, str, str]] = {
    "timm": ({"state_dict": RAW, "state_dict_ema": EMA}, "state_dict_ema", "state_dict"),
    "torchvision": ({"model": RAW, "model_ema": COUNTED}, "model_ema", "model"),
    "BasicSR": ({"params": RAW, "params_ema": EMA}, "params_ema", "params"),
    "in one dictionary": (
        {"state_dict": {**prefixed(RAW, "model."), **prefixed(EMA, "ema_model.")}},
        "state_dict.ema_model", "state_dict.model",
    ),
    "averaged beside the plain names": ({**RAW, **prefixed(EMA, "ema.")}, "ema", "."),
    "swa_utils": ({"model": RAW, "swa_model": COUNTED}, "swa_model", "model"),
}  # fmt: skip


@pytest.mark.parametrize("form", TWO_SETS)
def test_averaged_weights_are_taken_and_raw_ones_can_be(form: str, tmp_path: Path) -> None:
    content, averaged, raw = TWO_SETS[form]
    state, said = loaded(content, tmp_path)
    assert equal(state, EMA)
    assert len(said) == 1
    assert f"the averaged ones ('{averaged}') were taken" in said[0]
    assert f"w.pth#{raw} takes the raw ones" in said[0]
    for entry, wanted in ((raw, RAW), (averaged, EMA)):
        state, said = loaded(content, tmp_path, f"#{entry}")
        assert equal(state, wanted)
        assert not said


def test_mmengine_keeps_averaged_weights_under_the_plain_key(tmp_path: Path) -> None:
    content = {"state_dict": EMA, "ema_state_dict": prefixed(RAW, "module."), **MMENGINE}
    state, said = loaded(content, tmp_path)
    assert equal(state, EMA)
    assert "the averaged ones ('state_dict')" in said[0]


def test_averaged_weights_under_flattened_names_are_mentioned(tmp_path: Path) -> None:
    flat = {"model_ema." + name.replace(".", ""): value for name, value in EMA.items()}
    state, said = loaded({"state_dict": {**prefixed(RAW, "model."), **flat}}, tmp_path)
    assert equal(state, RAW)
    assert "may be averaged weights (model_ema.0weight, " in said[0]


@pytest.mark.parametrize("keys", [("a", "b"), ("student", "teacher"), ("netG_A", "netG_B")])
def test_of_two_unlike_sets_none_is_taken(keys: tuple[str, str], tmp_path: Path) -> None:
    content = {keys[0]: RAW, keys[1]: EMA}
    with pytest.raises(DataError, match=f"2 sets of weights, '{keys[0]}', '{keys[1]}'; .*w.pth#{keys[0]}"):
        loaded(content, tmp_path)
    assert equal(loaded(content, tmp_path, f"#{keys[1]}")[0], EMA)


def test_a_key_that_is_not_there_is_told_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nothing called 'emma'; it holds model, ema"):
        loaded({"model": RAW, "ema": EMA}, tmp_path, "#emma")


def test_a_part_of_a_larger_network_says_what_was_left_out(tmp_path: Path) -> None:
    content = {"state_dict": {**prefixed(RAW, "backbone."), "head.weight": torch.ones(3, 4)}}
    state, said = loaded(content, tmp_path)
    assert equal(state, RAW)
    assert "'state_dict.backbone'" in said[0]
    assert "head.weight" in said[0]


def test_buffers_that_are_no_longer_stored_may_be_in_the_file(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(2, 2))
    module[0].register_buffer("index", torch.zeros(3), persistent=False)
    torch.save({**module.state_dict(), "0.index": torch.arange(3.0)}, tmp_path / "w.pth")
    load_weights(module, tmp_path / "w.pth")
    assert torch.equal(module[0].get_buffer("index"), torch.arange(3.0))


# -- what does not fit -------------------------------------------------------------------------------------


def test_names_of_both_sides_are_shown(tmp_path: Path) -> None:
    other = {"model": {f"layer{place}.weight": torch.ones(2) for place in range(5)}}
    sentence = r"layer0.weight, layer1.weight, layer2.weight, \.\.\., and the model has 0.weight, 0.bias, 1.w"
    with pytest.raises(DataError, match=sentence):
        loaded(other, tmp_path)
    half = {name: value for name, value in RAW.items() if name.startswith("0")}
    with pytest.raises(DataError, match=r"no weights for 6 of the model's 8 .*holds 1 .*\(fc.weight\)"):
        loaded({**half, "fc.weight": torch.ones(2)}, tmp_path)
    with pytest.raises(DataError, match=r"3.0.weight of shape \(10, 8\), but the model's is \(4, 8\)"):
        loaded(network(1, classes=10).state_dict(), tmp_path)


# -- nothing is run ----------------------------------------------------------------------------------------


class Payload:
    """Calls a function when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.called = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.called


def touch(path: str) -> None:
    """What a payload would do."""
    Path(path).touch()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("function", [touch, exec, os.mkdir, ascii, Path.touch])
def test_no_function_of_a_file_is_called(tmp_path: Path, function: Any, zipped: bool) -> None:
    trace = tmp_path / "trace"
    argument = f"import pathlib; pathlib.Path({str(trace)!r}).touch()" if function is exec else str(trace)
    content = {"state_dict": RAW, "beside": Payload(function, argument)}
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    module = network()
    if function in (os.mkdir, Path.touch):  # of a module that torch never reads; of a result of getattr
        with pytest.raises(DataError, match="without running code"):
            load_weights(module, tmp_path / "w.pth")
    else:
        load_weights(module, tmp_path / "w.pth")
        assert equal(module.state_dict(), RAW)
    assert not trace.exists()
    torch.load(tmp_path / "w.pth", weights_only=False)  # the payload is a payload
    assert trace.exists() or function is ascii


class Sneaky(nn.Sequential):
    """A module whose code would run when it is unpickled."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        raise AssertionError("its code was run")


def test_weights_of_a_pickled_module_are_read_without_its_code(tmp_path: Path) -> None:
    module = Sneaky(*network(1).children())
    module.register_buffer("passing", torch.ones(2), persistent=False)
    state, said = loaded({"epoch": 3, "model": module, "ema": None, "optimizer": OPTIMISER}, tmp_path)
    assert equal(state, RAW)
    assert "test_checkpoints.Sneaky" in said[0]
    assert "not run" in said[0]
    (found,) = [s for s in read_sets(tmp_path / "w.pth") if s.key == "model"]
    assert set(found.tensors) == set(RAW)


def test_a_pickled_module_of_another_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none of the model's weights: it holds weight, bias"):
        loaded(nn.Linear(2, 2), tmp_path)


def test_an_object_without_weights_is_named(tmp_path: Path) -> None:
    torch.save(Options(lr=0.1), tmp_path / "w.pth")
    with pytest.raises(DataError, match=r"is no state dict: it holds 'lr'"):
        load_weights(network(), tmp_path / "w.pth")
    torch.save(Payload(touch, "x"), tmp_path / "w.pth")
    with pytest.raises(DataError, match=r"is no state dict: it is a .*test_checkpoints.touch"):
        load_weights(network(), tmp_path / "w.pth")


def test_a_script_says_how_to_save_its_weights(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, and its files are still about
        script = torch.jit.trace(network().eval(), torch.zeros(1, 3, 3, 3))
        torch.jit.save(script, tmp_path / "w.pt")
    with pytest.raises(DataError, match=r"TorchScript archive.*torch.jit.load\(file\).state_dict\(\)"):
        load_weights(network(), tmp_path / "w.pt")


def test_a_file_may_have_the_mark_in_its_name(tmp_path: Path) -> None:
    (tmp_path / "run#3.pth").touch()
    assert split_entry(tmp_path / "run#3.pth") == (tmp_path / "run#3.pth", "")
    assert split_entry(tmp_path / "run#3.pth#ema") == (tmp_path / "run#3.pth", "ema")
    assert split_entry(tmp_path / "none.pth") == (tmp_path / "none.pth", "")
    assert split_entry(".#lock") == (Path(".#lock"), "")
