"""A data set as one `pyarrow.Table`: the form in the object store and in the cache on disk.

Each column is one chunk, so that it reads back as a zero-copy, read-only NumPy view. Arrow packs booleans into bits,
which no NumPy array can view, so they are stored as bytes. The Spec travels in the table's metadata.
"""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pyarrow as pa

from raymix.types import Columns, Dataset, Spec

_SPEC_KEY = b"raymix.spec"
_MATRICES = ("observations", "actions")
_BOOLEANS = ("terminals", "timeouts")


def to_table(dataset: Dataset) -> pa.Table:
    """The data set as a table of one chunk per column; views its arrays where they are contiguous."""
    arrays = {}
    for field in dataclasses.fields(Columns):
        values = np.ascontiguousarray(getattr(dataset.columns, field.name))
        if field.name in _MATRICES:
            arrays[field.name] = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
        else:
            arrays[field.name] = pa.array(values.view(np.uint8) if field.name in _BOOLEANS else values)
    return pa.table(arrays).replace_schema_metadata({_SPEC_KEY: json.dumps(dataset.spec.to_dict())})


def is_dataset(schema: pa.Schema) -> bool:
    """Whether a table of this schema was made by `to_table`."""
    return _SPEC_KEY in (schema.metadata or {})


def from_table(table: pa.Table) -> Dataset:
    """The inverse of `to_table`; the columns are read-only views on the table's memory.

    Raises `pyarrow.ArrowException`, KeyError, ValueError or TypeError for another table, as of a damaged file.
    """
    table.validate()  # Looks at sizes only; without it, views of a damaged file reach beyond its memory.
    columns = {}
    for field in dataclasses.fields(Columns):
        array = table.column(field.name).chunk(0)
        if field.name in _MATRICES:
            width = array.type.list_size
            columns[field.name] = array.flatten().to_numpy(zero_copy_only=True).reshape(-1, width)
        else:
            values = array.to_numpy(zero_copy_only=True)
            columns[field.name] = values.view(np.bool_) if field.name in _BOOLEANS else values
    return Dataset(Spec.from_dict(json.loads(table.schema.metadata[_SPEC_KEY])), Columns(**columns))
