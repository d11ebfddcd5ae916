"""Writes test/fixtures/parquet/: small files as pyarrow 26 writes them, one for each way that texts are laid out.

Usage: python scripts/reference/parquet.py
"""

import os

import pyarrow as pa
import pyarrow.parquet as pq

FOLDER = "test/fixtures/parquet"
os.makedirs(FOLDER, exist_ok=True)


def write(name, columns, schema=None, **options):
    pq.write_table(pa.table(columns, schema=schema), f"{FOLDER}/{name}.parquet", **options)


def text(i):
    return f"row {i} " + "é" * (i % 7)


def messages(i, names=("role", "content")):
    roles = ("user", "assistant") if names[0] == "role" else ("human", "gpt")
    turns = [{names[0]: roles[t % 2], names[1]: f"{i}.{t} " + "word " * (t * 5)} for t in range(2 * (i % 3) + 2)]
    return [{**turn, "weight": 1.0} for turn in turns]


rows = range(300)
alpaca = {
    "instruction": [text(i) for i in rows],
    "input": [None if i % 3 == 0 else f"in {i % 10}" for i in rows],
    "output": [f"out {i % 5}" for i in rows],
    "id": list(rows),
}
write("alpaca", alpaca, row_group_size=100)
turn = pa.struct([("role", pa.string()), ("content", pa.string()), ("weight", pa.float64())])
pages = {"row_group_size": 60, "data_page_size": 400, "write_batch_size": 7}
few = range(100)
write(
    "messages",
    {"messages": [messages(i) for i in few], "score": [0.5] * 100},
    pa.schema([("messages", pa.list_(turn)), ("score", pa.float64())]),
    compression="zstd",
    **pages,
)
write(
    "sharegpt-v2",
    {"id": [str(i) for i in few], "conversations": [messages(i, ("from", "value")) for i in few]},
    compression="gzip",
    data_page_version="2.0",
    **pages,
)
write("text", {"text": [text(i) for i in rows]}, compression="none", use_dictionary=False)
write(
    "text-delta",
    {"text": [text(i) for i in rows]},
    compression="brotli",
    use_dictionary=False,
    column_encoding={"text": "DELTA_LENGTH_BYTE_ARRAY"},
    data_page_version="2.0",
    data_page_size=500,
)
write("text-lz4", {"text": pa.array([text(i) for i in rows], pa.large_string())}, compression="lz4")
write("numbers", {"text": [1, 2, 3]})
write("bytes", {"text": pa.array([b"caf\xe9"], pa.binary())})
write("front-coded", {"text": [text(i) for i in rows]}, use_dictionary=False, column_encoding={"text": "DELTA_BYTE_ARRAY"})
tags = [[(i + j) % 3 for j in range(i % 5)] for i in few]
write(
    "lists",
    {"tokens": [[f"word{j}" for j in range(i % 5)] for i in few], "tags": tags, "small": pa.array(tags, pa.list_(pa.int8()))},
    compression="zstd",
    **pages,
)
