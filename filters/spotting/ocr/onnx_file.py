"""ONNX files, by the few fields of the format that are read or changed here.

Numbers of fields are those of ONNX's onnx.proto; what is not named is kept as it is.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

FLOAT: Final = 1
"""TensorProto.DataType."""
INT: Final = 2
"""AttributeProto.AttributeType."""
_Field = descriptor_pb2.FieldDescriptorProto
_MESSAGES: Final[dict[str, tuple[tuple[str, int, Any], ...]]] = {
    # name, number, and type: of a text, bytes, a number, or the name of a message; in brackets where there are many
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
def messages() -> dict[str, Any]:
    """Name -> class of the messages above."""
    file = descriptor_pb2.FileDescriptorProto(name="diht_onnx.proto", package="diht.onnx", syntax="proto2")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind in fields:
            many = isinstance(kind, list)
            one = kind[0] if isinstance(kind, list) else kind
            added = message.field.add(name=field, number=number)
            added.label = _Field.LABEL_REPEATED if many else _Field.LABEL_OPTIONAL
            if isinstance(one, str):
                added.type, added.type_name = _Field.TYPE_MESSAGE, f".diht.onnx.{one}"
            else:
                added.type = one
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"diht.onnx.{name}")) for name in _MESSAGES
    }
