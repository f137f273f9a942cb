"""The columns of a shard, one schema for both pools, never inferred.

Images are lossless WebP, RGB; masks are PNG, mode L, {0, 255}. The `huggingface` entry of the schema's metadata makes
`datasets.load_dataset("parquet", data_files=...)` return typed images and class names.
"""

from __future__ import annotations

import json

import pyarrow as pa

SCHEMA_VERSION = 1
LABELS = ("normal", "anomalous")
IMAGE_COLUMNS = ("image", "part", "mask")
ROW_GROUP_ROWS = 64
ROW_GROUP_BYTES = 16 * 2**20

_NAME = pa.dictionary(pa.int32(), pa.string())
_FILE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])

SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.string()),
        pa.field("label", pa.int64()),
        pa.field("category", _NAME),
        pa.field("defect", _NAME),
        pa.field("method", _NAME),
        pa.field("seed", pa.int64()),
        pa.field("attempt", pa.int64()),
        pa.field("prompt", pa.string()),
        pa.field("parent_id", pa.string()),
        pa.field("shot_ids", pa.list_(pa.string())),
        pa.field("backbone", pa.string()),
        pa.field("adapter", pa.string()),
        pa.field("plan", pa.string()),
        pa.field("mask_area", pa.float32()),
        pa.field("mask_confidence", pa.float32()),
        pa.field("height", pa.int32()),
        pa.field("width", pa.int32()),
        pa.field("licence", pa.string()),
        pa.field("image", _FILE),
        pa.field("part", _FILE),
        pa.field("mask", _FILE),
    ]
)
# Fields are nullable in the file, because `datasets` types a column by its metadata only if the Arrow field is plain;
# that these hold no null is checked by `encode_row`'s types and by `verify_folder`.
REQUIRED_COLUMNS = tuple(
    name
    for name in SCHEMA.names
    if name not in {"defect", "prompt", "parent_id", "backbone", "adapter", "part", "mask"}
)
METADATA_COLUMNS = tuple(name for name in SCHEMA.names if name not in IMAGE_COLUMNS)


def huggingface_metadata(schema: pa.Schema = SCHEMA) -> bytes:
    """The JSON under the metadata key `huggingface`: one feature per column of `schema`."""
    features = {field.name: _feature(field) for field in schema}
    return json.dumps({"info": {"features": features}}, sort_keys=True).encode()


def _feature(field: pa.Field) -> dict[str, object]:
    if field.name in IMAGE_COLUMNS:
        return {"_type": "Image"}
    if field.name == "label":
        return {"names": list(LABELS), "_type": "ClassLabel"}
    return _value(field.type)


def _value(kind: pa.DataType) -> dict[str, object]:
    if pa.types.is_list(kind):
        return {"feature": _value(kind.value_type), "_type": "List"}
    if pa.types.is_struct(kind):
        return {kind.field(at).name: _value(kind.field(at).type) for at in range(kind.num_fields)}
    if pa.types.is_dictionary(kind):
        return _value(kind.value_type)
    return {"dtype": {"float": "float32", "double": "float64"}.get(str(kind), str(kind)), "_type": "Value"}
