"""Raw files to webdataset tars with an index and a manifest, and back to samples in an exact order."""
