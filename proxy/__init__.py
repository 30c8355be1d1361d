"""The proxy: replicates each key over nodes; holds no files."""
