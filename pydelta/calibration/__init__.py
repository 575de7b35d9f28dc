"""What the linear layers of a model see over a few batches: input norms, input means, output norms.

WANDA's scores take the norms; DAREx takes the means or the output norms (see :mod:`pydelta.darex`).
"""

from pydelta.calibration.calibrator import Calibrator
from pydelta.calibration.statistics import Calibration, LayerStatistics

__all__ = ["Calibration", "Calibrator", "LayerStatistics"]
