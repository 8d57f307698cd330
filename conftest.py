"""For every test and lesson: predictions go to a file of this process, not to the reader's own."""

import os
import tempfile
from pathlib import Path

os.environ["QLAB_PREDICTIONS"] = str(Path(tempfile.mkdtemp(prefix="qlab-")) / "predictions.json")
