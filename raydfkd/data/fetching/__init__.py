"""Getting named data sets: downloading their files, unpacking them, and writing them as Parquet."""
