"""Read and change ONNX files, by the few fields of the format that are needed here.

Field numbers are those of ONNX's onnx.proto; fields that are not listed are kept unchanged.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_FLOAT: Final = 1
"""Value of TensorProto.DataType."""
_INT64: Final = 7
_INTS: Final = 7
_FIELDS: Final[dict[type, tuple[str, int]]] = {int: ("i", 2), bytes: ("s", 3)}
"""Type of an attribute's value -> its field and AttributeProto.AttributeType; others are lists of
integers."""
_Field = descriptor_pb2.FieldDescriptorProto
_MESSAGES: Final[dict[str, tuple[tuple[str, int, Any], ...]]] = {
    # (name, number, type): the type of a string, bytes or number, or the name of a message; in a
    # list if repeated
    "Model": (("graph", 7, "Graph"),),
    "Graph": (
        ("node", 1, ["Node"]),
        ("initializer", 5, ["Tensor"]),
        ("output", 12, ["Value"]),
        ("value", 13, ["Value"]),
    ),
    "Node": (
        ("input", 1, [_Field.TYPE_STRING]),
        ("output", 2, [_Field.TYPE_STRING]),
        ("op_type", 4, _Field.TYPE_STRING),
        ("attribute", 5, ["Attribute"]),
    ),
    "Attribute": (
        ("name", 1, _Field.TYPE_STRING),
        ("i", 3, _Field.TYPE_INT64),
        ("s", 4, _Field.TYPE_BYTES),
        ("ints", 8, [_Field.TYPE_INT64]),
        ("type", 20, _Field.TYPE_INT32),
    ),
    "Tensor": (
        ("dims", 1, [_Field.TYPE_INT64]),
        ("data_type", 2, _Field.TYPE_INT32),
        ("name", 8, _Field.TYPE_STRING),
        ("raw_data", 9, _Field.TYPE_BYTES),
    ),
    "Value": (("name", 1, _Field.TYPE_STRING), ("type", 2, "Type")),
    "Type": (("tensor_type", 1, "TensorType"),),
    "TensorType": (("shape", 2, "Shape"),),
    "Shape": (),
}


@lru_cache(maxsize=1)
def _messages() -> dict[str, Any]:
    """Return name -> class of the messages above."""
    file = descriptor_pb2.FileDescriptorProto(
        name="diht_onnx.proto", package="diht.onnx", syntax="proto2"
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind in fields:
            many = isinstance(kind, list)
            one = kind[0] if isinstance(kind, list) else kind
            added = message.field.add(name=field, number=number)
            added.label = _Field.LABEL_REPEATED if many else _Field.LABEL_OPTIONAL
            if isinstance(one, str):
                added.type = _Field.TYPE_MESSAGE
                added.type_name = f".diht.onnx.{one}"
            else:
                added.type = one
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"diht.onnx.{name}"))
        for name in _MESSAGES
    }


class Graph:
    """The nodes and constants of a model, for reading and changing. The nodes are in the order of
    computation."""

    def __init__(self, data: bytes) -> None:
        self._model = _messages()["Model"]()
        self._model.ParseFromString(data)
        self._graph = self._model.graph
        self.nodes = self._graph.node

    @property
    def output(self) -> str:
        (output,) = self._graph.output
        return output.name  # type: ignore[no-any-return]

    def maker(self, name: str) -> Any:
        """Return the node that computes a tensor. Return None for inputs and constants."""
        return next((node for node in self.nodes if name in node.output), None)

    def only_user(self, name: str) -> Any:
        """Return the only node that reads a tensor. Return None if there is no such node, or for
        the model's output."""
        users = [node for node in self.nodes if name in node.input]
        return users[0] if len(users) == 1 and name != self.output else None

    def constant(self, name: str) -> npt.NDArray[np.float32] | None:
        """Return the float32 constant with raw data of that name. Return None without one."""
        tensor = next((tensor for tensor in self._graph.initializer if tensor.name == name), None)
        if tensor is None or tensor.data_type != _FLOAT or not tensor.raw_data:
            return None
        return np.frombuffer(tensor.raw_data, "<f4").reshape(tensor.dims)

    def add_constant(self, name: str, array: npt.NDArray[np.float32 | np.int64]) -> str:
        kind, data = (_INT64, "<i8") if array.dtype == np.int64 else (_FLOAT, "<f4")
        raw = array.astype(data).tobytes()
        self._graph.initializer.add(dims=array.shape, data_type=kind, name=name, raw_data=raw)
        return name

    def insert(
        self,
        before: Any,
        operator: str,
        inputs: Sequence[str],
        output: str,
        **attributes: int | bytes | Sequence[int],
    ) -> str:
        """Insert a new node before the node `before`. Append it if `before` is None. Return the
        name of its output."""
        node = _messages()["Node"](op_type=operator, input=inputs, output=[output])
        for name, value in attributes.items():
            field, kind = _FIELDS.get(type(value), ("ints", _INTS))
            node.attribute.add(**{"name": name, "type": kind, field: value})
        self.nodes.insert(
            len(self.nodes) if before is None else list(self.nodes).index(before), node
        )
        return output

    def remove(self, *nodes: Any) -> None:
        for node in nodes:
            self.nodes.remove(node)

    def to_bytes(self) -> bytes:
        """Return the file without unread constants and without the shapes of computed tensors,
        which engines infer."""
        del self._graph.value[:]
        for output in self._graph.output:
            output.type.tensor_type.ClearField("shape")
        used = {name for node in self.nodes for name in node.input}
        for tensor in [tensor for tensor in self._graph.initializer if tensor.name not in used]:
            self._graph.initializer.remove(tensor)
        return self._model.SerializeToString()  # type: ignore[no-any-return]


def attributes_of(node: Any) -> dict[str, Any]:
    """Return the attributes of a node that are integers, strings or lists of integers."""
    fields = {kind: field for field, kind in (*_FIELDS.values(), ("ints", _INTS))}
    known = [attribute for attribute in node.attribute if attribute.type in fields]
    values = {attribute.name: getattr(attribute, fields[attribute.type]) for attribute in known}
    return {
        name: value if isinstance(value, int | bytes) else list(value)
        for name, value in values.items()
    }
