"""Where image files come from: folders, lists, tars, Parquet files, videos."""
