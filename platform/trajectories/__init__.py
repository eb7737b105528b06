"""Reads trajectory files: one reader per format, canonical steps out, Parquet batches into the object store.

The command line, the control plane and the demo call ``ingest``; jobs read the batches with ``table``.

    documents    bytes -> JSON documents, or the reason why a document cannot be read
    readers      a document -> its episodes, one module per format
    episode      builds one trajectory: matches tool results with calls and checks the whole
    table        trajectories <-> Arrow and Parquet
    report       what ingestion reports about each file
    ingest       files -> batches in the object store and the catalog, with a report
"""
