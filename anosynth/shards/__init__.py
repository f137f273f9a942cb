"""Plan, store, seal and read Parquet shards, each exactly once."""
