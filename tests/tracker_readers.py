"""What W&B, trackio and MLflow have on disk, read by their own means: `python tracker_readers.py
TRACKER FOLDER` prints its runs as JSON, [{"config": .., "status": .., "series": {name: [[step,
value]]}}]. A program of its own, because each package reads its environment when it is imported.
"""

from __future__ import annotations

import importlib.util
import json
import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

_BLOCK, _HEADER = 32768, 7


def environment(tracker: str, folder: Path) -> dict[str, str]:
    """What keeps a tracker on this machine, with all its files in `folder`: for MLflow a database,
    or plain files where only its small package (`mlflow-skinny`) is there, without databases."""
    database = importlib.util.find_spec("sqlalchemy") is not None
    return {
        "wandb": {"WANDB_MODE": "offline", "WANDB_DIR": str(folder), "WANDB_SILENT": "true"},
        "trackio": {"TRACKIO_DIR": str(folder), "HF_HUB_OFFLINE": "1"},
        "mlflow": {
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db" if database else folder.as_uri(),
            "MLFLOW_ALLOW_FILE_STORE": "true",
        },
    }[tracker]


def read_wandb(folder: Path) -> list[dict]:
    from wandb.proto.wandb_internal_pb2 import Record

    runs = []
    for file in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        run = {"config": {}, "status": "running", "series": {}}
        for data in _records(file.read_bytes()):
            record = Record.FromString(data)
            kind = record.WhichOneof("record_type")
            if kind in ("run", "config"):
                config = record.run.config if kind == "run" else record.config
                run["config"] |= {each.key: json.loads(each.value_json) for each in config.update}
            elif kind == "exit":
                run["status"] = "finished"
            elif kind == "history":
                items = record.history.item
                values = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}
                for name, value in values.items():
                    run["series"].setdefault(name, []).append([values["_step"], value])
        runs.append(run)
    return runs


def _records(data: bytes) -> Iterator[bytes]:
    """W&B's file is a LevelDB log: blocks of 32 KiB, in which a record is whole (1) or has a first
    (2), middle (3) and last (4) part, each after a checksum, its length and its type."""
    at, parts = _HEADER, b""
    while at + _HEADER <= len(data):
        if _BLOCK - at % _BLOCK < _HEADER:
            at += _BLOCK - at % _BLOCK
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + _HEADER])
        parts += data[at + _HEADER : at + _HEADER + length]
        at += _HEADER + length
        if kind in (1, 4):
            yield parts
            parts = b""


def read_trackio(folder: Path) -> list[dict]:
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    runs = []
    for run in trackio.Api().runs("posteriori"):
        series: dict[str, list] = {}
        for line in SQLiteStorage.get_logs("posteriori", run.name):
            for name, value in line.items():
                series.setdefault(name, []).append([line["step"], value])
        runs.append({"config": dict(run.config), "status": "finished", "series": series})
    return runs


def read_mlflow(folder: Path) -> list[dict]:
    from mlflow import MlflowClient

    client = MlflowClient()
    experiment = client.get_experiment_by_name("posteriori")
    runs = []
    for run in client.search_runs([experiment.experiment_id]):
        series = {
            name: [[m.step, m.value] for m in client.get_metric_history(run.info.run_id, name)]
            for name in run.data.metrics
        }
        runs.append({"config": run.data.params, "status": run.info.status, "series": series})
    return runs


if __name__ == "__main__":
    name, where = sys.argv[1], Path(sys.argv[2])
    os.environ |= environment(name, where)
    read = {"wandb": read_wandb, "trackio": read_trackio, "mlflow": read_mlflow}[name]
    print("\n" + json.dumps(read(where)))
