"""The measurements live beside src, not in the package: make `import bench` work here."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
