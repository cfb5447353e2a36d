"""A worker without a run around it, for tests."""

from sam_engine.annotation.worker import ShardAnnotator
from sam_engine.dataset.manifest import build_manifest
from sam_engine.dataset.reader import read_tables
from sam_engine.dataset.schema import table_to_records
from sam_engine.dataset.shards import shard_name
from sam_engine.inputs.open import open_input
from sam_engine.storage.local import LocalStore
from sam_engine.structures import Shard
from tests.helpers import fakes


def make_annotator(folder, output, *, model=None, threads=1, **settings):
    source = open_input(str(folder))
    manifest = build_manifest(source.iter_files())
    config = fakes.run_settings(**settings)
    annotator = ShardAnnotator(
        model=model or fakes.TroubledSegmenter(),
        source=source,
        store=LocalStore(output),
        manifest=manifest,
        fingerprint="f",
        amg=config.amg,
        decode=config.decode,
        threads=threads,
        decode_threads=2,
    )
    return annotator, Shard(index=0, start=0, stop=len(manifest))


def records_of(output):
    return [r for table in read_tables(LocalStore(output), shard_name(0)) for r in table_to_records(table)]


def statuses(folder, output, **settings):
    annotator, shard = make_annotator(folder, output, **settings)
    report = annotator.annotate(shard)
    return report, [str(record.status) for record in records_of(output)]
