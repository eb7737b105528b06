"""Trajectories come in: one reader per format, canonical steps, Parquet batches.

documents    bytes -> JSON documents, or the reason why not
readers      a document -> episodes, by format
episode      what a reader fills: pairs results with calls, checks the whole
table        trajectories <-> Arrow and Parquet
report       what ingestion says of each file
ingest       files -> batches in the object store and the catalog, with a report
"""
