"""Sources: one raw format per file. A new one needs a file here and an import below.

If drafts are equally good, the source that is imported first wins.
"""

# isort: off
from shards.sources import images, audio  # noqa: F401  (importing registers them)
from shards.sources import edf, wfdb  # noqa: F401
from shards.sources import fasta, molecules, rows  # noqa: F401
from shards.sources import ptbxl, bioscan  # noqa: F401
from shards.sources import hub, webdataset, join  # noqa: F401
# isort: on
