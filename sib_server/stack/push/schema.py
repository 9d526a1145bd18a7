"""The push requests of Loki and Prometheus as far as SIB looks into them.

Only the fields that SIB reads or changes are declared; the protobuf library carries all others
through unseen. Field numbers: grafana/loki pkg/push/push.proto; prometheus/prometheus
prompb/remote.proto and prompb/types.proto (remote write 1.0).
"""

from __future__ import annotations

from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_Field = descriptor_pb2.FieldDescriptorProto
_PACKAGE: Final = "sib.push"
_MESSAGES: Final = {
    # Bytes, not strings: what is in them is checked by SIB, not by whichever library reads it.
    "LokiStream": (("labels", 1, _Field.TYPE_BYTES, ""),),
    "LokiPush": (("streams", 1, _Field.TYPE_MESSAGE, "LokiStream"),),
    "Label": (("name", 1, _Field.TYPE_BYTES, ""), ("value", 2, _Field.TYPE_BYTES, "")),
    "TimeSeries": (("labels", 1, _Field.TYPE_MESSAGE, "Label"),),
    "WriteRequest": (("timeseries", 1, _Field.TYPE_MESSAGE, "TimeSeries"),),
}


def _classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(
        name="sib/push.proto", package=_PACKAGE, syntax="proto3"
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field_name, number, kind, of in fields:
            message.field.add(
                name=field_name,
                number=number,
                type=kind,
                label=_Field.LABEL_REPEATED if of else _Field.LABEL_OPTIONAL,
                type_name=f".{_PACKAGE}.{of}" if of else None,
            )
    # A pool of its own: the default one is shared by everything in the process.
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClassesForFiles([file.name], pool)


_classes_by_name: Final = _classes()
LokiPush: Final = _classes_by_name[f"{_PACKAGE}.LokiPush"]
WriteRequest: Final = _classes_by_name[f"{_PACKAGE}.WriteRequest"]
