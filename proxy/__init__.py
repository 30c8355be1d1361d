"""The proxy of sfss: replicates each key over nodes; holds no files."""
