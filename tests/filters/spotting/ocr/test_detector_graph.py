"""The detector's rewritten graph against the one that its file holds."""

import numpy as np
import pytest

from open_diht.filters.spotting.ocr.detector_graph import load_detector, rewrite
from open_diht.filters.spotting.ocr.networks import load_network
from open_diht.filters.spotting.ocr.onnx_file import Graph
from open_diht.filters.spotting.settings import SpotterSettings
from open_diht.filters.spotting.weights import find_models

SHAPES = [(1, 3, 32, 32), (1, 3, 64, 96), (2, 3, 32, 160), (1, 3, 384, 288)]


def operators(data: bytes) -> list[str]:
    return [node.op_type for node in Graph(data).nodes]


@pytest.mark.parametrize("precision", ["f32", "bf16"])
@pytest.mark.parametrize("size", ["tiny", "small"])
def test_the_map_is_that_of_the_file(ocr_models, size, precision):
    path = find_models(size).detection / "inference.onnx"
    known, ours = (
        load_network(data, SpotterSettings())
        for data in (path.read_bytes(), load_detector(path, precision))
    )
    for shape in SHAPES:
        images = np.random.default_rng(1).normal(size=shape).astype(np.float32)
        assert ours(images).shape == (shape[0], 1, *shape[2:])
        assert ours(images) == pytest.approx(known(images), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("size", ["tiny", "small"])
def test_all_steps_find_their_layers(ocr_models, size):
    path = find_models(size).detection / "inference.onnx"
    before = operators(path.read_bytes())
    after = operators(load_detector(path, "f32"))
    assert before.count("Concat") == 2  # in the stem, which is taken apart, and in the head
    assert after.count("Concat") == 2  # of the maps at half the size, and of the kinds of output
    assert (before.count("ConvTranspose"), after.count("ConvTranspose")) == (2, 0)
    assert after.count("Resize") == before.count("Resize") - 1
    # A gate keeps its product and its sum, which change places.
    assert after.count("Mul") == before.count("Mul")


def test_in_bf16_only_the_last_layers_are_others(ocr_models):
    path = find_models("tiny").detection / "inference.onnx"
    before = operators(path.read_bytes())
    after = operators(load_detector(path, "bf16"))
    assert after == [*before[:-6], "Conv", "Relu", "Conv", "Sigmoid", "DepthToSpace"]


def test_what_is_not_found_stays_as_it_is(ocr_models):
    path = find_models("tiny").detection / "inference.onnx"
    images = np.random.default_rng(2).normal(size=(1, 3, 64, 64)).astype(np.float32)
    graph = Graph(path.read_bytes())
    for node in graph.nodes:
        for attribute in node.attribute:
            if node.op_type == "Resize" and attribute.name == "nearest_mode":
                attribute.s = b"ceil"
            if node.op_type == "ConvTranspose" and attribute.name == "pads":
                attribute.ints[:] = [1, 1, 1, 1]
    other = graph.to_bytes()
    assert operators(rewrite(other, "f32"))[-12:] == operators(other)[-12:]  # the head
    known, ours = (
        load_network(data, SpotterSettings())(images) for data in (other, rewrite(other, "f32"))
    )
    assert ours == pytest.approx(known, rel=1e-3, abs=1e-4)


def test_a_graph_of_other_layers_is_left(ocr_models):
    graph = Graph((find_models("tiny").detection / "inference.onnx").read_bytes())
    graph.remove(*list(graph.nodes)[1:])
    graph.insert(None, "Relu", [graph.nodes[0].output[0]], graph.output)
    data = graph.to_bytes()
    assert rewrite(data, "f32") == data
